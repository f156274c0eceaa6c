"""What a process is asked to measure, and the part of its record that says what was measured, where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from padim_bench.data.loading import split_digest
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.machine.environment import environment
from padim_bench.padim.weights import Weights, resolve_weights
from padim_bench.records.canonical import plain
from padim_bench.records.config import RunConfig, read_config
from padim_bench.records.costs import (
    CostChoices,
    GrowthChoices,
    MeasuredOn,
    measurement_id,
)
from padim_bench.records.facts import Environment, WeightsUsed, used


@dataclass(frozen=True)
class Places:
    """What a process finds again by name, where a configuration says only what it is of.

    Attributes:
        root: of the dataset, in MVTec layout.
        normal: names of folders of normal images, as for ``mvtec``.
        backbone, weights: what ``resolve_weights`` is to be asked for.
    """

    root: str
    normal: tuple[str, ...]
    backbone: str
    weights: str | None

    @classmethod
    def of(cls, category: Category, weights: Weights) -> Places:
        root, normal = str(category.root), tuple(category.normal)
        if weights.path is None:
            return cls(root, normal, weights.arch, f"random:{weights.seed}")
        from_hub = weights.tag is not None and weights.path.name != f"{weights.name}.safetensors"
        return cls(root, normal, weights.name, None if from_hub else str(weights.path))

    def category_of(self, config: RunConfig) -> Category:
        return mvtec(self.root, config.category, dataset=config.dataset, normal=self.normal)

    def resolved(self) -> Weights:
        return resolve_weights(self.backbone, self.weights)


@dataclass(frozen=True)
class Work:
    """A configuration, what else decides its numbers, and where its category and weights are found."""

    config: RunConfig
    asked: CostChoices | GrowthChoices
    places: Places

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"config": plain(self.config), "asked": plain(self.asked), "places": plain(self.places)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Work:
        config = read_config(stored["config"])
        asked: CostChoices | GrowthChoices = TypeAdapter(CostChoices | GrowthChoices).validate_python(stored["asked"])
        return cls(config, asked, TypeAdapter(Places).validate_python(stored["places"]))


@dataclass(frozen=True)
class Subject:
    """What is measured, with the digest of its files, which are in the system's cache once it is known."""

    work: Work
    category: Category
    weights: Weights
    digest: str

    @classmethod
    def open(cls, work: Work) -> Subject:
        """Finds category and weights again. Raises PadimBenchError as ``mvtec`` and ``resolve_weights`` do."""
        category, weights = work.places.category_of(work.config), work.places.resolved()
        return cls(work, category, weights, split_digest(category, threads=work.config.execution.threads))

    def id_of(self, kind: str) -> str:
        """Of its measurement of a kind."""
        return measurement_id(kind, self.work.config, self.work.asked, self.digest, self.weights.identity)

    def header(self, kind: str, image_sizes: tuple[str, ...] = ()) -> dict[str, Any]:
        """The members of a ``Measurement`` but its status and reason."""
        config, category = self.work.config, self.category
        return {
            "id": self.id_of(kind),
            "config": config,
            "asked": self.work.asked,
            "model_name": config.model_name,
            "dataset": MeasuredOn(**used(category, self.digest, config), image_sizes=image_sizes),
            "weights": WeightsUsed(**self.weights.to_dict()),
            # Of the measurement, which need not be what this process happens to be set to.
            "environment": Environment(**environment(config.execution.device) | {"threads": config.execution.threads}),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
