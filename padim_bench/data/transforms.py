"""From an image file to the square uint8 pixels that a protocol asks for."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

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


def read_image(path: Path, *, is_mask: bool = False) -> tuple[Image.Image, str]:
    """The decoded image, upright as its EXIF orientation says, and the sha256 of its file.

    Raises PadimBenchError, naming the file, when it cannot be read, is corrupt or is truncated, or when
    its pixels are of 32 bits, which only a mask may have.
    """
    content = read_bytes(path)
    return decode_image(content, path, is_mask=is_mask), hashlib.sha256(content).hexdigest()


def decode_image(content: bytes, path: Path, *, is_mask: bool = False) -> Image.Image:
    """:func:`read_image` of a file's ``content``; ``path`` is for the message. Raises as it does."""
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # masks too, or they would not lie on their images
    except UnidentifiedImageError as error:  # its text names only the buffer
        why = "no known image format"
        raise PadimBenchError(f"corrupt or truncated image {path} ({why}): fetch or export the file again") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PadimBenchError(f"corrupt or truncated image {path} ({error}): fetch or export the file again") from error
    if not is_mask and (image.mode == "F" or (image.mode == "I" and np.asarray(image).max() > 65535)):
        raise PadimBenchError(f"{path} has 32-bit pixels, whose range is unknown: export it with 8 or 16 bits")
    return image


def file_digest(path: Path) -> str:
    """sha256 of a file. Raises PadimBenchError, naming it, when it cannot be read."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises PadimBenchError, naming it, when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise PadimBenchError(f"cannot read {path}: {error.strerror}: check the file and its permissions") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image of any mode; alpha is dropped, 16-bit grey is scaled from 0..65535."""
    if image.mode.startswith("I"):
        # PIL's own conversion clips 16-bit values at 255.
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    return image.convert("RGB")


def prepare_image(image: Image.Image, protocol: Protocol, name: str = "") -> NDArray[np.uint8]:
    """(3, S, S) uint8 RGB, resized to a square and cropped (section IV-B), S = ``protocol.size``.

    ``name``, the path below the dataset's root, matters to Rd-MVTec AD alone.
    """
    pixels = np.asarray(_resize_and_crop(to_rgb(image), protocol, protocol.image_interpolation, name))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def prepare_mask(mask: Image.Image, protocol: Protocol, name: str = "") -> NDArray[np.bool_]:
    """Bool mask; any non-zero value is anomalous. ``name`` is the image's, not the mask's.

    (S, S), or where the protocol compares at the masks' own resolution the part of the mask under the crop.
    """
    grey = np.asarray(mask) if mask.mode[0] in "IF" else np.asarray(mask.convert("L"))
    if protocol.compare_at == "masks":
        rows, columns = original_crop(mask.size, protocol)
        return np.ascontiguousarray(grey[rows, columns] != 0)
    binary = Image.fromarray((grey != 0).astype(np.uint8) * np.uint8(255))
    return np.asarray(_resize_and_crop(binary, protocol, protocol.mask_interpolation, name)) > 127


def original_crop(size: tuple[int, int], protocol: Protocol) -> tuple[slice, slice]:
    """Rows and columns under the crop in an image of (width, height) as stored, to the nearest pixel."""
    start = (protocol.resize - protocol.size) // 2
    rows, columns = (
        slice(round(side * start / protocol.resize), round(side * (start + protocol.size) / protocol.resize))
        for side in reversed(size)
    )
    return rows, columns


def _resize_and_crop(image: Image.Image, protocol: Protocol, interpolation: Interpolation, name: str) -> Image.Image:
    side = (protocol.resize, protocol.resize)
    if image.size != side:
        image = image.resize(side, _FILTERS[interpolation])
    if protocol.crop is None:
        return image
    left = top = (protocol.resize - protocol.crop) // 2
    if protocol.rotation:
        place = placement(name, protocol)
        left, top = place.left, place.top
        image = image.rotate(place.angle, _ROTATION_FILTERS[interpolation])
    return image.crop((left, top, left + protocol.crop, top + protocol.crop))
