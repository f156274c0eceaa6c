"""The demo data set: its layout, its masks, and what it refuses to touch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label

from padim_bench.data.datasets import DEMO_CATEGORIES
from padim_bench.demo import images
from padim_bench.demo.drawing import MIN_REGION
from padim_bench.demo.images import MOTIFS, Picture, draw_picture, make_demo
from padim_bench.errors import PadimBenchError

DEFECTS = [(category, defect) for category in DEMO_CATEGORIES for defect in MOTIFS[category][1]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo") / "data")


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _few(monkeypatch: pytest.MonkeyPatch, n: int = 1) -> None:
    """So many images per folder, where all would show no more."""
    for count in ("TRAIN", "TEST_GOOD", "PER_DEFECT"):
        monkeypatch.setattr(images, count, n)


def test_there_are_two_textures_and_two_objects() -> None:
    kinds = list(DEMO_CATEGORIES.values())
    assert kinds.count("texture") >= 2
    assert kinds.count("object") >= 2
    assert set(kinds) == {"texture", "object"}
    assert set(MOTIFS) == set(DEMO_CATEGORIES)


def test_nothing_but_the_categories_is_left_in_the_root(root: Path) -> None:
    assert {path.name for path in root.iterdir()} == set(DEMO_CATEGORIES)


@pytest.mark.parametrize("category", DEMO_CATEGORIES)
def test_layout(root: Path, category: str) -> None:
    folder = root / category
    defects = {path.name for path in (folder / "test").iterdir()} - {"good"}
    assert len(defects) >= 3
    assert {path.name for path in (folder / "ground_truth").iterdir()} == defects
    expected = [f"train/good/{i:03d}.png" for i in range(60)] + [f"test/good/{i:03d}.png" for i in range(20)]
    for defect in defects:
        expected += [f"test/{defect}/{i:03d}.png" for i in range(10)]
        expected += [f"ground_truth/{defect}/{i:03d}_mask.png" for i in range(10)]
    found = _contents(folder)
    assert json.loads(found.pop("demo.json")) == {"demo": category, "format": images.FORMAT, "seed": 0}
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("category", DEMO_CATEGORIES)
def test_images_are_256_pixels_square_and_all_different(root: Path, category: str) -> None:
    paths = [*(root / category / "train").rglob("*.png"), *(root / category / "test").rglob("*.png")]
    shape = (256, 256) if category == "weave" else (256, 256, 3)
    found = [_pixels(path) for path in paths]
    assert {image.shape for image in found} == {shape}
    assert {image.dtype for image in found} == {np.dtype(np.uint8)}
    assert len({image.tobytes() for image in found}) == len(found)


@pytest.mark.parametrize(("category", "defect"), DEFECTS)
def test_masks_are_binary_and_mark_regions_that_a_centre_crop_keeps(root: Path, category: str, defect: str) -> None:
    for path in (root / category / "ground_truth" / defect).iterdir():
        mask = _pixels(path)
        assert mask.shape == (256, 256)
        assert set(np.unique(mask)) == {0, 255}
        parts, _ = label(mask)
        assert np.bincount(parts.ravel())[1:].min() >= MIN_REGION
        assert 50 <= np.count_nonzero(mask[16:-16, 16:-16]) <= 8000


@pytest.mark.parametrize("category", DEMO_CATEGORIES)
def test_some_images_have_one_defect_region_and_some_have_more(root: Path, category: str) -> None:
    regions = [label(_pixels(path))[1] for path in (root / category / "ground_truth").rglob("*.png")]
    assert min(regions) == 1
    assert max(regions) >= 2


@pytest.mark.parametrize(("category", "defect"), DEFECTS)
def test_the_mask_is_what_the_defect_changed(root: Path, category: str, defect: str) -> None:
    for index in range(3):
        picture = draw_picture(0, category, f"test/{defect}", index)
        image = _pixels(root / category / "test" / defect / f"{index:03d}.png")
        mask = _pixels(root / category / "ground_truth" / defect / f"{index:03d}_mask.png") == 255
        changed = (image != picture.clean).reshape(256, 256, -1).any(axis=-1)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.99


@pytest.mark.parametrize("category", DEMO_CATEGORIES)
def test_an_image_depends_on_its_seed_category_folder_and_number_alone(root: Path, category: str) -> None:
    first = draw_picture(0, category, "train/good", 3).image
    assert np.array_equal(first, _pixels(root / category / "train" / "good" / "003.png"))
    for seed, folder, index in ((1, "train/good", 3), (0, "test/good", 3), (0, "train/good", 4)):
        assert not np.array_equal(first, draw_picture(seed, category, folder, index).image)


def test_same_seed_same_bytes_and_a_subset_gives_the_same_pictures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few(monkeypatch, 2)
    again = make_demo(tmp_path / "again", categories=["resistor", "weave", "weave"])
    assert {path.name for path in again.iterdir()} == {"resistor", "weave"}
    for category in ("resistor", "weave"):
        whole = _contents(root / category)
        for name, content in _contents(again / category).items():
            assert content == whole[name], name


def test_a_complete_demo_is_left_as_it_is(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert make_demo(root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_missing_categories_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _few(monkeypatch)
    make_demo(tmp_path, categories=["weave"])
    before = _contents(tmp_path / "weave")
    make_demo(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(DEMO_CATEGORIES)
    assert _contents(tmp_path / "weave") == before


def test_an_interrupted_category_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_the_test_images(seed: int, category: str, folder: str, index: int) -> Picture:
        if folder.startswith("test"):
            raise KeyboardInterrupt
        return draw_picture(seed, category, folder, index)

    _few(monkeypatch)
    monkeypatch.setattr(images, "draw_picture", stop_at_the_test_images)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path, categories=["weave"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("winner", [0, 1], ids=["same seed", "another seed"])
def test_a_category_that_another_process_put_in_place_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, winner: int
) -> None:
    _few(monkeypatch)
    rival = make_demo(tmp_path / "rival", seed=winner, categories=["weave"])
    root = tmp_path / "root"

    def draw_while_the_rival_finishes(seed: int, category: str, folder: str, index: int) -> Picture:
        if not (root / category).exists():
            shutil.copytree(rival / category, root / category)
        return draw_picture(seed, category, folder, index)

    monkeypatch.setattr(images, "draw_picture", draw_while_the_rival_finishes)
    if winner == 0:
        make_demo(root, categories=["weave"])
    else:
        with pytest.raises(PadimBenchError, match="holds a demo of seed 1"):
            make_demo(root, categories=["weave"])
    assert {path.name for path in root.iterdir()} == {"weave"}
    assert _contents(root) == _contents(rival)


@pytest.mark.parametrize("stamp", [None, "not json", "[]", '{"seed": 0}'])
def test_a_folder_that_is_not_a_demo_is_refused_and_kept(tmp_path: Path, stamp: str | None) -> None:
    foreign = tmp_path / "gear"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    if stamp is not None:
        (foreign / "demo.json").write_text(stamp)
    before = _contents(tmp_path)
    with pytest.raises(PadimBenchError, match="was not written by the demo") as caught:
        make_demo(tmp_path)
    assert str(foreign) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _contents(tmp_path) == before


def test_another_seed_or_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _few(monkeypatch)
    make_demo(tmp_path, categories=["weave"], seed=1)
    before = _contents(tmp_path)
    with pytest.raises(PadimBenchError, match="holds a demo of seed 1, format 1: to draw seed 2"):
        make_demo(tmp_path, categories=["gear"], seed=2)
    monkeypatch.setattr(images, "FORMAT", 2)
    with pytest.raises(PadimBenchError, match="choose another folder or delete this one"):
        make_demo(tmp_path, seed=1)
    assert _contents(tmp_path) == before


def test_unknown_category_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PadimBenchError, match="'bottle': choose from weave, terrazzo, gear, resistor"):
        make_demo(tmp_path / "data", categories=["weave", "bottle"])
    assert not (tmp_path / "data").exists()


def test_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PadimBenchError, match="seed of 0 or more"):
        make_demo(tmp_path, seed=-1)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_root_that_cannot_be_written_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / below
    with pytest.raises(PadimBenchError, match="cannot write the demo data") as caught:
        make_demo(root)
    assert str(root) in str(caught.value)
