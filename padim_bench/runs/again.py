"""Runs again what records say, over the same images with the same weights, and holds the numbers against theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from padim_bench import __version__
from padim_bench.data.datasets import DATASETS
from padim_bench.data.folder import FOLDERS, folder
from padim_bench.data.listing import is_folder
from padim_bench.data.loading import split_digest
from padim_bench.data.mvtec import check_root, list_categories, mvtec
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.machine.reading import why
from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT
from padim_bench.padim.weights import ENVIRONMENT_VARIABLE, Weights, resolve_weights
from padim_bench.records.config import Wanted
from padim_bench.records.differences import Difference, differences
from padim_bench.records.facts import WeightsUsed
from padim_bench.records.files import json_files, read_record
from padim_bench.records.joining import known_version
from padim_bench.records.runs import RunRecord
from padim_bench.records.sealed import OtherSchemaError, read_sealed
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.runner import Interrupted, run
from padim_bench.runs.unit import Unit


@dataclass(frozen=True)
class Claim:
    """A record that was read, where it lies, and whether it was named itself, and not only its folder."""

    path: Path
    record: RunRecord
    named: bool

    @property
    def place(self) -> tuple[str, str]:
        """Dataset and category."""
        return self.record.config.dataset, self.record.config.category

    def problem(self) -> str | None:
        """Why it cannot be run again from images and weights, in a few words; None where it can."""
        if self.record.dataset.kind == "scene":
            return "of video scenes, which 'padim-bench reproduce table4 --stc DIR' runs"
        if not self.record.valid:
            return "of runs that were invalid there and gave no numbers to compare"
        return None


@dataclass(frozen=True)
class Job:
    """A record, and with what it is run again: the same images and tensors, whatever they are called here."""

    claim: Claim
    category: Category
    weights: Weights
    settings: Settings

    @property
    def id(self) -> str:
        """Of the run made again: the record's own, unless it runs on other threads or another device."""
        record = self.claim.record
        config = replace(record.config, execution=self.settings.execution)
        return config.run_id(record.dataset.split_digest, record.weights.identity)


def read_claims(paths: Iterable[Path]) -> list[Claim]:
    """The records of files and folders, of results or of records alone; each run once.

    Raises PadimBenchError, naming the file, for what is no sound record of a run, or of a newer version; for a folder
    without any; and for a record that is named and cannot be run again.
    """
    found: dict[str, Claim] = {}
    for path in paths:
        named = not path.is_dir()
        if named and not path.exists():
            raise PadimBenchError(f"there is no record {path}: name a file or folder of records")
        inside = path / "records" if (path / "records").is_dir() else path
        files = [path] if named else json_files(inside)
        if not files:
            raise PadimBenchError(f"{path} has no records: name a results folder, its records/, or files in it")
        for file in files:
            claim = Claim(file, _read(file), named)
            if named and (problem := claim.problem()) is not None:
                raise PadimBenchError(f"{file} cannot be verified: it is {problem}: name others")
            found.setdefault(claim.record.id, claim)
    return list(found.values())


def _read(path: Path) -> RunRecord:
    try:
        record = read_record(path)
    except PadimBenchError as error:
        cause = error.__cause__
        if isinstance(cause, OtherSchemaError):
            raise PadimBenchError(
                f"{path} has a record schema that this version does not read, {cause.args[0]}: verify it with the "
                "version of padim-bench that made it"
            ) from error
        if _is_measurement(path):
            raise PadimBenchError(
                f"{path} is a measurement of time or bytes, which no two runs give alike: name records of runs, "
                "as they lie in records/"
            ) from error
        told = why(cause) if isinstance(cause, Exception) else str(error)
        raise PadimBenchError(f"{path} is no readable record ({told}): get it again from where it was made") from error
    if not known_version(record.environment):
        version = record.environment.versions["padim-bench"]
        raise PadimBenchError(
            f"{path} was made by padim-bench {version}, which this one, {__version__}, does not know: verify it with "
            "that version, or a later one"
        )
    return record


def _is_measurement(path: Path) -> bool:
    try:
        return "kind" in read_sealed(path)
    except (OSError, ValueError):
        return False


def prepare(
    claims: Iterable[Claim],
    root: Path,
    given: str | None,
    *,
    normal: Sequence[str] = (),
    threads: int | None = None,
    device: str | None = None,
) -> tuple[list[Job], dict[str, int]]:
    """What is run again, and how many records are left out, by why. All that could go wrong does so now.

    Left out is of a folder's records what is of video scenes or invalid, or needs images or weights that are not there.

    Args:
        claims: the records.
        root: of the dataset.
        given: weights, as for ``resolve_weights``; a record of untrained weights names its own.
        normal: names of the folders of normal images, where a dataset has others than "good".
        threads, device: in place of the records' own.

    Raises PadimBenchError where a category's images or a network's weights are others than the record's, where a
    record that is named lacks either, and where nothing is left.
    """
    jobs, left_out = list[Job](), dict[str, int]()
    finder, weights = _Categories(check_root(root), normal), _Weights(given)

    def leave(claim: Claim, why: str, error: PadimBenchError | None = None) -> None:
        if claim.named:
            dataset, category = claim.place
            lacking = f"{claim.path} is of {category!r} of {dataset}, which {root} has not: give --data with it"
            raise error or PadimBenchError(lacking)
        left_out[why] = left_out.get(why, 0) + 1

    for claim in claims:
        record = claim.record
        if (problem := claim.problem()) is not None:
            leave(claim, problem)
            continue
        if (category := finder.find(*claim.place)) is None:
            leave(claim, f"of {' '.join(claim.place)}, which {root} has not")
            continue
        try:
            found = weights.find(record.weights, claim.path)
        except WeightsNotFoundError as error:
            leave(claim, f"of {record.weights.label}, weights that are not there", error)
            continue
        execution = replace(
            record.config.execution,
            threads=threads or record.config.execution.threads,
            device=device or record.config.execution.device,
        )
        settings = Settings(execution, record.memory.limit_bytes or DEFAULT_MEMORY_LIMIT)
        jobs.append(Job(claim, category, found, settings))
    for job in jobs:
        _check_split(job, finder.digest(job.category))
    if not jobs:
        told = "; ".join(f"{n} {why}" for why, n in left_out.items())
        raise PadimBenchError(f"nothing can be verified with these images and weights: of the records are {told}")
    return jobs, left_out


class _Categories:
    """The categories of a dataset's folder, each opened and digested once."""

    def __init__(self, root: Path, normal: Sequence[str]) -> None:
        self._root, self._normal = root, normal
        self._found: dict[tuple[str, str], Category | None] = {}
        self._digests: dict[tuple[object, ...], str] = {}

    def find(self, dataset: str, name: str) -> Category | None:
        """The category as the record calls it and its dataset, since the digest tells whose images they are."""
        if (dataset, name) not in self._found:
            opened = self._open(dataset, name)
            self._found[dataset, name] = None if opened is None else replace(opened, dataset=dataset, name=name)
        return self._found[dataset, name]

    def _open(self, dataset: str, name: str) -> Category | None:
        known = DATASETS.get(dataset)
        if known is not None and known.single:
            return folder(self._root) if is_folder(self._root / FOLDERS[0]) else None
        if name not in list_categories(self._root, normal=self._normal):
            return None
        return mvtec(self._root, name, normal=self._normal)

    def digest(self, category: Category) -> str:
        files = category.train, category.test
        if files not in self._digests:
            self._digests[files] = split_digest(category)
        return self._digests[files]


def _check_split(job: Job, digest: str) -> None:
    dataset, category = job.claim.record.dataset, job.category
    if digest == dataset.split_digest:
        return
    raise PadimBenchError(
        f"{category.name} in {category.root} is another split than {job.claim.path} is of: {len(category.train)} + "
        f"{len(category.test)} images of digest {digest[:12]}, not {dataset.n_train} + {dataset.n_test} of "
        f"{dataset.split_digest[:12]}: its numbers would say nothing of the record's: give --data with those images"
    )


class _Weights:
    """Weights by the digest of their tensors, whatever file they lie in; each file is read once."""

    def __init__(self, given: str | None) -> None:
        self._given = given
        self._at_hand: dict[tuple[str, str | None], list[Weights] | WeightsNotFoundError] = {}

    def find(self, used: WeightsUsed, path: Path) -> Weights:
        """Those of a record, called and normalised as there.

        Raises WeightsNotFoundError where there are none of the network, PadimBenchError where they are others.
        """
        given = self._given if used.trained else f"random:{used.seed or 0}"
        name = f"{used.arch}.{used.tag}" if used.tag else used.arch
        if (name, given) not in self._at_hand:
            try:
                self._at_hand[name, given] = self._all(used.arch, name, given)
            except WeightsNotFoundError as error:  # a hub is asked once
                self._at_hand[name, given] = error
        found = self._at_hand[name, given]
        if isinstance(found, WeightsNotFoundError):
            raise found
        for one in found:
            if one.tensors_sha256 == used.tensors_sha256:
                return replace(one, label=used.label, tag=used.tag, mean=used.mean, std=used.std, note=used.note)
        what = ", ".join(f"{one.label} ({one.tensors_sha256[:12]})" for one in found)
        raise PadimBenchError(
            f"{path} is of other weights of {used.arch} than are at hand: of {used.label}, whose tensors have digest "
            f"{used.tensors_sha256[:12]}, not {what}: numbers of others would say nothing of the record's: give "
            "--weights with that file, or see what others come to with 'padim-bench run'"
        )

    def _all(self, arch: str, name: str, given: str | None) -> list[Weights]:
        """Every file of the network in the directory, else what the name is resolved to."""
        place = given or os.environ.get(ENVIRONMENT_VARIABLE)
        if place and Path(place).is_file():  # whatever it is called, its tensors tell
            return [resolve_weights(arch, place)]
        files = sorted(Path(place).glob(f"{arch}.*safetensors")) if place else []
        return [resolve_weights(arch, file) for file in files] or [resolve_weights(name, given)]


def run_again(
    jobs: Sequence[Job],
    tolerance: float | None = None,
    *,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[tuple[Claim, Difference]]:
    """Runs what records of one category say, from one pass of each network, and compares; nothing is kept on disk.

    Args:
        jobs: of one category, from :func:`prepare`.
        tolerance: as for ``differences``.
        show_progress, on_message: as for ``runs.runner.run``.

    Raises as ``runs.plan.plan`` and ``runs.runner.run`` do, but KeyboardInterrupt where that is interrupted, and
    PadimBenchError where there is no temporary folder.
    """
    units: list[Unit] = []
    together: dict[Settings, list[Job]] = {}
    for job in jobs:
        together.setdefault(job.settings, []).append(job)
    for settings, some in together.items():
        configs = [(job.claim.record.config, job.weights) for job in some]
        models = [(Wanted(c.model, c.extras, c.trained), weights) for c, weights in configs]
        units += plan([some[0].category], models, settings, on_message=on_message)
    try:
        held = TemporaryDirectory(prefix="padim-bench-verify-", ignore_cleanup_errors=True)
    except OSError as error:
        raise PadimBenchError(
            f"no temporary folder for the runs that are compared ({error.strerror or error}): set TMPDIR to one that "
            "can be written"
        ) from error
    with held as results:
        try:
            outcomes = run(units, Path(results), show_progress=show_progress, on_message=on_message)
        except Interrupted:
            raise KeyboardInterrupt from None  # nothing is kept, so there is nothing to resume
    made = {outcome.record.id: outcome.record for outcome in outcomes}
    return [(job.claim, differences(job.claim.record, _now(job, made), tolerance)) for job in jobs]


def _now(job: Job, made: Mapping[str, RunRecord]) -> RunRecord:
    if job.id not in made:
        raise PadimBenchError(
            f"{job.claim.path} is of a configuration that this version, padim-bench {__version__}, would run as "
            "another: verify it with the version that made it"
        )
    return made[job.id]


def by_category(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs of each category together, in order."""
    found: dict[Category, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.category, []).append(job)
    return list(found.values())
