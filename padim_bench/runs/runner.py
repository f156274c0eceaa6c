"""Runs configurations over categories and scenes: one loop for both, one record per run, resumable at any point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from padim_bench.padim.footprint import Need, check_fits, statement
from padim_bench.records.config import RunConfig
from padim_bench.records.files import as_read, read_records, write_record
from padim_bench.records.runs import RunRecord
from padim_bench.runs.executors import done_elsewhere, n_workers
from padim_bench.runs.processes import Processes
from padim_bench.runs.session import Session
from padim_bench.runs.together import run_together, together
from padim_bench.runs.travel import Failure, LostError, WorkerDiedError
from padim_bench.runs.unit import Unit, name_of, run_unit


@dataclass(frozen=True)
class Outcome:
    """A record, where it lies, and whether it was there before."""

    config: RunConfig
    path: Path
    record: RunRecord
    resumed: bool


class RunsFailedError(PadimBenchError):
    """What ended some units, in one line; every finished run is on disk.

    Attributes:
        units: those that failed.
        outcomes: of all finished runs, in order.
    """

    def __init__(self, message: str, units: Sequence[Unit], outcomes: Sequence[Outcome]) -> None:
        super().__init__(message)
        self.units, self.outcomes = list(units), list(outcomes)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C between or within runs; every finished run is on disk."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"{done} of {total} runs are finished and kept")


def run(
    units: Sequence[Unit],
    results: Path,
    *,
    executor: Executor | None = None,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
    writes: Sequence[str] = ("records",),
) -> list[Outcome]:
    """Runs what has no record yet and returns all outcomes in order of the units.

    Where maps are to be saved or drawn, what is on record is run again for them, and its record stays as it is.

    Args:
        units: from :mod:`padim_bench.runs.plan`.
        results: folder whose ``records/`` is read and added to.
        executor: runs units elsewhere, those of a category or scene :func:`~padim_bench.runs.together.together`;
            their records are written as they come back. None runs them here, writing each record as it is made.
        show_progress: None for "only on a terminal".
        on_message: told in a line what a user should know.
        writes: folders of ``results`` that must be writable if anything is to be run; nothing is written otherwise.

    Raises:
        PadimBenchError: unreadable records, unfit options, a folder that cannot be written.
        RunsFailedError: unreadable images or frames. Here the first ends it all, elsewhere the other units go on.
        Interrupted: Ctrl-C; finished runs are kept.
    """
    session, existing = Session(), read_records(results)
    outcomes: dict[RunConfig, Outcome] = {}
    todo: list[Unit] = []
    for unit in units:
        found = _finished(unit, existing, session)
        outcomes.update(found)
        if missing := tuple(c for c in unit.configs if c not in found or unit.settings.wants_maps):
            todo.append(unit.only(missing))
    for unit in todo:  # weights that do not fit are an error now, not after the first category
        session.backbone(unit)
    if todo:
        check_writable(*(results / name for name in writes))
        check_writable(*dict.fromkeys(folder for unit in todo for folder in unit.settings.folders))
    recorded = dict(outcomes)
    total = sum(len(u.configs) for u in units)
    if outcomes:
        rough, told = "", "not repeated (with --results and another folder they are)"
        if any(unit.settings.wants_maps for unit in units):
            told = "run again for their maps alone: their records stay as they are"
        if n_rough := sum(unit.needlessly_rough(_records(unit, outcomes), session) for unit in units):
            rough = (
                f"; {n_rough} of them with pixel metrics from histograms, within their error bounds: delete those "
                "records (that name error_bounds) to compute them exactly"
            )
        on_message(f"{len(outcomes)} of {total} runs are on record already in {results.as_posix()} and {told}{rough}")

    said = {note for unit in units for note in unit.notes}

    def keep(unit: Unit, config: RunConfig, record: RunRecord) -> None:
        read = as_read(record)  # first, so that an interruption never finds a record written and not counted
        if config in recorded:
            if read.metrics != recorded[config].record.metrics:
                on_message(f"{unit.place} {config.model_name}: the maps have other metrics than its record says")
            return
        outcomes[config] = Outcome(config, write_record(results, record), read, resumed=False)
        if not record.valid:
            on_message(f"{unit.place} {config.model_name} {config.model.strategy}: INVALID: {record.reason}")
        for note in read.dataset.notes:
            if note not in said:
                said.add(note)
                on_message(f"padim-bench: note: {unit.place}: {note}")

    def failed(failures: Sequence[tuple[Unit, Exception]], message: str) -> RunsFailedError:
        kept = [outcomes[config] for unit in units for config in unit.configs if config in outcomes]
        return RunsFailedError(message, [unit for unit, _ in failures], kept)

    taken = [_checked_need(todo, session, executor)] if todo else []
    for line in dict.fromkeys([*(line for unit in todo for line in unit.statements(session)), *taken]):
        on_message(line)
    try:
        with Progress(sum(unit.steps(session) for unit in todo), enabled=show_progress) as progress:
            if executor is None:
                for unit in todo:
                    try:
                        run_unit(unit, partial(keep, unit), progress, session)
                    except PadimBenchError as error:
                        raise failed([(unit, error)], str(error)) from error
            else:
                failures: list[tuple[Unit, Exception]] = []
                groups = together([unit.with_full_paths() for unit in todo], n_workers(executor))
                with closing(
                    done_elsewhere(executor, run_together, groups, name=name_of, on_message=on_message)
                ) as done:
                    for unit, answer in done:
                        records, problem = ([], answer) if isinstance(answer, Exception) else answer
                        if isinstance(problem, Failure):
                            problem = problem.error()
                        for config, record in zip(unit.configs, records, strict=problem is None):
                            keep(unit, config, record)
                        if problem is not None:
                            failures.append((unit, problem))
                        progress.advance(unit.steps(session))
                if ours := [error for _, error in failures if not isinstance(error, PadimBenchError)]:
                    raise ours[0]
                if failures:
                    message = _in_one(failures, f"{len(outcomes)} of {total} runs are finished and kept")
                    raise failed(failures, message) from failures[0][1]
    except KeyboardInterrupt as error:
        raise Interrupted(len(outcomes), total) from error
    return [outcomes[config] for unit in units for config in unit.configs]


def _checked_need(todo: Sequence[Unit], session: Session, executor: Executor | None) -> str:
    """A line on the memory that the heaviest unit will take. Raises PadimBenchError where it cannot fit here."""
    needs, before = list[Need](), 0
    for unit in todo:
        needs.append(unit.need(session, before))
        before = needs[-1].parts.get("features", 0)
    heaviest, here = max(needs, key=lambda need: need.bytes), executor is None or isinstance(executor, Processes)
    processes = 1 if executor is None else min(n_workers(executor), len(todo))
    device = todo[0].settings.execution.device
    if here:
        check_fits(heaviest, processes, device=device)
    return statement(heaviest, processes, device=device)


def _finished(unit: Unit, existing: dict[str, tuple[Path, RunRecord]], session: Session) -> dict[RunConfig, Outcome]:
    """Outcomes of the unit's runs that are on record for these very files and weights."""
    described = {(r.config.dataset, r.config.category) for _, r in existing.values()}
    if not any((config.dataset, config.category) in described for config in unit.configs):  # no need to hash its files
        return {}
    try:
        digest = unit.digest(session)
    except PadimBenchError:  # running it will say so, and so costs no other unit
        return {}
    ids = {config: config.run_id(digest, unit.weights.identity) for config in unit.configs}
    return {c: Outcome(c, *existing[i], resumed=True) for c, i in ids.items() if i in existing}


def _records(unit: Unit, outcomes: Mapping[RunConfig, Outcome]) -> dict[RunConfig, RunRecord]:
    return {config: outcomes[config].record for config in unit.configs if config in outcomes}


def _in_one(failures: Sequence[tuple[Unit, Exception]], kept: str) -> str:
    """A line that tells of all units that failed."""
    (unit, first), *others = failures
    text = f"{name_of(unit)}: {first}" if isinstance(first, WorkerDiedError) else str(first)
    also = [name_of(u) for u, error in others if str(error) != str(first) or isinstance(error, WorkerDiedError)]
    if also:
        text += f"; also failed: {', '.join(dict.fromkeys(also))}"
    if isinstance(first, LostError) or others:
        text += f"; {kept}"
    return text


__all__ = [
    "Interrupted",
    "Outcome",
    "RunsFailedError",
    "run",
]
