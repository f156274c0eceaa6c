"""What a run leaves: configuration, metrics, the score of every test image, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError

from padim_bench.data.drawn import Drawn, indices_digest
from padim_bench.machine.reading import in_one_line
from padim_bench.metrics.resampling import N_RESAMPLES
from padim_bench.padim.config import PADIM
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.records.canonical import plain
from padim_bench.records.config import RunConfig, read_config
from padim_bench.records.facts import DatasetUsed, Environment, Recorded, WeightsUsed, machine_name
from padim_bench.records.sealed import SCHEMA_VERSION
from padim_bench.records.values import AtLeastOne, Bound, Count, Digest, Metrics, Number, Seconds, Text

OK: Literal["ok"] = "ok"
INVALID: Literal["invalid"] = "invalid"
RESAMPLED_DIGITS = 6  # a ten-thousandth of a point; in full a record would be twice as large
Resampled = Annotated[tuple[Number, ...], Field(min_length=N_RESAMPLES, max_length=N_RESAMPLES)]


@dataclass(frozen=True, kw_only=True)
class RunDataset(DatasetUsed):
    """What was trained on and tested.

    Attributes:
        image_sizes: as stored.
        notes: what may surprise of the files.
    """

    n_anomalous: Count
    image_sizes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The training images that a model of some of them has learned from.

    Attributes:
        n: how many, each as often as it was drawn.
        distinct: how many different ones.
        indices_sha256: of their indices among the sorted ones; see ``Drawn``.
    """

    n: AtLeastOne
    distinct: AtLeastOne
    indices_sha256: Digest

    @classmethod
    def of(cls, drawn: Drawn | None, n_train: int) -> TrainedOn | None:
        """Those drawn of ``n_train``; None where it is simply all of them."""
        if drawn is None:
            return None
        indices = drawn.indices(n_train)
        return cls(n=len(indices), distinct=len(set(indices)), indices_sha256=indices_digest(indices))


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The patch embedding: channels there are and dimensions kept; of a sum of maps, of all its models together."""

    n_channels: AtLeastOne
    n_features: AtLeastOne
    channels_sha256: Digest | tuple[Digest, ...]
    grid: tuple[AtLeastOne, AtLeastOne]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Further measurements.

    Attributes:
        image_f1_threshold: of the image scores.
        error_bounds: of the metrics that are from histograms.
        pro_variants: PRO by deviating definitions.
        resampled: metrics of resampled test images, the same resamples of a split in every run.
    """

    image_f1_threshold: Number | None = None
    error_bounds: dict[str, Bound | None] | None = None
    pro_variants: dict[str, Number | None] | None = None
    resampled: dict[str, Resampled] | None = None


@dataclass(frozen=True, kw_only=True)
class RunMemory:
    """Bytes: the peak of this run, that of its features' pass, and the limit; ``images`` "held" or "streamed"."""

    peak_rss_bytes: Count | None
    peak_rss_scope: str
    peak_cuda_bytes: Count | None = None
    features_peak_rss_bytes: Count | None = None
    images: str | None = None
    limit_bytes: Count | None = None


@dataclass(frozen=True)
class Score:
    """Of a test image; ``label`` is 1 where it is anomalous."""

    image: str
    label: Annotated[int, Field(ge=0, le=1)]
    score: Number


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, written once and never edited. One that is "invalid" has a reason and no numbers.

    Attributes:
        id: hex digest of configuration, split and weights.
        metrics: fractions by name; None where one is undefined.
        strategy_used: what "auto" came to; of a sum of maps, joined.
        applied: how a state in half precision was applied, "native" or "widened"; both where a batch fell back.
        residual: largest relative error of squared distances against float64 at sampled positions.
        clamped: how many squared distances were below 0 by rounding.
        timings_s: seconds by stage.
        finished: UTC, ISO 8601.
        trained_on: where the model learned from some of the training images, which.
    """

    id: Digest
    status: Literal["ok", "invalid"]
    reason: str | None
    config: Annotated[RunConfig, PlainValidator(read_config)]
    dataset: RunDataset
    weights: WeightsUsed
    embedding: Embedding
    backbone_error: Number | None
    folding_error: Number | None
    metrics: Metrics | None
    extra: Extra = field(default_factory=Extra)
    strategy_used: Text | None
    applied: Text | None = None
    computed_in: Text | None
    state_bytes: Count | None
    residual: Number | None
    clamped: Count | None
    timings_s: dict[str, Seconds]
    memory: RunMemory
    scores: tuple[Score, ...]
    environment: Environment
    finished: Text
    trained_on: TrainedOn | None = None

    @property
    def valid(self) -> bool:
        """Whether it has numbers."""
        return self.status == OK

    def value(self, metric: str) -> float | None:
        """Of a metric by its name in ``METRICS``; None where it is undefined, and of an invalid run."""
        return None if self.metrics is None else self.metrics.get(metric)

    @property
    def key(self) -> str:
        """What tells it from all others on a page: its id, of which there is one run."""
        return self.id

    @property
    def machine(self) -> str:
        """GPU or processor, and threads."""
        return machine_name(self)

    @property
    def file_parts(self) -> tuple[str, ...]:
        """What its file is called after, before the id."""
        model = self.config.model
        if model.method != PADIM:
            return self.config.category, model.backbone, model.method
        short = REDUCTIONS[model.reduction].label.lower()
        n = "all" if model.n_features is None else f"{short}{model.n_features}-s{model.seed}"
        drawn = () if self.config.trained is None else (self.config.trained.label,)
        return self.config.category, model.backbone, n, *drawn, model.strategy, model.storage

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        members: dict[str, Any] = plain(self)
        return {"schema": SCHEMA_VERSION} | members

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RunRecord:
        """The record that a JSON object holds. Raises ValueError, naming the member, for what no run leaves."""
        try:
            record: RunRecord = _adapter().validate_json(json.dumps(stored), strict=True)
        except ValidationError as error:
            raise ValueError(in_one_line(error)) from None
        record.check()
        return record

    @classmethod
    def from_disk(cls, path: str | Path) -> RunRecord:
        """The record in a file. Raises PadimBenchError, naming it, for one that is not whole and sound."""
        from padim_bench.records.files import read_record

        return read_record(Path(path))

    def check(self) -> None:
        """Raises ValueError where it says one thing twice, and differently, or lacks what its status promises."""
        check_same(self)
        if self.id != self.config.run_id(self.dataset.split_digest, self.weights.identity):
            raise ValueError("id: it is not that of this configuration, split and weights")
        if (drawn := self.config.trained) is not None and not drawn.fits(self.dataset.n_train):
            raise ValueError(f"config.trained: not to be drawn from {self.dataset.n_train} training images")
        if self.trained_on != TrainedOn.of(drawn, self.dataset.n_train):
            raise ValueError("trained_on: not the images that config.trained draws")
        numbers = ("metrics", "strategy_used", "computed_in", "state_bytes", "clamped")
        if not self.valid:
            if not self.reason:
                raise ValueError("reason: an invalid run has one")
            if found := [n for n in (*numbers, "residual") if getattr(self, n) is not None]:
                raise ValueError(f"{found[0]}: an invalid run has none")
            if self.scores or self.extra != Extra():
                raise ValueError(f"{'scores' if self.scores else 'extra'}: an invalid run has none")
            return
        if self.reason is not None:
            raise ValueError("reason: a run that is ok has none")
        if missing := [n for n in numbers if getattr(self, n) is None]:
            raise ValueError(f"{missing[0]}: field required")
        if "fit" not in self.timings_s:
            raise ValueError("timings_s.fit: field required")
        if len(self.scores) != self.dataset.n_test:
            raise ValueError(f"scores: {len(self.scores)} of {self.dataset.n_test} test images")
        if sum(one.label for one in self.scores) != self.dataset.n_anomalous:
            raise ValueError(f"dataset.n_anomalous: {self.dataset.n_anomalous}, but the scores' labels say otherwise")


def check_same(record: Recorded) -> None:
    """Raises ValueError where the record of a run or cost says one thing twice, and differently."""
    config, dataset, weights = record.config, record.dataset, record.weights
    for name, there, here in (
        ("dataset.name", dataset.name, config.dataset),
        ("dataset.category", dataset.category, config.category),
        ("weights.arch", weights.arch, config.model.backbone),
        ("weights.label", weights.label, config.weights),
    ):
        if there != here:
            raise ValueError(f"{name}: {there!r}, where config has {here!r}")


@cache
def _adapter() -> TypeAdapter[RunRecord]:
    return TypeAdapter(RunRecord)
