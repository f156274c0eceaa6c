"""What records and measurements must hold: checked when they are read, so that no page meets less.

Members that are not named here are let through: what a later version adds costs an earlier one nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, Field, PlainValidator, TypeAdapter, ValidationError, create_model
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from padim_bench.machine.reading import in_one_line
from padim_bench.metrics.summary import METRICS, Metric

_ROUNDING = 1e-9  # may take a ratio of sums so little past its ends
# Of a metric from histograms; undefined where the metric is.
_Bound = Annotated[float, Field(ge=0, le=1e12)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
# Of seconds and rates no more than any machine can tell; divided by and drawn on log axes are positive ones.
_Seconds = Annotated[float, Field(ge=0, le=1e12)]
_Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_AtLeastOne = Annotated[int, Field(ge=1, lt=1 << 63)]
_Peak = _AtLeastOne | None  # not measured where the system does not tell
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Text = Annotated[str, Field(min_length=1)]


def _check_metrics(values: Any) -> Any:
    """Each known metric within its range, or null where it is undefined."""
    _metrics_model(tuple(METRICS.values())).model_validate(values, strict=True)
    return values


@cache
def _metrics_model(metrics: tuple[Metric, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for m in metrics:
        within = Annotated[float, Field(ge=m.low - _ROUNDING, le=m.high + _ROUNDING)] | None
        fields[m.name] = (within, ...) if m.required else (within, None)
    return create_model("Metrics", **fields)


Metrics = Annotated[dict[str, float | None], PlainValidator(_check_metrics)]


_Versions = TypedDict("_Versions", {"padim-bench": _Text, "torch": _Text, "timm": _Text})


class Environment(TypedDict):
    cpu: str
    commit: str | None
    dirty: bool | None
    versions: _Versions
    gpu: NotRequired[str]
    openmp: NotRequired[dict[str, str]]


class WeightsFields(TypedDict):
    arch: _Text
    label: _Text
    sha256: _Digest
    trained: bool
    tag: str | None
    seed: _Count | None
    note: str
    resampled: NotRequired[list[str]]


class Score(TypedDict):
    image: str
    label: Annotated[int, Field(ge=0, le=1)]
    score: _Number


class RunDataset(TypedDict):
    name: str
    category: str
    kind: str
    split_digest: _Digest
    n_train: _AtLeastOne
    n_test: _Count
    n_anomalous: _Count
    has_masks: bool
    official_split: bool | None
    image_sizes: list[str]
    notes: NotRequired[list[str]]
    resolution: str


class Embedding(TypedDict):
    n_channels: _AtLeastOne
    n_features: _AtLeastOne
    channels_sha256: _Digest | list[_Digest]
    grid: Annotated[list[_AtLeastOne], Field(min_length=2, max_length=2)]


class Extra(TypedDict):
    pro_variants: NotRequired[dict[str, _Number | None]]
    error_bounds: NotRequired[dict[str, _Bound | None]]


class _AnyRun(TypedDict):
    id: _Digest
    config: dict[str, Any]
    dataset: RunDataset
    weights: WeightsFields
    embedding: Embedding
    backbone_error: _Number | None
    folding_error: _Number | None
    timings_s: dict[str, _Seconds]
    memory: dict[str, _Count | str | None]
    environment: Environment
    finished: _Text


class FinishedRun(_AnyRun):
    status: Literal["ok"]
    reason: None
    metrics: Metrics
    extra: Extra
    strategy_used: _Text
    computed_in: _Text
    state_bytes: _Count
    residual: _Number | None
    clamped: _Count
    scores: list[Score]


class InvalidRun(_AnyRun):
    status: Literal["invalid"]
    reason: _Text
    metrics: None
    extra: None
    strategy_used: None
    computed_in: None
    state_bytes: None
    residual: None
    clamped: None
    scores: Annotated[list[Score], Field(max_length=0)]


RUNS = {"ok": FinishedRun, "invalid": InvalidRun}


class MeasuredDataset(TypedDict):
    name: str
    category: str
    split_digest: _Digest
    n_train: _AtLeastOne
    n_test: _Count
    official_split: bool | None


class SizedDataset(MeasuredDataset):
    image_sizes: list[str]


class _AnyMeasurement(TypedDict):
    id: _Digest
    config: dict[str, Any]
    model_name: _Text
    weights: WeightsFields
    environment: Environment


class Summary(TypedDict):
    median: _Positive
    p90: _Positive


class InferenceTimes(TypedDict):
    read: Summary
    backbone: Summary
    distance: Summary
    map: Summary
    total: Summary


class TrainingTimes(TypedDict):
    read: _Seconds
    backbone: _Seconds
    fit: _Seconds
    total: _Seconds


class GrowthPoint(TypedDict):
    strategy: _Text
    strategy_used: _Text
    n_train: _AtLeastOne
    state_bytes: _Count
    total_s: Summary
    distance_map_s: Summary


class Timing(_AnyMeasurement):
    kind: Literal["timing"]
    status: Literal["ok"]
    dataset: SizedDataset
    strategy_used: _Text
    state_bytes: _Count
    training_s: TrainingTimes
    inference_s: InferenceTimes
    n_timed: _AtLeastOne
    n_warmup: _Count
    growth: Annotated[list[GrowthPoint], Field(min_length=1)]
    finished: _Text


class MemoryPeaks(TypedDict):
    imports: _Peak
    backbone: _Peak
    end: _Peak


class Memory(_AnyMeasurement):
    kind: Literal["memory"]
    status: Literal["ok"]
    dataset: MeasuredDataset
    strategy_used: _Text
    state_bytes: _Count
    n_train: _AtLeastOne
    peaks: MemoryPeaks
    finished: _Text


class Percentiles(TypedDict):
    p50: _Positive
    p90: _Positive
    p99: _Positive
    mean: _Positive


class ScoringTimes(TypedDict):
    backbone: Percentiles
    embed: Percentiles
    distance: Percentiles
    map: Percentiles
    total: Percentiles


class Scoring(TypedDict):
    batch_size: _AtLeastOne
    n_batches: _AtLeastOne
    images_per_s: _Positive
    per_image_s: ScoringTimes


class FitTimes(TypedDict):
    read: _Seconds
    decode: _Seconds
    resize: _Seconds
    backbone: _Seconds
    embed: _Seconds
    moments: _Seconds
    factorise: _Seconds
    total: _Seconds


class ProfilePeaks(TypedDict):
    imports: _Peak
    backbone: _Peak
    fit: _Peak
    score: _Peak


class ProfileMemory(TypedDict):
    peak_rss_bytes: _Peak
    peak_cuda_bytes: NotRequired[_AtLeastOne]
    peaks: ProfilePeaks
    scored_in_batches_of: _AtLeastOne


class Accuracy(TypedDict):
    largest_error: _Number | None
    median_error: _Number | None
    gate: _Number
    n_positions: _AtLeastOne
    n_images: _AtLeastOne
    reference: str


class Loads(TypedDict):
    before: list[_Number] | None
    after: list[_Number] | None


class _AnyProfile(_AnyMeasurement):
    kind: Literal["profile"]


class MeasuredProfile(_AnyProfile):
    status: Literal["ok", "lossy"]
    reason: str | None
    dataset: SizedDataset
    strategy_used: _Text
    accuracy: Accuracy
    metrics: Metrics
    fit_s: FitTimes
    scoring: list[Scoring]
    n_warmup: _Count
    memory: ProfileMemory
    state_bytes: _Count
    file_bytes: _Count
    load_average: Loads
    finished: _Text


class OtherProfile(_AnyProfile):
    status: Literal["void", "failed"]
    reason: _Text
    dataset: MeasuredDataset
    strategy_used: NotRequired[str | None]
    accuracy: NotRequired[Accuracy]
    load_average: NotRequired[Loads]


class AnalyticRow(TypedDict):
    model: _Text
    dataset: _Text
    grid: _AtLeastOne
    rule: _Text
    rule_title: _Text
    unit: _Text
    bytes: _AtLeastOne
    value: _Positive


class StoredRow(TypedDict):
    model: _Text
    dataset: _Text
    grid: _AtLeastOne
    category: str
    n_train: _AtLeastOne
    strategy: _Text
    strategy_used: _Text
    dtype: _Text
    bytes: _AtLeastOne


class Sizes(TypedDict):
    kind: Literal["sizes"]
    status: Literal["ok"]
    asked: _Digest
    strategies: list[_Text]
    analytic: Annotated[list[AnalyticRow], Field(min_length=1)]
    states: Annotated[list[StoredRow], Field(min_length=1)]
    by_category: Annotated[list[StoredRow], Field(min_length=1)]
    environment: Environment
    finished: _Text


MEASUREMENTS = {
    "timing ok": Timing,
    "memory ok": Memory,
    "sizes ok": Sizes,
    "profile ok": MeasuredProfile,
    "profile lossy": MeasuredProfile,
    "profile void": OtherProfile,
    "profile failed": OtherProfile,
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check_run(record: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the member, for what is no run's record."""
    _check(RUNS, record, "status")


def check_measurement(record: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the member, for what is no measurement's record."""
    _check(MEASUREMENTS, record, "kind", "status")


def _check(kinds: Mapping[str, Any], record: Mapping[str, Any], *members: str) -> None:
    named = " ".join(str(record.get(member)) for member in members)
    if named not in kinds:
        raise ValueError(f"{' and '.join(members)}: {named!r} is none of {', '.join(kinds)}")
    try:
        _adapter(kinds[named]).validate_python(record, strict=True)
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None
