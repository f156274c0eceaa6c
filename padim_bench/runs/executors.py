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


def done_elsewhere(
    executor: Executor,
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    name: Callable[[T], str],
    on_message: Callable[[str], None] = lambda _: None,
) -> Generator[tuple[T, R | Exception]]:
    """``function(item)`` of every item as soon as it is done, or the exception that ended it.

    An item whose process died is tried once more after all others, alone: memory that was short may be enough then.
    """
    pending: dict[Future[R], T] = {}
    again: list[T] = []

    def submit(item: T) -> None:
        try:
            future = executor.submit(function, item)
        except (BrokenExecutor, LostError) as error:
            future = Future()
            future.set_exception(error)
        pending[future] = item

    try:
        for item in items:
            submit(item)
        alone = False
        while pending or again:
            if not pending:
                alone = True
                submit(again.pop(0))
            # In turns of a second, since not every system lets Ctrl-C through to one that waits.
            for future in wait(pending, timeout=1, return_when=FIRST_COMPLETED).done:
                item = pending.pop(future)
                error = _problem(future)
                if not isinstance(error, WorkerDiedError) or not error.again:
                    yield item, future.result() if error is None else error
                elif alone:
                    yield item, WorkerDiedError(f"{error}, and did so again when it ran alone", again=False)
                else:
                    on_message(f"{name(item)}: {error}; it is tried once more, alone, after the others")
                    again.append(item)
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
        return WorkerDiedError(f"a worker died, most likely for want of memory ({error})", again=False)
    if error is not None and not isinstance(error, Exception):
        raise error
    return error
