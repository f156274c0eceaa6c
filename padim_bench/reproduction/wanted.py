"""The runs that a page wants, and how they are found among the records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.paper import paper_layer_names
from padim_bench.records.config import RunConfig, normalised
from padim_bench.records.files import Record
from padim_bench.records.merged import category_order


@dataclass(frozen=True)
class Wanted:
    """A run that a page is made from: over any category, with whatever weights its architecture has.

    ``extras`` are further measurements in the record, such as "pro_variants".
    """

    model: PaDiMConfig
    extras: tuple[str, ...] = ()

    def vary(self, **changes: Any) -> Wanted:
        """The same with some of the model's choices changed."""
        return replace(self, model=replace(self.model, **changes))


class Runs:
    """Records by what they are of, for pages that know what they want."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by_key: dict[str, list[Record]] = {}
        self._channels: dict[tuple[str, tuple[str, ...]], int] = {}
        for record in records:
            config = record["config"]
            self._channels[config["backbone"], tuple(config["layers"])] = record["embedding"]["n_channels"]
            self._by_key.setdefault(_key(config), []).append(record)

    def of(self, wanted: Wanted) -> list[Record]:
        """One record a category, in the dataset's order; without ``extras`` those that have none come first.

        Where one differs from another only in threads, device, batch size or frames left out, that of the most
        frames and threads is taken, whatever came out of it.
        """
        model, layers = wanted.model, wanted.model.layers
        if isinstance(layers, str):
            layers = paper_layer_names(model.backbone) if layers == "paper" else tuple(layers.split("+"))
        config = RunConfig(
            dataset="",
            category="",
            backbone=model.backbone,
            weights="",
            layers=layers,
            n_features=model.n_features,
            seed=model.seed,
            strategy=model.strategy,
            dtype=model.storage,
            protocol=model.protocol,
            compute_dtype=model.compute_dtype,
            backbone_dtype=model.backbone_dtype,
            reduction=model.reduction,
            fusion=model.fusion,
        )
        config = normalised(config, self._channels.get((model.backbone, layers), 0))
        found: dict[str, Record] = {}
        for record in sorted(self._by_key.get(_key(config.to_dict()), ()), key=_rank):
            if set(wanted.extras) <= set(record["config"]["extras"]):
                found.setdefault(record["dataset"]["category"], record)
        return sorted(found.values(), key=category_order)


def _rank(record: Record) -> tuple[Any, ...]:
    config = record["config"]
    return config["every"], config["device"], -config["threads"], -config["batch_size"], len(config["extras"])


def _key(config: Mapping[str, Any]) -> str:
    names = ("backbone", "layers", "n_features", "seed", "strategy", "dtype", "reduction", "fusion", "compute_dtype",
             "backbone_dtype")  # fmt: skip
    protocol = {k: v for k, v in config["protocol"].items() if k != "source" and v is not None}
    return json.dumps([*(config[name] for name in names), protocol], sort_keys=True)
