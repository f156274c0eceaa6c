"""A heat map over its image: what is far from the training images glows, and what is over the threshold is outlined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.transforms import original_crop
from padim_bench.protocols import Protocol

SMALLEST, LARGEST = 256, 1024  # of the longer side of a picture, in pixels
# From half of ``full`` on, where the image shines through, to ``full``: yellow, orange, red, dark red.
_COLOURS = np.array([[255, 240, 120], [255, 170, 40], [225, 50, 30], [130, 0, 40]], dtype=np.float64)
_STRONGEST = 0.75  # of colour over image
_DIMMED = 0.45  # of the image outside the crop, which the model does not see


def picture_of(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) of an upright image, in its shape, its longer side between ``SMALLEST`` and ``LARGEST`` pixels."""
    longer = max(image.size)
    scale = min(max(longer, SMALLEST), LARGEST) / longer
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
    full: float,
    threshold: float | None,
) -> Image.Image:
    """The map over the picture.

    Args:
        picture: (H, W, 3) RGB, of :func:`picture_of`.
        anomaly_map: (S, S), of the part under the protocol's crop; outside it the picture is darker.
        protocol: its crop.
        full: the value of the strongest colour; up to half of it there is none.
        threshold: what lies above it is outlined in white; None for no outline.
    """
    height, width = picture.shape[:2]
    rows, columns = original_crop((width, height), protocol)
    out = picture.astype(np.float64)
    inside = out[rows, columns].copy()
    out *= _DIMMED
    size = (inside.shape[1], inside.shape[0])
    values = np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR), dtype=np.float64)
    heat = np.clip(2 * values / full - 1, 0, 1)
    at = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(heat, at, channel) for channel in _COLOURS.T], axis=2)
    alpha = _STRONGEST * np.minimum(1, 2 * heat)[..., None]
    inside = (1 - alpha) * inside + alpha * colour
    if threshold is not None:
        inside[_outline(values > threshold)] = 255
    out[rows, columns] = inside
    return Image.fromarray(np.rint(out).astype(np.uint8))


def _outline(over: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the region with a neighbour outside it, above, below, left or right."""
    padded = np.pad(over, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(over & ~around)
