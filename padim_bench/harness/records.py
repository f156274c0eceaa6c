"""Records: one JSON file per run, written once, never edited."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.harness.config import SHORT_REDUCTION

SCHEMA_VERSION = 2
Record = dict[str, Any]


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Strict JSON: NaN and infinity, which JSON lacks, become null. With an indent, one line per leaf or list item."""
    if indent is None:
        return _compact(_plain(value))
    return _lines(_plain(value), "")


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _lines(value: Any, margin: str) -> str:
    """Objects over several lines; in a list, one item a line, or all on one line if none is a container."""
    inner = margin + " "
    if isinstance(value, dict) and value:
        items = (f"{inner}{_compact(k)}: {_lines(v, inner)}" for k, v in value.items())
        return "{\n" + ",\n".join(items) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(f"{inner}{_compact(v)}" for v in value) + f"\n{margin}]"
    return _compact(value)


def as_read(record: Record) -> Record:
    """The record as it will be read back, so that a fresh run and a resumed one look the same."""
    read: Record = json.loads(to_json(record))
    return read


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def without_paths(text: str) -> str:
    """A message without the absolute paths in it, quoted or not, for what is published."""
    text = re.sub(r"(['\"])/[^'\"\n]*\1", "<path>", text)
    return re.sub(r"(?<![\w.:<])/[^\s'\":,)]+", "<path>", text)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, through a temporary neighbour and a rename.

    Raises PadimBenchError, naming the file, if the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cannot_write(path: Path, error: OSError) -> PadimBenchError:
    return PadimBenchError(
        f"cannot write {path}: {error.strerror}: choose another folder with --results or free some space"
    )


def check_writable(folder: Path) -> None:
    """Fails now rather than after the first run. Raises PadimBenchError if ``folder`` cannot be written."""
    probe = folder / f".write-test.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error


def record_path(results: Path, record: Record) -> Path:
    """Where a record lies: a readable name, made unique by its id."""
    config = record["config"]
    short = SHORT_REDUCTION[config["reduction"]].lower()
    n = "all" if config["n_features"] is None else f"{short}{config['n_features']}-s{config['seed']}"
    parts = (config["category"], config["backbone"], n, config["strategy"], config["dtype"])
    return results / "records" / f"{'-'.join(parts)}-{record['id'][:12]}.json"


def write_record(results: Path, record: Record) -> Path:
    path = record_path(results, record)
    write_text(path, to_json(record) + "\n")
    return path


def read_record(path: Path) -> Record:
    """Raises PadimBenchError, naming the file, if it is not a record of this schema."""
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        schema = record["schema"]
        if schema == SCHEMA_VERSION:
            _ = record["id"], record["config"]["category"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PadimBenchError(
            f"{path} is not a readable record ({error!r}): delete it, and the run is redone"
        ) from error
    if schema != SCHEMA_VERSION:
        raise PadimBenchError(
            f"{path} has record schema {schema}, this version reads {SCHEMA_VERSION}: use another --results folder"
        )
    return record


def read_records(results: Path) -> dict[str, tuple[Path, Record]]:
    """All records under ``results/records``, by id."""
    found = {}
    for path in sorted((results / "records").glob("*.json")):
        record = read_record(path)
        found[record["id"]] = (path, record)
    return found


def check_mergeable(records: Iterable[Record]) -> None:
    """Refuses to put records into one table that do not measure the same thing.

    Raises PadimBenchError if a category comes from differing splits, a model from differing weights,
    or records from differing major versions of this package.
    """
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for record in records:
        split = (record["dataset"]["name"], record["dataset"]["category"])
        facts = {
            ("split", "/".join(split)): record["dataset"]["split_digest"],
            ("weights", record["config"]["backbone"]): record["weights"]["sha256"],
            ("major version", "padim-bench"): record["environment"]["versions"]["padim-bench"].split(".")[0],
        }
        for key, value in facts.items():
            first = seen.setdefault(key, (value, record["id"]))
            if first[0] != value:
                raise PadimBenchError(
                    f"records {first[1][:12]} and {record['id'][:12]} have differing {key[0]} of {key[1]}: "
                    "keep them in separate --results folders"
                )
