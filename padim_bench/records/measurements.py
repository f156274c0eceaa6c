"""Measurements of time and bytes on disk: one of the same thing on the same machine is kept, not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from padim_bench.errors import PadimBenchError
from padim_bench.machine.environment import environment
from padim_bench.machine.files import shortened
from padim_bench.machine.reading import why
from padim_bench.records.costs import (
    AnyMeasurement,
    CostRecord,
    GrowthRecord,
    SizesRecord,
    from_dict,
    to_dict,
)
from padim_bench.records.files import json_files, mend, other_schema, to_json
from padim_bench.records.sealed import SCHEMA_VERSION, OtherSchemaError, read_sealed, write_sealed

Kind = TypeVar("Kind", bound=AnyMeasurement)
# Which folder of results holds which.
COSTS, MEASUREMENTS = "profiles", "measurements"
HELD: dict[str, tuple[type[AnyMeasurement], ...]] = {COSTS: (CostRecord,), MEASUREMENTS: (GrowthRecord, SizesRecord)}


def measurement_path(folder: Path, name: str, measurement_id: str, device: str) -> Path:
    """Where a measurement lies: a readable name, made unique by what was asked and the machine it is of.

    ``device`` tells whether a GPU is part of the machine.
    """
    here = environment(device)
    machine = {key: here.get(key) for key in ("cpu", "cpu_count", "gpu", "openmp")}
    machine |= {key: here["versions"][key] for key in ("padim-bench", "torch")}
    named = {"schema": SCHEMA_VERSION, "machine": machine, "id": measurement_id}
    return folder / shortened([name], ending=f"-{_digest(named)}.json")


def sizes_path(folder: Path, asked: str, strategies: Iterable[str]) -> Path:
    """Where the bytes that no machine decides lie: one file for what was asked and the strategies that there are."""
    named = {"schema": SCHEMA_VERSION, "asked": asked, "strategies": sorted(strategies)}
    return folder / f"sizes-{_digest(named)}.json"


def _digest(named: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]


def read_measurement(path: Path, *kinds: type[Kind]) -> Kind | None:
    """None if there is none.

    Raises PadimBenchError, naming the file, if it is not whole and sound, or none of ``kinds``.
    """
    try:
        record = from_dict(read_sealed(path))
        if not isinstance(record, kinds):
            raise ValueError(f"kind: {record.kind!r}, which does not belong in this folder")
    except FileNotFoundError:
        return None
    except OtherSchemaError as error:
        raise other_schema(path, error) from error
    except (OSError, ValueError) as error:
        raise PadimBenchError(
            f"{path} is not a readable measurement ({why(error)}): {mend(error, 'it is measured again')}"
        ) from error
    return record


def read_kept(path: Path, kind: type[Kind], measurement_id: str) -> Kind | None:
    """What :func:`read_measurement` reads, which must be of that id: its name cannot tell."""
    record = read_measurement(path, kind)
    assert not isinstance(record, SizesRecord)
    if record is not None and record.id != measurement_id:
        raise PadimBenchError(
            f"{path} is of something else than was asked for (id {record.id[:12]}, not {measurement_id[:12]}): delete "
            "it, and it is measured again"
        )
    return record


def read_measurements(results: Path, place: str) -> dict[str, AnyMeasurement]:
    """All that a place of a results folder holds, by file name, so that a spoilt one is found before any work.

    ``place`` is one of ``HELD``. Raises PadimBenchError as :func:`read_measurement` does.
    """
    found = {path.name: read_measurement(path, *HELD[place]) for path in json_files(results / place)}
    return {name: record for name, record in found.items() if record is not None}


def keep_measurement(path: Path, record: Kind) -> Kind:
    """Writes the record whole or not at all, and returns it as it will be read back."""
    text = to_json(to_dict(record))
    read = from_dict(json.loads(text))
    assert type(read) is type(record)
    write_sealed(path, text)
    return read
