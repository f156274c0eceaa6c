"""What the integration tests share: one call of the command line, and what it must say of bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from padim_bench.cli import main

Contents = dict[str, tuple[bytes, int]]


@dataclass(frozen=True)
class Reply:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output: anything before or after it fails here."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def runs(self) -> list[dict[str, Any]]:
        assert self.code == 0, self.err
        found = self.document["runs"]
        assert isinstance(found, list)
        return found


@dataclass(frozen=True)
class CommandLine:
    """The command line, called in this process; what native code prints is captured too."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Reply:
        self.capture.readouterr()
        code = main([str(a) for a in arguments])
        return Reply(code, *self.capture.readouterr())


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, out of reach of the user's settings and of commits made meanwhile."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("PADIM_BENCH_", "PYTHONUNBUFFERED"))}
    settings["GIT_DIR"] = os.devnull
    command = [sys.executable, "-m", "padim_bench", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=settings,
        start_new_session=True,
        # A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing else can set it
    )


def assert_refused(reply: Reply, *culprits: object) -> None:
    """Exit code 2, and one line on standard error that names what is wrong."""
    assert reply.code == 2, reply.err
    assert reply.out == ""
    lines = lines_said(reply.err)
    assert len(lines) == 1, reply.err
    assert lines[0].startswith("padim-bench: error: ")
    for culprit in culprits:
        assert str(culprit) in lines[0]


def lines_said(err: str) -> list[str]:
    """The lines of standard error, without those of every run: what memory it takes, and how far it is."""
    return [x for x in err.splitlines() if x.strip() and " elapsed" not in x and ": the program " not in x]


def record_files(results: Path) -> list[Path]:
    return sorted((results / "records").glob("*.json"))


def contents(folder: Path) -> Contents:
    """Bytes and time of last change of every file below ``folder``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def unescaped(text: str, character: str) -> int:
    """How often LaTeX would take ``character`` in ``text`` for a command."""
    return len(re.findall(rf"(?<!\\){re.escape(character)}", text))
