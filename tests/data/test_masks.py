"""Masks of every kind that people draw: the one that was meant is read and said, or the file is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from padim_bench import PadimBenchError, Protocol, mvtec
from padim_bench.data.loading import load_category, load_masks
from padim_bench.data.masks import read_mask
from padim_bench.data.notes import Notes

SIDE = 96
SMALL = Protocol.of("small", resize=24, crop=None)


def disc(side: int = SIDE) -> Image.Image:
    """A disc and a thin bar, 0 and 255, edges hard."""
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    draw.ellipse([side // 8, side // 8, side // 2, side // 2], fill=255)
    draw.rectangle([side * 5 // 8, side // 4, side * 11 // 16, side * 3 // 4], fill=255)
    return image


DRAWN = np.asarray(disc())
TRUTH = DRAWN > 0


def coloured(normal: tuple[int, ...], anomalous: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.where(TRUTH[:, :, None], np.array(anomalous), np.array(normal)).astype(np.uint8)


def palette(values: NDArray[np.integer], *colours: int, transparency: int | bytes | None = None) -> bytes:
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putpalette(list(colours))
    return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def encoded(image: Image.Image | NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def wide_png(pixels: NDArray[np.generic]) -> bytes:
    """A PNG of (H, W, channels) with 16 bits a channel, which Pillow does not write."""
    height, width, channels = pixels.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read(content: bytes, folder: Path) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    path = folder / "mask"
    path.write_bytes(content)
    notes = Notes()
    return read_mask(path, notes)[0], notes.lines()


def refused(content: bytes, folder: Path) -> str:
    with pytest.raises(PadimBenchError) as raised:
        read(content, folder)
    message = str(raised.value)
    assert str(folder / "mask") in message
    assert "\n" not in message
    return message


PLAIN = {
    "0 and 255": encoded(DRAWN),
    "0 and 1": encoded(TRUTH.astype(np.uint8)),
    "0 and 7": encoded(TRUTH.astype(np.uint8) * np.uint8(7)),
    "1 bit": encoded(TRUTH),
    "1 bit TIFF": encoded(TRUTH, "TIFF", compression="group4"),
    "BMP": encoded(DRAWN, "BMP"),
    "GIF": encoded(DRAWN, "GIF"),
    "PGM": encoded(DRAWN, "PPM"),
    "JPEG of nothing": encoded(np.zeros_like(DRAWN), "JPEG"),
    "lossless WebP": encoded(DRAWN, "WEBP", lossless=True),
    "palette": palette(TRUTH, 0, 0, 0, 128, 0, 0),
    "palette, faint blue": palette(TRUTH, 0, 0, 0, 0, 0, 2),
    "palette, black second": palette(~TRUTH, 128, 0, 0, 0, 0, 0),
    "16 bit, 0 and 1": encoded(TRUTH.astype(np.uint16)),
    "16 bit, 0 and 65535": encoded(TRUTH.astype(np.uint16) * np.uint16(65535)),
    "16 bit, big-endian": encoded(Image.frombytes("I;16B", (SIDE, SIDE), TRUTH.astype(">u2").tobytes()), "TIFF"),
    "32 bit": encoded(TRUTH.astype(np.int32), "TIFF"),
    "float": encoded(TRUTH * np.float32(0.25), "TIFF"),
    "RGB": encoded(coloured((0, 0, 0), (255, 255, 255))),
    "RGB, faint blue": encoded(coloured((0, 0, 0), (0, 0, 1))),
    "RGB, 16 bit, 0 and 1": wide_png(TRUTH[:, :, None] * np.ones(3, dtype=int)),
    "CMYK": encoded(Image.fromarray(DRAWN).convert("RGB").convert("CMYK"), "TIFF"),
    "opaque RGBA": encoded(coloured((0, 0, 0, 255), (255, 255, 255, 255))),
    "wholly transparent RGBA": encoded(coloured((0, 0, 0, 0), (255, 255, 255, 0))),
    "opaque LA": encoded(coloured((0, 255), (255, 255))),
    "alike in colour and alpha": encoded(coloured((0, 0, 0, 0), (255, 255, 255, 255))),
    "black made transparent": palette(TRUTH, 0, 0, 0, 255, 255, 255, transparency=0),
    "16 bit, colour with opaque alpha": wide_png(np.dstack([TRUTH, TRUTH, TRUTH, np.ones_like(TRUTH) * 65535])),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_two_values_of_which_one_is_black_are_taken_as_they_are(kind: str, tmp_path: Path) -> None:
    mask, notes = read(PLAIN[kind], tmp_path)
    np.testing.assert_array_equal(mask, TRUTH & (kind != "JPEG of nothing"))
    assert mask.dtype == np.bool_
    expected = ("1 mask was read from its alpha channel: ",) if kind in {"alike in colour and alpha"} else ()
    expected = ("1 mask was read",) if kind in {"alike in colour and alpha", "black made transparent"} else expected
    assert len(notes) == len(expected)


ALPHA = {
    "over black": encoded(coloured((0, 0, 0, 0), (0, 0, 0, 255))),
    "over white": encoded(coloured((255, 255, 255, 0), (255, 255, 255, 255))),
    "faint, over red": encoded(coloured((255, 0, 0, 0), (255, 0, 0, 1))),
    "whatever was under it": encoded(coloured((255, 255, 255, 0), (200, 0, 0, 255))),
    "grey with alpha": encoded(coloured((90, 0), (90, 255))),
    "TIFF": encoded(coloured((0, 0, 0, 0), (0, 0, 0, 255)), "TIFF"),
    "lossless WebP": encoded(coloured((9, 9, 9, 0), (9, 9, 9, 255)), "WEBP", lossless=True, exact=True),
    "palette with a transparent colour": palette(TRUTH, 7, 7, 7, 7, 7, 7, transparency=0),
    "palette with alpha a colour": palette(TRUTH, 0, 0, 0, 0, 0, 0, transparency=b"\0\xff"),
    "16 bit": wide_png(np.dstack([np.full_like(TRUTH, 1)] * 3 + [TRUTH])),
}


@pytest.mark.parametrize("kind", ALPHA)
def test_a_mask_drawn_in_the_alpha_channel_is_read_from_there_and_said(kind: str, tmp_path: Path) -> None:
    mask, notes = read(ALPHA[kind], tmp_path)
    np.testing.assert_array_equal(mask, TRUTH)
    assert [note.split(":")[0] for note in notes] == ["1 mask was read from its alpha channel"]


def test_colours_and_alpha_that_differ_are_refused(tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).integers(1, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    cut_out = np.dstack([photograph, np.where(TRUTH, 0, 255).astype(np.uint8)])
    half_seen = np.dstack([DRAWN, np.where(np.arange(SIDE) < 50, 255, 0)[:, None].repeat(SIDE, 1).astype(np.uint8)])
    for pixels in (cut_out, half_seen):
        message = refused(encoded(pixels), tmp_path)
        assert "alpha channel" in message
        assert "export it without alpha" in message


SOFT = {
    f"{kind} {options}": encoded(disc(), kind, **options)
    for kind, options in [
        *(("JPEG", {"quality": quality}) for quality in (30, 50, 75, 90, 100)),
        ("WEBP", {"quality": 60}),
        ("JPEG2000", {"irreversible": True, "quality_layers": [20]}),
        ("TIFF", {"compression": "jpeg"}),
    ]
}
SOFT["JPEG of colours"] = encoded(coloured((0, 0, 0), (255, 255, 255)), "JPEG")
SOFT["JPEG saved again as PNG"] = encoded(Image.open(io.BytesIO(encoded(disc(), "JPEG", quality=80))).convert("L"))
SOFT["drawn large and made small"] = encoded(disc(4 * SIDE).resize((SIDE, SIDE), Image.Resampling.BOX))
SOFT["blurred"] = encoded(disc().filter(ImageFilter.GaussianBlur(1)))
SOFT["of 16 bits"] = encoded(np.asarray(disc().filter(ImageFilter.GaussianBlur(1))).astype(np.uint16) * np.uint16(16))
SOFT["of probabilities"] = encoded(np.asarray(disc().filter(ImageFilter.GaussianBlur(1))) / np.float32(255), "TIFF")


@pytest.mark.parametrize("kind", SOFT)
def test_lossy_and_soft_masks_are_cut_at_half_their_maximum_and_said(kind: str, tmp_path: Path) -> None:
    mask, notes = read(SOFT[kind], tmp_path)
    edge = np.asarray(disc().filter(ImageFilter.MaxFilter(3))) != np.asarray(disc().filter(ImageFilter.MinFilter(3)))
    np.testing.assert_array_equal(mask[~edge], TRUTH[~edge])
    assert (mask != TRUTH).sum() < 0.1 * TRUTH.sum()
    assert [note.split(",")[0] for note in notes] == ["1 mask has many grey levels (lossy or anti-aliased)"]


def test_a_jpeg_of_0_and_1_is_refused_as_it_does_not_keep_them_apart(tmp_path: Path) -> None:
    message = refused(encoded(TRUTH.astype(np.uint8) * np.uint8(5), "JPEG", quality=95), tmp_path)
    assert "lossy" in message
    assert "export it as PNG" in message


def classes(*values: int) -> NDArray[np.uint16]:
    """Areas of each of the values, on 0."""
    labels = np.zeros((SIDE, SIDE), dtype=np.uint16)
    for i, value in enumerate(values):
        labels[4 * i + 2 : 4 * i + 5, 4 : SIDE - 4] = value
    return labels


CLASSES = {
    "0 1 2 3": encoded(classes(1, 2, 3).astype(np.uint8)),
    "0 128 255": encoded(classes(128, 255).astype(np.uint8)),
    "20 instances": encoded(classes(*range(1, 21)).astype(np.uint8)),
    "wide numbers": encoded(classes(1000, 2000, 60000)),
    "palette": palette(classes(1, 2), 0, 0, 0, 128, 0, 0, 0, 128, 0),
    "palette of one brightness": palette(classes(1, 2), 0, 0, 0, 255, 0, 0, 0, 255, 0),
    "RGB": encoded(np.array([[0, 0, 0], [9, 0, 200], [0, 128, 0]], dtype=np.uint8)[classes(1, 2)]),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_of_several_classes_all_but_black_are_anomalous_and_it_is_said(kind: str, tmp_path: Path) -> None:
    mask, notes = read(CLASSES[kind], tmp_path)
    values = {"0 1 2 3": (1, 2, 3), "20 instances": tuple(range(1, 21)), "wide numbers": (1, 2, 3)}.get(kind, (1, 2))
    np.testing.assert_array_equal(mask, classes(*values) != 0)
    assert [note.split(",")[0] for note in notes] == ["1 mask has several classes"]


def test_thin_lines_of_a_small_class_are_not_lost(tmp_path: Path) -> None:
    scratch = classes(3).astype(np.uint8)
    scratch[50, 10:60] = 1
    assert read(encoded(scratch), tmp_path)[0][50, 10:60].all()


@pytest.mark.parametrize(
    "content",
    [
        encoded(np.where(TRUTH, 255, 128).astype(np.uint8)),
        encoded(coloured((255, 255, 255), (255, 0, 0))),
        palette(TRUTH, 120, 120, 120, 180, 120, 120),
        encoded(classes(1, 2).astype(np.uint8) + np.uint8(1)),
    ],
    ids=["two greys", "red on white", "palette without black", "classes from 1"],
)
def test_a_mask_without_black_is_refused_instead_of_all_anomalous(content: bytes, tmp_path: Path) -> None:
    message = refused(content, tmp_path)
    assert "0 (black)" in message
    assert "black where normal" in message


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for content in (encoded(noise), encoded(noise, "JPEG"), encoded(noise[:, :, 0])):
        assert "photograph" in refused(content, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encoded(np.where(TRUTH, np.float32("nan"), np.float32(0)), "TIFF"), "NaN"),
        (encoded(np.where(TRUTH, np.float32("inf"), np.float32(0)), "TIFF"), "infinite"),
        (encoded(np.where(TRUTH, np.float32(-1), np.float32(0)), "TIFF"), "negative"),
        (encoded(np.where(TRUTH, -1, 0).astype(np.int32), "TIFF"), "negative"),
        (encoded(Image.merge("LAB", [disc(), Image.new("L", (SIDE, SIDE), 128), disc()]), "TIFF"), "LAB"),
        (wide_png(np.dstack([np.ones_like(TRUTH), TRUTH])), "alpha"),
    ],
    ids=["NaN", "infinite", "negative", "negative integers", "LAB", "16-bit grey with alpha"],
)
def test_masks_that_do_not_tell_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(content, tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_real_masks_saved_as_jpeg_are_what_they_were(quality: int, real_data: Path, tmp_path: Path) -> None:
    paths = sorted(real_data.glob("*/ground_truth/*/*.png"))[::5]
    wrong = pixels = 0
    for path in paths:
        truth, _ = read_mask(path)
        mask, _ = read(encoded(Image.open(path).convert("L"), "JPEG", quality=quality), tmp_path)
        wrong, pixels = wrong + int((mask != truth).sum()), pixels + int(truth.sum())
    assert wrong < (0.03 if quality == 50 else 0.005) * pixels


# Of a whole category.


def make_category(root: Path, masks: dict[str, bytes]) -> Path:
    """Noise, and anomalous images with the masks given by file name."""
    rng = np.random.default_rng(0)

    def save(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)

    for i in range(2):
        save(root / "part" / "train" / "good" / f"{i:03d}.png")
    save(root / "part" / "test" / "good" / "000.png")
    for name, content in masks.items():
        save(root / "part" / "test" / "hole" / f"{Path(name).stem}.png")
        path = root / "part" / "ground_truth" / "hole" / f"{Path(name).stem}_mask{Path(name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize("threads", [1, 3])
def test_each_kind_of_mask_is_said_in_one_line_with_a_count_and_the_first_file(threads: int, tmp_path: Path) -> None:
    jpeg, full, empty = (encoded(x, "JPEG") for x in (DRAWN, np.full_like(DRAWN, 255), np.zeros_like(DRAWN)))
    masks = {f"{i:03d}.jpg": jpeg for i in range(3)} | {"003.jpg": full, "004.jpg": empty, "005.png": encoded(DRAWN)}
    loaded = load_category(mvtec(make_category(tmp_path, masks), "part"), SMALL, threads=threads)
    assert loaded.notes == (
        "3 masks have many grey levels (lossy or anti-aliased), cut at half their maximum: hole/000_mask.jpg",
        "1 mask covers its whole picture: hole/003_mask.jpg",
        "1 image is anomalous but has a mask without any anomalous pixel: hole/004.png",
    )


def test_plain_masks_are_not_worth_a_line(tmp_path: Path) -> None:
    category = mvtec(make_category(tmp_path, {"000.png": encoded(DRAWN), "001.bmp": encoded(TRUTH)}), "part")
    assert load_category(category, SMALL).notes == ()


def test_masks_that_all_cover_most_of_their_pictures_may_be_inverted(tmp_path: Path) -> None:
    inverted = {f"{i:03d}.png": encoded(~TRUTH) for i in range(2)}
    (line,) = load_category(mvtec(make_category(tmp_path, inverted), "part"), SMALL).notes
    assert "every mask covers more than half of its picture" in line
    make_category(tmp_path, {"002.png": encoded(TRUTH)})
    assert load_category(mvtec(tmp_path, "part"), SMALL).notes == ()


@pytest.mark.parametrize("load", [load_category, load_masks])
def test_loading_names_a_mask_that_does_not_tell(load: Callable[..., object], tmp_path: Path) -> None:
    bad = encoded(np.where(TRUTH, 255, 128).astype(np.uint8))
    category = mvtec(make_category(tmp_path, {"000.png": encoded(DRAWN), "001.png": bad}), "part")
    with pytest.raises(PadimBenchError, match=r"001_mask\.png"):
        load(category, SMALL)
