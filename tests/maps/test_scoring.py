"""Maps made by hand are scored as counted by hand, and whatever is wrong with a folder of maps is named in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from padim_bench import PadimBenchError, mvtec, score_maps
from padim_bench.data.samples import Category
from padim_bench.maps.files import read_map, write_map
from padim_bench.maps.scoring import check_scores, read_scores
from padim_bench.metrics.summary import METRICS

SIDE = 4


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def category(tmp_path: Path) -> Category:
    """Two normal test images, and two with a 2x2 defect in their first corner."""
    base, grey = tmp_path / "set" / "part", np.full((SIDE, SIDE), 128, np.uint8)
    for name in ("train/good/0", "train/good/1", "test/good/0", "test/good/1", "test/cut/0", "test/cut/1"):
        picture(base / f"{name}.png", grey)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:2, :2] = 255
    for i in range(2):
        picture(base / f"ground_truth/cut/{i}_mask.png", mask)
    return mvtec(tmp_path / "set", "part")


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Right but for one normal image, which has one pixel above all others."""
    folder = tmp_path / "maps"
    for i in range(2):
        normal, cut = np.full((SIDE, SIDE), 0.1, np.float32), np.full((SIDE, SIDE), 0.1, np.float32)
        cut[:2, :2] = 0.5 + i / 10
        if i == 1:
            normal[3, 3] = 0.9
        write_map(folder / f"part/test/good/{i}.tiff", normal)
        write_map(folder / f"part/test/cut/{i}.tiff", cut)
    return folder


def test_maps_made_by_hand_have_the_metrics_counted_by_hand(category: Category, maps: Path) -> None:
    found = score_maps(maps, category)
    assert (found.n_images, found.n_anomalous) == (4, 2)
    # Image scores 0.5 and 0.6 against 0.1 and 0.9: half of the pairs are in order.
    assert found.metrics["image_auroc"] == 0.5
    # Of 56 normal pixels one is above all anomalous ones.
    assert found.metrics["pixel_auroc"] == pytest.approx(55 / 56)
    # Overlap is 1 from a false-positive rate of 1/56 on, and nothing before it: that ends the curve's first step.
    assert found.metrics["pro"] == pytest.approx((0.3 - 1 / 56) / 0.3, abs=1e-9)
    assert found.metrics["pro_per_image"] == 1.0
    assert set(found.metrics) == set(METRICS)
    assert set(found.intervals) == {"image_auroc", "pixel_auroc", "pro", "pro_per_image"}
    assert found.scores["part/test/good/1.png"] == np.float32(0.9)
    low, high = found.intervals["image_auroc"]
    assert low <= 0.5 <= high


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int64"])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_maps_of_any_numbers_and_either_kind_of_file_are_read_as_float32(
    tmp_path: Path, dtype: str, suffix: str
) -> None:
    path, numbers = tmp_path / f"a{suffix}", np.arange(6).reshape(1, 2, 3).astype(dtype)
    if suffix == ".npy":
        np.save(path, numbers)
    else:
        tifffile.imwrite(path, numbers[0])
    found = read_map(path)
    assert found.dtype == np.float32
    assert np.array_equal(found, numbers[0])


def test_more_pixels_than_may_be_held_are_counted_within_their_error_bounds(category: Category, maps: Path) -> None:
    exact, counted = score_maps(maps, category), score_maps(maps, category, memory_limit=100)
    assert set(counted.intervals) == {"image_auroc"}
    for name, bound in counted.error_bounds.items():
        assert abs(counted.metrics[name] - exact.metrics[name]) <= bound + 1e-12
    assert {"pixel_auroc", "pro"} <= set(counted.error_bounds)


def test_a_category_without_masks_is_scored_by_its_images_whatever_their_maps_size(
    category: Category, maps: Path, tmp_path: Path
) -> None:
    (tmp_path / "set/part/ground_truth").rename(tmp_path / "away")
    write_map(maps / "part/test/cut/0.tiff", np.full((9, 2), 0.95, np.float32))
    found = score_maps(maps, mvtec(tmp_path / "set", "part"))
    assert found.metrics["image_auroc"] == 0.75
    assert np.isnan(found.metrics["pro"])


def test_maps_of_another_size_are_resized_only_when_asked(category: Category, maps: Path) -> None:
    path = maps / "part/test/good/0.tiff"
    write_map(path, np.full((2, 3), 0.1, np.float32))
    with pytest.raises(PadimBenchError, match=r"good.0\.tiff is 3x2 but its mask is 4x4: .*--resize"):
        score_maps(maps, category)
    found = score_maps(maps, category, resize="bilinear")
    assert found.metrics["pixel_auroc"] == pytest.approx(55 / 56)


def with_nan(path: Path) -> None:
    write_map(path, np.array([[np.nan] + [0.0] * 3] * 4, np.float32))


def with_infinity(path: Path) -> None:
    tifffile.imwrite(path, np.full((SIDE, SIDE), 1e300))


def with_pages(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((3, SIDE, SIDE), np.float32), photometric="minisblack")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def as_text(path: Path) -> None:
    path.write_text("no map")


def missing(path: Path) -> None:
    path.unlink()


def one_more(path: Path) -> None:
    write_map(path.with_name("7.tiff"), np.zeros((SIDE, SIDE), np.float32))


def twice(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros((SIDE, SIDE), np.float32))


def of_objects(path: Path) -> None:
    missing(path)
    np.save(path.with_suffix(".npy"), np.array([[None]]), allow_pickle=True)


def of_one_row(path: Path) -> None:
    missing(path)
    np.save(path.with_suffix(".npy"), np.zeros(16, np.float32))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (with_nan, r"cut.0\.tiff has NaN, in 4 pixels"),
        (with_infinity, r"cut.0\.tiff has infinite values"),
        (with_pages, r"cut.0\.tiff has 3 pages"),
        (cut_short, r"cut.0\.tiff"),
        (as_text, r"cut.0\.tiff is no readable map"),
        (missing, r"no map for 1 of 4 test images of part: .*cut.0\.tiff, or as \.tif or \.npy"),
        (one_more, r"cut.7\.tiff: of no test image of part"),
        (twice, r"are maps of one image: delete one"),
        (of_objects, r"cut.0\.npy is no readable map"),
        (of_one_row, r"cut.0\.npy has shape 16: a map is height x width"),
    ],
)
def test_what_is_wrong_with_a_map_is_named_in_one_line(
    category: Category, maps: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(maps / "part/test/cut/0.tiff")
    with pytest.raises(PadimBenchError, match=told) as raised:
        score_maps(maps, category)
    assert "\n" not in str(raised.value)


def test_scores_that_are_given_stand_in_for_the_maps_maxima(category: Category, maps: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    rows = {"good/0": 0, "good/1": 1, "cut/0": 2, "cut/1": 3}
    file.write_text("image,score\n" + "".join(f"part/test/{n}.png,{v}\n" for n, v in rows.items()))
    scores = read_scores([file])
    check_scores(scores, [category], ["other"])
    assert score_maps(maps, category, scores=scores).metrics["image_auroc"] == 1.0
    with pytest.raises(PadimBenchError, match=r"no score of part/test/good/1\.png"):
        score_maps(maps, category, scores={k: v for k, v in scores.items() if "good/1" not in k})
    check_scores(scores | {"other/test/good/0.png": 1.0}, [category], ["other"])
    with pytest.raises(PadimBenchError, match=r"part/test/good/9\.png, one of 1 that are no test image"):
        check_scores(scores | {"part/test/good/9.png": 1.0}, [category], ["other"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,value\n", "has no columns image and score"),
        ("image,score\na.png,nan\n", "line 2: score 'nan' is no finite number"),
        ("image,score\na.png,\n", "line 2: score '' is no finite number"),
        ("image,score\na.png,1\na.png,2\n", r"line 3: a\.png has a score already"),
    ],
)
def test_scores_that_cannot_be_read_are_named_with_their_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(PadimBenchError, match=told):
        read_scores([tmp_path / "s.csv"])
