"""Records: one JSON file per run, written once, never edited."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from padim_bench.data.listing import is_folder, is_ours, printable
from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import shortened
from padim_bench.machine.reading import why
from padim_bench.records.runs import RunRecord
from padim_bench.records.sealed import SCHEMA_VERSION, OtherSchemaError, read_sealed, write_sealed


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Strict JSON: NaN and infinity become null, parts of file names that are no Unicode are escaped.

    With an indent, one line per leaf or list item.
    """
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


def as_read(record: RunRecord) -> RunRecord:
    """The record as it will be read back, so that a fresh run and a resumed one look the same."""
    return RunRecord.from_dict(json.loads(to_json(record.to_dict())))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def without_paths(text: str) -> str:
    """A message without the absolute paths in it, quoted or not, for what is published."""
    text = re.sub(r"(['\"])/[^'\"\n]*\1", "<path>", text)
    return re.sub(r"(?<![\w.:<])/[^\s'\":,)]+", "<path>", text)


def record_path(results: Path, record: RunRecord) -> Path:
    """Where a record lies: a readable name, made unique by its id."""
    return results / "records" / shortened(record.file_parts, ending=_ending(record.id))


def _ending(record_id: str) -> str:
    return f"-{record_id[:12]}.json"


def write_record(results: Path, record: RunRecord) -> Path:
    path = record_path(results, record)
    write_sealed(path, to_json(record.to_dict()))
    return path


def read_record(path: Path) -> RunRecord:
    """Raises PadimBenchError, naming the file, if it is not a whole and sound record of this schema."""
    try:
        record = RunRecord.from_dict(read_sealed(path))
        if not path.name.endswith(_ending(record.id)):
            raise ValueError(f"id: {record.id[:12]}, which its name does not end with")
    except OtherSchemaError as error:
        raise other_schema(path, error) from error
    except (OSError, ValueError) as error:
        raise PadimBenchError(
            f"{path} is not a readable record ({why(error)}): {mend(error, 'the run is redone')}"
        ) from error
    return record


def mend(error: Exception, redone: str) -> str:
    """What helps against a file that cannot be read."""
    if isinstance(error, OSError):
        return "let this user read it, or use another --results folder"
    return f"delete it, and {redone}"


def other_schema(path: Path, error: OtherSchemaError) -> PadimBenchError:
    return PadimBenchError(
        f"{path} has record schema {error.args[0]}, this version reads {SCHEMA_VERSION}: use another --results folder"
    )


def read_records(results: Path) -> dict[str, tuple[Path, RunRecord]]:
    """All records under ``results/records``, by id; what is not a JSON file, or hidden, is nobody's record.

    Raises PadimBenchError, naming the file, for one that cannot be read, or a second one of the same run.
    """
    found: dict[str, tuple[Path, RunRecord]] = {}
    for path in json_files(results / "records"):
        record = read_record(path)
        if (first := found.setdefault(record.id, (path, record))) != (path, record):
            raise PadimBenchError(f"{first[0]} and {path} are records of one run: delete one of them")
    return found


def json_files(folder: Path) -> list[Path]:
    """The JSON files of a folder, without those that are not ours; none if there is no such folder.

    Raises PadimBenchError if it is a file, or cannot be listed.
    """
    try:
        return sorted(
            path for path in folder.iterdir() if path.suffix == ".json" and is_ours(path.name) and not is_folder(path)
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PadimBenchError(
            f"cannot list {folder} ({error.strerror}): make it a folder that can be read, or use another --results"
        ) from error


def check_mergeable(records: Iterable[RunRecord]) -> None:
    """Refuses to put records into one table that do not measure the same thing.

    Raises PadimBenchError if a category comes from differing splits, a model from differing weights,
    or records from differing major versions of this package.
    """
    seen: dict[tuple[str, str], tuple[str, RunRecord]] = {}
    for record in records:
        dataset, weights = record.dataset, record.weights
        facts = {
            ("split", f"{dataset.name}/{dataset.category}"): dataset.split_digest,
            ("weights", weights.arch): weights.identity,
            ("major version", "padim-bench"): record.environment.versions["padim-bench"].split(".")[0],
        }
        for key, value in facts.items():
            first = seen.setdefault(key, (value, record))
            if first[0] != value:
                names = [record_path(Path(), one).name for one in (first[1], record)]
                what = [_what(key[0], one) for one in (first[1], record)]
                raise PadimBenchError(
                    f"records {' and '.join(names)} have differing {key[0]} of {key[1]} ({' / '.join(what)}): keep "
                    "them in separate --results folders, and make their pages apart"
                )


def _what(fact: str, record: RunRecord) -> str:
    """What one can see of the fact in which two records differ."""
    dataset = record.dataset
    if fact == "split":
        masks = "masks" if dataset.has_masks else "no masks"
        return f"{dataset.n_train} + {dataset.n_test} images, {masks}, {dataset.split_digest[:12]}"
    if fact == "weights":
        return record.weights.label
    return record.environment.versions["padim-bench"]
