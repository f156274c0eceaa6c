"""What the tests of executors have done elsewhere: a module of its own, which is quickly imported there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from padim_bench.errors import PadimBenchError


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What travels together, one after the other."""
    return [function(item) for item in items]


class OddError(Exception):
    """Cannot be unpickled: it is given one argument and asks for two."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class LocalError(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("not to be pickled")


def fail_oddly(kind: str) -> NoReturn:
    if kind == "odd":
        raise OddError("here", "so")
    raise LocalError("here: so")


def fail_plainly(text: str) -> NoReturn:
    raise PadimBenchError(text)


def die_the_first_time(marker: Path) -> str:
    """Ends its process the first time that it is called, as the system does to one that takes too much memory."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_of_bad(item: str) -> str:
    """Ends its process where the item is "bad"."""
    if item == "bad":
        die(item)
    return f"{item} is done"


def with_reads(log: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """The call, after which ``log`` holds a line for every file that it read."""
    read, read_bytes = list[str](), Path.read_bytes

    def noted(self: Path) -> bytes:
        read.append(f"{self}\n")
        return read_bytes(self)

    Path.read_bytes = noted  # type: ignore[method-assign]
    try:
        return function(*arguments)
    finally:
        Path.read_bytes = read_bytes  # type: ignore[method-assign]
        with log.open("a") as file:
            file.writelines(read)
