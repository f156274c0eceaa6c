"""Measurements of time and memory on disk: one of the same thing on the same machine is kept, not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.machine.environment import environment
from padim_bench.machine.files import shortened
from padim_bench.machine.reading import why
from padim_bench.records.config import RunConfig, read_config
from padim_bench.records.files import Record, as_read, check_same, json_files, mend, other_schema, to_json
from padim_bench.records.schemas import check_measurement
from padim_bench.records.sealed import SCHEMA_VERSION, OtherSchemaError, read_sealed, write_sealed


def measurement_path(folder: Path, name: str, asked: Mapping[str, Any]) -> Path:
    """Where a measurement lies: a readable name, made unique by what was asked and the machine it is of.

    ``asked`` holds JSON values; its "device" tells whether a GPU is part of the machine.
    """
    here = environment(str(asked.get("device", "cpu")))
    machine = {key: here.get(key) for key in ("cpu", "cpu_count", "gpu", "openmp")}
    machine |= {key: here["versions"][key] for key in ("padim-bench", "torch")}
    named = {"schema": SCHEMA_VERSION, "machine": machine, "asked": dict(asked)}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return folder / shortened([name], ending=f"-{digest[:12]}.json")


def sizes_path(folder: Path, asked: str, strategies: Iterable[str]) -> Path:
    """Where the bytes that no machine decides lie: one file for what was asked and the strategies that there are."""
    named = {"schema": SCHEMA_VERSION, "asked": asked, "strategies": sorted(strategies)}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return folder / f"sizes-{digest[:12]}.json"


def measurement_id(
    kind: str, config: RunConfig, chosen: Mapping[str, Any], split_digest: str, weights_sha256: str
) -> str:
    """Of a measurement of a run's configuration, with what else was ``chosen``."""
    return config.run_id(split_digest, weights_sha256, kind=kind, config=config.identity() | dict(chosen))


def read_measurement(path: Path, asked: Mapping[str, Any] | None = None) -> Record | None:
    """None if there is none. Raises PadimBenchError, naming the file, if it is not whole, sound and of what was asked.

    ``asked`` is as :func:`measurement_path` was given it; None for whatever lies there.
    """
    try:
        record: Record = read_sealed(path)
        _check_measurement(record)
        if asked is not None:
            _check_asked(record, asked)
    except FileNotFoundError:
        return None
    except OtherSchemaError as error:
        raise other_schema(path, error) from error
    except (OSError, ValueError) as error:
        raise PadimBenchError(
            f"{path} is not a readable measurement ({why(error)}): {mend(error, 'it is measured again')}"
        ) from error
    return record


def check_measurements(folder: Path) -> None:
    """Reads all of a folder before any work is done, so that a spoilt one costs none. Raises PadimBenchError."""
    for path in json_files(folder):
        read_measurement(path)


def keep_measurement(path: Path, record: Record) -> Record:
    """Writes the record whole or not at all, and returns it as it will be read back."""
    read = as_read(record)
    write_sealed(path, to_json(read))
    return read


def _check_measurement(record: Record) -> None:
    """Raises ValueError, naming the member, for what no measurement leaves."""
    check_measurement(record)
    if record["kind"] == "sizes":
        return
    config, chosen = read_config(record["config"])
    check_same(record)
    weights, dataset = record["weights"], record["dataset"]
    if record["id"] != measurement_id(record["kind"], config, chosen, dataset["split_digest"], weights["sha256"]):
        raise ValueError("id: it is not that of this configuration, split and weights")
    if record["model_name"] != config.model_name:
        raise ValueError(f"model_name: {record['model_name']!r}, where config makes it {config.model_name!r}")
    if record["kind"] == "timing":
        for strategy in {point["strategy"] for point in record["growth"]}:
            counts = [point["n_train"] for point in record["growth"] if point["strategy"] == strategy]
            if len(set(counts)) < len(counts) or max(counts) != dataset["n_train"]:
                raise ValueError(f"growth: {strategy} is not timed once at each number, up to {dataset['n_train']}")
    if record["kind"] == "profile":
        sizes = [one["batch_size"] for one in record.get("scoring", [])]
        if "scoring" in record and (1 not in sizes or len(set(sizes)) < len(sizes)):
            raise ValueError("scoring: not one of each batch size, 1 among them")
        if "openmp" not in record["environment"]:
            raise ValueError("environment.openmp: field required")
    for name in {"timing": (), "memory": ("n_scored",), "profile": ("n_images",)}[record["kind"]]:
        if type(chosen.get(name)) is not int:
            raise ValueError(f"config.{name}: not a whole number")


def _check_asked(record: Record, asked: Mapping[str, Any]) -> None:
    """Raises ValueError for a measurement of something else, which its name cannot tell."""
    config, environment_ = record["config"], record["environment"]
    found = {
        "id": record["id"],
        "split": record["dataset"]["split_digest"],
        "weights": record["weights"]["sha256"] if asked.get("weights") != "random" else "random",
        "protocol": config["protocol"]["name"],
        "openmp": environment_.get("openmp"),
        **{name: config[name] for name in ("strategy", "threads", "device")},
    }
    for name, value in found.items():
        if name in asked and asked[name] != value:
            raise ValueError(f"{name}: {value!r}, where {asked[name]!r} was asked for: it is of something else")
