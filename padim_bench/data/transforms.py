"""From an image file to the square uint8 pixels that a protocol asks for."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.decoding import decode, is_wide, stated_bits
from padim_bench.data.notes import Notes
from padim_bench.data.rd_mvtec import placement
from padim_bench.errors import PadimBenchError
from padim_bench.protocols import Interpolation, Protocol

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ROTATION_FILTERS = _FILTERS | {"lanczos": Image.Resampling.BICUBIC}  # PIL turns no image by Lanczos


def read_image(
    path: Path, protocol: Protocol, name: str = "", notes: Notes | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int], str]:
    """:func:`prepare_image` of a file, its (width, height) as stored and upright, and the sha256 of the file.

    Raises as :func:`decode_image` does, and where the file cannot be read; ``notes`` is told as there.
    """
    content = read_bytes(path)
    with contextlib.ExitStack() as turn:
        image = decode_image(content, path, protocol, notes, turn=turn)
        pixels, size = prepare_image(image, protocol, name), image.size
        del image  # before the next thread's turn
    return pixels, size, hashlib.sha256(content).hexdigest()


def decode_image(
    content: bytes,
    path: Path,
    protocol: Protocol,
    notes: Notes | None = None,
    *,
    turn: contextlib.ExitStack | None = None,
) -> Image.Image:
    """The first picture of a file's ``content``, upright as its EXIF orientation says, for :func:`prepare_image`.

    Values of more than 8 bits are scaled from 0..65535, or from 0..2^bits - 1 where the protocol has ``bits``.

    Args:
        content: of the file at ``path``, which messages and notes name.
        protocol: its ``bits``.
        notes: told of further pages, of EXIF data that cannot be read, and of the largest of 16-bit values.
        turn: see ``decoding.decode``.

    Raises:
        PadimBenchError: no such image, a damaged or too large one, or values whose range is unknown: of floating
            point, negative, or above 65535 (above 2^bits - 1).
    """
    image = decode(content, path, notes, turn=turn)
    if image.mode == "F":
        raise PadimBenchError(f"{path} has floating-point pixels, whose range is unknown: export it with 8 or 16 bits")
    if image.mode not in _READ_MODES:
        raise PadimBenchError(f"{path} is in {image.mode}, which is not read: export it as 8-bit RGB or grey")
    if is_wide(image):
        if protocol.images.bits is not None:
            lower = decode(content, path, low_bytes=True)
            upper = np.asarray(image.convert("RGB"), dtype=np.uint16) << 8
            return Image.fromarray(
                _narrowed(upper | np.asarray(lower.convert("RGB")), path, protocol.images.bits, notes)
            )
        if notes is not None:
            notes.add("wide", path, int(np.asarray(image.convert("RGB")).max()) << 8 | 255)
        return image
    if image.mode.startswith("I"):
        stated = stated_bits(image)
        bits, told = (protocol.images.bits, notes) if stated is None else (stated, None)
        return Image.fromarray(_narrowed(np.asarray(image), path, bits, told))
    return image


_READ_MODES = frozenset(
    ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16L", "I;16B", "I;16N")
)


def _narrowed(wide: NDArray[np.integer], path: Path, bits: int | None, notes: Notes | None) -> NDArray[np.uint8]:
    """Values of 16 or 32 bits scaled to 8, to the nearest: PIL's own conversion clips them at 255."""
    smallest, largest = int(wide.min()), int(wide.max())
    if smallest < 0:
        why = "negative values, or unsigned ones of 32 bits" if wide.dtype.itemsize > 2 else "negative values"
        raise PadimBenchError(f"{path} has {why}, as {smallest}: export it with 8 or 16 unsigned bits")
    top = 65535 if bits is None else (1 << bits) - 1
    if largest > top:
        if bits is not None:
            raise PadimBenchError(f"{path} has the value {largest}, more than {bits} bits hold: choose a larger --bits")
        raise PadimBenchError(
            f"{path} has 32-bit pixels, whose range is unknown (here up to {largest}): export it with 8 or 16 bits, "
            f"or say how many are used, as --bits {largest.bit_length()}"
        )
    if notes is not None:
        notes.add("wide", path, largest)
    steps = wide.astype(np.uint32 if top <= 65535 else np.uint64)
    return np.asarray((steps * 255 + top // 2) // top, dtype=np.uint8)


def file_digest(path: Path) -> str:
    """sha256 of a file. Raises PadimBenchError, naming it, when it cannot be read."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises PadimBenchError, naming it, when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise PadimBenchError(f"cannot read {path}: {error.strerror}: check the file and its permissions") from error


def prepare_image(image: Image.Image, protocol: Protocol, name: str = "") -> NDArray[np.uint8]:
    """(3, S, S) uint8 RGB, resized to a square and cropped (section IV-B), S = ``protocol.size``.

    ``name``, the path below the dataset's root, matters to Rd-MVTec AD alone. Raises PadimBenchError as
    :func:`decode_image` does for values whose range is unknown.
    """
    if image.mode[0] == "I":
        image = Image.fromarray(_narrowed(np.asarray(image), Path(name or "image"), protocol.images.bits, None))
    # Grey is resized before it becomes three equal channels: a quarter of the memory.
    if image.mode not in {"L", "RGB"}:
        image = image.convert("RGB")
    small = _resize_and_crop(image, protocol, protocol.images.interpolation, name).convert("RGB")
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def prepare_mask(mask: NDArray[np.bool_], protocol: Protocol, name: str = "") -> NDArray[np.bool_]:
    """A mask (H, W), as prepared for comparison. ``name`` is the image's, not the mask's.

    (S, S), or where the protocol compares at the masks' own resolution the part of the mask under the crop.
    """
    if protocol.masks.compare_at == "masks":
        rows, columns = original_crop((mask.shape[1], mask.shape[0]), protocol)
        return np.ascontiguousarray(mask[rows, columns])
    binary = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(_resize_and_crop(binary, protocol, protocol.masks.interpolation, name)) > 127


def original_crop(size: tuple[int, int], protocol: Protocol) -> tuple[slice, slice]:
    """Rows and columns under the crop in an image of (width, height) as stored, to the nearest pixel; at least one."""
    resize = protocol.images.resize
    first = (resize - protocol.size) // 2

    def under(side: int) -> slice:
        start, stop = (round(side * at / resize) for at in (first, first + protocol.size))
        return slice(start, max(stop, start + 1))

    return under(size[1]), under(size[0])


def _resize_and_crop(image: Image.Image, protocol: Protocol, interpolation: Interpolation, name: str) -> Image.Image:
    side = (protocol.images.resize, protocol.images.resize)
    if image.size != side:
        image = image.resize(side, _FILTERS[interpolation])
    if protocol.images.crop is None:
        return image
    left = top = (protocol.images.resize - protocol.images.crop) // 2
    if protocol.images.rotation:
        place = placement(name, protocol)
        left, top = place.left, place.top
        image = image.rotate(place.angle, _ROTATION_FILTERS[interpolation])
    return image.crop((left, top, left + protocol.images.crop, top + protocol.images.crop))
