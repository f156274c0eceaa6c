"""How the runs that a page wants are found among the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.paper import paper_layer_names
from padim_bench.records.config import Wanted, read_config
from padim_bench.records.files import Record
from padim_bench.records.merged import category_order


class Runs:
    """Records by what they are of, for pages that know what they want."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by_model: dict[PaDiMConfig, list[Record]] = {}
        self._channels: dict[tuple[str, str | tuple[str, ...]], int] = {}
        for record in records:
            model = read_config(record["config"])[0].model
            self._channels[model.backbone, model.layers] = record["embedding"]["n_channels"]
            self._by_model.setdefault(_key(model), []).append(record)

    def of(self, wanted: Wanted) -> list[Record]:
        """One record a category, in the dataset's order; without ``extras`` those that have none come first.

        Where one differs from another only in threads, device, batch size or frames left out, that of the most
        frames and threads is taken, whatever came out of it.
        """
        model, layers = wanted.model, wanted.model.layers
        if isinstance(layers, str):
            layers = paper_layer_names(model.backbone) if layers == "paper" else tuple(layers.split("+"))
        model = replace(model, layers=layers).normalised(self._channels.get((model.backbone, layers), 0))
        found: dict[str, Record] = {}
        for record in sorted(self._by_model.get(_key(model), ()), key=_rank):
            if set(wanted.extras) <= set(record["config"]["extras"]):
                found.setdefault(record["dataset"]["category"], record)
        return sorted(found.values(), key=category_order)


def _rank(record: Record) -> tuple[Any, ...]:
    config = record["config"]
    return config["every"], config["device"], -config["threads"], -config["batch_size"], len(config["extras"])


def _key(model: PaDiMConfig) -> PaDiMConfig:
    """Without what is prose."""
    return replace(model, protocol=replace(model.protocol, source=""))
