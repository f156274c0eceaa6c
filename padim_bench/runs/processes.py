"""Local processes, of which one that dies takes its own call with it and no other, and none outlives its parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from padim_bench.errors import PadimBenchError
from padim_bench.runs.travel import END_LIMIT_S, LostError, WorkerDiedError, answer_to, request_of, settle

P = ParamSpec("P")
T = TypeVar("T")

PROCESSES_PER_CORE = 4  # at most; more only takes memory
_START_LIMIT_S = 120.0  # of a process, which imports little before it answers


def number_of_processes(text: str) -> int:
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
        self.process.join(END_LIMIT_S)
        code = self.process.exitcode
        if code is None:
            return "it closed its pipe"
        if code == -getattr(signal, "SIGKILL", 9):
            return "SIGKILL, most likely for want of memory: use fewer processes"
        with suppress(ValueError):  # a signal without a name
            return signal.Signals(-code).name
        return f"exit code {code}"


class Processes(Executor):
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

    @property
    def n_workers(self) -> int:
        return self._limit

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        request = request_of(fn, *args, **kwargs)
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
            one.process.join(END_LIMIT_S)
            if one.process.is_alive():
                one.process.kill()
                one.process.join(END_LIMIT_S)
        for _ in threads:
            self._calls.put(None)
        for thread in threads:
            thread.join(END_LIMIT_S)

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
                what = WorkerDiedError(f"the process that ran it died ({how})", lives=True)
                future.set_exception(what if died else error)
            else:
                settle(future, answer)
        if one is not None:
            one.pipe.close()  # which it takes as leave to go
            one.process.join(END_LIMIT_S)
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
                raise WorkerDiedError(f"the process that was to run it died ({one.ended()})", lives=True) from None
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
            one.process.join(END_LIMIT_S)


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
            pipe.send_bytes(answer_to(pipe.recv_bytes()))


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
