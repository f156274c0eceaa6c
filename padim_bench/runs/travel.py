"""What travels between this process and one elsewhere: a call there, its answer or its failure back."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from padim_bench.errors import PadimBenchError

P = ParamSpec("P")
R = TypeVar("R")

END_LIMIT_S = 5.0  # of what should end at once


class LostError(PadimBenchError):
    """What ran elsewhere is lost with where it ran; what came back before is kept."""


class WorkerDiedError(LostError):
    """The process that ran a call died with it.

    Attributes:
        lives: whether the executor lives on, and may be asked for something else.
        often: whether it has tried this very call several times, of itself.
    """

    def __init__(self, message: str, *, lives: bool, often: bool = False) -> None:
        super().__init__(message)
        self.lives, self.often = lives, often


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


def request_of(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> bytes:
    return pickle.dumps((function, args, kwargs))


def answer_to(request: bytes) -> bytes:
    """Calls what was pickled by :func:`request_of`, and pickles what it returns or raises. Raises nothing itself."""
    try:
        function, args, kwargs = pickle.loads(request)
        return pickle.dumps((function(*args, **kwargs), None))
    except BaseException as error:
        return pickle.dumps((None, Failure.of(error)))


def settle(future: Future[Any], answer: bytes) -> None:
    """Gives the future what :func:`answer_to` said."""
    try:
        value, failure = pickle.loads(answer)
    except Exception as error:
        future.set_exception(error)
        return
    if failure is None:
        future.set_result(value)
    else:
        future.set_exception(failure.error())


@contextmanager
def undisturbed() -> Iterator[None]:
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


def worker_address() -> str | None:
    """Of the Dask worker that runs this; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return None
