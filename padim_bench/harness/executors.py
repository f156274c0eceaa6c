"""Where units of work run: this process, local processes, or a Dask cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from padim_bench.errors import PadimBenchError


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
        with ProcessPoolExecutor(int(detail), mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool
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
