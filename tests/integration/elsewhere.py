"""What the tests of executors have done elsewhere: a module of its own, which is quickly imported there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NoReturn

from padim_bench.errors import PadimBenchError


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
