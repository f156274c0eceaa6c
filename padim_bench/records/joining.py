"""Whether records could join the published ones: each sound by itself, and of the same splits and weights as others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_bench import __version__
from padim_bench.data.datasets import DATASETS
from padim_bench.errors import PadimBenchError
from padim_bench.padim.config import PADIM
from padim_bench.records.canonical import plain
from padim_bench.records.costs import AnyMeasurement, SizesRecord
from padim_bench.records.facts import Environment, Recorded
from padim_bench.records.files import json_files, read_record, record_path, without_paths
from padim_bench.records.measurements import HELD, read_measurement
from padim_bench.records.runs import RunRecord

FOLDING_LIMIT = 1e-4  # what a run allows itself
BACKBONE_LIMIT = 0.05
_FOREIGN_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/]|\\\\\w|file://|~/")
_PERSON = re.compile(r"[\w.+-]+@[\w-]+\.\w")


@dataclass(frozen=True)
class Checked:
    """A file of a results folder, by its place there, and what keeps it from joining; nothing where it may."""

    name: str
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not self.problems


def check_folder(folder: Path, published: Path | None = None) -> list[Checked]:
    """Every record, measurement and profile of a results folder.

    Args:
        folder: with ``records/``, ``profiles/`` or ``measurements/``.
        published: another results folder, whose splits and weights the records must share where both have them.

    Raises:
        PadimBenchError: no such folder, or nothing in it; a record in ``published`` that cannot be read.
    """
    for one in (folder, published):
        if one is not None and not one.is_dir():
            raise PadimBenchError(f"there is no results folder {one}: name one that padim-bench has made")
    there = [] if published is None else [read_record(path) for path in json_files(published / "records")]
    found: list[Checked] = []
    read: list[tuple[str, RunRecord]] = []
    for path in json_files(folder / "records"):
        name = path.relative_to(folder).as_posix()
        try:
            record = read_record(path)
        except PadimBenchError as error:
            found.append(Checked(name, (str(error).replace(str(path), "it"),)))
            continue
        problems = run_problems(record)
        if (own := record_path(Path(), record).name) != path.name:
            problems.append(f"it is called {own} where it is made")
        read.append((name, record))
        found.append(Checked(name, tuple(problems)))
    among = _disagreements(read, there)
    found = [Checked(one.name, (*one.problems, *among.get(one.name, ()))) for one in found]
    for place, kinds in HELD.items():
        for path in json_files(folder / place):
            name = path.relative_to(folder).as_posix()
            try:
                measurement = read_measurement(path, *kinds)
            except PadimBenchError as error:
                found.append(Checked(name, (str(error).replace(str(path), "it"),)))
                continue
            found.append(Checked(name, tuple(measurement_problems(measurement)) if measurement else ()))
    if not found:
        raise PadimBenchError(f"{folder} has no records, measurements or profiles: padim-bench run makes them")
    return found


def run_problems(record: RunRecord) -> list[str]:
    """What of a run's record keeps it from joining; that it is invalid does not, since its reason is a result."""
    from padim_bench.padim.strategies import GATES

    problems = _problems_of_both(record, plain(record))
    gate = GATES[record.config.model.storage]
    exact = record.config.model.method == PADIM and record.strategy_used != "diagonal"
    if record.valid and exact and (record.residual is None or not record.residual <= gate):
        problems.append(f"residual {record.residual} is over {gate:g}, the limit in {record.config.model.storage}")
    if (record.backbone_error or 0) > BACKBONE_LIMIT:
        problems.append(f"backbone_error {record.backbone_error} is over {BACKBONE_LIMIT:g}")
    if (record.folding_error or 0) > FOLDING_LIMIT:
        problems.append(f"folding_error {record.folding_error} is over {FOLDING_LIMIT:g}")
    return problems


def measurement_problems(record: AnyMeasurement) -> list[str]:
    """What of a measurement keeps it from joining; sizes by arithmetic are of no machine."""
    if isinstance(record, SizesRecord):
        return _personal(plain(record))
    return _problems_of_both(record, plain(record))


def _problems_of_both(record: Recorded, stored: Mapping[str, Any]) -> list[str]:
    problems = _environment_problems(record.environment)
    known = DATASETS.get(record.dataset.name)
    if known is not None and known.warning:
        problems.append(f"of {record.dataset.name}: {known.warning}")
    if record.dataset.official_split is False:
        problems.append(f"{record.dataset.category} is not with the published numbers of images")
    return problems + _personal(stored)


def _environment_problems(environment: Environment) -> list[str]:
    problems = []
    if environment.commit is None:
        problems.append("no commit: run from a clone, or from a version that was published")
    if environment.dirty:
        problems.append(f"made with changes to commit {environment.commit}: commit them, and run again")
    if not known_version(environment):
        version = environment.versions["padim-bench"]
        problems.append(f"padim-bench {version} is not known here, which is {__version__}")
    return problems


def known_version(environment: Environment) -> bool:
    """Whether it was made by this version of padim-bench or one before it."""
    numbers = _numbers(environment.versions["padim-bench"])
    return numbers is not None and numbers <= (_numbers(__version__) or ())


def _numbers(version: str) -> tuple[int, ...] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)([.+-]?[\w.+-]+)?", version)
    return None if found is None else tuple(map(int, found.groups()[:3]))


def _personal(stored: Any, member: str = "") -> list[str]:
    """Absolute paths and addresses of people in any text of a record."""
    if isinstance(stored, Mapping):
        return [
            line for name, value in stored.items() for line in _personal(value, f"{member}.{name}" if member else name)
        ]
    if isinstance(stored, (list, tuple)):
        return [line for value in stored for line in _personal(value, member)][:1]
    if not isinstance(stored, str):
        return []
    if without_paths(stored) != stored or _FOREIGN_PATH.search(stored):
        return [f"{member} holds a path of a machine: {stored!r}"]
    return [f"{member} holds an address: {stored!r}"] if _PERSON.search(stored) else []


def _disagreements(read: Sequence[tuple[str, RunRecord]], there: Iterable[RunRecord]) -> dict[str, list[str]]:
    """By file, in which splits and weights it differs from the published records, or else from most of its folder."""
    published = {key: fact for record in there for key, fact in _facts(record).items()}
    counted: dict[str, Counter[str]] = {}
    for _, record in read:
        for key, fact in _facts(record).items():
            counted.setdefault(key, Counter())[fact] += 1
    usual = {key: facts.most_common(1)[0][0] for key, facts in counted.items()} | published
    found: dict[str, list[str]] = {}
    for name, record in read:
        for key, fact in _facts(record).items():
            if fact != usual[key]:
                whose = "the published records'" if key in published else "that of most records here"
                found.setdefault(name, []).append(f"{key} has digest {fact[:12]}, not {usual[key][:12]}, {whose}")
    return found


def _facts(record: RunRecord) -> dict[str, str]:
    """What all records that stand in one table share."""
    dataset, weights = record.dataset, record.weights
    return {
        f"the split of {dataset.name} {dataset.category}": dataset.split_digest,
        f"the weights of {weights.label}": weights.identity,
    }
