"""What measurements of time and bytes leave: costs of a configuration, its growth with n, and sizes by arithmetic.

Read strictly, so that no page meets less than is written here. Members that a later version adds are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError

from padim_bench.machine.reading import in_one_line
from padim_bench.records.canonical import plain
from padim_bench.records.config import RunConfig, read_config
from padim_bench.records.facts import DatasetUsed, Environment, WeightsUsed, machine_name
from padim_bench.records.runs import check_same
from padim_bench.records.sealed import SCHEMA_VERSION
from padim_bench.records.values import AtLeastOne, Count, Digest, Metrics, Number, Peak, Positive, Seconds, Text

# How a measurement ended: lossy is an approximation by design, void is wrong and not timed, failed has no numbers and
# is tried again.
OK, LOSSY, VOID, FAILED = "ok", "lossy", "void", "failed"
FIT_STAGES = ("read", "decode", "resize", "backbone", "embed", "moments", "factorise")
SCORE_STAGES = ("backbone", "embed", "distance", "map")
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class MeasuredOn(DatasetUsed):
    """The category that was measured on; ``image_sizes`` as stored, known once its images were read."""

    image_sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Percentiles:
    """Of seconds."""

    p50: Positive
    p90: Positive
    p99: Positive
    mean: Positive


@dataclass(frozen=True)
class ScoringTimes:
    """Seconds per image by stage, from prepared pixels to map and score."""

    backbone: Percentiles
    embed: Percentiles
    distance: Percentiles
    map: Percentiles
    total: Percentiles


@dataclass(frozen=True)
class FileTimes:
    """Seconds of one image at a time: to read, decode, resize and crop its file, and of all from file to score."""

    read: Percentiles
    total: Percentiles


@dataclass(frozen=True)
class Scoring:
    """Batches of one size; ``images_per_s`` over all of them."""

    batch_size: AtLeastOne
    n_batches: AtLeastOne
    images_per_s: Positive
    per_image_s: ScoringTimes


@dataclass(frozen=True)
class FitTimes:
    """Seconds of all training images by stage."""

    read: Seconds
    decode: Seconds
    resize: Seconds
    backbone: Seconds
    embed: Seconds
    moments: Seconds
    factorise: Seconds
    total: Seconds


@dataclass(frozen=True)
class Peaks:
    """Largest resident memory in bytes up to the end of each step."""

    imports: Peak
    backbone: Peak
    fit: Peak
    score: Peak


@dataclass(frozen=True, kw_only=True)
class CostMemory:
    """Bytes of a process that trains and scores the test set in batches."""

    peak_rss_bytes: Peak
    peak_rss_scope: str
    peak_cuda_bytes: AtLeastOne | None = None
    peaks: Peaks
    scored_in_batches_of: AtLeastOne

    @property
    def peak_bytes(self) -> int | None:
        """A GPU's on a GPU; None where the system does not tell."""
        return self.peak_rss_bytes if self.peak_cuda_bytes is None else self.peak_cuda_bytes


@dataclass(frozen=True)
class Accuracy:
    """Relative errors of squared distances against float64, and the largest that the storage is allowed."""

    largest_error: Number | None
    median_error: Number | None
    gate: Number
    n_positions: AtLeastOne
    n_images: AtLeastOne
    reference: str


@dataclass(frozen=True)
class Loads:
    """Processes that wanted a core, over the last 1, 5 and 15 minutes; None where the system does not tell."""

    before: tuple[Number, ...] | None
    after: tuple[Number, ...] | None


@dataclass(frozen=True)
class CostChoices:
    """What decides a cost beside the configuration: batch sizes, 1 among them, and images timed at each."""

    batch_sizes: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)]
    n_images: AtLeastOne


@dataclass(frozen=True)
class GrowthChoices:
    """What decides a growth: images timed, numbers of training images, and the bytes of states held at once."""

    n_images: AtLeastOne
    counts: tuple[AtLeastOne, ...]
    limit_bytes: AtLeastOne


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What every measurement says of itself.

    Attributes:
        id: digest of configuration, choices, split and weights.
        status: ``OK``, ``LOSSY``, ``VOID`` or ``FAILED``.
        reason: why, where it is not ``OK``.
    """

    kind: str
    id: Digest
    status: str
    reason: str | None
    config: Annotated[RunConfig, PlainValidator(read_config)]
    asked: CostChoices | GrowthChoices
    model_name: Text
    dataset: MeasuredOn
    weights: WeightsUsed
    environment: Environment
    finished: Text

    @property
    def key(self) -> str:
        """What tells it from all others on a page: the same may be measured on several machines."""
        return f"{self.id} on {machine_name(self)}, {self.finished}"

    @property
    def model_title(self) -> str:
        """The model's name, and that it is untrained."""
        return f"{self.model_name}{'' if self.weights.trained else ' (untrained)'}"


@dataclass(frozen=True, kw_only=True)
class CostRecord(Measurement):
    """What a configuration costs over a category: no numbers here, where it is void or failed."""

    kind: Literal["cost"] = "cost"
    asked: CostChoices
    strategy_used: Text | None = None
    applied: Text | None = None
    accuracy: Accuracy | None = None
    residual: Number | None = None
    folding_error: Number | None = None
    clamped: Count | None = None
    load_average: Loads | None = None

    @property
    def strategy_title(self) -> str:
        """The strategy asked for, and what it came to."""
        asked, used = self.config.model.strategy, self.strategy_used
        return asked if used in {None, asked} else f"{asked} ({used})"


@dataclass(frozen=True, kw_only=True)
class MeasuredCost(CostRecord):
    """Time, bytes and accuracy of a configuration over a category, measured in a process of its own."""

    strategy_used: Text
    accuracy: Accuracy
    load_average: Loads
    metrics: Metrics
    fit_s: FitTimes
    scoring: Annotated[tuple[Scoring, ...], Field(min_length=1)]
    from_file_s: FileTimes
    n_warmup: Count
    memory: CostMemory
    state_bytes: Count
    file_bytes: Count

    @property
    def latency_s(self) -> ScoringTimes:
        """Seconds per image at batch 1, from prepared pixels."""
        return next(one.per_image_s for one in self.scoring if one.batch_size == 1)


@dataclass(frozen=True)
class GrowthPoint:
    """Inference with a model fitted to the first ``n_train`` images: the whole, from the file, and what n can change.

    ``strategy`` is the one asked for.
    """

    strategy: Text
    strategy_used: Text
    n_train: AtLeastOne
    state_bytes: Count
    total_s: Percentiles
    distance_map_s: Percentiles


@dataclass(frozen=True, kw_only=True)
class GrowthRecord(Measurement):
    """How inference grows with the number of training images; no points where it failed."""

    kind: Literal["growth"] = "growth"
    asked: GrowthChoices
    n_warmup: Count = 0
    n_timed: Count = 0
    points: tuple[GrowthPoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AnalyticRow:
    """Bytes of a model on a grid by one reading of the paper's arithmetic; ``value`` in that reading's unit.

    ``n_train``: training images that they are of; None where they do not count.
    """

    model: Text
    dataset: Text
    grid: AtLeastOne
    rule: Text
    rule_title: Text
    unit: Text
    bytes: AtLeastOne
    value: Positive
    n_train: AtLeastOne | None = None


@dataclass(frozen=True, kw_only=True)
class StoredRow:
    """Bytes of the state and the means that a strategy stores of a model fitted to ``n_train`` images."""

    model: Text
    dataset: Text
    grid: AtLeastOne
    category: str
    n_train: AtLeastOne
    strategy: Text
    strategy_used: Text
    dtype: Text
    bytes: AtLeastOne


@dataclass(frozen=True, kw_only=True)
class SizesRecord:
    """Bytes that no machine decides. ``asked`` is the digest of what of the spec decides them.

    Attributes:
        states: of every strategy, at one number of training images.
        by_category: of one model, at those of each category.
        by_images: of every model and of other methods, at several.
    """

    kind: Literal["sizes"] = "sizes"
    status: Literal["ok"] = "ok"
    asked: Digest
    strategies: tuple[Text, ...]
    analytic: Annotated[tuple[AnalyticRow, ...], Field(min_length=1)]
    states: Annotated[tuple[StoredRow, ...], Field(min_length=1)]
    by_category: Annotated[tuple[StoredRow, ...], Field(min_length=1)]
    by_images: tuple[StoredRow, ...] = ()
    environment: Environment
    finished: Text


AnyMeasurement = CostRecord | GrowthRecord | SizesRecord
_SHAPES: dict[str, type[AnyMeasurement]] = {
    f"cost {OK}": MeasuredCost,
    f"cost {LOSSY}": MeasuredCost,
    f"cost {VOID}": CostRecord,
    f"cost {FAILED}": CostRecord,
    f"growth {OK}": GrowthRecord,
    f"growth {FAILED}": GrowthRecord,
    f"sizes {OK}": SizesRecord,
}


def to_dict(record: Measurement | SizesRecord) -> dict[str, Any]:
    """As JSON values; what by default is None is left out where it is."""
    members: dict[str, Any] = plain(record)
    return {"schema": SCHEMA_VERSION} | members


def from_dict(stored: Mapping[str, Any]) -> AnyMeasurement:
    """The measurement that a JSON object holds. Raises ValueError, naming the member, for what none leaves."""
    named = f"{stored.get('kind')} {stored.get('status')}"
    if named not in _SHAPES:
        raise ValueError(f"kind and status: {named!r} is none of {', '.join(_SHAPES)}")
    try:
        record: AnyMeasurement = _adapter(named).validate_json(json.dumps(stored), strict=True)
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None
    if not isinstance(record, SizesRecord):
        _check(record)
    return record


def measurement_id(
    kind: str, config: RunConfig, asked: CostChoices | GrowthChoices, split_digest: str, weights_identity: str
) -> str:
    """Of a measurement of a run's configuration, with what else was ``asked``."""
    return config.run_id(split_digest, weights_identity, kind=kind, asked=plain(asked))


@cache
def _adapter(named: str) -> TypeAdapter[Any]:
    return TypeAdapter(_SHAPES[named])


def _check(record: CostRecord | GrowthRecord) -> None:
    """Raises ValueError where a measurement says one thing twice, and differently, or not at all."""
    config, dataset, weights = record.config, record.dataset, record.weights
    check_same(record)
    if record.model_name != config.model_name:
        raise ValueError(f"model_name: {record.model_name!r}, where config makes it {config.model_name!r}")
    if record.id != measurement_id(record.kind, config, record.asked, dataset.split_digest, weights.identity):
        raise ValueError("id: it is not that of this configuration, split and weights")
    if record.status not in {OK, LOSSY} and not record.reason:
        raise ValueError("reason: there is none")
    if record.status == OK and record.reason is not None:
        raise ValueError("reason: a measurement that is ok has none")
    if isinstance(record, MeasuredCost):
        sizes = [one.batch_size for one in record.scoring]
        if 1 not in sizes or len(set(sizes)) < len(sizes):
            raise ValueError("scoring: not one of each batch size, 1 among them")
    if isinstance(record, GrowthRecord) and record.status == OK:
        if not record.points:
            raise ValueError("points: there are none")
        for strategy in {point.strategy for point in record.points}:
            counts = [point.n_train for point in record.points if point.strategy == strategy]
            if len(set(counts)) < len(counts) or max(counts) != dataset.n_train:
                raise ValueError(f"points: {strategy} is not timed once at each number, up to {dataset.n_train}")
