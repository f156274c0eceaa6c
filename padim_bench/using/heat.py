"""Pictures to look at: a heat map over its image, what is far from normal glowing, and outlines of regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.transforms import original_crop
from padim_bench.machine.files import cannot_write, replacing
from padim_bench.protocols import Protocol

SMALLEST, LARGEST = 256, 1024  # of the longer side of a picture, in pixels
# From ``Scale.low``, where the image shines through, to ``Scale.full``: yellow, orange, red, dark red.
_COLOURS = np.array([[255, 240, 120], [255, 170, 40], [225, 50, 30], [130, 0, 40]], dtype=np.float64)
_STRONGEST = 0.75  # of colour over image
_DIMMED = 0.45  # of the image outside the crop, which the model does not see


class Scale(NamedTuple):
    """The values between which a map is coloured: none up to ``low``, the strongest from ``full`` on."""

    low: float
    full: float


def colour_stops(n: int = 13) -> list[tuple[int, int, int, float]]:
    """(red, green, blue, opacity) of ``n`` values from ``Scale.low`` to ``Scale.full``, evenly, for a legend."""
    colour, alpha = _coloured(np.linspace(0, 1, n))
    return [(round(r), round(g), round(b), float(a)) for (r, g, b), a in zip(colour, alpha, strict=True)]


def _coloured(heat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours (..., 3) and opacities (...) of values in [0, 1]."""
    at = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(heat, at, channel) for channel in _COLOURS.T], axis=-1)
    return colour, _STRONGEST * np.minimum(1, 2 * heat)


def picture_of(image: Image.Image, largest: int = LARGEST) -> NDArray[np.uint8]:
    """(H, W, 3) of an upright image, in its shape, its longer side between ``SMALLEST`` and ``largest`` pixels."""
    longer = max(image.size)
    scale = min(max(longer, SMALLEST), largest) / longer
    size = tuple(max(1, round(side * scale)) for side in image.size)
    if image.mode not in {"L", "RGB"}:
        image = image.convert("RGB")
    if image.size != size:
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image.convert("RGB"))


def heat_map(
    picture: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    protocol: Protocol,
    scale: Scale,
    threshold: float | None,
) -> Image.Image:
    """The map over the picture.

    Args:
        picture: (H, W, 3) RGB, of :func:`picture_of`.
        anomaly_map: (S, S), of the part under the protocol's crop; outside it the picture is darker.
        protocol: its crop.
        scale: of its colours.
        threshold: what lies above it is outlined in white; None for no outline.
    """
    height, width = picture.shape[:2]
    rows, columns = original_crop((width, height), protocol)
    out = picture.astype(np.float64)
    inside = out[rows, columns].copy()
    out *= _DIMMED
    size = (inside.shape[1], inside.shape[0])
    values = np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR), dtype=np.float64)
    colour, alpha = _coloured(np.clip((values - scale.low) / (scale.full - scale.low), 0, 1))
    inside = (1 - alpha[..., None]) * inside + alpha[..., None] * colour
    if threshold is not None:
        over = values > threshold
        inside[_grown(over) & ~over] *= _DIMMED  # so that white is seen on white
        inside[_outline(over)] = 255
    out[rows, columns] = inside
    return Image.fromarray(np.rint(out).astype(np.uint8))


def outlined(picture: NDArray[np.uint8], region: NDArray[np.bool_], colour: tuple[int, int, int]) -> Image.Image:
    """The picture (H, W, 3) with the contour of a region, of any size: two pixels wide, and a dark one."""
    height, width = picture.shape[:2]
    if region.shape != (height, width):
        share = Image.fromarray(region.astype(np.uint8) * np.uint8(255))
        region = np.asarray(share.resize((width, height), Image.Resampling.BOX)) > 0  # what is thin stays
    out = picture.copy()
    around = _grown(region)
    out[_grown(around) & ~around] = 0
    out[_outline(region) | (around & ~region)] = colour
    return Image.fromarray(out)


def write_picture(path: Path, image: Image.Image, **how: Any) -> None:
    """Writes a picture in the format of its name, whole or not at all; ``how`` is Pillow's.

    Raises PadimBenchError, naming the file, where it cannot be written.
    """
    kind = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    try:
        with replacing(path) as temporary:
            image.save(temporary, format=kind, **how)
    except OSError as error:
        raise cannot_write(path, error) from error


def _grown(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The region and all neighbours of its pixels."""
    padded = np.pad(region, 1)
    height, width = region.shape
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    found: NDArray[np.bool_] = np.logical_or.reduce(shifted)
    return found


def _outline(over: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the region with a neighbour outside it, above, below, left or right."""
    padded = np.pad(over, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(over & ~around)
