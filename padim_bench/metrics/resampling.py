"""How far metrics may lie off for the test images that happened to be drawn: a bootstrap over images.

Images are drawn with replacement among the normal and among the anomalous ones, as many as there are of each. Every
configuration of a split draws the same, so that differences between two are paired. Pixels are counted once into
histograms of each image, in the bins of the streaming metrics; a resample is then a weighted sum of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from padim_bench.metrics._bins import score_bins
from padim_bench.metrics._truth import as_mask
from padim_bench.metrics.pro import FPR_LIMIT, _ramp_area, _region_weights, average_pro

N_RESAMPLES = 200
Floats = NDArray[np.float64]


def draws(labels: NDArray[np.int64], split_digest: str, n: int = N_RESAMPLES) -> NDArray[np.int64]:
    """How often each image is drawn in each resample, (n, images): a function of the split and the labels alone.

    Args:
        labels: (images,) 0 normal, 1 anomalous; each class keeps its number of images.
        split_digest: hex digest of the split's files.
        n: resamples.
    """
    generator = np.random.default_rng(int(split_digest[:32], 16))
    counts = np.zeros((n, labels.size), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        counts[:, members] = generator.multinomial(members.size, np.full(members.size, 1 / members.size), size=n)
    return counts


def resampled_image_auroc(counts: NDArray[np.int64], labels: NDArray[np.int64], scores: NDArray[np.floating]) -> Floats:
    """Image AUROC of each resample, (n,), ties counted half; NaN where a class is missing."""
    anomalous = labels == 1
    if not anomalous.any() or anomalous.all():
        return np.full(len(counts), np.nan)
    high, low = scores[anomalous, None], scores[None, ~anomalous]
    wins = (high > low) + 0.5 * (high == low)
    of_high, of_low = counts[:, anomalous], counts[:, ~anomalous]
    won = np.einsum("rh,hl,rl->r", of_high, wins, of_low, optimize=True)
    return np.asarray(won / (of_high.sum(axis=1) * of_low.sum(axis=1)))


class PixelCounts:
    """Histograms of every image's pixels: anomalous, anomaly-free, and regions each weighing 1; and its own PRO.

    Bytes grow with the images and the bins that they touch, some thousands each: 25 MB for 100 images of 224 x 224.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[NDArray[np.int64], Floats, Floats, Floats]] = []
        self._regions: list[int] = []
        self._own_pro: list[float] = []

    def add(self, score_map: NDArray[np.floating], mask: NDArray[np.generic]) -> None:
        """Adds an image's map (H, W) and mask, without NaN and of one shape."""
        mask_ = as_mask(mask)
        bins, positions = np.unique(score_bins(score_map).ravel(), return_inverse=True)
        positions = positions.reshape(score_map.shape)
        weights, count = _region_weights(mask_)
        inside = positions[mask_]
        anomalous = np.bincount(inside, minlength=bins.size).astype(np.float64)
        normal = np.bincount(positions[~mask_], minlength=bins.size).astype(np.float64)
        overlap = np.bincount(inside, weights, bins.size).astype(np.float64)
        self._rows.append((bins.astype(np.int64), anomalous, normal, overlap))
        self._regions.append(count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images without a defect, or without anything else
            self._own_pro.append(average_pro([score_map], [mask_]) if count else float("nan"))

    def metrics(self, counts: NDArray[np.int64]) -> dict[str, Floats]:
        """Of each resample (n,): ``pixel_auroc`` and ``pro``, from histograms, and ``pro_per_image``.

        Histograms are off by what ``StreamingROC`` and ``StreamingPRO`` bound. NaN where one is undefined.

        Args:
            counts: (n, images), of the images in the order in which they were added.
        """
        levels = np.unique(np.concatenate([row[0] for row in self._rows]))[::-1]  # from the highest score
        anomalous, normal, overlap = (counts @ self._matrix(levels, column) for column in (1, 2, 3))
        regions = counts @ np.array(self._regions)
        own = np.array(self._own_pro)
        scored = np.isfinite(own)
        with np.errstate(invalid="ignore", divide="ignore"):
            end = np.cumsum(normal, axis=1) / normal.sum(axis=1, keepdims=True)
            start = end - normal / normal.sum(axis=1, keepdims=True)
            gains = overlap / regions[:, None]
            pro = (gains * _ramp_area(start, end, FPR_LIMIT)).sum(axis=1) / FPR_LIMIT
            share = anomalous / anomalous.sum(axis=1, keepdims=True)
            auroc = (share * (1 - (start + end) / 2)).sum(axis=1)
            per_image = counts[:, scored] @ own[scored] / counts[:, scored].sum(axis=1)
        return {"pixel_auroc": auroc, "pro": pro, "pro_per_image": per_image}

    def _matrix(self, levels: NDArray[np.int64], column: int) -> sparse.csr_array:
        """One of the histograms, (images, levels)."""
        where = [levels.size - 1 - np.searchsorted(levels[::-1], row[0]) for row in self._rows]
        pointers = np.concatenate([[0], np.cumsum([row[0].size for row in self._rows])])
        values = np.concatenate([row[column] for row in self._rows])
        return sparse.csr_array((values, np.concatenate(where), pointers), shape=(len(self._rows), levels.size))


def resampled_metrics(
    labels: NDArray[np.int64],
    scores: NDArray[np.floating],
    split_digest: str,
    masks: Sequence[NDArray[np.generic]] | None = None,
    maps: Sequence[NDArray[np.floating]] | None = None,
    *,
    n: int = N_RESAMPLES,
) -> dict[str, Floats]:
    """``image_auroc`` and, with masks and maps, ``pixel_auroc``, ``pro`` and ``pro_per_image`` of ``n`` resamples."""
    counts = draws(labels, split_digest, n)
    found = {"image_auroc": resampled_image_auroc(counts, labels, scores)}
    if masks is not None and maps is not None:
        pixels = PixelCounts()
        for score_map, mask in zip(maps, masks, strict=True):
            pixels.add(score_map, mask)
        found |= pixels.metrics(counts)
    return found


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central part of resampled values, or of the differences of two runs' resample by resample."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
