"""From a file's bytes to an upright PIL image, in bounded memory and without any program but Pillow's decoders."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from padim_bench.data.notes import Notes
from padim_bench.errors import PadimBenchError

# Raster images alone: EPS and PDF are programs, which Pillow hands to Ghostscript; the rest hold no photographs.
IMAGE_FORMATS = (
    "PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "SGI", "QOI",
)  # fmt: skip

MAX_PIXELS_VARIABLE = "PADIM_BENCH_MAX_PIXELS"
MAX_PIXELS = 1 << 28  # 1 GiB as Pillow holds RGB, 4 bytes a pixel
MAX_SIDE = 100_000  # line-scan cameras stay below it; what is longer is not to be seen in a square of 256 pixels
_LARGE = 1 << 25  # 128 MiB as RGB: of such images one is decoded at a time, however many threads there are
_TEXT_LIMIT = 64 << 20

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NATIVE = {"I;16BS": "I;16NS", "I;16S": "I;16NS", "I;32BS": "I;32NS", "I;32S": "I;32NS"}
_NATIVE |= {"F;32BF": "F;32NF", "F;32F": "F;32NF"}
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def decode(
    content: bytes,
    path: Path,
    notes: Notes | None = None,
    *,
    turn: contextlib.ExitStack | None = None,
    low_bytes: bool = False,
) -> Image.Image:
    """The first picture of a file's ``content``, decoded and upright as its EXIF orientation says.

    Args:
        content: of the file at ``path``, which messages and notes name.
        notes: told of further pages and of EXIF data that cannot be read.
        turn: is entered for a large image, so that until the caller leaves it no other thread decodes one.
        low_bytes: of an image with 16 bits in each of several channels (:func:`is_wide`) the lower bytes,
            instead of the upper ones, which are all that Pillow keeps.

    Raises:
        PadimBenchError: no such image, a damaged one, or one beyond the limits of :func:`check_size`.
    """
    with _refusals(path, content), _pillows_limits_lifted():
        image = Image.open(io.BytesIO(content), formats=formats_read())
        check_size(image.size, path)
        if turn is not None and image.width * image.height > _LARGE:
            turn.enter_context(_one_large)
        pages = image.format != "MPO" and _has_pages(image)  # a camera's second picture is a preview
        image.info[_WIDE] = _has_wide_channels(image)
        image.info[_STATED] = 12 if any(_raw_mode(tile) == "I;12" for tile in image.tile) else None
        _decode_as_native(image)
        if low_bytes:
            _read_low_bytes(image, path)
        image.load()
    if pages and notes is not None:
        notes.add("pages", path)
    return _upright(image, path, notes)


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) that an image's header states, before it is turned upright. Raises as :func:`decode` does."""
    try:
        with path.open("rb") as file:
            begin = file.read(16)
            with _refusals(path, begin), _pillows_limits_lifted():
                size = Image.open(file, formats=formats_read()).size
    except OSError as error:
        raise PadimBenchError(f"cannot read {path}: {error.strerror}: check the file and its permissions") from error
    check_size(size, path)
    return size


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of the image as :func:`decode` gives it, of its header where that does. Raises as it does."""
    size = stored_size(path)
    try:
        with path.open("rb") as file, _refusals(path, b""), _pillows_limits_lifted():
            turned = _turn(Image.open(file, formats=formats_read())) is not None
    except PadimBenchError:
        turned = True  # tags that cannot be read, which decoding passes over
    if not turned:
        return size
    return decode(path.read_bytes(), path).size


@contextlib.contextmanager
def _refusals(path: Path, content: bytes) -> Iterator[None]:
    """Whatever Pillow raises of a file is PadimBenchError, one line that names it."""
    try:
        yield
    except PadimBenchError:
        raise
    except UnidentifiedImageError as error:  # its text names only the buffer
        raise _unreadable(path, _why_unidentified(content)) from error
    except MemoryError as error:
        raise PadimBenchError(f"not enough memory to decode {path}: scale it down, or use fewer --threads") from error
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        if "MAX_TEXT" in str(error):
            mib = f"{_TEXT_LIMIT >> 20} MiB"
            raise PadimBenchError(f"{path} holds more than {mib} of text beside its pixels: save it without") from error
        raise _unreadable(path, " ".join(f"{error}".split()) or type(error).__name__) from error


def is_wide(image: Image.Image) -> bool:
    """Whether a decoded image was stored with 16 bits in each of several channels, of which it holds the upper 8."""
    return bool(image.info.get(_WIDE))


def stated_bits(image: Image.Image) -> int | None:
    """Bits of the values in a 16-bit image where its file states fewer, as TIFF may."""
    found = image.info.get(_STATED)
    return found if isinstance(found, int) else None


_WIDE, _STATED = "padim_bench.wide", "padim_bench.bits"


def is_lossy(image: Image.Image) -> bool:
    """Whether the file's compression may have changed values (where a format has both kinds, it may)."""
    lossy = image.format in {"JPEG", "MPO", "WEBP", "JPEG2000", "AVIF"}
    return lossy or image.info.get("compression") in {"jpeg", "tiff_jpeg", "webp"}


def check_size(size: tuple[int, int], path: Path) -> None:
    """Raises PadimBenchError for an image of (width, height) that would fill the memory, before it is decoded."""
    limit, (width, height) = _max_pixels(), size
    if limit is None and max(size) > MAX_SIDE:
        what = f"more than {MAX_SIDE} a side"
    elif width * height > (limit or MAX_PIXELS):
        what = f"more than the {limit or MAX_PIXELS} that are read"
    else:
        return
    raise PadimBenchError(
        f"{path} is {width}x{height} pixels, {what}: cut or scale it down, or set "
        f"{MAX_PIXELS_VARIABLE}={max(width * height, limit or MAX_PIXELS)} if there is memory of 8 bytes a pixel"
    )


_one_large = threading.RLock()


def _max_pixels() -> int | None:
    """The user's own limit; None for ours."""
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise PadimBenchError(f"{MAX_PIXELS_VARIABLE} is {text!r}: give a number of pixels, as {MAX_PIXELS}")
    return int(text)


@cache
def formats_read() -> tuple[str, ...]:
    """Those of ``IMAGE_FORMATS`` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _why_unidentified(content: bytes) -> str:
    begin = content[:16].ljust(16, b"\0")
    begun = [name for name in formats_read() if (accept := Image.OPEN[name][1]) is not None and accept(begin)]
    if begun:
        return f"a damaged {begun[0]}, or a kind of it that is not read"
    return f"no format that is read: {', '.join(formats_read())}"


def _unreadable(path: Path, why: str) -> PadimBenchError:
    return PadimBenchError(f"corrupt or truncated image {path} ({why[:300]}): fetch or export the file again")


def _has_pages(image: ImageFile.ImageFile) -> bool:
    with contextlib.suppress(Exception):  # damage after the first page
        return bool(getattr(image, "is_animated", False))
    return False


def _raw_mode(tile: ImageFile._Tile) -> str:
    return str(tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0])


def _has_wide_channels(image: ImageFile.ImageFile) -> bool:
    return image.mode in {"RGB", "RGBA", "CMYK"} and any(";16" in _raw_mode(tile) for tile in image.tile)


def _with_raw_mode(tile: ImageFile._Tile, raw: str) -> ImageFile._Tile:
    return tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))


def _read_low_bytes(image: ImageFile.ImageFile, path: Path) -> None:
    """Swaps the order of bytes that Pillow takes 16-bit channels to have, of which it keeps the first alone."""
    if any(_raw_mode(tile).startswith("LA") for tile in image.tile):
        raise PadimBenchError(
            f"{path} has 16-bit grey values with alpha, of which only the upper 8 bits can be read: export it without "
            "alpha, or with 8 bits"
        )
    image.tile = [_with_raw_mode(tile, (raw := _raw_mode(tile))[:-1] + _OTHER_BYTE[raw[-1]]) for tile in image.tile]


def _decode_as_native(image: ImageFile.ImageFile) -> None:
    """Of a compressed TIFF: libtiff gives the machine's own order of bytes, which Pillow swaps for some kinds."""
    image.tile = [
        _with_raw_mode(tile, _NATIVE.get(_raw_mode(tile), _raw_mode(tile))) if tile.codec_name == "libtiff" else tile
        for tile in image.tile
    ]


def _upright(image: Image.Image, path: Path, notes: Notes | None) -> Image.Image:
    """The image turned as its EXIF orientation says; other tags, odd ones among them, do not matter.

    Pillow's own ``exif_transpose`` writes all tags again, and fails where one cannot be written.
    """
    try:
        method = _turn(image)
    except Exception:  # as when decoding
        method = None
        if notes is not None:
            notes.add("exif", path)
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright, if it is to be turned; raises anything of tags that cannot be read."""
    return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))


_lifting = threading.Lock()
_readers = 0
_theirs: tuple[int | None, int] = (None, 0)


@contextlib.contextmanager
def _pillows_limits_lifted() -> Iterator[None]:
    """Without Pillow's limits on pixels and on text in PNG files, which are the process's, while any thread reads.

    Ours are checked instead: on pixels before anything is decoded, on all text of a file Pillow's own 64 MiB.
    """
    global _readers, _theirs  # noqa: PLW0603 - what is lifted is global too
    with _lifting:
        if _readers == 0:
            _theirs = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _TEXT_LIMIT
        _readers += 1
    try:
        yield
    finally:
        with _lifting:
            _readers -= 1
            if _readers == 0:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _theirs
