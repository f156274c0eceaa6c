"""What a command prints: text for people, or one JSON document; notes and errors as lines on standard error."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim_bench.errors import DataWarning
from padim_bench.machine.console import Streams, printable

if TYPE_CHECKING:
    from padim_bench.report.page import Page

PACKAGE = Path(__file__).parents[1]


class Output:
    """Standard output. With ``--json`` it carries one document: all else that is printed goes to standard error.

    Native libraries write to the file descriptor itself (oneMKL does), so that is what is redirected.
    """

    def __init__(self, streams: Streams, *, as_json: bool) -> None:
        self.as_json = as_json
        self._streams = streams
        self._real: int | None = None

    def __enter__(self) -> Output:
        if self.as_json:
            sys.stdout.flush()
            self._real = os.dup(1)
            os.dup2(2, 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._real is not None:
            sys.stdout.flush()
            os.dup2(self._real, 1)
            os.close(self._real)

    def document(self, value: dict[str, Any]) -> None:
        """JSON in UTF-8, whatever the locale; an undecodable byte of a path is an escape, as ``\\udcff``."""
        from padim_bench.records.files import to_json

        if self._real is not None:
            self._streams.write_document((to_json(value) + "\n").encode("utf-8", "backslashreplace"), self._real)

    def text(self, text: str = "") -> None:
        """For people: nothing with ``--json``. Nothing in it is obeyed by a terminal."""
        if not self.as_json:
            print(printable(text, keep="\n"), flush=True)  # at once, also into a pipe

    def pages(self, pages: Sequence[Page]) -> None:
        """Their Markdown, whole."""
        for page in pages:
            self.text(page.texts[".md"])


@contextmanager
def notes_said() -> Iterator[None]:
    """What this package warns of is a line for people, each said once; the warnings of others are left alone."""
    said: set[str] = set()
    other = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *place: Any, **more: Any) -> None:
        own = category is UserWarning and Path(filename).is_relative_to(PACKAGE)
        if not (own or issubclass(category, DataWarning)):
            other(message, category, filename, *place, **more)
        elif str(message) not in said:
            said.add(str(message))
            say(f"padim-bench: note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = show
        yield


def say(message: str) -> None:
    """One line on standard error, where there is one."""
    with suppress(OSError):
        print(printable(" ".join(message.split("\n"))), file=sys.stderr, flush=True)
