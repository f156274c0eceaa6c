"""What a command has to reckon with in its process: streams that are closed, full or of any encoding, and signals."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TextIO

try:  # now, since it cannot be loaded where memory has run out
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CLOSED = "it is closed"
# A repetition within this many seconds is the same request: `timeout` and terminals send a signal twice.
AGAIN_S = 1.0

# Control characters, what reverses the direction of writing or ends a line, and bytes that no encoding has a name for.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with what a terminal would obey, or could not show, in Python's notation, but for those in ``keep``.

    Bytes of file names that are no text are spelled as records spell them: ``\\xff``.
    """
    return _UNPRINTABLE.sub(lambda m: m[0] if m[0] in keep else _shown(m[0]), text)


def _shown(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]


# What libraries say, in lower case, where memory cannot be had: of torch (processor and GPU), C++, NumPy, the loader
# of shared objects, the system.
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
    "failed to map segment",
    "not enough memory",
)
_NO_THREAD = "can't start new thread"
_NOT_ENOUGH = 256 << 20  # bytes left of a limited address space, in which torch does nothing


def memory_problem(error: BaseException) -> str | None:
    """A line that says what ran out and what lowers it, if ``error`` or what it came from is for want of memory."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    most, taken = _address_space(), _addressed()
    limit = "" if most is None else f"; the address space is limited to {most / 1e9:.1f} GB (ulimit -v)"
    limit += f", {taken / 1e9:.1f} GB of which are taken, by libraries above all" if limit and taken else ""
    for one in seen:
        told = f" ({said})" if (said := str(one).strip().partition("\n")[0]) else ""
        if _NO_THREAD in said:
            return f"out of threads, or of memory for them{told}{limit}: lower --threads"
        if (
            isinstance(one, MemoryError)
            or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
            or any(words in said.lower() for words in _NO_MEMORY)
        ):
            if limit:
                return f"out of memory{told}{limit}: raise it, or lower --batch-size, --n-features or --threads"
            return f"out of memory{told}: lower --batch-size or --n-features, or use --strategy auto"
    if most is not None and taken is not None and most - taken < _NOT_ENOUGH:  # a library may say it in its own way
        return f"most likely out of memory ({type(seen[0]).__name__}: {str(seen[0])[:200]}){limit}: raise it"
    return None


def _addressed() -> int | None:
    """Bytes of address space that are taken, where the system tells (Linux)."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    return None


def _address_space() -> int | None:
    """Bytes that this process may address; None without a limit, or where there is no such thing."""
    if resource is None:
        return None
    most: int = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if most == resource.RLIM_INFINITY else most


def can_start(n: int) -> int:
    """How many threads this process can have at once, up to ``n``, found out by starting them."""
    go, threads = threading.Event(), []
    try:
        for _ in range(n - 1):
            threads.append(threading.Thread(target=go.wait, daemon=True))
            threads[-1].start()
    except (RuntimeError, MemoryError):
        return len(threads)  # the last one was not started, and this one runs
    finally:
        go.set()
    return n


class Forgiving(io.FileIO):
    """A file descriptor to write to. What cannot be written is dropped, and ``lost`` says why."""

    def __init__(self, fd: int, *, closefd: bool = False, lost: OSError | None = None) -> None:
        super().__init__(fd, "w", closefd=closefd)
        self.lost: OSError | None = None
        self._before = lost  # the descriptor stands for one that was closed

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self._before is not None and size:
            self.lost = self._before
        if self.lost is None:
            try:
                while (written := super().write(data)) is None:  # another process has made it non-blocking
                    time.sleep(0.01)
            except OSError as error:
                self.lost = error
            else:
                return written
        return size


class Streams:
    """Standard output and error while a command runs: any character can be written, and no write raises.

    A descriptor that is closed is opened on the null device first, so that no file of ours takes its place and
    gets what was meant for it. Streams that somebody has put in the place of the process's own are left alone.
    """

    def __init__(self) -> None:
        self.closed: set[int] = set()
        self._raw: dict[int, Forgiving] = {}
        self._before: dict[str, TextIO] = {}
        self._also: OSError | None = None

    def __enter__(self) -> Self:
        for fd in range(3):
            try:
                os.fstat(fd)
            except OSError:
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != fd:  # a lower one is closed too, where these are not opened in order
                    os.dup2(opened, fd)
                    os.close(opened)
                os.set_inheritable(fd, True)
                self.closed.add(fd)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            before: TextIO | None = getattr(sys, name)
            if before is None or before is getattr(sys, f"__{name}__"):
                self._take(fd, name, before)
        return self

    def _take(self, fd: int, name: str, before: TextIO | None) -> None:
        raw = getattr(before, "buffer", None)
        raw = getattr(raw, "raw", raw)
        if before is not None and type(raw) is not io.FileIO:  # a console of Windows, which has its own way to write
            with suppress(AttributeError, OSError):
                before.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
            return
        if before is not None:
            with suppress(OSError):
                before.flush()
        self._raw[fd] = Forgiving(fd, lost=OSError(errno.EBADF, CLOSED) if fd in self.closed else None)
        stream = io.TextIOWrapper(
            io.BufferedWriter(self._raw[fd]),
            encoding=getattr(before, "encoding", None) or "utf-8",
            errors="backslashreplace",
            line_buffering=name == "stderr" or bool(getattr(before, "line_buffering", False)),
            write_through=bool(getattr(before, "write_through", False)),
        )
        self._before[name] = before  # type: ignore[assignment]
        setattr(sys, name, stream)

    @property
    def lost(self) -> OSError | None:
        """Why something that went to standard output is lost; None if all was written, or its reader has gone."""
        raw = self._raw.get(1)
        found = self._also or (raw.lost if raw is not None else None)
        return None if found is not None and _reader_gone(found) else found

    def write_document(self, content: bytes, fd: int) -> None:
        """Writes all of ``content`` to ``fd``, a duplicate of standard output's, and remembers why it cannot."""
        raw = Forgiving(fd, lost=OSError(errno.EBADF, CLOSED) if 1 in self.closed else None)
        with io.BufferedWriter(raw) as out:
            out.write(content)
        self._also = raw.lost

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, before in self._before.items():
            with suppress(OSError, ValueError):
                getattr(sys, name).flush()
            setattr(sys, name, before)


def _reader_gone(error: OSError) -> bool:
    return error.errno == errno.EPIPE or (os.name == "nt" and error.errno == errno.EINVAL)


class Signals:
    """While a command runs, whatever asks it to end does so as Ctrl-C does: cleanly, and once.

    ``received`` is the signal, or None. One that comes again within ``AGAIN_S`` changes nothing; one that comes
    later ends the process at once, for a command that cannot be left in an orderly way. So does one that Python
    does not get to hear within ``grace_s``, because native code does not return.
    """

    def __init__(self, grace_s: float = 10.0) -> None:
        self.received: signal.Signals | None = None
        self._grace_s = grace_s
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self._wire: tuple[socket.socket, socket.socket] | None = None
        self._wire_before = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # the last two are not everywhere
            if (number := getattr(signal, name, None)) is None:
                continue
            before = signal.getsignal(number)
            if before in {signal.SIG_DFL, signal.default_int_handler}:  # nohup's and a shell's SIG_IGN stay
                self._before[number] = before
                signal.signal(number, self._heard)
        with suppress(OSError, RuntimeError):  # no socket, or no thread: then without
            wire = socket.socketpair()
            wire[1].setblocking(False)
            threading.Thread(target=self._watch, args=(wire[0],), daemon=True).start()
            self._wire, self._wire_before = wire, signal.set_wakeup_fd(wire[1].fileno(), warn_on_full_buffer=False)
        return self

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number), now
            raise KeyboardInterrupt
        if now - self._at > AGAIN_S:
            os._exit(128 + number)

    def _watch(self, arrived: socket.socket) -> None:
        """In a thread: the numbers of signals as the system delivers them, whatever Python's main thread does."""
        with suppress(OSError):
            while numbers := arrived.recv(1):
                time.sleep(self._grace_s)
                if self.received is None and numbers[0] in self._before:
                    with suppress(OSError):
                        os.write(2, b"padim-bench: ended while native code did not return\n")
                    os._exit(128 + numbers[0])

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wire is not None:
            signal.set_wakeup_fd(self._wire_before)
            self._wire[1].close()  # the thread reads the end of it
        for number, before in self._before.items():
            signal.signal(number, before)
