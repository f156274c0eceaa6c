"""Rd-MVTec AD: placements that any machine repeats, and masks that stay on their images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from padim_bench import PROTOCOLS, PadimBenchError, Protocol, load_images
from padim_bench.data.loading import load_category, load_masks
from padim_bench.data.mvtec import mvtec
from padim_bench.data.rd_mvtec import Placement, placement
from padim_bench.data.samples import Category
from padim_bench.data.transforms import prepare_image, prepare_mask
from padim_bench.protocols import rd_mvtec_protocol

NAME = "bottle/train/good/000.png"


@pytest.mark.parametrize(
    ("version", "name", "angle", "left", "top"),
    [
        (0, NAME, -7.918902602312499, 18, 13),
        (1, NAME, -9.371400206798102, 4, 11),
        (0, "bottle/test/broken_large/000.png", 7.135599571398361, 7, 7),
    ],
)
def test_placements_are_the_same_on_every_machine(version: int, name: str, angle: float, left: int, top: int) -> None:
    assert placement(name, rd_mvtec_protocol(version)) == Placement(angle, left, top)


def test_a_placement_depends_on_name_and_version_alone() -> None:
    expected = placement(NAME, rd_mvtec_protocol(2))
    others = rd_mvtec_protocol(2).vary(sigma=0.0, epsilon=0.1, image_interpolation="nearest", border="mirror")
    assert placement(NAME, others) == expected
    assert placement(NAME, rd_mvtec_protocol(3)) != expected
    assert placement("bottle/train/good/001.png", rd_mvtec_protocol(2)) != expected


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.integers(0, 2**31), st.floats(0.1, 180), st.integers(1, 64), st.integers(0, 40))
def test_placements_keep_to_their_bounds(name: str, version: int, rotation: float, crop: int, free: int) -> None:
    protocol = Protocol.of("any", resize=crop + free, crop=crop, rotation=rotation, version=version)
    place = placement(name, protocol)
    assert -rotation <= place.angle <= rotation
    assert 0 <= place.left <= free
    assert 0 <= place.top <= free


def test_angles_and_corners_are_spread_over_their_range() -> None:
    places = [placement(f"bottle/train/good/{i:03d}.png", rd_mvtec_protocol(0)) for i in range(2000)]
    angles = np.array([p.angle for p in places])
    assert abs(angles.mean()) < 4 * 10 / math.sqrt(3 * 2000)
    assert (angles.min(), angles.max()) == (pytest.approx(-10, abs=0.1), pytest.approx(10, abs=0.1))
    assert {p.left for p in places} == {p.top for p in places} == set(range(33))
    assert abs(np.corrcoef([p.left for p in places], [p.top for p in places])[0, 1]) < 0.1


def square(left: int, top: int, width: int, height: int, side: int = 300) -> NDArray[np.uint8]:
    pixels = np.zeros((side, side), dtype=np.uint8)
    pixels[top : top + height, left : left + width] = 255
    return pixels


@pytest.mark.parametrize("version", range(5))
@pytest.mark.parametrize("mask_interpolation", ["nearest", "bilinear"])
def test_masks_stay_on_their_images(version: int, mask_interpolation: str) -> None:
    protocol = rd_mvtec_protocol(version).vary(mask_interpolation=mask_interpolation)
    drawn = Image.fromarray(square(90, 120, 100, 60))
    name = "bottle/test/rust/000.png"
    image = prepare_image(drawn.convert("RGB"), protocol, name)
    mask = prepare_mask(np.asarray(drawn) > 0, protocol, name)
    assert image.shape == (3, 224, 224)
    assert (mask.dtype, mask.shape) == (np.bool_, (224, 224))
    bright = image.mean(axis=0) > 127
    assert (bright & mask).sum() > 0.95 * (bright | mask).sum()
    # No edge is off by more than a pixel.
    around = np.ones((3, 3), dtype=bool)
    assert not (bright & ~ndimage.binary_dilation(mask, around)).any()
    assert not (ndimage.binary_erosion(mask, around) & ~bright).any()


@pytest.mark.parametrize("version", range(5))
def test_an_image_turns_counter_clockwise_about_its_centre_and_is_then_cropped(version: int) -> None:
    protocol = rd_mvtec_protocol(version)
    place = placement(NAME, protocol)
    x, y = 150.0, 90.0  # the square's centre, from the image's top left corner
    mask = prepare_mask(square(140, 80, 20, 20, side=256) > 0, protocol, NAME)
    angle = math.radians(place.angle)
    there = (
        128 + math.cos(angle) * (x - 128) + math.sin(angle) * (y - 128) - place.left,
        128 - math.sin(angle) * (x - 128) + math.cos(angle) * (y - 128) - place.top,
    )
    rows, columns = np.nonzero(mask)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == (
        pytest.approx(there[0], abs=0.6),
        pytest.approx(there[1], abs=0.6),
    )


def test_where_nothing_was_is_black_and_no_defect() -> None:
    protocol = rd_mvtec_protocol(0).vary(rotation=180.0, crop=256)
    white = Image.new("L", (256, 256), 255)
    name = next(n for n in map(str, range(100)) if 40 < abs(placement(n, protocol).angle) < 50)
    image, mask = prepare_image(white, protocol, name), prepare_mask(np.asarray(white) > 0, protocol, name)
    corners = (0, 0, -1, -1), (0, -1, 0, -1)
    assert not image[:, corners[0], corners[1]].any()
    assert not mask[corners].any()
    assert mask[128, 128]
    assert (image[:, 128, 128] == 255).all()


def test_no_name_is_a_name_too_and_other_protocols_need_none() -> None:
    pixels = Image.fromarray(square(90, 120, 100, 60))
    paper = PROTOCOLS["paper"]
    assert np.array_equal(prepare_image(pixels, paper, "a"), prepare_image(pixels, paper, "b"))
    turned = rd_mvtec_protocol(0)
    assert not np.array_equal(prepare_image(pixels, turned, "a"), prepare_image(pixels, turned, "b"))


@pytest.mark.parametrize("crop", [{"crop": None}, {"compare_at": "masks"}])
def test_rotation_needs_a_crop_and_masks_of_its_size(crop: dict[str, str | None]) -> None:
    with pytest.raises(PadimBenchError, match="turned images need a crop"):
        rd_mvtec_protocol(0).vary(**crop)


@pytest.mark.parametrize("wrong", [{"rotation": -1.0}, {"rotation": 181.0}, {"version": -1}])
def test_rotations_and_versions_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PadimBenchError, match="choose 0 to 180 degrees"):
        rd_mvtec_protocol(0).vary(**wrong)


def test_images_are_not_prepared_without_the_name_they_turn_by(category: Category) -> None:
    with pytest.raises(PadimBenchError, match="load_category"):
        next(load_images(category.train, rd_mvtec_protocol(0)))


def test_16_bit_images_turn_as_8_bit_ones_do() -> None:
    narrow = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    wide = Image.fromarray(narrow.astype(np.uint16) * 257)
    assert wide.mode.startswith("I")
    protocol = rd_mvtec_protocol(0)
    expected = prepare_image(Image.fromarray(narrow), protocol, NAME)
    assert np.array_equal(prepare_image(wide, protocol, NAME), expected)
    assert (expected[0] == expected[1]).all()
    assert expected.std() > 10


# Whole categories.


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Category:
    """Colour, greyscale and 16-bit images of 96x80 with masks."""
    root, draw = tmp_path_factory.mktemp("rd") / "set", np.random.default_rng(1)

    def save(path: Path, pixels: NDArray[np.generic]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for i in range(2):
        save(root / "part" / "train" / "good" / f"{i:03d}.png", draw.integers(0, 256, (80, 96, 3), dtype=np.uint8))
    save(root / "part" / "train" / "good" / "002.png", draw.integers(0, 256, (80, 96), dtype=np.uint8))
    save(root / "part" / "train" / "good" / "003.png", draw.integers(0, 65536, (80, 96), dtype=np.uint16))
    for kind in ("good", "dent"):
        for i in range(2):
            save(root / "part" / "test" / kind / f"{i:03d}.png", draw.integers(0, 256, (80, 96, 3), dtype=np.uint8))
    for i in range(2):
        save(root / "part" / "ground_truth" / "dent" / f"{i:03d}_mask.png", square(20 + 20 * i, 30, 30, 20, 96)[:80])
    return mvtec(root, "part")


def test_a_category_is_the_same_each_time_and_for_any_number_of_threads(category: Category) -> None:
    one, two = (load_category(category, rd_mvtec_protocol(1), threads=threads) for threads in (1, 2))
    assert np.array_equal(one.train, two.train)
    assert np.array_equal(one.test, two.test)
    assert one.masks is not None
    assert two.masks is not None
    assert all(np.array_equal(a, b) for a, b in zip(one.masks, two.masks, strict=True))
    again = load_masks(category, rd_mvtec_protocol(1))
    assert all(np.array_equal(a, b) for a, b in zip(one.masks, again, strict=True))
    assert [m.any() for m in one.masks] == [s.label == 1 for s in category.test]


def test_versions_differ_from_each_other_and_from_the_paper(category: Category) -> None:
    loaded = [load_category(category, p) for p in (PROTOCOLS["paper"], *map(rd_mvtec_protocol, range(3)))]
    for i, one in enumerate(loaded):
        for other in loaded[:i]:
            assert (one.train != other.train).any(axis=(1, 2, 3)).all()
            assert (one.test != other.test).any(axis=(1, 2, 3)).all()
    assert len({one.split_digest for one in loaded}) == 1  # of files, not of pixels


def test_a_part_of_a_category_has_the_pixels_of_the_whole(category: Category) -> None:
    protocol = rd_mvtec_protocol(0)
    whole = load_category(category, protocol)
    part = load_category(replace(category, train=category.train[1:3], test=category.test[1::2]), protocol)
    assert np.array_equal(part.train, whole.train[1:3])
    assert np.array_equal(part.test, whole.test[1::2])
    assert whole.masks is not None
    assert part.masks is not None
    assert all(np.array_equal(a, b) for a, b in zip(part.masks, whole.masks[1::2], strict=True))


def test_where_a_dataset_lies_changes_nothing(category: Category, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(category.root)
    protocol = rd_mvtec_protocol(0)
    here, there = load_category(category, protocol), load_category(mvtec(moved, "part"), protocol)
    assert np.array_equal(here.train, there.train)
    assert np.array_equal(here.test, there.test)


def test_each_image_of_a_category_is_placed_by_its_own_name(category: Category) -> None:
    protocol = rd_mvtec_protocol(0)
    loaded = load_category(category, protocol)
    for sample, found in zip(category.train, loaded.train, strict=True):
        with Image.open(sample.image) as image:
            expected = prepare_image(image, protocol, f"part/train/good/{sample.image.name}")
        assert np.array_equal(found, expected)
    assert loaded.masks is not None
    for sample, mask in zip(category.test, loaded.masks, strict=True):
        if sample.mask is not None:
            with Image.open(sample.mask) as image:
                name = f"part/test/dent/{sample.image.name}"
                assert np.array_equal(mask, prepare_mask(np.asarray(image) > 0, protocol, name))
