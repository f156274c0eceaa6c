"""Image-level and pixel-level detection metrics, exact with ties (paper section IV-A).

All thresholds are the distinct scores; a score >= threshold counts as anomalous. Positives are few
among pixels, so both classes are sorted apart and each positive looks the negatives up.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from padim_bench.metrics._bins import BINS, score_bins
from padim_bench.metrics._truth import as_labels


@dataclass(frozen=True)
class DetectionMetrics:
    """Area under ROC, average precision and the best F1 over all thresholds, each in [0, 1] or NaN.

    ``f1_threshold`` is the score at which F1 is largest, the highest of them if it is so at several: what scores
    as much or more counts as anomalous.
    """

    auroc: float
    average_precision: float
    f1_max: float
    f1_threshold: float = float("nan")


def detection_metrics(labels: ArrayLike, scores: ArrayLike, *, what: str = "scores") -> DetectionMetrics:
    """AUROC, average precision and F1-max of ``scores`` for binary ``labels``.

    Args:
        labels: any shape; 0 is normal, 1 (or 255, as in masks) anomalous.
        scores: the same shape; higher is more anomalous; finite.
        what: named in the warning when one class is missing.

    Returns:
        DetectionMetrics; all NaN, with a warning, when only one class is present.

    Raises:
        ValueError: if shapes differ, a score is NaN, or there are other labels.
    """
    y, s = _checked(labels, scores, what)
    positives, negatives = s[y], s[~y]
    if not positives.size or not negatives.size:
        warnings.warn(f"{what}: only one class present; AUROC, AP and F1 are NaN", stacklevel=2)
        return DetectionMetrics(float("nan"), float("nan"), float("nan"))
    negatives.sort()
    # Recall only moves at the scores of positives, so those are the only thresholds that matter.
    thresholds, tied = np.unique(positives, return_counts=True)
    below = np.searchsorted(negatives, thresholds, side="left")
    not_above = np.searchsorted(negatives, thresholds, side="right")
    # P(positive > negative) + P(equal) / 2, the Mann-Whitney form of the area under the ROC curve.
    auroc = (tied * (below + not_above)).sum() / (2.0 * positives.size * negatives.size)
    tp = np.cumsum(tied[::-1])[::-1]  # positives >= threshold
    fp = negatives.size - below
    average_precision = (tied * (tp / (tp + fp))).sum() / positives.size
    f1 = 2 * tp / (tp + fp + positives.size)
    best = f1.size - 1 - int(f1[::-1].argmax())
    return DetectionMetrics(float(auroc), float(average_precision), float(f1[best]), float(thresholds[best]))


def _checked(labels: ArrayLike, scores: ArrayLike, what: str) -> tuple[NDArray[np.bool_], NDArray[np.generic]]:
    y, s = np.asarray(labels), np.asarray(scores)
    if y.shape != s.shape:
        raise ValueError(f"{what}: labels of shape {y.shape} for scores of shape {s.shape}")
    if np.isnan(s).any():
        raise ValueError(f"{what} contain NaN")
    return as_labels(y).ravel(), s.ravel()


@dataclass(frozen=True)
class StreamedValue:
    """A metric from histograms, and a bound: the exact value lies within ``value`` +- ``error_bound``."""

    value: float
    error_bound: float


class StreamingROC:
    """Pixel AUROC, AP and F1-max in bounded memory, for sets whose maps do not fit: 16 MB whatever the pixels.

    Scores are binned by the leading bits of their float32 representation (bins are 1/2048 of their score
    wide). Of AUROC a pair in one bin counts as a tie, a half, where it may be worth 0 or 1.

    Example:
        >>> roc = StreamingROC()
        >>> for score_map, mask in images: roc.update(score_map, mask)
        >>> roc.compute().value
    """

    def __init__(self) -> None:
        self._positives = np.zeros(BINS, dtype=np.int64)
        self._negatives = np.zeros(BINS, dtype=np.int64)

    def update(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Adds scores and their labels, of any equal shape, as ``detection_metrics`` takes them. Raises as it does."""
        y, s = _checked(labels, scores, "scores")
        bins = score_bins(s)
        np.add.at(self._positives, bins[y], 1)
        np.add.at(self._negatives, bins[~y], 1)

    def merge(self, other: StreamingROC) -> None:
        """Adds all that ``other`` has seen; ``other`` stays as it is."""
        self._positives += other._positives
        self._negatives += other._negatives

    def compute(self) -> StreamedValue:
        """The value and its error bound; NaN, with a warning, when only one class has been seen."""
        if self._undefined("AUROC"):
            return StreamedValue(float("nan"), float("nan"))
        total_positives, total_negatives = int(self._positives.sum()), int(self._negatives.sum())
        # As fractions: the counts of pairs of many large maps would not fit int64.
        positives = self._positives / total_positives
        tied = self._negatives / total_negatives
        below = (np.cumsum(self._negatives) - self._negatives) / total_negatives
        half = float(positives @ tied) / 2
        return StreamedValue(float(positives @ below) + half, half)

    def average_precision(self) -> StreamedValue:
        """AP and its error bound; NaN, with a warning, when only one class has been seen.

        Inside a bin positives and negatives are taken to alternate evenly; the bound is that of all
        negatives above all positives, and of all positives tied above all negatives.
        """
        if self._undefined("AP"):
            return StreamedValue(float("nan"), float("nan"))
        p, q, tp, fp = self._from_the_top()
        weights = p / p.sum()
        value = float((weights * (tp + p / 2) / (tp + fp + (p + q) / 2)).sum())
        above = float((weights * (tp + p) / (tp + p + fp)).sum())
        # Sum over k of (tp + k) / (tp + k + c), c the negatives so far, is no less than its integral over k.
        c = fp + q
        below = float(((p - c * np.log1p(p / np.maximum(tp + c, 1))) / p.sum()).sum())
        return StreamedValue(value, max(above - value, value - below))

    def f1_max(self) -> StreamedValue:
        """The best F1 at an edge of a bin, and how much a threshold inside one could add; NaN as for AP."""
        if self._undefined("F1"):
            return StreamedValue(float("nan"), float("nan"))
        p, q, tp, fp = self._from_the_top()
        value = float((2 * (tp + p) / (tp + p + fp + q + p.sum())).max())
        return StreamedValue(value, float((2 * (tp + p) / (tp + p + fp + p.sum())).max()) - value)

    def _from_the_top(self) -> tuple[NDArray[np.float64], ...]:
        """Positives and negatives of each bin that has positives, highest first, and of all bins above it."""
        filled = np.flatnonzero((self._positives > 0) | (self._negatives > 0))[::-1]
        p, q = self._positives[filled].astype(np.float64), self._negatives[filled].astype(np.float64)
        used = p > 0
        return p[used], q[used], (np.cumsum(p) - p)[used], (np.cumsum(q) - q)[used]

    def _undefined(self, what: str) -> bool:
        if self._positives.any() and self._negatives.any():
            return False
        warnings.warn(f"scores: only one class present; {what} is NaN", stacklevel=3)
        return True
