"""Measurements in processes of their own, so that nothing that came before is measured with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.records.files import to_json


def in_fresh_process(module: str, asked: Mapping[str, Any], what: str, *, timeout_s: float) -> dict[str, Any]:
    """What ``python -m module`` answers, through :func:`answer`, when asked.

    Args:
        module: dotted name of a module whose main part calls :func:`answer`.
        asked: JSON values, handed over on the command line.
        what: is measured, for the message.
        timeout_s: after which the process is ended.

    Raises:
        PadimBenchError: with the last line of what the process complained of, or the signal that ended it.
    """
    command = [sys.executable, "-m", module, json.dumps(asked), str(os.getpid())]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PadimBenchError(f"measuring {what} took more than {timeout_s:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        ended = (
            f"ended by {signal_name(-done.returncode)}, most likely for want of memory"
            if done.returncode < 0
            else (lines or [f"exit code {done.returncode}"])[-1]
        )
        raise PadimBenchError(f"measuring {what}: {ended}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def answer(measure: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The main part of such a module: prints what ``measure`` gives; exit code 2 for a PadimBenchError."""
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    try:
        record = measure(json.loads(sys.argv[1]))
    except PadimBenchError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
    # In UTF-8 whatever the locale; and what a library has printed stands on lines of its own.
    sys.stdout.flush()
    sys.stdout.buffer.write(f"\n{to_json(record, indent=None)}\n".encode("utf-8", "backslashreplace"))


def signal_name(number: int) -> str:
    """SIGKILL for 9; a number where this Python has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_with(parent: int) -> None:
    """Ends this process once its parent is gone: one that nobody waits for would disturb the next measurement."""
    while _lives(parent):
        time.sleep(1)
    os._exit(1)


def _lives(parent: int) -> bool:
    """Unix gives an orphan another parent; on Windows a launcher may stand between the two."""
    if os.name != "nt":
        return os.getppid() == parent
    import psutil

    return psutil.pid_exists(parent)
