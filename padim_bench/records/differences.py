"""How far a run that was made again lies from its record: every metric then and now, and what their difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from padim_bench.metrics.resampling import ends
from padim_bench.metrics.summary import METRICS
from padim_bench.records.frame import metric_of, variant
from padim_bench.records.runs import RunRecord


class Verdict(IntEnum):
    """Of two values of a metric, from the best to the worst; a record's is that of its worst metric."""

    IDENTICAL = 0
    ROUNDING = 1
    INTERVAL = 2
    DIFFERENT = 3

    def __str__(self) -> str:
        return VERDICTS[self]


VERDICTS = ("identical", "within rounding", "within the bootstrap interval", "different")


class Rounding(NamedTuple):
    """What is rounding: of a metric in its own unit (points of a percent), and of image scores, relative to them."""

    metric: float
    scores: float


# By the coarsest dtype that a run holds numbers in, ten times what was measured, rounded up. Largest differences among
# six exact strategies, six categories, R18-Rd100 (204 runs): of pixel metrics 1e-4 points in float32 and float64,
# 1.7e-3 in float16, 1.3e-2 in bfloat16; of image scores 3e-7, 2e-4 and 3e-3. On one processor torch 2.14 and 2.15 (696
# runs), one thread and two, and kernels for AVX2 and AVX512 are bit for bit the same, but for a state in bfloat16,
# which is multiplied natively or widened: 5.6e-3 points.
ROUNDING = {
    "float64": Rounding(1e-3, 1e-5),
    "float32": Rounding(1e-3, 1e-5),
    "float16": Rounding(2e-2, 2e-3),
    "bfloat16": Rounding(0.15, 3e-2),
}


def rounding_of(record: RunRecord) -> Rounding:
    """That of the coarser of the dtypes of the state and of the backbone."""
    model = record.config.model
    return max(ROUNDING[model.storage], ROUNDING[model.backbone_dtype])


@dataclass(frozen=True)
class MetricDifference:
    """A metric of a record, and of the run made again.

    Attributes:
        name: in ``METRICS``, or "pro: NAME" of a variant of it.
        then, now: as records have them; None where the metric is undefined.
        interval: ends of the record's 95 % bootstrap interval over test images; None where it has none.
        verdict: what the difference is.
    """

    name: str
    then: float | None
    now: float | None
    interval: tuple[float, float] | None
    verdict: Verdict

    @property
    def difference(self) -> float | None:
        """Now less then, in the metric's own unit; None where either is undefined."""
        if self.then is None or self.now is None:
            return None
        shown = metric_of(self.name).shown
        return shown(self.now) - shown(self.then)


@dataclass(frozen=True)
class ScoreDifference:
    """Of the image that it is largest of; None where the runs are not of the same images, or have no scores."""

    n_images: int
    largest: float | None
    relative: float | None


@dataclass(frozen=True)
class Difference:
    """A record, the run made again, and how they differ.

    Attributes:
        then, now: the records.
        metrics: of both, in the registry's order, variants last.
        scores: of test images.
        verdict: that of the worst metric; where either run gave no numbers, it is different.
    """

    then: RunRecord
    now: RunRecord
    metrics: tuple[MetricDifference, ...]
    scores: ScoreDifference

    @property
    def verdict(self) -> Verdict:
        if not (self.then.valid and self.now.valid):
            return Verdict.DIFFERENT
        return max((one.verdict for one in self.metrics), default=Verdict.IDENTICAL)

    @property
    def same_channels(self) -> bool:
        """Whether both kept the same channels, by their digest."""
        return self.then.embedding.channels_sha256 == self.now.embedding.channels_sha256

    @property
    def others(self) -> list[str]:
        """In a few words each, what else differs of the two runs and is no number."""
        then, now = self.then, self.now
        facts = {
            "images": (then.memory.images, now.memory.images),
            "state applied": (then.applied, now.applied),
            "strategy used": (then.strategy_used, now.strategy_used),
        }
        found = [f"{name} {a or 'unknown'} then, {b or 'unknown'} now" for name, (a, b) in facts.items() if a != b]
        return found + [
            f"{name} {version} then, {now.environment.versions.get(name, 'none')} now"
            for name, version in then.environment.versions.items()
            if now.environment.versions.get(name) != version
        ]


def differences(then: RunRecord, now: RunRecord, tolerance: float | None = None) -> Difference:
    """Every metric of a record beside that of the run made again.

    A difference is identical where the two are the same bit for bit. It is within rounding up to ``ROUNDING`` of the
    run's dtypes, and by the error bounds of both where metrics are from histograms; a metric of image scores steps
    when two images change places, and so is within rounding, too, where no score moved further than scores round. It
    is within the bootstrap interval where both values lie in the 95 % interval of the record's own resampled test
    images, which some metrics have. Everything else is different.

    Args:
        then: the record.
        now: of the same configuration, split and weights.
        tolerance: of every metric in its own unit, in place of all that is rounding by itself.
    """
    scores = score_difference(then, now)
    allowed = rounding_of(then)
    scores_hold = tolerance is None and scores.relative is not None and scores.relative <= allowed.scores
    found = []
    before, after = _values(then), _values(now)
    for name in before:
        a, b = before[name], after.get(name)
        metric = metric_of(name)
        resampled = (then.extra.resampled or {}).get(name)
        interval = None if resampled is None else ends(np.array(resampled))
        if a == b:
            verdict = Verdict.IDENTICAL
        elif a is None or b is None:
            verdict = Verdict.DIFFERENT
        else:
            apart = abs(metric.shown(b) - metric.shown(a))
            bound = allowed.metric + metric.scale * _error_bounds(name, then, now) if tolerance is None else tolerance
            if apart <= bound or (scores_hold and metric.level == "image"):
                verdict = Verdict.ROUNDING
            elif interval is not None and interval[0] <= min(a, b) <= max(a, b) <= interval[1]:
                verdict = Verdict.INTERVAL
            else:
                verdict = Verdict.DIFFERENT
        found.append(MetricDifference(name, a, b, interval, verdict))
    return Difference(then, now, tuple(found), scores)


def _values(record: RunRecord) -> dict[str, float | None]:
    """All metrics that the record has, and variants of PRO."""
    metrics = record.metrics or {}
    named = {name: metrics[name] for name in METRICS if name in metrics}
    return named | {variant("pro", name): value for name, value in (record.extra.pro_variants or {}).items()}


def _error_bounds(name: str, *records: RunRecord) -> float:
    return sum((record.extra.error_bounds or {}).get(name) or 0.0 for record in records)


def score_difference(then: RunRecord, now: RunRecord) -> ScoreDifference:
    """The largest difference of an image's score, and the largest relative to the score then."""
    before, after = ({one.image: one.score for one in record.scores} for record in (then, now))
    if not before or before.keys() != after.keys():
        return ScoreDifference(len(before), None, None)
    apart = [(abs(after[image] - score), abs(score)) for image, score in before.items()]
    relative = [a / score if score else (0.0 if a == 0 else float("inf")) for a, score in apart]
    return ScoreDifference(len(before), max(a for a, _ in apart), max(relative))


def counted(found: Sequence[Difference]) -> dict[Verdict, int]:
    """How many records have each verdict, from the best to the worst."""
    return {verdict: sum(one.verdict is verdict for one in found) for verdict in Verdict}
