"""Every metric of a run, in one registry: what it is called, its scale, and how it is computed (section IV-A).

To add one, enter it in ``METRICS``: it is then listed, computed, recorded and, with ``headline``, a column of our own
tables; a table of the paper takes it by its name in the table's spec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from padim_bench.metrics._truth import as_mask
from padim_bench.metrics.pro import StreamedPRO, StreamingPRO, average_pro, own_pro
from padim_bench.metrics.roc import DetectionMetrics, StreamedValue, StreamingROC, detection_metrics

Streamed = StreamedValue | StreamedPRO


class Evidence:
    """What a test split gave, and what several metrics are read from, each computed once.

    Args:
        labels: (n,) 0 normal, 1 anomalous.
        scores: (n,) image scores.
        masks: n arrays (H, W) of ground truth, non-zero is anomalous; None for none.
        maps: n anomaly maps (H, W) of the masks' sizes; None for none.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_] | None = None,
        maps: Sequence[NDArray[np.float32]] | NDArray[np.float32] | None = None,
    ) -> None:
        self.labels, self.scores = labels, scores
        self.has_pixels = masks is not None and maps is not None
        self._masks, self._maps = masks, maps

    @property
    def maps(self) -> Sequence[NDArray[np.float32]] | NDArray[np.float32]:
        """The anomaly maps, which there must be."""
        assert self._maps is not None
        return self._maps

    @cached_property
    def truth(self) -> Sequence[NDArray[np.bool_]] | NDArray[np.bool_]:
        """The masks, which there must be, as booleans."""
        assert self._masks is not None
        return as_mask(self._masks) if isinstance(self._masks, np.ndarray) else [as_mask(m) for m in self._masks]

    @cached_property
    def image(self) -> DetectionMetrics:
        """Of the image scores."""
        return detection_metrics(self.labels, self.scores, what="image scores")

    @cached_property
    def pixel(self) -> DetectionMetrics:
        """Of all pixels together."""
        return detection_metrics(_pixels(self.truth), _pixels(self.maps), what="pixel scores")

    @cached_property
    def own_pro(self) -> NDArray[np.float64]:
        """The PRO of every image that has a region, alone."""
        pairs = zip(self.maps, self.truth, strict=True)
        return np.array([own_pro(score_map, mask) for score_map, mask in pairs if mask.any()])


def _pixels(arrays: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[Any]:
    return arrays.ravel() if isinstance(arrays, np.ndarray) else np.concatenate([a.ravel() for a in arrays])


class Histograms:
    """Pixels counted into histograms, which do not grow with the images; what is read from them has an error bound."""

    def __init__(self) -> None:
        self.roc, self.pro = StreamingROC(), StreamingPRO()
        self.own_pro: list[float] = []

    def update(self, score_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Adds one map (H, W) and its mask."""
        self.roc.update(score_map, mask)
        self.pro.update(score_map, mask)
        if mask.any():
            self.own_pro.append(own_pro(score_map, mask))

    def metrics(self) -> dict[str, Streamed]:
        """Every metric that histograms give."""
        return {m.name: m.streamed(self) for m in METRICS.values() if m.streamed is not None}


@dataclass(frozen=True)
class Metric:
    """A number that a run is judged by.

    Attributes:
        name: as in records and specs.
        title: as in tables.
        level: of what it is: of images' scores, or of pixels, and then undefined without masks.
        exact: from all scores, labels, maps and masks.
        streamed: the same from histograms, within an error bound; None where they do not give it.
        short: as a narrow column is headed; "" for the title.
        headline: whether it is a column of our own tables.
        low, high: its range in records.
        scale, unit: tables show so many times the record's value, in that unit.
        larger_is_better: its direction.
        required: whether every record has it; False for one that came after records of this schema were made.
    """

    name: str
    title: str
    level: Literal["image", "pixel"]
    exact: Callable[[Evidence], float]
    streamed: Callable[[Histograms], Streamed] | None = None
    short: str = ""
    headline: bool = False
    low: float = 0.0
    high: float = 1.0
    scale: float = 100.0
    unit: str = "%"
    larger_is_better: bool = True
    required: bool = True

    @property
    def phrase(self) -> str:
        """The title within a sentence."""
        return self.title if self.title[:2].isupper() else self.title[0].lower() + self.title[1:]

    def shown(self, value: float) -> float:
        """The record's value as tables have it."""
        return self.scale * value


def mean_own_pro(values: Sequence[float] | NDArray[np.float64]) -> float:
    """PRO of every anomalous image alone, averaged: no normal image counts. NaN where one, or all, are undefined.

    Not MVTec's definition, but the nearest to the paper's printed column that is known: see the PRO report.
    """
    return float(np.mean(values)) if len(values) else float("nan")


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("image_auroc", "Image AUROC", "image", lambda e: e.image.auroc, short="im.AUROC", headline=True),
        Metric("image_ap", "Image AP", "image", lambda e: e.image.average_precision),
        Metric("image_f1_max", "Image F1-max", "image", lambda e: e.image.f1_max),
        Metric(
            "pixel_auroc",
            "Pixel AUROC",
            "pixel",
            lambda e: e.pixel.auroc,
            lambda h: h.roc.compute(),
            short="px.AUROC",
            headline=True,
        ),
        Metric(
            "pixel_ap", "Pixel AP", "pixel", lambda e: e.pixel.average_precision, lambda h: h.roc.average_precision()
        ),
        Metric("pixel_f1_max", "Pixel F1-max", "pixel", lambda e: e.pixel.f1_max, lambda h: h.roc.f1_max()),
        Metric("pro", "PRO", "pixel", lambda e: average_pro(e.maps, e.truth), lambda h: h.pro.compute(), headline=True),
        Metric(
            "pro_per_image",
            "PRO per image",
            "pixel",
            lambda e: mean_own_pro(e.own_pro),
            lambda h: StreamedPRO(mean_own_pro(h.own_pro), 0.0),
            required=False,
        ),
    )
}


def headline() -> dict[str, Metric]:
    """The columns of our own tables, in order."""
    return {name: metric for name, metric in METRICS.items() if metric.headline}


def compute_metrics(
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_] | None = None,
    maps: Sequence[NDArray[np.float32]] | NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """All metrics of ``METRICS``, those of the paper in [0, 1]; NaN where undefined (paper section IV-A).

    Args:
        labels: (n,) 0 normal, 1 anomalous.
        scores: (n,) image scores.
        masks: n arrays (H, W) of ground truth, non-zero is anomalous; None leaves the pixel-level metrics NaN.
        maps: n anomaly maps (H, W); sizes may differ between images.

    Raises:
        ValueError: NaN anywhere, labels other than 0 and 1, negative values in masks, or shapes that differ.
    """
    return metrics_of(Evidence(labels, scores, masks, maps))


def metrics_of(evidence: Evidence) -> dict[str, float]:
    """As :func:`compute_metrics`, of evidence that others look at as well."""
    return {
        m.name: m.exact(evidence) if evidence.has_pixels or m.level == "image" else float("nan")
        for m in METRICS.values()
    }


def f1_thresholds(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, float]:
    """``image_f1_threshold``, the score at which F1 is ``image_f1_max``; empty where a class is missing."""
    if np.unique(labels).size < 2:
        return {}
    return {"image_f1_threshold": detection_metrics(labels, scores, what="image scores").f1_threshold}
