"""Whether records could join the published ones: each sound by itself, and of the same splits and weights as others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from padim_bench import __version__
from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.data.mvtec_ad import PUBLISHED_SPLITS
from padim_bench.errors import PadimBenchError
from padim_bench.padim.config import PADIM
from padim_bench.records.canonical import plain
from padim_bench.records.costs import OK, AnyMeasurement, CostRecord, GrowthRecord, MeasuredCost, SizesRecord
from padim_bench.records.facts import Environment, Recorded
from padim_bench.records.files import json_files, read_record, record_path, without_paths
from padim_bench.records.measurements import HELD, read_measurement
from padim_bench.records.runs import RunRecord
from padim_bench.records.sealed import SCHEMA_VERSION, OtherSchemaError

Measured: TypeAlias = CostRecord | GrowthRecord

FOLDING_LIMIT = 1e-4  # what a run allows itself
BACKBONE_LIMIT = 0.05
METRIC_LIMIT = 1e-9  # between a metric of image scores and the same of the scores that the record has
_FOREIGN_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/]|\\\\\w|file://|~\w*/|:/(?!/)\w")
# An e-mail address, a user at a host, a host of a local network, an address of the internet.
_PERSON = re.compile(r"[\w.+-]+@\w|\w\.(?:local|lan|internal|localdomain)\b|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")


@dataclass(frozen=True)
class Checked:
    """A file of a results folder, by its place there.

    Attributes:
        name: below the folder.
        problems: what keeps it from joining, and the mend; nothing where it may.
        notes: what could not be looked at.
    """

    name: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.problems


def check_folder(folder: Path, published: Path | None = None) -> list[Checked]:
    """Every record, measurement and profile of a results folder.

    Args:
        folder: with ``records/``, ``profiles/`` or ``measurements/``.
        published: another results folder, whose splits and weights the records must share where both have them, and
            whose runs they must not have once more.

    Raises:
        PadimBenchError: no such folder, or nothing in it; a record in ``published`` that cannot be read.
    """
    for one in (folder, published):
        if one is not None and not one.is_dir():
            raise PadimBenchError(f"there is no results folder {one}: name one that padim-bench has made")
    there = [] if published is None else [read_record(path) for path in json_files(published / "records")]
    problems: dict[str, list[str]] = {}
    read: list[tuple[str, RunRecord | Measured]] = []
    for path in json_files(folder / "records"):
        name = path.relative_to(folder).as_posix()
        try:
            record = read_record(path)
        except PadimBenchError as error:
            problems[name] = [_unreadable(path, error)]
            continue
        problems[name] = run_problems(record)
        if (own := record_path(Path(), record).name) != path.name:
            twice = path.with_name(own).exists()
            mend = f"{own} is of the same run: delete one of them" if twice else f"rename it to {own}"
            problems[name].append(f"its name is not that of its run: {mend}")
        read.append((name, record))
    for place, kinds in HELD.items():
        for path in json_files(folder / place):
            name = path.relative_to(folder).as_posix()
            try:
                measurement = read_measurement(path, *kinds)
            except PadimBenchError as error:
                problems[name] = [_unreadable(path, error)]
                continue
            problems[name] = measurement_problems(measurement) if measurement else []
            if measurement and not isinstance(measurement, SizesRecord):
                read.append((name, measurement))
    if not problems:
        raise PadimBenchError(f"{folder} has no records, measurements or profiles: padim-bench run makes them")
    for name, line in (*_disagreements(read, there), *_once_more(read, there)):
        problems[name].append(line)
    notes = dict(_notes(read))
    return [Checked(name, tuple(lines), notes.get(name, ())) for name, lines in problems.items()]


def _unreadable(path: Path, error: PadimBenchError) -> str:
    if isinstance(error.__cause__, OtherSchemaError):
        return f"it has record schema {error.__cause__.args[0]}, not {SCHEMA_VERSION}: make it again with this version"
    return str(error).replace(str(path), "it")


def run_problems(record: RunRecord) -> list[str]:
    """What of a run's record keeps it from joining; that it is invalid does not, since its reason is a result."""
    from padim_bench.padim.strategies import GATES

    problems = _problems_of_both(record, plain(record))
    gate = GATES[record.config.model.storage]
    exact = record.config.model.method == PADIM and record.strategy_used != "diagonal"
    if record.valid and exact and (record.residual is None or not record.residual <= gate):
        problems.append(
            f"residual {record.residual} is over {gate:g}, the limit in {record.config.model.storage}: see what "
            "'padim-bench doctor' says of this machine, and run again"
        )
    for name, error, limit in (
        ("backbone_error", record.backbone_error, BACKBONE_LIMIT),
        ("folding_error", record.folding_error, FOLDING_LIMIT),
    ):
        if (error or 0) > limit:
            problems.append(f"{name} {error} is over {limit:g}: run again with --backbone-dtype float32, or elsewhere")
    return problems + _other_than_scores(record)


def _other_than_scores(record: RunRecord) -> list[str]:
    """The first metric of image scores that is not that of the record's own scores."""
    import numpy as np

    from padim_bench.metrics.summary import METRICS, compute_metrics

    labels = np.array([one.label for one in record.scores], dtype=np.int64)
    if not record.valid or len(set(labels.tolist())) < 2:
        return []
    found = compute_metrics(labels, np.array([one.score for one in record.scores], dtype=np.float32))
    for name, value in found.items():
        told = record.value(name)
        if METRICS[name].level == "image" and told is not None and not abs(told - value) <= METRIC_LIMIT:
            return [f"metrics.{name} {told:.6g} is not that of its scores, {value:.6g}: run again, and edit nothing"]
    return []


def measurement_problems(record: AnyMeasurement) -> list[str]:
    """What of a measurement keeps it from joining; sizes by arithmetic are of no machine."""
    if isinstance(record, SizesRecord):
        return _personal(plain(record))
    return _problems_of_both(record, plain(record)) + _over_its_gate(record)


def _over_its_gate(record: Measured) -> list[str]:
    from padim_bench.padim.strategies import GATES

    if not isinstance(record, MeasuredCost) or record.status != OK:
        return []
    error, gate = record.accuracy.largest_error, GATES[record.config.model.storage]
    if error is not None and error <= gate:
        return []
    return [
        f"accuracy.largest_error {error} is over {gate:g}, the limit in {record.config.model.storage}: measure again"
    ]


def _problems_of_both(record: Recorded, stored: Mapping[str, Any]) -> list[str]:
    problems = _environment_problems(record.environment)
    known = DATASETS.get(record.dataset.name)
    if known is not None and known.warning:
        problems.append(f"of {record.dataset.name}: {known.warning}: run on photographs")
    if record.dataset.official_split is False:
        problems.append(
            f"{record.dataset.category} is not with the published numbers of images: mend what 'padim-bench data "
            "verify' says of it, and run again"
        )
    return problems + _personal(stored)


def _environment_problems(environment: Environment) -> list[str]:
    problems = []
    if environment.commit is None:
        problems.append("no commit: run from a clone, or from a version that was published")
    if environment.dirty:
        problems.append(f"made with changes to commit {environment.commit}: commit them, and run again")
    if not known_version(environment):
        version = environment.versions["padim-bench"]
        problems.append(
            f"padim-bench {version} is not known here, which is {__version__}: update this one, or run again"
        )
    return problems


def known_version(environment: Environment) -> bool:
    """Whether it was made by this version of padim-bench or one before it."""
    numbers = _numbers(environment.versions["padim-bench"])
    return numbers is not None and numbers <= (_numbers(__version__) or ())


def _numbers(version: str) -> tuple[int, ...] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)([.+-]?[\w.+-]+)?", version)
    return None if found is None else tuple(map(int, found.groups()[:3]))


def _personal(stored: Any, member: str = "") -> list[str]:
    """Absolute paths and addresses of people and machines in any text of a record, and in names of its members."""
    if isinstance(stored, Mapping):
        found = [line for name in stored for line in _personal(name, f"{member}'s name" if member else "a name")][:1]
        for name, value in stored.items():
            found += _personal(value, f"{member}.{name}" if member else name)
        return found
    if isinstance(stored, (list, tuple)):
        return [line for value in stored for line in _personal(value, member)][:1]
    if not isinstance(stored, str):
        return []
    mend = "run again under a name that may be published"
    if without_paths(stored) != stored or _FOREIGN_PATH.search(stored):
        return [f"{member} holds a path of a machine: {stored!r}: {mend}"]
    return [f"{member} holds an address: {stored!r}: {mend}"] if _PERSON.search(stored) else []


Told = Iterator[tuple[str, str]]  # of a file, a line


def _disagreements(read: Sequence[tuple[str, RunRecord | Measured]], there: Iterable[RunRecord]) -> Told:
    """In which splits and weights files differ from what is published, or else from most of their folder."""
    known = {("split", f"{PAPER_DATASET} {category}"): digest for category, digest in PUBLISHED_SPLITS.items()}
    known |= {key: fact for record in there for key, fact in _facts(record).items()}
    counted: dict[tuple[str, str], Counter[str]] = {}
    for _, record in read:
        for key, fact in _facts(record).items():
            counted.setdefault(key, Counter())[fact] += 1
    usual = {key: facts.most_common(1)[0][0] for key, facts in counted.items()} | known
    for name, record in read:
        for key, fact in _facts(record).items():
            if fact != usual[key]:
                whose = "the published records'" if key in known else "that of most records here"
                yield (
                    name,
                    f"its {key[0]} of {key[1]} is of digest {fact[:12]}, not {usual[key][:12]}, {whose}, and no table "
                    f"holds both: run again with the same {_FILES[key[0]]}, or leave it out",
                )


_FILES = {"split": "images", "weights": "weights"}


def _facts(record: RunRecord | Measured) -> dict[tuple[str, str], str]:
    """What all records that stand in one table share; measurements stand beside those of other weights."""
    dataset, weights = record.dataset, record.weights
    whose = weights.arch if isinstance(record, RunRecord) else weights.label
    return {("split", f"{dataset.name} {dataset.category}"): dataset.split_digest, ("weights", whose): weights.identity}


def _once_more(read: Sequence[tuple[str, RunRecord | Measured]], there: Iterable[RunRecord]) -> Told:
    """Files of runs that are published with other content."""
    published = {record.id: record for record in there}
    for name, record in read:
        if isinstance(record, RunRecord) and published.get(record.id, record) != record:
            yield (
                name,
                "the published records have this run, with other content: leave it out, since records are never "
                "replaced ('padim-bench verify' says how far they differ)",
            )


def _notes(read: Sequence[tuple[str, RunRecord | Measured]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, record in read:
        dataset = record.dataset
        if dataset.name == PAPER_DATASET and dataset.category not in PUBLISHED_SPLITS:
            yield (
                name,
                (
                    f"of {dataset.category} only the numbers of images are known, not the digest: whether the images "
                    "are the published ones was not looked at",
                ),
            )
