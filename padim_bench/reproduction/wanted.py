"""How the runs that a page wants are found among the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from padim_bench.data.drawn import Drawn
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.paper import named_layers
from padim_bench.records.config import Wanted
from padim_bench.records.merged import category_order
from padim_bench.records.runs import RunRecord


class Runs:
    """Records by what they are of, for pages that know what they want."""

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._by_model: dict[tuple[PaDiMConfig, Drawn | None], list[RunRecord]] = {}
        self._channels: dict[tuple[str, str | tuple[str, ...]], int] = {}
        for record in records:
            model = record.config.model
            self._channels[model.backbone, model.layers] = record.embedding.n_channels
            self._by_model.setdefault((model, record.config.trained), []).append(record)

    def of(self, wanted: Wanted) -> list[RunRecord]:
        """One record a category, in the dataset's order; without ``extras`` those that have none come first.

        Where one differs from another only in threads, device, batch size or frames left out, that of the most
        frames and threads is taken, whatever came out of it.
        """
        model = with_layers(wanted.model)
        model = model.normalised(self._channels.get((model.backbone, model.layers), 0))
        found: dict[str, RunRecord] = {}
        for record in sorted(self._by_model.get((model, wanted.trained), ()), key=_rank):
            if set(wanted.extras) <= set(record.config.extras):
                found.setdefault(record.dataset.category, record)
        return sorted(found.values(), key=lambda record: category_order(record.dataset))


def _rank(record: RunRecord) -> tuple[Any, ...]:
    config, how = record.config, record.config.execution
    return config.every, how.device, -how.threads, -how.batch_size, len(config.extras)


def with_layers(model: PaDiMConfig) -> PaDiMConfig:
    """The same with its layers by name, as a run's configuration has them."""
    layers = model.layers
    return replace(model, layers=named_layers(model.backbone, layers) if isinstance(layers, str) else layers)
