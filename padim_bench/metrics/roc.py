"""Image-level and pixel-level detection metrics, exact with ties (paper section IV-A).

All thresholds are the distinct scores; a score >= threshold counts as anomalous. Positives are few
among pixels, so both classes are sorted apart and each positive looks the negatives up.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class DetectionMetrics:
    """Area under ROC, average precision and the best F1 over all thresholds, each in [0, 1] or NaN."""

    auroc: float
    average_precision: float
    f1_max: float


def detection_metrics(labels: ArrayLike, scores: ArrayLike, *, what: str = "scores") -> DetectionMetrics:
    """AUROC, average precision and F1-max of ``scores`` for binary ``labels``.

    Args:
        labels: any shape; non-zero is anomalous.
        scores: the same shape; higher is more anomalous; finite.
        what: named in the warning when one class is missing.

    Returns:
        DetectionMetrics; all NaN, with a warning, when only one class is present.

    Raises:
        ValueError: if shapes differ or a score is NaN.
    """
    y, s = np.asarray(labels), np.asarray(scores)
    if y.shape != s.shape:
        raise ValueError(f"{what}: labels of shape {y.shape} for scores of shape {s.shape}")
    y, s = y.ravel() != 0, s.ravel()
    if np.isnan(s).any():
        raise ValueError(f"{what} contain NaN")
    positives, negatives = np.sort(s[y]), np.sort(s[~y])
    if not positives.size or not negatives.size:
        warnings.warn(f"{what}: only one class present; AUROC, AP and F1 are NaN", stacklevel=2)
        return DetectionMetrics(float("nan"), float("nan"), float("nan"))
    return DetectionMetrics(_auroc(positives, negatives), *_ap_and_f1(positives, negatives))


def _auroc(positives: NDArray[np.generic], negatives: NDArray[np.generic]) -> float:
    """P(positive > negative) + P(equal) / 2, the Mann-Whitney form of the area under the ROC curve."""
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    pairs = positives.size * negatives.size
    return float((below.sum(dtype=np.int64) + not_above.sum(dtype=np.int64)) / (2.0 * pairs))


def _ap_and_f1(positives: NDArray[np.generic], negatives: NDArray[np.generic]) -> tuple[float, float]:
    """Recall only moves at the scores of positives, so those are the only thresholds that matter."""
    thresholds, first = np.unique(positives, return_index=True)
    tp = (positives.size - first).astype(np.float64)  # positives >= threshold, thresholds ascending
    fp = negatives.size - np.searchsorted(negatives, thresholds, side="left").astype(np.float64)
    precision = tp / (tp + fp)
    gained = -np.diff(tp, append=0.0)  # positives exactly at the threshold
    average_precision = float((precision * gained).sum() / positives.size)
    f1 = 2 * tp / (tp + fp + positives.size)
    return average_precision, float(f1.max())
