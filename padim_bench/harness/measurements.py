"""Measurements of time and memory on disk: one of the same thing on the same machine is kept, not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.harness.environment import environment
from padim_bench.harness.records import SCHEMA_VERSION, Record, as_read, to_json, write_text


def measurement_path(folder: Path, name: str, asked: Mapping[str, Any]) -> Path:
    """Where a measurement lies: a readable name, made unique by what was asked and the machine it is of.

    ``asked`` holds JSON values; its "device" tells whether a GPU is part of the machine.
    """
    here = environment(str(asked.get("device", "cpu")))
    machine = {key: here.get(key) for key in ("cpu", "cpu_count", "gpu", "openmp")}
    machine |= {key: here["versions"][key] for key in ("padim-bench", "torch")}
    named = {"schema": SCHEMA_VERSION, "machine": machine, "asked": dict(asked)}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return folder / f"{name}-{digest[:12]}.json"


def read_measurement(path: Path) -> Record | None:
    """None if there is none. Raises PadimBenchError, naming the file, if it cannot be read."""
    if not path.is_file():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PadimBenchError(
            f"{path} is not a readable measurement ({error}): delete it, and it is measured again"
        ) from error
    return record


def keep_measurement(path: Path, record: Record) -> Record:
    """Writes the record whole or not at all, and returns it as it will be read back."""
    read = as_read(record)
    write_text(path, to_json(read) + "\n")
    return read
