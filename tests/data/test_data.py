"""From files to pixels: transforms, the two dataset layouts, loading, digests and protocols."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from padim_bench import PROTOCOLS, PadimBenchError, Protocol, folder, load_images, mvtec
from padim_bench.data.loading import load_category, split_digest
from padim_bench.data.mvtec import list_categories
from padim_bench.data.notes import Notes
from padim_bench.data.samples import Category
from padim_bench.data.transforms import prepare_image, prepare_mask, read_image
from padim_bench.errors import DataWarning
from padim_bench.protocols import get_protocol

SMALL = Protocol.of("small", resize=16, crop=12)
UNCHANGED = Protocol.of("unchanged", resize=4, crop=None)
EXIF_ORIENTATION, ROTATED = 0x0112, 6  # shown turned by 90 degrees clockwise

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def save_images(folder: Path, *names: str, seed: int = 0) -> None:
    for i, name in enumerate(names):
        save(folder / name, noise(20, 24, seed + i))


def save_masks(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        mask = np.zeros((20, 24), dtype=np.uint8)
        mask[4 : 12 + i, 6:18] = 255
        save(folder / name, Image.fromarray(mask))


def make_category(root: Path, name: str = "bottle", *, masks: bool = True) -> Path:
    """Three training images, one normal test image and two with defects."""
    base = root / name
    save_images(base / "train" / "good", "000.png", "001.png", "002.png")
    save_images(base / "test" / "good", "000.png", seed=10)
    save_images(base / "test" / "broken", "000.png", "001.png", seed=20)
    if masks:
        save_masks(base / "ground_truth" / "broken", "000_mask.png", "001_mask.png")
    return base


def message_of(run: Callable[[], object]) -> str:
    """What PadimBenchError says; it must be one line."""
    with pytest.raises(PadimBenchError) as raised:
        run()
    message = str(raised.value)
    assert "\n" not in message
    return message


# Images of every mode, 4x4 with a last row that differs, and the RGB that they must become.

RED_BLUE = np.full((4, 4, 3), (200, 30, 10), dtype=np.uint8)
RED_BLUE[3] = (10, 30, 200)
GREY = np.full((4, 4), 50, dtype=np.uint8)
GREY[3] = 180
OPACITY = np.full((4, 4, 1), 255, dtype=np.uint8)
OPACITY[0] = 0


def as_palette(rgb: NDArray[np.uint8]) -> Image.Image:
    image = Image.new("P", (4, 4))
    image.putpalette([*(int(v) for v in rgb[0, 0]), *(int(v) for v in rgb[3, 0])])
    for x in range(4):
        image.putpixel((x, 3), 1)
    return image


def grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[:, :, None], 3, axis=2)


MODES = {
    "RGB": (Image.fromarray(RED_BLUE), RED_BLUE),
    "RGBA": (Image.fromarray(np.concatenate([RED_BLUE, OPACITY], axis=2)), RED_BLUE),
    "P": (as_palette(RED_BLUE), RED_BLUE),
    "L": (Image.fromarray(GREY), grey(GREY)),
    "LA": (Image.fromarray(np.concatenate([GREY[:, :, None], OPACITY], axis=2)), grey(GREY)),
    "1": (Image.fromarray(GREY > 100), grey(np.where(GREY > 100, 255, 0).astype(np.uint8))),
    "I;16": (Image.fromarray(GREY.astype(np.uint16) * 257), grey(GREY)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_in_memory_and_from_a_file(mode: str, tmp_path: Path) -> None:
    image, expected = MODES[mode]
    assert image.mode == mode
    from_file = read_image(save(tmp_path / "image.png", image), UNCHANGED)[0]
    for pixels in (prepare_image(image, UNCHANGED), from_file):
        np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 1), (256, 1), (32768, 128), (65535, 255)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(value: int, expected: int, suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"wide.{suffix}", Image.fromarray(np.full((4, 4), value, dtype=np.uint16)))
    pixels, size, _ = read_image(path, UNCHANGED)
    assert np.unique(pixels).tolist() == [expected]
    assert size == (4, 4)


def test_32_bit_integers_as_older_files_are_decoded_are_scaled_the_same() -> None:
    image = Image.fromarray(np.full((4, 4), 65535, dtype=np.int32))
    assert image.mode == "I"
    assert np.unique(prepare_image(image, UNCHANGED)).tolist() == [255]


@every_protocol
@pytest.mark.parametrize(("height", "width"), [(300, 300), (256, 256), (60, 200), (500, 100), (1, 1)])
def test_any_image_becomes_the_protocols_square(protocol: Protocol, height: int, width: int) -> None:
    image, mask = prepare_image(noise(height, width), protocol), prepare_mask(np.ones((height, width), bool), protocol)
    assert image.shape == (3, protocol.size, protocol.size)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert mask.shape == (protocol.size, protocol.size)
    assert mask.dtype == np.bool_


def test_the_sizes_of_the_protocols() -> None:
    sizes = {"paper": 224, "paper-stc": 256, "anomalib": 256, "xiahaifeng1995": 224}
    assert {name: p.size for name, p in PROTOCOLS.items()} == sizes
    assert PROTOCOLS["paper"].resolution == "paper-224"


@every_protocol
@pytest.mark.parametrize(("height", "width"), [(300, 300), (333, 210)])
def test_images_equal_torchvisions_resize_and_centre_crop(protocol: Protocol, height: int, width: int) -> None:
    image = noise(height, width)
    mode = InterpolationMode(protocol.images.interpolation)
    expected = Compose([Resize((protocol.images.resize, protocol.images.resize), mode), CenterCrop(protocol.size)])(
        image
    )
    np.testing.assert_array_equal(prepare_image(image, protocol), np.asarray(expected).transpose(2, 0, 1))


@every_protocol
@pytest.mark.parametrize(("height", "width"), [(512, 512), (512, 1024), (768, 256)])
def test_a_square_stays_aligned_between_image_and_mask(protocol: Protocol, height: int, width: int) -> None:
    drawn = np.zeros((height, width), dtype=np.uint8)
    drawn[height // 4 : height * 3 // 4, width // 2 : width * 3 // 4] = 255
    # The same square after 256 x 256, less the crop's offset.
    offset = (256 - protocol.size) // 2
    expected = np.zeros((protocol.size, protocol.size), dtype=bool)
    expected[64 - offset : 192 - offset, 128 - offset : 192 - offset] = True
    np.testing.assert_array_equal(prepare_mask(drawn > 0, protocol), expected)
    np.testing.assert_array_equal(prepare_image(Image.fromarray(drawn), protocol)[0] > 127, expected)


def test_the_crop_is_the_middle() -> None:
    drawn = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = prepare_image(Image.fromarray(drawn), Protocol.of("middle", resize=16, crop=10))
    np.testing.assert_array_equal(pixels[0], drawn[3:13, 3:13])


# Masks: what is in their files is in test_masks.


def test_masks_may_have_any_image_suffix_in_any_case(tmp_path: Path) -> None:
    for name in ("train/good/000.png", "test/hole/000.png", "test/hole/001.png"):
        (tmp_path / "part" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "part" / name, Image.new("L", (8, 8)))
    masks = tmp_path / "part" / "ground_truth" / "hole"
    masks.mkdir(parents=True)
    for name in ("000_mask.PNG", "001.bmp"):
        Image.new("L", (8, 8)).save(masks / name)
    assert [s.mask.name for s in mvtec(tmp_path, "part").test if s.mask] == ["000_mask.PNG", "001.bmp"]


@pytest.mark.parametrize("side", [300, 100])
def test_masks_are_resized_to_the_nearest_pixel(side: int) -> None:
    mask = np.random.default_rng(0).random((side, side)) < 0.5
    nearest = ((np.arange(256) + 0.5) * side / 256).astype(int)
    expected = mask[np.ix_(nearest, nearest)][16:240, 16:240]
    np.testing.assert_array_equal(prepare_mask(mask, PROTOCOLS["paper"]), expected)


# The MVTec AD layout.


def test_mvtec_lists_images_labels_defects_and_masks(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    assert [s.image for s in category.train] == [base / "train" / "good" / f"00{i}.png" for i in range(3)]
    assert {(s.label, s.defect, s.mask) for s in category.train} == {(0, "good", None)}
    masks = base / "ground_truth" / "broken"
    assert [(s.image.relative_to(base / "test").as_posix(), s.label, s.defect, s.mask) for s in category.test] == [
        ("broken/000.png", 1, "broken", masks / "000_mask.png"),
        ("broken/001.png", 1, "broken", masks / "001_mask.png"),
        ("good/000.png", 0, "good", None),
    ]
    assert category.has_masks
    assert (category.dataset, category.name, category.kind) == (tmp_path.name, "bottle", "")


def test_mvtec_takes_a_path_as_text(tmp_path: Path) -> None:
    make_category(tmp_path)
    assert mvtec(str(tmp_path), "bottle") == mvtec(tmp_path, "bottle")


def test_mvtec_without_ground_truth_has_no_masks(tmp_path: Path) -> None:
    make_category(tmp_path, masks=False)
    category = mvtec(tmp_path, "bottle")
    assert not category.has_masks
    assert all(sample.mask is None for sample in category.test)
    assert load_category(category, SMALL).masks is None


def test_mvtec_reads_no_masks_of_normal_images(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    save_masks(base / "ground_truth" / "good", "000_mask.png")
    with pytest.warns(DataWarning, match=r"mask of a normal image: 1 \(ground_truth/good/000_mask.png\)"):
        mvtec(tmp_path, "bottle")
    assert [s.mask for s in mvtec(tmp_path, "bottle").test if s.label == 0] == [None]


@pytest.mark.parametrize("name", ["000_mask.png", "000.png", "000.bmp", "000_mask.tif"])
def test_mvtec_finds_masks_of_either_name(name: str, tmp_path: Path) -> None:
    base = make_category(tmp_path)
    (base / "ground_truth" / "broken" / "000_mask.png").unlink()
    save_masks(base / "ground_truth" / "broken", name)
    assert mvtec(tmp_path, "bottle").test[0].mask == base / "ground_truth" / "broken" / name


def test_mvtec_names_the_image_and_the_mask_that_is_missing(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    mask = base / "ground_truth" / "broken" / "001_mask.png"
    mask.unlink()
    message = message_of(lambda: mvtec(tmp_path, "bottle"))
    assert str(mask) in message
    assert str(base / "test" / "broken" / "001.png") in message


def test_mvtec_misses_the_masks_of_a_whole_defect(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    save_images(base / "test" / "cut", "007.png")
    assert str(base / "ground_truth" / "cut" / "007_mask.png") in message_of(lambda: mvtec(tmp_path, "bottle"))


def test_mvtec_lists_the_categories_present_when_one_is_missing(tmp_path: Path) -> None:
    for name in ("zipper", "carpet"):
        make_category(tmp_path, name)
    message = message_of(lambda: mvtec(tmp_path, "bottle"))
    assert "'bottle'" in message
    assert "carpet, zipper" in message


def test_mvtec_says_that_a_folder_holds_no_category(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert f"{tmp_path} holds no category" in message_of(lambda: mvtec(tmp_path, "bottle"))


def test_categories_are_listed_in_the_order_of_mvtec_and_then_by_name(tmp_path: Path) -> None:
    for name in ("widget", "bottle", "gadget", "wood"):
        make_category(tmp_path, name)
    (tmp_path / "licences").mkdir()
    assert list_categories(tmp_path) == ["wood", "bottle", "gadget", "widget"]


def test_mvtec_needs_training_images(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    shutil.rmtree(base / "train" / "good")
    assert str(base / "train" / "good") in message_of(lambda: mvtec(tmp_path, "bottle"))
    (base / "train" / "good").mkdir()
    assert str(base / "train" / "good") in message_of(lambda: mvtec(tmp_path, "bottle"))


def test_mvtec_needs_test_images(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    shutil.rmtree(base / "test")
    assert str(base / "test") in message_of(lambda: mvtec(tmp_path, "bottle"))
    (base / "test" / "good").mkdir(parents=True)
    assert str(base / "test") in message_of(lambda: mvtec(tmp_path, "bottle"))


@pytest.mark.parametrize("load", [lambda root: mvtec(root, "bottle"), folder, list_categories])
def test_a_root_that_is_missing_or_a_file_is_named(load: Callable[[Path], object], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert f"no such directory: {missing}" in message_of(lambda: load(missing))
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert f"{file} is not a directory" in message_of(lambda: load(file))


def test_mvtec_ignores_what_is_no_image(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    before = mvtec(tmp_path, "bottle")
    for place in (base / "train" / "good", base / "test" / "good", base / "test" / "broken"):
        for name in ("Thumbs.db", ".DS_Store", "._000.png", ".hidden.png", "notes.txt"):
            (place / name).write_bytes(b"no image")
        (place / "folder.png").mkdir()
    (base / "test" / ".cache").mkdir()
    shutil.copy(base / "test" / "good" / "000.png", base / "test" / ".cache" / "000.png")
    (base / "test" / "readme.png").write_bytes(b"no image")
    with pytest.warns(DataWarning) as warned:
        after = mvtec(tmp_path, "bottle")
    assert replace(after, notes=()) == before
    assert [str(w.message) for w in warned] == [f"bottle: {note}" for note in after.notes]
    assert after.notes == (
        "left out 7: beside the folders of test: 1 (test/readme.png); folder in a folder of images: 3 "
        "(train/good/folder.png/ with 0 images, test/broken/folder.png/ with 0 images, test/good/folder.png/ with 0 "
        "images); no image format that is read: 3 (train/good/notes.txt, test/broken/notes.txt, test/good/notes.txt)",
    )


def test_mvtec_takes_images_of_other_formats_and_upper_case_names(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    save_images(base / "test" / "good", "001.JPG", "002.bmp", "003.tiff", "004.webp", "005.jpeg")
    names = [s.image.name for s in mvtec(tmp_path, "bottle").test if s.label == 0]
    assert names == ["000.png", "001.JPG", "002.bmp", "003.tiff", "004.webp", "005.jpeg"]


def test_a_category_that_mvtec_has_not_is_of_the_dataset_that_its_folder_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category(tmp_path / "my-parts", "widget")
    category = mvtec(tmp_path / "my-parts", "widget")
    assert (category.dataset, category.name, category.kind) == ("my-parts", "widget", "")
    monkeypatch.chdir(tmp_path / "my-parts")
    assert mvtec(".", "widget").dataset == "my-parts"


# Plain folders.


def make_folder(root: Path, normal: int = 12) -> Path:
    save_images(root / "normal", *(f"{i:02}.png" for i in range(normal)))
    save_images(root / "anomalous", "a.png", "b.png", seed=50)
    return root


def test_folder_holds_out_every_fifth_normal_image(tmp_path: Path) -> None:
    category = folder(make_folder(tmp_path / "parts"))
    assert [s.image.stem for s in category.test] == ["04", "09", "a", "b"]
    assert [s.label for s in category.test] == [0, 0, 1, 1]
    assert [s.image.stem for s in category.train] == [f"{i:02}" for i in range(12) if i not in (4, 9)]
    assert {s.label for s in category.train} == {0}
    assert not category.has_masks
    assert (category.dataset, category.name) == ("folder", "parts")


def test_folder_tests_on_normal_test_where_there_is_one(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save_images(tmp_path / "normal_test", "x.png")
    category = folder(str(tmp_path))
    assert len(category.train) == 12
    assert [(s.image.stem, s.label) for s in category.test] == [("x", 0), ("a", 1), ("b", 1)]


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("a_mask.png", "b_mask.png"), ("a.bmp", "b.tif")])
def test_folder_pairs_masks_by_stem(names: tuple[str, str], tmp_path: Path) -> None:
    make_folder(tmp_path)
    save_masks(tmp_path / "masks", *names)
    category = folder(tmp_path)
    assert category.has_masks
    assert [s.mask for s in category.test] == [None, None, *(tmp_path / "masks" / name for name in names)]
    masks = load_category(category, SMALL).masks
    assert masks is not None
    assert [bool(mask.any()) for mask in masks] == [False, False, True, True]


def test_folder_names_the_mask_that_is_missing(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save_masks(tmp_path / "masks", "a.png")
    message = message_of(lambda: folder(tmp_path))
    assert str(tmp_path / "masks" / "b.png") in message
    assert str(tmp_path / "anomalous" / "b.png") in message


@pytest.mark.parametrize("name", ["normal", "anomalous"])
def test_folder_names_the_folder_without_images(name: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    shutil.rmtree(tmp_path / name)
    assert f"no image in {tmp_path / name}" in message_of(lambda: folder(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "Thumbs.db").write_bytes(b"no image")
    assert f"no image in {tmp_path / name}" in message_of(lambda: folder(tmp_path))


# Loading.


@pytest.mark.parametrize("threads", [1, 4])
def test_loading_gives_pixels_labels_and_masks_in_order(threads: int, tmp_path: Path) -> None:
    make_category(tmp_path)
    category, seen = mvtec(tmp_path, "bottle"), []
    loaded = load_category(category, SMALL, threads=threads, on_image=lambda: seen.append(1))
    for samples, pixels in ((category.train, loaded.train), (category.test, loaded.test)):
        expected = np.stack([prepare_image(Image.open(s.image), SMALL) for s in samples])
        np.testing.assert_array_equal(pixels, expected)
    assert loaded.labels.tolist() == [1, 1, 0]
    assert loaded.masks is not None
    for sample, mask in zip(category.test[:2], loaded.masks[:2], strict=True):
        assert sample.mask is not None
        np.testing.assert_array_equal(mask, prepare_mask(np.asarray(Image.open(sample.mask)) > 0, SMALL))
        assert mask.any()
    assert not loaded.masks[2].any()
    assert len(seen) == 6


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize(("size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (9, [3])])
def test_load_images_gives_the_same_pixels_in_batches(
    size: int, sizes: list[int], threads: int | None, tmp_path: Path
) -> None:
    make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    batches = list(load_images(category.train, SMALL, batch_size=size, threads=threads))
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(torch.cat(batches).numpy(), load_category(category, SMALL).train)
    assert list(load_images([], SMALL)) == []


def break_stream(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 4
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def forbid(path: Path) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("no file is unreadable to this user")
    path.chmod(0)


DAMAGE = {
    "corrupt": break_stream,
    "truncated": truncate,
    "of zero bytes": lambda path: path.write_bytes(b""),
    "of another kind": lambda path: path.write_text("plain text\nof two lines"),
    "deleted": Path.unlink,
    "a folder": replace_by_folder,
    "forbidden": forbid,
}
DAMAGED_FILES = ["train/good/001.png", "test/good/000.png", "test/broken/001.png", "ground_truth/broken/000_mask.png"]


@pytest.mark.parametrize("name", DAMAGED_FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_loading_names_a_file_that_cannot_be_read(name: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    base = make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    damage(base / name)
    message = message_of(lambda: load_category(category, SMALL))
    assert str(base / name) in message
    assert "object at 0x" not in message


def test_load_images_decodes_one_batch_ahead_and_stops_when_the_caller_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category(tmp_path)
    samples = mvtec(tmp_path, "bottle").train * 3
    read: list[Path] = []

    def read_and_tell(path: Path, protocol: Protocol, **options: Notes) -> object:
        read.append(path)
        return read_image(path, protocol, **options)

    monkeypatch.setattr("padim_bench.evaluation.read_image", read_and_tell)
    batches = load_images(samples, SMALL, batch_size=2, threads=1)
    next(batches)
    deadline = time.monotonic() + 60
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    batches.close()  # type: ignore[attr-defined]
    assert read == [sample.image for sample in samples[:4]]


def test_load_images_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    truncate(base / "train" / "good" / "001.png")
    assert "001.png" in message_of(lambda: list(load_images(category.train, SMALL)))


def test_loading_refuses_a_mask_of_another_size_than_its_image(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    mask = save(base / "ground_truth" / "broken" / "001_mask.png", Image.new("L", (20, 24)))
    message = message_of(lambda: load_category(mvtec(tmp_path, "bottle"), SMALL))
    assert str(mask) in message
    assert "20x24" in message
    assert "24x20" in message


def save_rotated(path: Path, raw: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATED
    Image.fromarray(raw).save(path, exif=exif)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("mask_has_exif", [True, False])
def test_images_and_masks_are_turned_upright_as_exif_says(dtype: type, mask_has_exif: bool, tmp_path: Path) -> None:
    base = make_category(tmp_path)
    raw = np.zeros((16, 32), dtype=dtype)
    raw[:4, :8] = np.iinfo(dtype).max  # top left in the file, top right as shown
    save_rotated(base / "test" / "broken" / "000.png", raw)
    mask = base / "ground_truth" / "broken" / "000_mask.png"
    if mask_has_exif:
        save_rotated(mask, raw)
    else:
        save(mask, Image.fromarray(np.rot90(raw, k=-1)))
    loaded = load_category(mvtec(tmp_path, "bottle"), Protocol.of("square", resize=16, crop=None))
    expected = np.zeros((16, 16), dtype=bool)
    expected[:4, 12:] = True
    assert loaded.masks is not None
    np.testing.assert_array_equal(loaded.masks[0], expected)
    np.testing.assert_array_equal(loaded.test[0, 0] > 127, expected)


def test_a_mask_that_lies_otherwise_than_its_upright_image_is_refused(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    raw = np.zeros((16, 32), dtype=np.uint8)
    save_rotated(base / "test" / "broken" / "000.png", raw)
    save(base / "ground_truth" / "broken" / "000_mask.png", Image.fromarray(raw))
    assert "is 32x16 but" in message_of(lambda: load_category(mvtec(tmp_path, "bottle"), SMALL))


# Digests.


def digest(root: Path) -> str:
    category = mvtec(root, "bottle")
    found = split_digest(category)
    assert found == load_category(category, SMALL).split_digest
    return found


@pytest.mark.parametrize("masks", [True, False])
def test_the_digest_is_the_same_with_and_without_decoding(masks: bool, tmp_path: Path) -> None:
    make_category(tmp_path, masks=masks)
    category = mvtec(tmp_path, "bottle")
    assert split_digest(category) == load_category(category, SMALL).split_digest
    assert split_digest(category, threads=3) == load_category(category, PROTOCOLS["paper"], threads=3).split_digest


def test_the_digest_of_plain_folders_is_the_same_with_and_without_decoding(tmp_path: Path) -> None:
    save_masks(make_folder(tmp_path) / "masks", "a.png", "b.png")
    category = folder(tmp_path)
    assert split_digest(category) == load_category(category, SMALL).split_digest


def test_the_digest_does_not_depend_on_where_the_root_is(tmp_path: Path) -> None:
    make_category(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "some" / "where" / "else")
    assert digest(tmp_path / "here") == digest(tmp_path / "some" / "where" / "else")


def test_the_digest_does_not_depend_on_the_order_of_samples(tmp_path: Path) -> None:
    make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    turned = replace(category, train=category.train[::-1], test=category.test[::-1])
    assert split_digest(turned) == split_digest(category)
    assert load_category(turned, SMALL).split_digest == split_digest(category)


@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_the_digest_changes_with_one_pixel(name: str, tmp_path: Path) -> None:
    path = make_category(tmp_path) / name
    before = digest(tmp_path)
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[0, 0] ^= 1
    save(path, Image.fromarray(pixels))
    assert digest(tmp_path) != before


def test_the_digest_changes_with_a_label(tmp_path: Path) -> None:
    make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    *others, last = category.test
    relabelled: Category = replace(category, test=(*others, replace(last, label=1 - last.label)))
    assert split_digest(relabelled) != split_digest(category)
    assert split_digest(relabelled) == load_category(relabelled, SMALL).split_digest


@pytest.mark.parametrize("change", ["rename", "add", "remove"])
def test_the_digest_changes_with_the_list_of_files(change: str, tmp_path: Path) -> None:
    good = make_category(tmp_path) / "train" / "good"
    before = digest(tmp_path)
    if change == "rename":
        (good / "002.png").rename(good / "003.png")
    elif change == "add":
        save_images(good, "003.png")
    else:
        (good / "002.png").unlink()
    assert digest(tmp_path) != before


def test_the_digest_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    base = make_category(tmp_path)
    category = mvtec(tmp_path, "bottle")
    (base / "ground_truth" / "broken" / "000_mask.png").unlink()
    assert str(base / "ground_truth" / "broken" / "000_mask.png") in message_of(lambda: split_digest(category))


# Protocols.


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"resize": 200, "crop": 224}, "crop 224 does not fit resize 200"),
        ({"crop": 0}, "crop 0"),
        ({"resize": 0, "crop": None}, "resize 0"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": -0.01}, "epsilon is -0.01"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
    ],
)
def test_impossible_protocols_are_refused(choices: dict[str, float], said: str) -> None:
    assert said in message_of(lambda: Protocol.of("mine", **choices))  # type: ignore[arg-type]


def test_the_edges_of_what_a_protocol_may_be() -> None:
    assert Protocol.of("mine", resize=224, crop=224).size == 224
    assert Protocol.of("mine", resize=224, crop=None).size == 224
    assert Protocol.of("mine", sigma=0.0, epsilon=1e-12).maps.sigma == 0.0


def test_protocols_are_found_by_name_or_given() -> None:
    assert get_protocol("paper") is PROTOCOLS["paper"]
    assert get_protocol(SMALL) is SMALL
    assert {name: p.name for name, p in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}


def test_an_unknown_protocol_is_refused_with_those_there_are() -> None:
    message = message_of(lambda: get_protocol("papre"))
    assert "'papre'" in message
    assert all(name in message for name in PROTOCOLS)


def test_the_papers_protocol_is_the_papers() -> None:
    paper = PROTOCOLS["paper"]
    assert (paper.images.resize, paper.images.crop, paper.maps.sigma, paper.epsilon) == (256, 224, 4.0, 0.01)
    assert (paper.images.interpolation, paper.maps.interpolation) == ("bicubic", "bicubic")
