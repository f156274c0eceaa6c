"""What Tables VII and VIII are measured from: costs and growth on one category, and sizes that no machine decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from padim_bench.costs.measure import Measured, Model, ProfileSettings, measure_costs, measure_growth
from padim_bench.costs.sizes import compute_sizes
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Category
from padim_bench.machine.files import check_writable
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.strategies import STRATEGIES
from padim_bench.padim.weights import resolve_weights, split_name
from padim_bench.records.config import Execution
from padim_bench.records.costs import LOSSY, OK, CostRecord, GrowthRecord, SizesRecord
from padim_bench.records.measurements import MEASUREMENTS, keep_measurement, read_measurement, sizes_path
from padim_bench.report.costs import load_measured_spec
from padim_bench.reproduction.kinds import asked_sizes, wanted_costs, wanted_growth
from padim_bench.reproduction.weights import FoundWeights


@dataclass
class Measuring:
    """What all measurements of one command share, and what came of them.

    Attributes:
        found: weights; time and bytes do not depend on training, so without any untrained ones will do.
        results: folder whose ``profiles/`` and ``measurements/`` are read and added to.
        execution: where.
        backbones: only these; None for all.
        brief: ten images timed, one strategy of each model and one protocol, for the demo.
        on_message: is told what is measured, kept, or failed.
        costs, growth, sizes: by id, or file, of all tables so far.
    """

    found: FoundWeights
    results: Path
    execution: Execution
    backbones: Sequence[str] | None
    brief: bool
    on_message: Callable[[str], None]
    costs: dict[str, CostRecord] = field(default_factory=dict)
    growth: dict[str, GrowthRecord] = field(default_factory=dict)
    sizes: dict[str, SizesRecord] = field(default_factory=dict)

    def measure(self, name: str, category: Category) -> int:
        """All that a table is made from, on one category; how many measurements of it gave no numbers.

        Raises as ``measure_costs``.
        """
        spec = load_measured_spec(name)
        models = self._models(wanted_costs(spec, brief=self.brief))
        settings = ProfileSettings(self.execution, batch_sizes=(1, 8), n_images=10)
        if not self.brief:
            settings = ProfileSettings(self.execution)  # as the command profile has them, which then has them already
        if spec["layout"] == "memory":
            self._compute_sizes(spec)
        costs = measure_costs(category, models, settings, self.results, on_message=self.on_message)
        self.costs |= {one.record.id: one.record for one in costs}
        growth: list[Measured[GrowthRecord]] = []
        if spec["layout"] == "timing":
            timed = ProfileSettings(self.execution, n_images=10 if self.brief else spec["n_images"])
            models = self._models(wanted_growth(spec, brief=self.brief))
            growth = measure_growth(category, models, timed, self.results, on_message=self.on_message)
            self.growth |= {one.record.id: one.record for one in growth}
        statuses = [one.record.status for one in costs] + [one.record.status for one in growth]
        return sum(status not in {OK, LOSSY} for status in statuses)

    def _models(self, wanted: Iterable[PaDiMConfig]) -> list[Model]:
        asked_for = None if self.backbones is None else {split_name(name)[0] for name in self.backbones}
        wanted = [m for m in wanted if asked_for is None or m.backbone in asked_for]
        missing = {m.backbone for m in wanted} - self.found.chosen.keys()
        weights = self.found.chosen | {arch: resolve_weights(arch, "random") for arch in missing}
        return [(model, weights[model.backbone]) for model in wanted]

    def _compute_sizes(self, spec: Mapping[str, Any]) -> None:
        """Bytes that depend on no machine, so that a file of the spec's is enough whoever made it."""
        asked = asked_sizes(spec)
        path = sizes_path(self.results / MEASUREMENTS, asked, STRATEGIES)
        record = read_measurement(path, SizesRecord)
        if record is None:
            check_writable(self.results / MEASUREMENTS)
            sizes = compute_sizes(asked, spec, {name: c.train for name, c in MVTEC_AD.items()})
            record = keep_measurement(path, sizes)
        self.sizes[path.name] = record
