"""Images whose files are out of the ordinary: wide values, pages, EXIF, formats that are not read, huge sizes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from padim_bench import PaDiM, PadimBenchError, Protocol, load_images, mvtec
from padim_bench.cli import main
from padim_bench.data.decoding import IMAGE_FORMATS, MAX_PIXELS, MAX_SIDE, stored_size
from padim_bench.data.listing import IMAGE_SUFFIXES
from padim_bench.data.loading import load_category
from padim_bench.data.notes import Notes
from padim_bench.data.transforms import read_image
from padim_bench.errors import DataWarning
from padim_bench.protocols import CHOICES

SIDE = 8
AS_STORED = Protocol.of("stored", resize=SIDE, crop=None)
BITS = {bits: AS_STORED.vary(bits=bits) for bits in (10, 12, 16, 20)}
RNG = np.random.default_rng(0)


def read(path: Path, protocol: Protocol = AS_STORED) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    notes = Notes()
    pixels, _, _ = read_image(path, protocol, notes=notes)
    return pixels, notes.lines(bits=protocol.images.bits)


def refused(path: Path, protocol: Protocol = AS_STORED) -> str:
    with pytest.raises(PadimBenchError) as raised:
        read(path, protocol)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 700
    return message


def save(path: Path, content: bytes | Image.Image | NDArray[np.generic], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path, **options)
    return path


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG as its parts are given; ``kind`` 0 is grey, 2 RGB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(pixels: NDArray[np.generic], order: str = "<", *, kind: int = 1, deflated: bool = False) -> bytes:
    """A TIFF of (H, W) or (H, W, 3) numbers, in little- or big-endian order; ``kind`` 2 is signed, 3 floating point."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflated else data
    bits = [pixels.dtype.itemsize * 8] * channels
    tags = {256: [width], 257: [height], 258: bits, 259: [8 if deflated else 1], 262: [2 if channels == 3 else 1]}
    tags |= {273: [0], 277: [channels], 278: [height], 279: [len(data)], 339: [kind] * channels}
    start = 8 + 2 + 12 * len(tags) + 4
    long = b"".join(struct.pack(f"{order}{len(v)}H", *v) for v in tags.values() if len(v) > 2)
    tags[273] = [start + len(long)]
    entries, place = b"", start
    for tag, values in tags.items():
        code, size = ("I", 4) if tag in (273, 279) else ("H", 2)
        value = struct.pack(f"{order}{len(values)}{code}", *values).ljust(4, b"\0")
        if len(values) * size > 4:
            value, place = struct.pack(f"{order}I", place), place + len(values) * size
        entries += struct.pack(f"{order}HHI", tag, 4 if size == 4 else 3, len(values)) + value
    begin = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return begin + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + long + data


def scaled(values: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """To 8 bits, to the nearest."""
    return np.rint(values * (255 / ((1 << bits) - 1))).astype(np.uint8)


# Values of more than 8 bits.

GREY = RNG.integers(0, 4096, (SIDE, SIDE))
GREY[0, 0] = 4095
COLOUR = RNG.integers(0, 4096, (SIDE, SIDE, 3))
COLOUR[0, 0] = 4095, 0, 256

TWELVE_BITS = {
    "PNG": (png(SIDE, SIDE, 16, 0, b"".join(b"\0" + r.astype(">u2").tobytes() for r in GREY)), GREY),
    "RGB PNG": (png(SIDE, SIDE, 16, 2, b"".join(b"\0" + r.astype(">u2").tobytes() for r in COLOUR)), COLOUR),
} | {
    f"{name} TIFF {order}{' deflated' if deflated else ''}": (
        tiff(values.astype(dtype), order, kind=kind, deflated=deflated),
        values,
    )
    for name, values, dtype, kind in (
        ("grey", GREY, np.uint16, 1),
        ("RGB", COLOUR, np.uint16, 1),
        ("signed", GREY, np.int16, 2),
        ("32-bit", GREY, np.int32, 2),
    )
    for order in "<>"
    for deflated in (False, True)
}


@pytest.mark.parametrize("kind", TWELVE_BITS)
def test_12_bits_in_16_are_scaled_from_the_bits_that_are_given(kind: str, tmp_path: Path) -> None:
    content, values = TWELVE_BITS[kind]
    path = save(tmp_path / "image", content)
    pixels, notes = read(path, BITS[12])
    expected = np.broadcast_to(scaled(values, 12).reshape(SIDE, SIDE, -1), (SIDE, SIDE, 3))
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
    assert notes == ()
    message = refused(path, BITS[10])
    assert "4095" in message
    assert "10 bits" in message


@pytest.mark.parametrize("kind", TWELVE_BITS)
def test_12_bits_in_16_are_said_where_no_bits_are_given(kind: str, tmp_path: Path) -> None:
    content, values = TWELVE_BITS[kind]
    pixels, notes = read(save(tmp_path / "image", content))
    expected = np.broadcast_to((values / 65535 * 255).reshape(SIDE, SIDE, -1), (SIDE, SIDE, 3)).transpose(2, 0, 1)
    assert np.abs(pixels - expected).max() < 1  # of RGB Pillow keeps the upper bytes
    (note,) = notes
    assert note.startswith("1 16-bit image has values of 4095 at most")
    assert "give --bits 12" in note


def test_what_a_model_was_fitted_with_is_not_to_be_given_to_predict(tmp_path: Path) -> None:
    notes = Notes()
    notes.add("wide", tmp_path / "image.png", 4095)
    assert "fit again with --bits 12" in notes.lines(fitted=True)[0]
    (note,) = Notes().lines(bits=12, fitted=True)
    assert note.startswith("the model's --bits 12 changed nothing")


def test_the_whole_range_is_of_all_files_and_needs_no_note(tmp_path: Path) -> None:
    dark, bright = (np.full((SIDE, SIDE), value, dtype=np.uint16) for value in (100, 60000))
    notes = Notes()
    for name, pixels in (("dark.png", dark), ("bright.png", bright)):
        read_image(save(tmp_path / name, pixels), AS_STORED, notes=notes)
    assert notes.lines() == ()


@pytest.mark.parametrize(("largest", "bits"), [(200, 8), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14)])
def test_the_bits_advised_are_those_of_the_next_camera(largest: int, bits: int, tmp_path: Path) -> None:
    _, (note,) = read(save(tmp_path / "image.png", np.full((SIDE, SIDE), largest, dtype=np.uint16)))
    assert f"--bits {bits} " in note


def test_bits_leave_8_bit_images_alone_and_say_so(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", GREY.astype(np.uint8))
    pixels, notes = read(path, BITS[12])
    np.testing.assert_array_equal(pixels, read(path)[0])
    assert notes == ("--bits 12 changed nothing: no image has more than 8 bits a channel",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(GREY.astype(np.int16) - 500, kind=2), "negative"),
        (tiff(GREY.astype(np.int16) - 500, ">", kind=2), "negative"),
        (tiff(GREY.astype(np.int32) - 5000, kind=2), "negative"),
        (tiff(GREY.astype(np.int32) * 100, kind=2), "--bits 19"),
        (tiff(GREY.astype(np.uint32) * np.uint32(1000000)), "32 bits"),
        (tiff(GREY.astype(np.float32), kind=3), "floating-point"),
        (tiff(GREY.astype(np.float32), ">", kind=3, deflated=True), "floating-point"),
    ],
    ids=["signed", "signed, big-endian", "signed 32-bit", "32-bit", "unsigned 32-bit", "float", "float, deflated"],
)
def test_values_whose_range_is_unknown_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(save(tmp_path / "image.tif", content))


def test_32_bits_are_read_where_their_range_is_given(tmp_path: Path) -> None:
    path = save(tmp_path / "image.tif", tiff(GREY.astype(np.int32) * 100, kind=2))
    np.testing.assert_array_equal(read(path, BITS[20])[0][0], scaled(GREY * 100, 20))


@pytest.mark.parametrize("bits", [0, -1, 32])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(PadimBenchError, match=rf"bits is {bits}:"):
        Protocol.of("mine", bits=bits)


# Bits as a part of the protocol.


def test_bits_decide_pixels_and_are_part_of_the_protocols_name_and_fields() -> None:
    assert BITS[12].images != AS_STORED.images
    assert BITS[12].mask_choices == AS_STORED.mask_choices
    assert BITS[12].name == "stored+bits=12"
    assert (BITS[12].images.bits, AS_STORED.images.bits) == (12, None)
    for one in (AS_STORED, BITS[12]):
        assert Protocol.of(one.name, source=one.source, **{k: one.choice(k) for k in CHOICES}) == one


def wide_category(root: Path) -> Path:
    for i, name in enumerate(("train/good/000", "train/good/001", "test/good/000", "test/dent/000")):
        values = np.random.default_rng(i).integers(0, 4096, (64, 64))
        save(root / "part" / f"{name}.png", values.astype(np.uint16))
    return root


def test_a_model_keeps_its_bits(tmp_path: Path) -> None:
    category, protocol = mvtec(wide_category(tmp_path), "part"), Protocol.of("wide", resize=64, crop=None, bits=12)
    with warnings.catch_warnings(action="error", category=DataWarning):
        model = PaDiM("resnet18", weights="random:0", n_features=5, protocol=protocol)
        model.fit(load_images(category.train, protocol))
    model.save(tmp_path / "model.safetensors")
    assert PaDiM.load(tmp_path / "model.safetensors").config.protocol == protocol


def test_load_images_warns_of_values_that_are_lost(tmp_path: Path) -> None:
    category = mvtec(wide_category(tmp_path), "part")
    with pytest.warns(DataWarning, match="2 16-bit images have values of 40"):
        list(load_images(category.train, AS_STORED))


def test_the_option_is_recorded_with_its_protocol(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--data", str(wide_category(tmp_path / "data")), "--backbone", "resnet18", "--weights", "random"]
    command += ["--n-features", "5", "--threads", "1", "--json", "--results"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    plain = capfd.readouterr()
    assert plain.err.count("--bits 12") == 1
    assert main([*command, str(tmp_path / "bits"), "--bits", "12"]) == 0
    with_bits = capfd.readouterr()
    assert "--bits" not in with_bits.err
    assert '"name": "paper+bits=12"' in with_bits.out
    assert '"bits": 12' in with_bits.out
    assert '"bits"' not in plain.out


# EXIF.


def orientation(value: int, *odd: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with an orientation, and entries (tag, type, count, value or offset) as they are given."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", value, 0)), *odd]
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + bytes(64)


ODD = {
    "negative short": (0x9201, 8, 1, struct.pack("<hh", -1, 0)),
    "rational of nothing": (0x011A, 10, 1, struct.pack("<I", 50)),
    "offsets as rationals": (0x8769, 5, 1, struct.pack("<I", 50)),
    "offset beyond the end": (0x010F, 2, 400, struct.pack("<I", 99999)),
    "unknown type": (0x9999, 77, 3, bytes(4)),
    "huge count": (0x010E, 2, 0xFFFFFFFF, bytes(4)),
    "bytes for a number": (0x0100, 7, 4, b"abcd"),
    "GPS of nothing": (0x8825, 4, 1, struct.pack("<I", 4000000000)),
}
CORNER = np.zeros((16, 32, 3), dtype=np.uint8)
CORNER[:4, :8] = 255  # top left as stored


@pytest.mark.filterwarnings("ignore:Tag data larger")  # Pillow's
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_an_image_is_turned_whatever_other_tags_say(kind: str, odd: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"image.{kind}", Image.fromarray(CORNER), exif=orientation(6, ODD[odd]), quality=95)
    pixels, size, _ = read_image(path, Protocol.of("square", resize=16, crop=None))
    assert size == (16, 32)
    assert pixels[:, :3, 13:].min() > 200  # as shown it lies top right
    assert pixels[:, 5:].max() < 100


@pytest.mark.parametrize("value", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_every_orientation_is_turned_as_pillow_turns_it(kind: str, value: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    pixels = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    path = save(tmp_path / f"image.{kind}", Image.fromarray(pixels), exif=exif)
    flips = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1)}
    flips |= {6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(pixels)}
    np.testing.assert_array_equal(read(path)[0], flips[value].transpose(2, 0, 1))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_is_none_is_upright(value: int, tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.fromarray(CORNER), exif=orientation(value))
    assert read_image(path, AS_STORED)[1] == (32, 16)


def test_exif_that_cannot_be_read_is_said_and_taken_as_upright(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n   4\nno hexadecimal digits\n")
    path = save(tmp_path / "image.png", Image.fromarray(CORNER), pnginfo=info)
    _, notes = read(path)
    assert [note.split(",")[0] for note in notes] == ["1 file has EXIF data that cannot be read"]


# Pages and formats.


@pytest.mark.parametrize("kind", ["tif", "gif", "png", "webp"])
def test_of_several_pages_or_frames_the_first_is_read_and_said(kind: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("white", "black"))
    path = save(tmp_path / f"pages.{kind}", first, save_all=True, append_images=[second])
    pixels, notes = read(path)
    assert pixels.min() > 250
    assert notes == (f"1 file has several pages or frames, of which the first was read: {tmp_path.name}/pages.{kind}",)
    assert read(save(tmp_path / f"one.{kind}", first))[1] == ()


def test_only_formats_that_are_read_are_opened(tmp_path: Path) -> None:
    """An EPS is a program, which Pillow hands to Ghostscript; whatever its name, it is not even tried."""
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "drawn.eps")
    Image.init()
    others = sorted(set(Image.SAVE) & set(Image.OPEN) - set(IMAGE_FORMATS))
    assert {"EPS", "ICNS", "SPIDER"} <= set(others)
    for name in ("EPS", "ICO", "DDS", "BLP"):
        out = io.BytesIO()
        Image.new("P" if name == "BLP" else "RGB", (16, 16)).save(out, name)
        message = refused(save(tmp_path / "image.png", out.getvalue()))
        assert "no format that is read: PNG, JPEG" in message
    assert "no format" in refused(save(tmp_path / "image.jpg", b"%PDF-1.4\n1 0 obj"))


@pytest.mark.parametrize("name", sorted({*IMAGE_FORMATS} - {"MPO"}))
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {name}")
    options = {"quality": 100} if name in {"JPEG", "AVIF", "WEBP"} else {}
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 10)).save(out, name, **options)
    pixels, notes = read(save(tmp_path / "image", out.getvalue()))
    assert np.abs(pixels.astype(int) - np.array([200, 30, 10])[:, None, None]).max() < 8
    assert notes == ()


def test_what_is_listed_is_what_is_opened() -> None:
    by_suffix = Image.registered_extensions()
    assert {by_suffix[suffix] for suffix in IMAGE_SUFFIXES} == {*IMAGE_FORMATS} & {*by_suffix.values()}


def test_the_size_is_known_by_the_header_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.fromarray(CORNER), exif=orientation(6))
    path.write_bytes(path.read_bytes()[:-24])  # the rest may be lost
    assert stored_size(path) == (32, 16)
    for content, said in ((b"%!PS-Adobe-3.0 EPSF-3.0", "no format"), (png(500_000, 2, 8, 0, b""), "a side")):
        with pytest.raises(PadimBenchError, match=said) as raised:
            stored_size(save(tmp_path / "other.png", content))
        assert str(tmp_path / "other.png") in str(raised.value)
    with pytest.raises(PadimBenchError, match=r"cannot read .*missing\.png"):
        stored_size(tmp_path / "missing.png")


def test_a_file_of_a_rare_kind_is_said_to_be_of_its_format(tmp_path: Path) -> None:
    path = save(tmp_path / "image.tif", tiff(GREY.astype(np.uint32), ">"))
    assert "a damaged TIFF, or a kind of it that is not read" in refused(path)


def test_lab_images_are_refused(tmp_path: Path) -> None:
    lab = Image.merge("LAB", [Image.new("L", (SIDE, SIDE), 100)] * 3)
    assert "LAB" in refused(save(tmp_path / "image.tif", lab))


# Limits.


def test_text_of_megabytes_is_read_past(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    path = save(tmp_path / "image.png", Image.fromarray(CORNER), pnginfo=info)
    before = PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS
    assert read(path)[1] == ()
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS)  # the process's, not ours
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    bomb = png(SIDE, SIDE, 8, 0, bytes(SIDE * (SIDE + 1)), text)
    assert "64 MiB of text" in refused(save(tmp_path / "bomb.png", bomb))


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [(89_000_000, 2, f"more than {MAX_SIDE} a side"), (2, 89_000_000, "a side"), (20_000, 20_000, f"{MAX_PIXELS}")],
)
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(
    width: int, height: int, said: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "bomb.png", png(width, height, 8, 2, b"\0\0\0"))  # no row of it is there
    message = refused(path)
    assert f"{width}x{height}" in message
    assert said in message
    assert f"PADIM_BENCH_MAX_PIXELS={max(width * height, MAX_PIXELS)}" in message


def test_the_limit_on_pixels_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "image.png", np.zeros((30, 30), dtype=np.uint8))
    monkeypatch.setenv("PADIM_BENCH_MAX_PIXELS", "899")
    assert "30x30" in refused(path)
    monkeypatch.setenv("PADIM_BENCH_MAX_PIXELS", "900")
    assert read(path)[0].shape == (3, SIDE, SIDE)
    long = save(tmp_path / "long.png", png(MAX_SIDE + 1, 1, 8, 0, bytes(MAX_SIDE + 2)))
    assert "899" not in refused(long)
    monkeypatch.setenv("PADIM_BENCH_MAX_PIXELS", str(MAX_SIDE + 1))
    assert read(long)[0].shape == (3, SIDE, SIDE)
    monkeypatch.setenv("PADIM_BENCH_MAX_PIXELS", "many")
    with pytest.raises(PadimBenchError, match="PADIM_BENCH_MAX_PIXELS is 'many'"):
        read(path)


def test_an_image_past_pillows_own_limit_is_read(tmp_path: Path) -> None:
    """A sound bilevel picture of 181 megapixels, in 40 kB."""
    side = 13_500
    rows = (b"\0" + b"\xff" * (-(-side // 8))) * side
    path = save(tmp_path / "large.png", png(side, side, 1, 0, rows))
    assert (read(path)[0] == 255).all()


def test_a_limit_that_threads_share_is_put_back_by_the_last(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.fromarray(CORNER))
    before = Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: [read(path) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux's /proc")
def test_of_large_images_threads_decode_one_at_a_time(tmp_path: Path) -> None:
    """Three threads, three images of 34 megapixels: at 4 bytes a pixel, two at once would pass the bound."""
    side = 5800
    rows = (b"\0" + bytes(3 * side)) * side
    for name in ("train/good/000", "train/good/001", "test/good/000"):
        save(tmp_path / "part" / f"{name}.png", png(side, side, 8, 2, rows))
    code = (
        "import re; from pathlib import Path; from padim_bench import mvtec, PROTOCOLS; "
        "from padim_bench.data.loading import load_category; "
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]); "
        f"category, before = mvtec({str(tmp_path)!r}, 'part'), peak(); "
        "load_category(category, PROTOCOLS['paper'], threads=3); print(peak() - before)"
    )
    # What is freed goes back to the system at once, instead of staying with the thread that had it.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", code]
    grown = int(subprocess.run(command, capture_output=True, check=True, text=True, env=settings).stdout)
    assert 4 * side * side < grown < 2 * 4 * side * side


def test_a_category_says_what_its_files_are(tmp_path: Path) -> None:
    category = mvtec(wide_category(tmp_path), "part")
    (note,) = load_category(category, AS_STORED).notes
    assert note.startswith("4 16-bit images have values of 40")
    assert note.endswith(": dent/000.png")
    assert load_category(category, AS_STORED.vary(bits=12)).notes == ()
