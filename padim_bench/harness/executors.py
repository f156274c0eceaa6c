"""Where units of work run: this process, local processes, or a Dask cluster.

Whatever happens there, what was finished comes back and the rest ends in an error of one line: processes die,
schedulers vanish, workers lack this package. Nothing waits for them without a limit, and none outlives its parent.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

import padim_bench
from padim_bench.errors import PadimBenchError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

PROCESSES_PER_CORE = 4  # at most; more only takes memory
WAIT_S = 600.0  # for a Dask worker, unless the address says otherwise
_SAY_AFTER_S = 30.0
_START_LIMIT_S = 120.0  # of a process, which imports little before it answers
_END_LIMIT_S = 5.0
_ANSWER_LIMIT_S = 60.0  # of what a Dask worker has finished, through the scheduler


class LostError(PadimBenchError):
    """What ran elsewhere is lost with where it ran; what came back before is kept."""


class WorkerDiedError(LostError):
    """The process that ran a call died with it. ``again``: the executor lives on, and may be asked once more."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


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
        processes = _Processes(_number_of_processes(detail))
        try:
            yield processes
            processes.shutdown()
        finally:
            with _undisturbed():
                processes.end()
    elif kind == "dask":
        with _cluster(detail, on_message) as cluster:
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


@dataclass(frozen=True)
class Failure:
    """An exception that can travel: pickled where that gives it back whole, and as text in any case."""

    text: str
    trace: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """With the place in its message, if that is another machine's."""
        if isinstance(error, PadimBenchError) and (place := worker_address()):
            error = PadimBenchError(f"{error} (on the worker {place})")
        text = str(error) if isinstance(error, PadimBenchError) else f"{type(error).__name__}: {error}"
        pickled: bytes | None = None
        try:
            pickled = pickle.dumps(error)
            back = pickle.loads(pickled)
            whole = isinstance(error, Exception) and type(back) is type(error) and str(back) == str(error)
        except Exception:  # constructors of other people's may raise anything
            whole = False
        trace = "".join(traceback.format_exception(error))
        return cls(text, trace, pickled if whole else None)

    def error(self) -> Exception:
        """The exception itself, or a RuntimeError that tells of it; its cause is the traceback from where it was."""
        try:
            error = RuntimeError(self.text) if self.pickled is None else pickle.loads(self.pickled)
        except Exception:  # its class may be another one here
            error = RuntimeError(self.text)
        assert isinstance(error, Exception)
        if not isinstance(error, PadimBenchError):
            error.__cause__ = _WhereItWasError(f"\n{self.trace}")
        return error


class _WhereItWasError(Exception):
    """Shows the traceback of another process above the one here."""


def _request(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> bytes:
    return pickle.dumps((function, args, kwargs))


def _answer(request: bytes) -> bytes:
    """Calls what was pickled by :func:`_request`, and pickles what it returns or raises. Raises nothing itself."""
    try:
        function, args, kwargs = pickle.loads(request)
        return pickle.dumps((function(*args, **kwargs), None))
    except BaseException as error:
        return pickle.dumps((None, Failure.of(error)))


def _settle(future: Future[Any], answer: bytes) -> None:
    """Gives the future what :func:`_answer` said."""
    try:
        value, failure = pickle.loads(answer)
    except Exception as error:
        future.set_exception(error)
        return
    if failure is None:
        future.set_result(value)
    else:
        future.set_exception(failure.error())


# Local processes


def _number_of_processes(text: str) -> int:
    cores = os.cpu_count() or 1
    most = max(PROCESSES_PER_CORE * cores, 2 * PROCESSES_PER_CORE)
    sensible = f"choose processes:N with N from 1 to {cores}, the cores here; each takes about 0.9 GB"
    if not (text.isascii() and text.isdecimal() and text.strip("0")):
        raise PadimBenchError(f"executor 'processes:{text[:40]}': {sensible}")
    if len(text.lstrip("0")) > 9 or int(text) > most:
        raise PadimBenchError(f"executor 'processes:{text[:40]}' is more than the {most} that help here: {sensible}")
    return int(text)


@dataclass(frozen=True)
class _Process:
    """A process and the pipe to it."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection

    def ended(self) -> str:
        """How it ended, for a message."""
        self.process.join(_END_LIMIT_S)
        code = self.process.exitcode
        if code is None:
            return "it closed its pipe"
        if code == -getattr(signal, "SIGKILL", 9):
            return "SIGKILL, most likely for want of memory: use fewer processes"
        with suppress(ValueError):  # a signal without a name
            return signal.Signals(-code).name
        return f"exit code {code}"


class _Processes(Executor):
    """Local processes, begun when there is work, each with a thread here that hands it one call at a time.

    Unlike ``ProcessPoolExecutor``'s, one that dies takes its own call with it and no other; it is replaced for the
    next call. Ctrl-C, which a terminal sends to all, does not reach them: their parent ends them, or its end does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: SimpleQueue[tuple[Future[Any], bytes] | None] = SimpleQueue()
        self._lock = threading.Lock()  # over what is below
        self._threads: list[threading.Thread] = []
        self._processes: list[_Process] = []
        self._closed = self._ended = False
        self._cannot_start: Exception | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        request = _request(fn, *args, **kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new calls after shutdown")
            self._calls.put((future, request))
            if len(self._threads) < self._limit:
                self._threads.append(threading.Thread(target=self._attend, daemon=True))
                self._threads[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes after the calls that were submitted. Waits for those, unless told otherwise."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        if cancel_futures:
            self._cancel()
        for _ in threads:
            self._calls.put(None)
        if wait:
            for thread in threads:
                thread.join()
            self._cancel()  # what a thread left to others that had ended

    def end(self) -> None:
        """Ends the processes now, whatever they do, within seconds."""
        with self._lock:
            self._closed = self._ended = True
            processes, threads = list(self._processes), list(self._threads)
        self._cancel()
        for one in processes:
            one.process.terminate()
        for one in processes:
            one.process.join(_END_LIMIT_S)
            if one.process.is_alive():
                one.process.kill()
                one.process.join(_END_LIMIT_S)
        for _ in threads:
            self._calls.put(None)
        for thread in threads:
            thread.join(_END_LIMIT_S)

    def _cancel(self) -> None:
        with suppress(Empty):
            while (call := self._calls.get_nowait()) is None or call[0].cancel():
                pass

    def _attend(self) -> None:
        """A thread's work: one process, one call at a time."""
        one: _Process | None = None
        while (call := self._calls.get()) is not None:
            future, request = call
            if future.cancelled():
                continue
            if one is not None and not one.process.is_alive():  # ended while it had nothing to do
                self._forget(one)
                one = None
            try:
                one = one or self._start()
            except WorkerDiedError as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                continue
            except Exception as error:
                with self._lock:
                    others = bool(self._processes)
                if others:  # one fewer, then
                    self._calls.put(call)
                    return
                self._cannot_start = error  # the next would fail likewise, at length
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                one.pipe.send_bytes(request)
                answer = one.pipe.recv_bytes()
            except Exception as error:
                died = isinstance(error, (EOFError, OSError))
                how = one.ended() if died else ""
                self._forget(one)
                one = None
                what = WorkerDiedError(f"the process that ran it died ({how})", again=True)
                future.set_exception(what if died else error)
            else:
                _settle(future, answer)
        if one is not None:
            one.pipe.close()  # which it takes as leave to go
            one.process.join(_END_LIMIT_S)
            self._forget(one)

    def _start(self) -> _Process:
        """A process that has answered. Raises PadimBenchError where none can be had."""
        if self._cannot_start is not None:
            raise self._cannot_start
        # Spawned, since a forked child of a process with OpenMP threads can hang. A daemon is ended with this process.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        one = _Process(context.Process(target=_work, args=(there,), daemon=True), here)
        try:
            with self._lock:
                if self._ended:
                    raise LostError("it was not begun")
                _start_deaf(one.process)
                self._processes.append(one)
            there.close()  # so that the process's end is the pipe's
            if here.poll(_START_LIMIT_S):
                here.recv_bytes()
                return one
            how = f"did not answer in {_START_LIMIT_S:.0f} s"
        except EOFError:
            how = f"ended at once: {one.ended()}"
            if (one.process.exitcode or 0) < 0:  # somebody ended it, which may not happen to the next
                self._forget(one)
                raise WorkerDiedError(f"the process that was to run it died ({one.ended()})", again=True) from None
        except OSError as error:
            how = str(error)
        self._forget(one)
        raise LostError(
            f"cannot start a process ({how}): see what it printed above, if anything, or use --executor serial; a "
            "script of one's own needs its work below if __name__ == '__main__'"
        )

    def _forget(self, one: _Process | None) -> None:
        if one is None:
            return
        one.pipe.close()
        with self._lock:
            if one in self._processes:
                self._processes.remove(one)
        if one.process.pid is not None and one.process.is_alive():
            one.process.kill()
            one.process.join(_END_LIMIT_S)


def _start_deaf(process: multiprocessing.process.BaseProcess) -> None:
    """Begins a process that Ctrl-C does not reach, from a thread that it need not reach."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # first, since it lets all signals through again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()


def _work(pipe: Connection) -> None:
    """What a process does: answers until its parent closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked
    end_with_parent()
    with suppress(EOFError, OSError):
        pipe.send_bytes(b"")
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def end_with_parent() -> None:
    """Ends this process of ``multiprocessing`` when its parent ends, however that comes about.

    Linux does it whatever this process does. Elsewhere a thread waits for it, held up by native code that keeps
    Python's lock.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; a parent that has gone is seen by the thread
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP inside the block, which takes seconds at most, are put off.

    They are dropped where an exception ends this process's work already: the second Ctrl-C of an impatient user.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    at_work = sys.exc_info()[0] is None
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came if at_work else ():
            signal.raise_signal(number)


# Dask


@contextmanager
def _cluster(detail: str, on_message: Callable[[str], None]) -> Iterator[Executor]:
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
            with _undisturbed():
                cluster.shutdown()


def _close(client: Any) -> None:
    """Leaves the cluster within seconds, and for good."""
    with suppress(Exception):  # there may be nobody left to take leave of
        client.close(timeout=_END_LIMIT_S)
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
        on_message(f"note: versions differ in the Dask cluster: {listed}")


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

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        call = pickle.dumps(_OnWorker(_request(fn, *args, **kwargs)))
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
        self._thread.join(_END_LIMIT_S)
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
            _settle(future, task.result(timeout=_ANSWER_LIMIT_S))
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
                again=False,
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
            # Newer versions tell of five workers unless asked for all.
            newer = "n_workers" in inspect.signature(self._client.scheduler_info).parameters
            ask = self._client.scheduler.identity
            found = self._client.sync(ask, callback_timeout=5, **({"n_workers": -1} if newer else {}))
            workers = list(found["workers"].values())
        except Exception:
            return "no Dask scheduler answers"
        if not workers:
            return "no Dask worker is there"
        if any(w.get("status") == "running" or _executing(w.get("metrics", {})) for w in workers):
            return None
        return "no Dask worker takes work (they are paused, most likely for want of memory)"


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
    """:func:`_answer` on a Dask worker, if that has this very version of the package."""
    if version != padim_bench.__version__:
        raise PadimBenchError(
            f"the worker {worker_address()} has padim-bench {padim_bench.__version__}, here it is {version}: install "
            "the same on both"
        )
    return _answer(request)


def worker_address() -> str | None:
    """Of the Dask worker that runs this; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return None
