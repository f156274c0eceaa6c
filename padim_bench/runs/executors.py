"""Where units of work run: this process, local processes, or a Dask cluster.

Whatever happens there, what was finished comes back and the rest ends in an error of one line: processes die,
schedulers vanish, workers lack this package. Nothing waits for them without a limit, and none outlives its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from padim_bench.errors import PadimBenchError
from padim_bench.runs.cluster import cluster_at
from padim_bench.runs.processes import Processes, number_of_processes
from padim_bench.runs.travel import LostError, WorkerDiedError, undisturbed

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def open_executor(where: str, *, on_message: Callable[[str], None] = lambda _: None) -> Iterator[Executor | None]:
    """A ``concurrent.futures.Executor`` for "serial" (None), "processes:N" or "dask:ADDRESS[?wait=SECONDS]".

    Dask workers need this package, the images and the weights at the same paths. Where none is there, or the
    scheduler does not answer, it is waited for ``wait`` seconds, 600 unless said otherwise; ``on_message`` is told so
    after 30, or half of them. Calls that ran in a process that died raise WorkerDiedError; other processes go on.

    Raises PadimBenchError for another spelling, a missing package or a cluster that does not answer.
    """
    kind, _, detail = where.partition(":")
    if kind == "serial" and not detail:
        yield None
    elif kind == "processes":
        processes = Processes(number_of_processes(detail))
        try:
            yield processes
            processes.shutdown()
        finally:
            with undisturbed():
                processes.end()
    elif kind == "dask":
        with cluster_at(detail, on_message) as cluster:
            yield cluster
    else:
        raise PadimBenchError(f"unknown executor {where!r}: choose serial, processes:N or dask:ADDRESS")


def n_workers(executor: Executor) -> int:
    """How many processes share its calls: those of Dask that are there now; 1 where an executor does not say."""
    return max(1, getattr(executor, "n_workers", 1))


def done_elsewhere(
    executor: Executor,
    function: Callable[[tuple[T, ...]], Sequence[R]],
    groups: Sequence[tuple[T, ...]],
    *,
    name: Callable[[T], str],
    on_message: Callable[[str], None] = lambda _: None,
) -> Generator[tuple[T, R | Exception]]:
    """``function(group)`` of every group as soon as it is done: each item with its answer, or what ended the group.

    Items of a group whose process died are tried once more after all others, each alone: memory that was short may be
    enough then, and the one to blame takes no other with it.
    """
    pending: dict[Future[Sequence[R]], tuple[T, ...]] = {}
    again: list[T] = []

    def submit(group: tuple[T, ...]) -> None:
        try:
            future = executor.submit(function, group)
        except (BrokenExecutor, LostError) as error:
            future = Future()
            future.set_exception(error)
        pending[future] = group

    try:
        for group in groups:
            submit(group)
        alone = False
        while pending or again:
            if not pending:
                alone = True
                submit((again.pop(0),))
            # In turns of a second, since not every system lets Ctrl-C through to one that waits.
            for future in wait(pending, timeout=1, return_when=FIRST_COMPLETED).done:
                group = pending.pop(future)
                error = _problem(future)
                if error is None:
                    yield from zip(group, future.result(), strict=True)
                elif not isinstance(error, WorkerDiedError) or not error.lives or (error.often and len(group) == 1):
                    yield from ((item, error) for item in group)
                elif alone:
                    yield group[0], WorkerDiedError(f"{error}, and did so again when it ran alone", lives=True)
                else:
                    for item in group:
                        on_message(f"{name(item)}: {error}; it is tried once more, alone, after the others")
                    again += group
    finally:
        for future in pending:
            future.cancel()


def _problem(future: Future[Any]) -> Exception | None:
    """What ended a future that is done."""
    try:
        error = future.exception()
    except CancelledError:
        return LostError("it was cancelled where it ran")
    if isinstance(error, BrokenExecutor):  # an executor of the caller's own
        return WorkerDiedError(f"a worker died, most likely for want of memory ({error})", lives=False)
    if error is not None and not isinstance(error, Exception):
        raise error
    return error
