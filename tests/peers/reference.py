"""What is right: float64, from the definitions (of distances, ``padim/equations.py``), no code of what is measured."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from padim_bench.padim.equations import distances

# Operations for every number stored and image: how often a strategy multiplies by it, times two.
FLOPS_PER_VALUE = {"woodbury": 4, "dual": 8}


def squared_distances(train: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Equation 2, squared, of embeddings (B, d, P) under the Gaussians of (n, d, P): (B, P) float64."""
    return torch.from_numpy(distances(train, images, epsilon) ** 2)


def anomaly_maps(distances: Tensor, size: int, *, sigma: float, border: str) -> NDArray[np.float64]:
    """Bilinear upsampling of (B, h, w) to pixels, then scipy's Gaussian filter with a border mode of scipy's."""
    pixels = functional.interpolate(distances.double()[:, None], size=(size, size), mode="bilinear")[:, 0].numpy()
    return np.stack([ndimage.gaussian_filter(m, sigma, mode=border, truncate=4.0) for m in pixels])


def pro_by_global_argsort(maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> float:
    """PRO as its definition suggests: all pixels in order of score, the whole curve, trapezoids to FPR 0.3."""
    weights = np.zeros(masks.shape)
    count = 0
    for weight, mask in zip(weights, masks, strict=True):
        regions, n = ndimage.label(mask, np.ones((3, 3)))
        count += n
        weight[mask] = 1 / np.bincount(regions[mask])[regions[mask]]
    order = np.argsort(maps, axis=None)[::-1]
    scores = maps.ravel()[order]
    last = np.append(np.diff(scores) != 0, True)
    fpr = np.concatenate([[0], np.cumsum(~masks.ravel()[order])[last] / (~masks).sum()])
    pro = np.concatenate([[0], np.cumsum(weights.ravel()[order])[last] / count])
    inside = fpr <= 0.3
    at = np.interp(0.3, fpr, pro)
    return float(np.trapezoid(np.append(pro[inside], at), np.append(fpr[inside], 0.3)) / 0.3)


def auroc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """P(anomalous > normal) + P(equal) / 2, counted over the distinct scores in whole numbers."""
    _, place = np.unique(scores, return_inverse=True)
    positives = np.bincount(place[labels], minlength=place.max() + 1)
    negatives = np.bincount(place[~labels], minlength=place.max() + 1)
    below = np.cumsum(negatives) - negatives
    twice = int((positives * (2 * below + negatives)).sum(dtype=np.int64))
    return twice / (2 * int(positives.sum()) * int(negatives.sum()))
