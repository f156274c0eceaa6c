"""Units that run elsewhere: those of one place travel together, so that a worker reads its images once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from padim_bench.data.transforms import file_digest
from padim_bench.errors import PadimBenchError
from padim_bench.machine.progress import Progress
from padim_bench.records.runs import RunRecord
from padim_bench.runs.session import Session
from padim_bench.runs.travel import Failure, worker_address
from padim_bench.runs.unit import Unit, run_unit

# A Dask worker may be given several groups in threads of one process: it holds the images and features of one.
_one_group = threading.Lock()


def together(units: Sequence[Unit], n_workers: int) -> list[tuple[Unit, ...]]:
    """The units in groups of one category or scene each, in order.

    The longest group is halved for as long as a worker would have none: a category is read once, by one worker, unless
    there are more workers than categories and scenes. A group's records come back when all of it is done.
    """
    places: dict[tuple[Path, str], list[Unit]] = {}
    for unit in units:
        places.setdefault((unit.root, unit.place), []).append(unit)
    groups = [tuple(group) for group in places.values()]
    while len(groups) < min(n_workers, len(units)):
        i = max(range(len(groups)), key=lambda i: len(groups[i]))
        half = -(-len(groups[i]) // 2)
        groups[i : i + 1] = groups[i][:half], groups[i][half:]
    return groups


def run_together(units: Sequence[Unit]) -> list[tuple[list[RunRecord], Failure | None]]:
    """Runs a group in a worker: of each unit the records of the runs that were finished, and what ended the rest."""
    with _one_group:
        session, answers = Session(), []
        for unit in units:
            answers.append(_run(unit, session))
            if answers[-1][1] is not None:  # what it left half done, or in memory, is not for the next
                session = Session()
        return answers


def _run(unit: Unit, session: Session) -> tuple[list[RunRecord], Failure | None]:
    records: list[RunRecord] = []
    try:
        if worker_address():
            _check_files(unit)
        run_unit(unit, lambda _, record: records.append(record), Progress(None, enabled=False), session)
    except Exception as error:  # it travels with what was finished, and is raised at the other end
        return records, Failure.of(error)
    return records, None


def _check_files(unit: Unit) -> None:
    """Another machine may have no such files, or other weights. Raises PadimBenchError; images have a digest."""
    path = unit.weights.path
    if missing := [p for p in (unit.root, path) if p is not None and not p.exists()]:
        raise PadimBenchError(f"{missing[0]} is not there: Dask workers need images and weights at the command's paths")
    if path is not None and file_digest(path) != unit.weights.sha256:
        raise PadimBenchError(f"{path} holds other weights than the command's: copy the file to all machines")
