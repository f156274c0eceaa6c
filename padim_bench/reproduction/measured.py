"""What Tables VII and VIII are measured from: one measurement of a thing on a machine is kept, not repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from padim_bench.costs.fresh import named_again
from padim_bench.costs.memory import compute_sizes, measure_peak
from padim_bench.costs.timing import measure_timing
from padim_bench.data.loading import split_digest
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from padim_bench.padim.strategies import STRATEGIES
from padim_bench.padim.weights import resolve_weights, split_name
from padim_bench.records.files import Record
from padim_bench.records.measurements import (
    keep_measurement,
    measurement_path,
    read_measurement,
    sizes_path,
)
from padim_bench.report.timing import load_measured_spec
from padim_bench.reproduction.kinds import asked_sizes
from padim_bench.reproduction.weights import FoundWeights


@dataclass(frozen=True)
class Measuring:
    """What all measurements of one command share.

    Attributes:
        category: what is measured on.
        found: weights.
        results: folder whose ``measurements/`` is read and added to.
        threads, device: where.
        backbones: only these; None for all.
        brief: ten images timed, and the peak of one strategy, for the demo.
        on_message: is told what is measured, kept, or failed.
        failed: titles of what could not be measured, added to.
    """

    category: Category
    found: FoundWeights
    results: Path
    threads: int
    device: str
    backbones: Sequence[str] | None
    brief: bool
    on_message: Callable[[str], None]
    failed: list[str] = field(default_factory=list)

    def _asked_for(self, arch: str) -> bool:
        return self.backbones is None or arch in {split_name(b)[0] for b in self.backbones}

    def timing(self, name: str) -> list[Record]:
        """Table VII, measured on one category; time does not depend on training, so any weights will do."""
        spec, category = load_measured_spec(name), self.category
        records: list[Record] = []
        for model in spec["models"]:
            if not self._asked_for(model["arch"]):
                continue
            weights = self.found.chosen.get(model["arch"]) or resolve_weights(model["arch"], "random")
            for strategy in model["strategies"]:
                chosen = {
                    "n_features": model["n_features"],
                    "seed": model["seed"],
                    "strategy": strategy,
                    "threads": self.threads,
                    "device": self.device,
                    "n_images": 10 if self.brief else spec["n_images"],
                }
                asked = chosen | {"weights": weights.sha256, "split": split_digest(category)}
                what = f"timing-{category.name}-{model['title'].lower()}-{strategy}"
                measure = partial(measure_timing, category, weights, **chosen, on_message=self.on_message)
                records += self._measured(what, asked, measure, f"{model['title']}, {strategy}")
        return records

    def memory(self, name: str) -> list[Record]:
        """Table VIII: bytes computed and stored, and peaks in processes of their own on one category."""
        spec, category = load_measured_spec(name), self.category
        records = [self._sizes(spec)]
        where: dict[str, Any] = {"dataset": category.dataset, "normal": category.normal}
        for model in spec["models"]:
            if not self._asked_for(model["arch"]):
                continue
            weights = self.found.chosen.get(model["arch"])
            again, label = named_again(model["arch"], weights)
            for protocol in ("paper", "paper-stc"):
                for strategy in model["strategies"][: 1 if self.brief else None]:
                    chosen = {
                        "n_features": model["n_features"],
                        "seed": model["seed"],
                        "strategy": strategy,
                        "protocol": protocol,
                        "threads": self.threads,
                    }
                    asked = chosen | {
                        "weights": weights.sha256 if weights else "random",
                        "split": split_digest(category),
                    }
                    what = f"memory-{category.name}-{model['title'].lower()}-{strategy}-{protocol}"
                    self.on_message(f"{category.name} {model['title']} {strategy} {protocol}: measuring peak memory")
                    measure = partial(measure_peak, category.root, category.name, label, again, **where, **chosen)
                    records += self._measured(what, asked, measure, f"{model['title']}, {strategy}, {protocol}")
        return records

    def _sizes(self, spec: Mapping[str, Any]) -> Record:
        """Bytes that depend on no machine, so that a file of the spec's is enough whoever made it."""
        asked = asked_sizes(spec)
        path = sizes_path(self.results / "measurements", asked, STRATEGIES)
        if (record := read_measurement(path)) is not None:
            return record
        check_writable(self.results / "measurements")
        return keep_measurement(path, compute_sizes(asked, spec, {name: c.train for name, c in MVTEC_AD.items()}))

    def _measured(self, name: str, asked: Mapping[str, Any], measure: Callable[[], Record], title: str) -> list[Record]:
        """A measurement of this very thing on this machine from ``measurements/``, or a new one kept there.

        One that fails is said to have failed, under its title, and costs no other. A spoilt file raises.
        """
        path = measurement_path(self.results / "measurements", name, asked)
        if (record := read_measurement(path, asked)) is not None:
            self.on_message(f"{name}: measured before ({path.name}) and not repeated")
            return [record]
        check_writable(*(self.results / place for place in ("measurements", "tables", "figures", "")))
        try:
            with Progress(None, stage=f"measuring {name}"):
                record = measure()
        except PadimBenchError as error:
            self.on_message(f"{name}: not measured: {error}")
            self.failed.append(title)
            return []
        return [keep_measurement(path, record)]
