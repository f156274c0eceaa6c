"""Calls that may hang, crash or write where they should not: in a process of their own, with a time limit.

Batched LU does all of these on a CPU (pytorch#142815, #141358), and a thread that hangs in native code cannot be
interrupted, only its process ended. Tensors travel through a file that both processes map: one copy there, one back.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError

START_LIMIT_S = 120  # importing torch, on a machine with much else to do
_ALIGNED = 64
_MEMORY = Path("/dev/shm")  # files there are never written to a disk


class ApartError(Exception):
    """The call gave nothing: it raised, its process ended, or it did not return. The message says which."""


class DidNotReturnError(ApartError):
    """The call was still running past its time limit, and was ended."""


def time_limit(flops: float) -> float:
    """Seconds that a call of so many operations may take: at a hundredth of what a slow processor does."""
    return 10 + flops / 2e8


def call(
    function: str, tensors: Sequence[Tensor], *, limit_s: float, threads: int | None = None, device: str = "cpu"
) -> list[Tensor]:
    """``function(*tensors)`` in another process, which is kept for the next call.

    Args:
        function: "module:name" of what takes tensors and gives one or a tuple of them.
        tensors: on the CPU; copied.
        limit_s: seconds, after which the process is killed.
        threads: of torch in that process; None for as many as here.
        device: where the function gets its tensors.

    Raises:
        ApartError: it raised, crashed, or did not return in time.
        PadimBenchError: no process can be started, or there is no room for its tensors.
    """
    global _process  # noqa: PLW0603 - one process for all calls of this one
    with _lock:
        if _process is None or not _process.usable:
            _process = _Process()
        return _process.call(function, tensors, limit_s, threads or torch.get_num_threads(), device)


def end() -> None:
    """Ends the process that :func:`call` keeps, if there is one."""
    global _process  # noqa: PLW0603
    with _lock:
        if _process is not None:
            _process.end()
            _process = None


class _Process:
    """The other process, seen from here."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._file: Path | None = None
        self._memory = torch.empty(0, dtype=torch.uint8)
        command = [sys.executable, "-c", "from padim_bench.machine.apart import serve; serve()"]
        # What this process imports from, that one must find too.
        paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
        environment = os.environ | {"PYTHONPATH": paths}
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment)
        except OSError as error:
            raise _cannot_start(str(error.strerror)) from error
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._requests: IO[bytes] = self._child.stdin
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # Its own thread, since reading from a pipe has no time limit on every system.
        threading.Thread(target=self._listen, args=(self._child.stdout,), daemon=True).start()
        try:
            self._answer(START_LIMIT_S)
        except ApartError as error:
            self.end()
            raise _cannot_start(str(error)) from error
        except BaseException:
            self.end()
            raise

    @property
    def usable(self) -> bool:
        """False once it has ended, and in a forked child of the process that made it."""
        return self._owner == os.getpid() and self._child.poll() is None

    def call(self, function: str, tensors: Sequence[Tensor], limit_s: float, threads: int, device: str) -> list[Tensor]:
        try:
            return self._call(function, tensors, limit_s, threads, device)
        except _RaisedError:
            raise
        except BaseException:  # also Ctrl-C: an answer that comes later would be taken for the next one's
            self.end()
            raise

    def _call(
        self, function: str, tensors: Sequence[Tensor], limit_s: float, threads: int, device: str
    ) -> list[Tensor]:
        places, end = _places([(str(t.dtype), list(t.shape)) for t in tensors], 0)
        self._reserve(3 * end + mmap.PAGESIZE)  # answers are of about the size of what was asked
        for tensor, place in zip(tensors, places, strict=True):
            _view(self._memory, place).copy_(tensor)
        asked = {"function": function, "file": str(self._file), "bytes": len(self._memory), "tensors": places}
        asked |= {"free": end, "threads": threads, "device": device}
        try:
            self._requests.write(json.dumps(asked).encode() + b"\n")
            self._requests.flush()
        except OSError:  # it has ended; how is told below
            pass
        answer = self._answer(limit_s)
        self._unlink()
        if "raised" in answer:
            raise _RaisedError(f"raised {answer['raised']!r}")
        return [_view(self._memory, place).clone() for place in answer["tensors"]]

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=limit_s)
        except queue.Empty:
            raise DidNotReturnError(f"did not return within {limit_s:.0f} s") from None
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=10)
            raise ApartError(f"ended its process ({_how_it_ended(self._child.poll())})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _listen(self, answers: IO[bytes]) -> None:
        with suppress(OSError, ValueError):  # closed at the end
            for line in answers:
                self._answers.put(line)
        self._answers.put(b"")

    def _reserve(self, size: int) -> None:
        """Makes the shared file hold ``size`` bytes."""
        if len(self._memory) >= size:
            return
        self._unlink()
        # Its own temporary folder may be a disk; the memory's may be small (64 MB in many containers).
        roomy = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 * size
        try:
            number, name = tempfile.mkstemp(prefix="padim-bench-", dir=_MEMORY if roomy else None)
            self._file = Path(name)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(number, 0, size)  # a full disk is an error now, not a crash at the first write
                else:
                    os.truncate(number, size)
            finally:
                os.close(number)
        except OSError as error:
            raise PadimBenchError(
                f"no room for {size / 1e6:.0f} MB in {tempfile.gettempdir()} ({error.strerror}): free some, set TMPDIR"
            ) from error
        self._memory = _mapped(name, size)

    def _unlink(self) -> None:
        """The file lives on without its name, where the system allows that, until both processes are gone."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()

    def end(self) -> None:
        if self._owner == os.getpid():
            self._child.kill()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=10)
            with suppress(OSError):
                self._requests.close()
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._unlink()


def _cannot_start(why: str) -> PadimBenchError:
    return PadimBenchError(f"a process of its own for a risky call {why}: free some memory, or use another strategy")


class _RaisedError(ApartError):
    """The function raised; its process goes on."""


_lock = threading.Lock()
_process: _Process | None = None
atexit.register(end)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _mapped(name: str, size: int) -> Tensor:
    return torch.from_file(name, shared=True, size=size, dtype=torch.uint8)


Place = tuple[str, list[int], int]  # dtype, shape, offset in bytes


def _places(tensors: Sequence[tuple[str, list[int]]], start: int) -> tuple[list[Place], int]:
    """Where tensors lie, one behind the other from ``start`` on, and where they end."""
    places = []
    for dtype, shape in tensors:
        start = -(-start // _ALIGNED) * _ALIGNED
        places.append((dtype, shape, start))
        start += torch.Size(shape).numel() * _dtype(dtype).itemsize
    return places, start


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return found


def _view(memory: Tensor, place: Place) -> Tensor:
    name, shape, start = place
    dtype = _dtype(name)
    return memory[start : start + torch.Size(shape).numel() * dtype.itemsize].view(dtype).view(shape)


def serve() -> None:
    """The other process: answers calls until its parent is gone, which even a hung call does not outlive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # native code writes thousands of lines there
        os.dup2(nowhere, standard)
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    names: list[str] = []

    def listen() -> None:
        for line in requests:
            request = json.loads(line)
            names.append(request["file"])
            asked.put(request)
        for name in names[-1:]:
            with suppress(OSError):
                Path(name).unlink()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    answer: dict[str, Any] = {}  # ready
    memory, mapped = torch.empty(0, dtype=torch.uint8), ""
    while True:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        request = asked.get()
        if mapped != request["file"]:
            memory, mapped = _mapped(request["file"], request["bytes"]), request["file"]
        try:
            answer = {"tensors": _perform(request, memory)}
        except Exception as error:  # whatever was asked for may raise whatever it likes
            answer = {"raised": (str(error).splitlines() or [type(error).__name__])[0]}


@torch.no_grad()
def _perform(request: dict[str, Any], memory: Tensor) -> list[Place]:
    """Calls the function, and puts what it gives behind what it was given."""
    # Always set, as runs do: with the number left as it was found, MKL's batched LU may behave otherwise.
    torch.set_num_threads(request["threads"])
    module, _, name = request["function"].partition(":")
    function = getattr(import_module(module), name)
    # Of its own memory: what is written beyond it stays in this process.
    value = function(*(_view(memory, place).clone().to(request["device"]) for place in request["tensors"]))
    given = [value] if isinstance(value, Tensor) else list(value)
    places, end = _places([(str(t.dtype), list(t.shape)) for t in given], request["free"])
    if end > len(memory):
        raise ValueError(f"answers of {end - request['free']} bytes do not fit: ask for less at a time")
    for tensor, place in zip(given, places, strict=True):
        _view(memory, place).copy_(tensor)
    return places
