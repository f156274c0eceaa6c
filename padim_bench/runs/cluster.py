"""A Dask cluster: gone schedulers, missing workers and workers without this package end in a line, in time."""

from __future__ import annotations

import inspect
import logging
import math
import pickle
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import padim_bench
from padim_bench.errors import PadimBenchError
from padim_bench.runs.travel import (
    END_LIMIT_S,
    LostError,
    WorkerDiedError,
    answer_to,
    request_of,
    settle,
    undisturbed,
    worker_address,
)

P = ParamSpec("P")
T = TypeVar("T")

WAIT_S = 600.0  # for a worker, unless the address says otherwise
_SAY_AFTER_S = 30.0
_ANSWER_LIMIT_S = 60.0  # of what a worker has finished, through the scheduler


@contextmanager
def cluster_at(detail: str, on_message: Callable[[str], None]) -> Iterator[Executor]:
    address, wait_s = _address(detail)
    try:
        from distributed import Client
    except ImportError as error:
        raise PadimBenchError("dask is not installed: pip install 'padim-bench[dask]'") from error

    class OneThatCloses(Client):  # type: ignore[misc]
        """One that cannot connect closes now: collected as rubbish while another begins, it waits for it for ever."""

        def start(self, **options: Any) -> None:
            try:
                super().start(**options)
            except BaseException:
                _close(self)
                raise

    with _quiet_dask():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                client = OneThatCloses(address, timeout=min(10, max(1, wait_s)), set_as_default=False)
            except OSError as error:
                raise PadimBenchError(
                    f"no Dask scheduler answers at {address} ({_line(error)}): check the address"
                ) from error
            except Exception as error:  # each of Dask's protocols has its own
                raise PadimBenchError(
                    f"Dask cannot use the address {address!r} ({_line(error)}): write dask:tcp://HOST:8786; tls:// "
                    "needs certificates in Dask's configuration, inproc:// a scheduler in this very process"
                ) from error
        for warning in said:
            _say_warning(warning, on_message)
        cluster = _Cluster(client, address, wait_s, on_message)
        try:
            yield cluster
        finally:
            with undisturbed():
                cluster.shutdown()


def _close(client: Any) -> None:
    """Leaves the cluster within seconds, and for good."""
    with suppress(Exception):  # there may be nobody left to take leave of
        client.close(timeout=END_LIMIT_S)
    client.status = "closed"


def _address(detail: str) -> tuple[str, float]:
    """ADDRESS[?wait=SECONDS] as both."""
    address, asked, query = detail.partition("?")
    name, _, value = query.partition("=")
    try:
        wait_s = float(value) if asked else WAIT_S
    except ValueError:
        wait_s = math.nan
    if not address.strip() or (asked and (name != "wait" or not 0 <= wait_s < math.inf)):
        raise PadimBenchError(f"executor 'dask:{detail}': write dask:tcp://HOST:8786 or dask:tcp://HOST:8786?wait=600")
    return address, wait_s


def _line(error: BaseException) -> str:
    """An exception's first line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Without Dask's log of lost connections, tracebacks included: what matters of it is said in a line."""
    loggers = [logging.getLogger(n) for n in ("distributed.client", "distributed.core", "distributed.comm")]
    loggers += [
        logging.getLogger(n) for n in ("distributed.batched", "distributed.protocol.pickle", "tornado.application")
    ]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _say_warning(warning: warnings.WarningMessage, on_message: Callable[[str], None]) -> None:
    """Dask's table of versions that differ, in a line; other warnings as they would have been."""
    if warning.category.__name__ != "VersionMismatchWarning":
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return
    rows = [
        [c.strip() for c in line.strip("| ").split("|")] for line in str(warning.message).splitlines() if "|" in line
    ]
    if len(rows) > 1:
        listed = "; ".join(
            f"{row[0]}: " + ", ".join(f"{who} {what}" for who, what in zip(rows[0][1:], row[1:], strict=False))
            for row in rows[1:]
        )
        on_message(f"padim-bench: note: versions differ in the Dask cluster: {listed}")


class _Cluster(Executor):
    """Calls on a Dask cluster, seen to by a thread: gone schedulers and missing workers end them, in time."""

    def __init__(self, client: Any, address: str, wait_s: float, on_message: Callable[[str], None]) -> None:
        self._client, self._address, self._wait_s, self._on_message = client, address, wait_s, on_message
        self._tasks: dict[Future[Any], Any] = {}  # ours -> Dask's
        self._lock = threading.Lock()  # over the line above
        self._over = threading.Event()
        self._trouble_since: float | None = None
        self._say_at = _SAY_AFTER_S
        self._thread = threading.Thread(target=self._attend, daemon=True)
        self._thread.start()

    @property
    def n_workers(self) -> int:
        """Of those that are there now, which may be none."""
        try:
            return len(self._workers())
        except Exception:  # whoever waits for a call will hear of it
            return 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        call = pickle.dumps(_OnWorker(request_of(fn, *args, **kwargs)))
        try:
            task = self._client.submit(pickle.loads, call, key=f"padim-bench-{uuid.uuid4().hex}")
        except Exception as error:
            raise self._gone(_line(error)) from error
        with self._lock:
            self._tasks[future] = task
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Gives up what is not done, and leaves the cluster, within seconds."""
        self._over.set()
        for future in self._pending():
            future.cancel()
        self._thread.join(END_LIMIT_S)
        _close(self._client)

    def _pending(self) -> dict[Future[Any], Any]:
        with self._lock:
            return dict(self._tasks)

    def _attend(self) -> None:
        look_at = 0.0
        while not self._over.wait(0.1):
            try:
                for future, task in self._pending().items():
                    self._collect(future, task)
                if time.monotonic() >= look_at:
                    self._look()
                    look_at = time.monotonic() + 1
            except Exception as error:  # whoever waits for the calls must hear of it
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Ends all calls with ``error``."""
        for future in self._pending():
            with self._lock:
                del self._tasks[future]
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _collect(self, future: Future[Any], task: Any) -> None:
        """Hands over what is done of one call."""
        status = task.status
        if not future.cancelled() and status not in {"finished", "error", "cancelled"}:
            return
        with self._lock:
            del self._tasks[future]
        if not future.set_running_or_notify_cancel():
            with suppress(Exception):
                task.cancel()
            return
        try:
            if status == "cancelled":
                raise self._gone("it has ended, or was restarted")
            settle(future, task.result(timeout=_ANSWER_LIMIT_S))
        except Exception as error:
            future.set_exception(self._translated(error))

    def _translated(self, error: Exception) -> PadimBenchError:
        """What Dask itself raises, in a line; :func:`_answer_on_worker` lets nothing else through."""
        if isinstance(error, PadimBenchError):
            return error
        kind = type(error).__name__
        if kind == "KilledWorker":
            return WorkerDiedError(
                "every Dask worker that ran it died, most likely for want of memory: give them more (dask worker "
                "--memory-limit), or use fewer",
                lives=True,
                often=True,
            )
        if kind in {"FutureCancelledError", "CancelledError", "TimeoutError", "CommClosedError"}:
            return self._gone(_line(error))
        return PadimBenchError(
            f"Dask could not run it ({kind}: {_line(error)}): install padim-bench {padim_bench.__version__} on "
            "all workers, with the packages that it has here"
        )

    def _gone(self, why: str) -> LostError:
        return LostError(f"lost the Dask scheduler at {self._address} ({why}): start it and its workers again")

    def _look(self) -> None:
        """Ends all calls when for too long nobody was there to run them."""
        trouble = self._trouble() if self._pending() else None
        if trouble is None:
            self._trouble_since = None
            return
        if self._trouble_since is None:
            self._trouble_since, self._say_at = time.monotonic(), min(_SAY_AFTER_S, self._wait_s / 2)
        waited = time.monotonic() - self._trouble_since
        if waited >= self._wait_s:
            said = f"{trouble} at {self._address}, waited for {self._wait_s:g} s (dask:ADDRESS?wait=SECONDS sets it)"
            self._fail(LostError(said))
        elif waited >= self._say_at:
            self._say_at *= 2
            self._on_message(
                f"{trouble} at {self._address}: waiting up to {self._wait_s - waited:.0f} s more "
                "(dask:ADDRESS?wait=SECONDS sets it)"
            )

    def _trouble(self) -> str | None:
        """Why nothing can be run just now."""
        try:
            workers = self._workers()
        except Exception:
            return "no Dask scheduler answers"
        if not workers:
            return "no Dask worker is there"
        if any(w.get("status") == "running" or _executing(w.get("metrics", {})) for w in workers):
            return None
        return "no Dask worker takes work (they are paused, most likely for want of memory)"

    def _workers(self) -> list[dict[str, Any]]:
        """What the scheduler knows of each. Raises what Dask does where none answers within seconds."""
        # Newer versions tell of five workers unless asked for all.
        newer = "n_workers" in inspect.signature(self._client.scheduler_info).parameters
        ask = self._client.scheduler.identity
        found = self._client.sync(ask, callback_timeout=5, **({"n_workers": -1} if newer else {}))
        return list(found["workers"].values())


def _executing(metrics: dict[str, Any]) -> int:
    """How many calls a worker is at, as it last said."""
    return int(metrics.get("task_counts", metrics).get("executing", 0))


@dataclass(frozen=True)
class _OnWorker:
    """Unpickling this is the call of :func:`_answer_on_worker`.

    A Dask worker or scheduler that is sent a function that it cannot import goes down; this is bytes to it.
    """

    request: bytes

    def __reduce__(self) -> tuple[Callable[[str, bytes], bytes], tuple[str, bytes]]:
        return _answer_on_worker, (padim_bench.__version__, self.request)


def _answer_on_worker(version: str, request: bytes) -> bytes:
    """:func:`answer_to` on a Dask worker, if that has this very version of the package."""
    if version != padim_bench.__version__:
        raise PadimBenchError(
            f"the worker {worker_address()} has padim-bench {padim_bench.__version__}, here it is {version}: install "
            "the same on both"
        )
    return answer_to(request)
