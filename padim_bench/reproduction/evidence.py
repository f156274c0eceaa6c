"""What results folders hold: records of runs, measurements and profiles, merged, and found by what they are of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padim_bench.data.datasets import PAPER_DATASET, PAPER_SCENES
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.errors import PadimBenchError
from padim_bench.padim.paper import paper_layer_names
from padim_bench.protocols import Protocol
from padim_bench.records.config import RunConfig, normalised
from padim_bench.records.files import Record, check_mergeable, json_files, read_records
from padim_bench.records.measurements import read_measurement


@dataclass(frozen=True)
class Wanted:
    """A run that a page is made from: over any category, with whatever weights its architecture has.

    ``protocol`` None is the one asked for; ``layers`` is "paper", or names joined by "+".
    """

    arch: str
    layers: str = "paper"
    n_features: int | None = 100
    seed: int = 0
    strategy: str = "cholesky"
    dtype: str = "float32"
    reduction: str = "random"
    fusion: str = "concatenate"
    protocol: Protocol | None = None
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Records of runs, measurements of time and memory, and profiles, each in the order of its folders."""

    records: tuple[Record, ...] = ()
    measurements: tuple[Record, ...] = ()
    profiles: tuple[Record, ...] = ()

    def of_kind(self, kind: str) -> list[Record]:
        """Measurements of a kind, such as "timing"."""
        return [m for m in self.measurements if m["kind"] == kind]


def read_evidence(folders: Sequence[Path]) -> tuple[Evidence, list[str]]:
    """All that the results folders hold, and lines on what stands in more than one of them.

    Of a run that several folders have, the first folder's record is taken. Raises PadimBenchError for a folder
    that is not there, for a file that is not whole and sound, and where there is nothing at all.
    """
    for folder in folders:
        if not folder.is_dir():
            raise PadimBenchError(f"there is no results folder {folder}: name one with --results")
    records: dict[str, Record] = {}
    found: dict[str, dict[str, Record]] = {"measurements": {}, "profiles": {}}
    lines = []
    for folder in folders:
        read = {run_id: record for run_id, (_, record) in read_records(folder).items()}
        if again := records.keys() & read.keys():
            lines.append(f"{folder}: {len(again)} of its runs are in a folder named before, whose records are taken")
        records = read | records
        for place, measured in found.items():
            for path in json_files(folder / place):
                record = read_measurement(path)
                assert record is not None
                measured.setdefault(path.name, record)
    evidence = Evidence(tuple(records.values()), *(tuple(measured.values()) for measured in found.values()))
    if not (evidence.records or evidence.measurements or evidence.profiles):
        named = ", ".join(map(str, folders))
        raise PadimBenchError(f"no records, measurements or profiles in {named}: padim-bench reproduce makes them")
    return evidence, lines


class Runs:
    """Records by what they are of, for pages that know what they want."""

    def __init__(self, records: Iterable[Record], protocol: Protocol, backbone_dtype: str) -> None:
        self.protocol = protocol
        self._by_key: dict[str, list[Record]] = {}
        self._channels: dict[tuple[str, tuple[str, ...]], int] = {}
        for record in records:
            config = record["config"]
            if config["backbone_dtype"] != backbone_dtype or config["compute_dtype"] != "float64":
                continue
            self._channels[config["backbone"], tuple(config["layers"])] = record["embedding"]["n_channels"]
            self._by_key.setdefault(_key(config), []).append(record)

    def of(self, wanted: Wanted) -> list[Record]:
        """One record a category, in the dataset's order; without ``extras`` those that have none come first.

        Where one differs from another only in threads, device, batch size or frames left out, that of the most
        frames and threads is taken, whatever came out of it.
        """
        layers = paper_layer_names(wanted.arch) if wanted.layers == "paper" else tuple(wanted.layers.split("+"))
        protocol = wanted.protocol or self.protocol
        config = RunConfig(
            dataset="",
            category="",
            backbone=wanted.arch,
            weights="",
            layers=layers,
            n_features=wanted.n_features,
            seed=wanted.seed,
            strategy=wanted.strategy,
            dtype=wanted.dtype,
            protocol=protocol,
            reduction=wanted.reduction,
            fusion=wanted.fusion,
        )
        config = normalised(config, self._channels.get((wanted.arch, layers), 0))
        found: dict[str, Record] = {}
        for record in sorted(self._by_key.get(_key(config.to_dict()), ()), key=_rank):
            if set(wanted.extras) <= set(record["config"]["extras"]):
                found.setdefault(record["dataset"]["category"], record)
        return sorted(found.values(), key=category_order)


def _rank(record: Record) -> tuple[Any, ...]:
    config = record["config"]
    return config["every"], config["device"], -config["threads"], -config["batch_size"], len(config["extras"])


def _key(config: Mapping[str, Any]) -> str:
    names = ("backbone", "layers", "n_features", "seed", "strategy", "dtype", "reduction", "fusion")
    protocol = {k: v for k, v in config["protocol"].items() if k != "source" and v is not None}
    return json.dumps([*(config[name] for name in names), protocol], sort_keys=True)


def category_order(record: Record) -> tuple[bool, int, str]:
    """As the paper's tables have them: textures first, within them MVTec AD's own order, then others by name."""
    name, kind = record["dataset"]["category"], record["dataset"].get("kind")
    known = list(MVTEC_AD)
    return kind != "texture", known.index(name) if name in known else len(known), name


def of_one_dataset(evidence: Evidence, dataset: str | None) -> Evidence:
    """Only the runs over images of one dataset, and over the video scenes of one.

    ``dataset`` None is MVTec AD, or ShanghaiTech Campus, where there are runs of it, else the only one there is.
    Raises PadimBenchError where there are several others, or records that may not stand in one table.
    """
    there = dict.fromkeys(r["dataset"]["name"] for r in evidence.records)
    if dataset is not None and dataset not in there:
        raise PadimBenchError(f"--dataset {dataset}: no record is of it: choose from {', '.join(there)}")
    kept: list[Record] = []
    for usual, scenes in ((PAPER_DATASET, False), (PAPER_SCENES, True)):
        mine = [r for r in evidence.records if (r["dataset"]["kind"] == "scene") is scenes]
        names = list(dict.fromkeys(r["dataset"]["name"] for r in mine))
        chosen = dataset if dataset in names else usual if usual in names else None
        if chosen is None and len(names) > 1:
            raise PadimBenchError(f"records of several datasets ({', '.join(names)}): choose one with --dataset")
        kept += [r for r in mine if chosen is None or r["dataset"]["name"] == chosen]
    check_mergeable(kept)
    return replace(evidence, records=tuple(kept))
