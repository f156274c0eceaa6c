"""From a file to the mask that was meant: which channel carries it, and where lossy or soft values are cut."""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.decoding import decode, is_lossy, is_wide
from padim_bench.data.notes import Notes
from padim_bench.data.transforms import read_bytes
from padim_bench.errors import PadimBenchError

Numbers = NDArray[Any]  # bool, unsigned or floating point, never negative; (H, W), of colours (H, W, 3)

_COLOURS = 256  # more distinct ones are shades of them
_CLASS_INDEX = 16  # whole numbers up to this are those of classes, not grey levels
_FAINT = 32  # a lossy file does not keep such differences
_OPAQUE = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
_WITH_ALPHA = {"LA": "LA", "PA": "RGBA", "RGBA": "RGBA"}


def read_mask(path: Path, notes: Notes | None = None) -> tuple[NDArray[np.bool_], str]:
    """The mask (H, W) in a file, True where anomalous, upright, and the sha256 of the file.

    Two values of which one is 0 are normal and anomalous. Where the alpha channel varies and the visible colour
    does not, it carries the mask. Masks of grey levels (lossy files, soft edges) are cut at half their maximum; of
    several classes all but 0 are anomalous. ``notes`` is told of what is not plain.

    Raises:
        PadimBenchError: an unreadable file, or one that does not tell which pixels are anomalous.
    """
    content = read_bytes(path)
    with contextlib.ExitStack() as turn:
        image = decode(content, path, notes, turn=turn)
        low = decode(content, path, low_bytes=True) if is_wide(image) else None
        mask = binary_mask(image, path, notes, low_bytes=low)
        del image, low  # before the next thread's turn
    return mask, hashlib.sha256(content).hexdigest()


def binary_mask(
    image: Image.Image, path: Path, notes: Notes | None = None, *, low_bytes: Image.Image | None = None
) -> NDArray[np.bool_]:
    """:func:`read_mask` of a decoded image. Raises as it does; ``low_bytes`` are of one with 16-bit channels."""
    notes = Notes() if notes is None else notes
    colour, alpha = _channels(image, path)
    if low_bytes is not None:
        lower_colour, lower_alpha = _channels(low_bytes, path)
        colour = colour.astype(np.uint16) << 8 | lower_colour
        alpha = None if alpha is None or lower_alpha is None else alpha.astype(np.uint16) << 8 | lower_alpha
    lossy = is_lossy(image)
    if alpha is None or alpha.min() == alpha.max():
        return _from_colour(colour, path, notes, lossy=lossy)
    visible = colour[alpha > 0]
    if (visible == visible[:1]).all():  # what a wholly transparent pixel's colour is, nobody sees
        notes.add("alpha", path)
        return _from_plane(alpha, path, notes, lossy=lossy)
    from_alpha, from_colour = _from_plane(alpha, path, Notes(), lossy=lossy), None
    with contextlib.suppress(PadimBenchError):
        from_colour = _from_colour(colour, path, notes, lossy=lossy)
    if from_colour is None or not np.array_equal(from_alpha, from_colour):
        raise PadimBenchError(
            f"mask {path} has one shape in its colours and another in its alpha channel: export it without alpha, "
            "black where normal and white where anomalous"
        )
    return from_colour


def _channels(image: Image.Image, path: Path) -> tuple[Numbers, Numbers | None]:
    """Grey (H, W) or colour (H, W, 3), and alpha (H, W) where there is any."""
    if image.mode[0] in "IF":
        grey = np.asarray(image)
        if image.mode == "F" and not np.isfinite(grey).all():
            raise PadimBenchError(f"mask {path} has NaN or infinite values: export it with 8 bits, 0 where normal")
        if grey.min() < 0:
            raise PadimBenchError(f"mask {path} has negative values: export it with 8 bits, 0 where normal")
        return grey, None
    transparent = "transparency" in image.info and image.mode in {"1", "L", "P", "RGB"}
    if transparent or image.mode in _WITH_ALPHA:
        pixels = np.asarray(image.convert(_WITH_ALPHA.get(image.mode, "RGBA")))
        return pixels[:, :, :-1] if pixels.shape[2] == 4 else pixels[:, :, 0], pixels[:, :, -1]
    if image.mode not in _OPAQUE:
        raise PadimBenchError(f"mask {path} is in {image.mode}: export it as grey, black where normal")
    return np.asarray(image.convert(_OPAQUE[image.mode])), None


def _from_colour(colour: Numbers, path: Path, notes: Notes, *, lossy: bool) -> NDArray[np.bool_]:
    if colour.ndim == 2:
        return _from_plane(colour, path, notes, lossy=lossy)
    red, green, blue = colour[:, :, 0], colour[:, :, 1], colour[:, :, 2]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return _from_plane(red, path, notes, lossy=lossy)
    plane = np.maximum(np.maximum(red, green), blue)  # not the luminance, which rounds a faint blue to 0
    if lossy:
        return _from_plane(plane, path, notes, lossy=True)
    colours = _count_colours(colour)
    if 2 <= colours <= _COLOURS and plane.min() != 0:
        raise _without_normal(path, f"its {colours} colours")
    if 2 < colours <= _COLOURS and _levels(plane).size == 2:
        notes.add("classes", path)
    return _from_plane(plane, path, notes, lossy=False)


def _count_colours(colour: Numbers) -> int:
    """The number of distinct colours, or one more than ``_COLOURS``."""
    if colour.dtype == np.uint8:
        found = Image.fromarray(np.ascontiguousarray(colour)).getcolors(_COLOURS)
        return _COLOURS + 1 if found is None else len(found)
    codes = np.empty(0, dtype=np.uint64)
    for row in colour:  # one after the other, as a photograph shows soon
        red, green, blue = row.astype(np.uint64).T
        codes = np.union1d(codes, red << np.uint64(32) | green << np.uint64(16) | blue)
        if codes.size > _COLOURS:
            break
    return min(codes.size, _COLOURS + 1)


def _from_plane(plane: Numbers, path: Path, notes: Notes, *, lossy: bool) -> NDArray[np.bool_]:
    """True where anomalous, in a plane of any numbers of which 0 is normal."""
    levels = _levels(plane)
    largest = levels[-1]
    if lossy and 0 < largest < _FAINT:
        raise PadimBenchError(
            f"mask {path} is in a lossy format and has no value above {largest}, which such files do not keep apart: "
            "export it as PNG, or with 255 where anomalous"
        )
    if levels.size <= 2 and (levels.size == 1 or levels[0] == 0):
        return np.asarray(plane != 0)
    indices = largest <= _CLASS_INDEX and np.array_equal(levels, np.floor(levels))
    if not lossy and (levels.size == 2 or indices or _is_flat(plane, levels)):
        if levels[0] != 0:
            raise _without_normal(path, f"its {levels.size} values")
        notes.add("classes", path)
        return np.asarray(plane != 0)
    low, high, half = largest / 8, largest * 7 / 8, largest / 2
    if plane.dtype.kind != "f":  # comparing with integers needs no copy in float64
        low, high, half = math.floor(low), math.ceil(high), math.ceil(half)
    if np.count_nonzero((plane > low) & (plane < high)) * 2 > plane.size:
        raise PadimBenchError(
            f"mask {path} has grey levels all over, as a photograph: export it black where normal, "
            "white where anomalous"
        )
    notes.add("soft mask", path)
    return np.asarray(plane >= half)


def _without_normal(path: Path, what: str) -> PadimBenchError:
    return PadimBenchError(
        f"mask {path} has no pixel of 0 (black) among {what}, so that all of it would be anomalous: "
        "export it black where normal"
    )


def _levels(plane: Numbers) -> Numbers:
    """The distinct values, ascending."""
    if plane.dtype == np.uint8:  # counted, not sorted
        return np.flatnonzero(Image.fromarray(np.ascontiguousarray(plane)).histogram())
    return np.unique(plane)


def _is_flat(plane: Numbers, levels: Numbers) -> bool:
    """Whether most of the levels between 0 and the largest fill areas, as classes do.

    Of soft edges, and of what a lossy format left around edges, hardly a pixel lies in a square of 2 x 2 equal ones:
    of real masks blurred, resized or compressed as JPEG at most a quarter.
    """
    equal = (plane[1:] == plane[:-1])[:, 1:] & (plane[1:] == plane[:-1])[:, :-1] & (plane[1:, 1:] == plane[1:, :-1])
    inside = np.zeros(plane.shape, dtype=bool)
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            inside[rows, columns] |= equal
    shares = _counts(plane, levels, inside) / _counts(plane, levels)
    middle = shares[(levels > 0) & (levels < levels[-1])]
    return bool(np.count_nonzero(middle > 0.5) * 2 > middle.size)


def _counts(plane: Numbers, levels: Numbers, where: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """How often each of the levels is in a plane, or in part of it."""
    if plane.dtype == np.uint8:
        image, part = Image.fromarray(np.ascontiguousarray(plane)), None if where is None else Image.fromarray(where)
        return np.array(image.histogram(part))[levels]
    values = plane.ravel() if where is None else plane[where]
    return np.bincount(np.searchsorted(levels, values), minlength=levels.size)
