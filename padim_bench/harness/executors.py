"""Where units of work run: this process, local processes, or a Dask cluster."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from padim_bench.errors import PadimBenchError

P = ParamSpec("P")
T = TypeVar("T")


class _Workers(ProcessPoolExecutor):
    """Local processes that Ctrl-C, which a terminal sends to all, does not reach: their parent ends them."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        # A worker is started here, and inherits what is blocked; nothing is lost to this process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def open_executor(where: str) -> Iterator[Executor | None]:
    """A ``concurrent.futures.Executor`` for "serial" (None), "processes:N" or "dask:ADDRESS".

    Dask workers need this package, the images and the weights at the same paths.

    Raises PadimBenchError for another spelling, a missing package or a cluster that does not answer.
    """
    kind, _, detail = where.partition(":")
    if kind == "serial" and not detail:
        yield None
    elif kind == "processes" and detail.isdigit() and int(detail) > 0:
        # Spawned, since a forked child of a process with OpenMP threads can hang.
        with _Workers(int(detail), mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                yield pool
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
    elif kind == "dask" and detail:
        try:
            from distributed import Client
        except ImportError as error:
            raise PadimBenchError("dask is not installed: pip install 'padim-bench[dask]'") from error
        try:
            client = Client(detail, timeout=10)
        except (OSError, ValueError) as error:
            raise PadimBenchError(f"no Dask scheduler answers at {detail} ({error}): check the address") from error
        with client:
            yield client.get_executor()
    else:
        raise PadimBenchError(f"unknown executor {where!r}: choose serial, processes:N or dask:ADDRESS")
