"""From a grid of distances to the anomaly map and the image score (section III-C and IV-B)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from padim_bench.protocols import Border, MapInterpolation, Protocol


@lru_cache(maxsize=16)
def axis_operator(
    cells: int, pixels: int, interpolation: MapInterpolation | None, sigma: float, border: Border
) -> Tensor:
    """The (pixels, cells) matrix that upsamples one axis of a map and smooths it, in float64.

    Both steps are linear and separable, so a map M becomes A M A^T, exactly. The upsampling is
    torch's (align_corners=False), the Gaussian filter scipy's (truncated at 4 sigma), each read off
    the unit vectors. ``interpolation`` None is smoothing alone.
    """
    operator = torch.eye(cells, dtype=torch.float64)
    if interpolation is not None:
        # Weights along an axis of unchanged size are 0 and 1, so this resizes columns alone.
        resized = functional.interpolate(operator[None, None], size=(pixels, cells), mode=interpolation)
        operator = resized[0, 0]
    if sigma > 0:
        smoothed = ndimage.gaussian_filter1d(operator.numpy(), sigma, axis=0, mode=border, truncate=4.0)
        operator = torch.from_numpy(np.ascontiguousarray(smoothed))
    return operator


def anomaly_maps(
    distances: Tensor | Sequence[Tensor], size: tuple[int, int], protocol: Protocol
) -> tuple[Tensor, Tensor]:
    """Maps at pixel resolution and image scores.

    Args:
        distances: (B, h, w) Mahalanobis distances; or those of several models, each on its own grid,
            whose maps are added (Table I's "Layer 1+2+3").
        size: (H, W) of the maps in pixels.
        protocol: interpolation, smoothing, and which map the score is the maximum of.

    Returns:
        (B, H, W) float32 maps and (B,) float32 scores.
    """
    grids = [distances] if isinstance(distances, Tensor) else distances

    def mapped(sigma: float) -> Tensor:
        parts = []
        for grid in grids:
            left, right = (
                axis_operator(cells, pixels, protocol.maps.interpolation, sigma, protocol.maps.border).to(grid)
                for cells, pixels in zip(grid.shape[1:], size, strict=True)
            )
            parts.append(left @ grid @ right.T)
        return (parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)).float()

    maps = mapped(protocol.maps.sigma)
    scored = maps if protocol.maps.score_from == "smoothed" else mapped(0.0)
    return maps, scored.amax(dim=(1, 2))


def resized_map(score_map: Tensor, shape: tuple[int, int], interpolation: MapInterpolation) -> NDArray[np.float32]:
    """A map (H, W) at another ``shape``, as torch interpolates without antialiasing; at its own shape it is itself."""
    if tuple(score_map.shape) != tuple(shape):
        score_map = functional.interpolate(score_map[None, None], size=shape, mode=interpolation)[0, 0]
    found: NDArray[np.float32] = score_map.numpy()
    return found
