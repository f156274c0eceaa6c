"""Progress on standard error: a bar on a terminal; elsewhere, as in a log, a plain line every half minute."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from padim_bench.machine.console import printable

if TYPE_CHECKING:
    from tqdm import tqdm

INTERVAL_S = 30.0

_open: list[Progress] = []  # the innermost speaks for all


class Progress:
    """One bar, or line now and then, over all the work: category and stage in front, time left behind.

    Args:
        total: steps, by default an image through a stage each; 0 where it will be known later; None where there are
            none to count, and so no bar.
        enabled: None for a bar on a terminal and lines elsewhere, True for a bar anywhere, False for nothing.
        unit: what a step is; "B" for bytes.
        stage: what is being done at first.
        interval_s: seconds between two lines.
    """

    def __init__(
        self,
        total: int | None,
        *,
        enabled: bool | None = None,
        unit: str = "img",
        stage: str = "",
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._total, self._unit, self._stage = total or 0, unit, stage
        self.done, self._found, self._start = 0, 0, time.monotonic()
        self._bar: tqdm[Any] | None = None
        self._ended: threading.Event | None = None
        if enabled is False:  # even a disabled bar takes a semaphore, which a worker that is ended would leak
            return
        if enabled or (sys.stderr is not None and sys.stderr.isatty()):
            if total is not None:
                from tqdm import tqdm

                self._bar = tqdm(
                    total=total or None,
                    unit=unit,
                    unit_scale=unit == "B",
                    desc=printable(stage) or None,
                    dynamic_ncols=True,
                    leave=False,
                )
            return
        self._ended = threading.Event()
        _open.append(self)
        threading.Thread(target=self._say_now_and_then, args=(self._ended, interval_s), daemon=True).start()

    def _say_now_and_then(self, ended: threading.Event, interval_s: float) -> None:
        while not ended.wait(interval_s):
            if _open and _open[-1] is self:
                try:
                    print(f"padim-bench: {self.line()}", file=sys.stderr, flush=True)
                except (OSError, ValueError):  # nobody reads, or the stream is closed: the work goes on
                    return

    def line(self) -> str:
        """Where things stand: stage, steps done of all, time taken, and an estimate of the time left."""
        taken = time.monotonic() - self._start
        parts = [f"{_clock(taken)} elapsed"]
        if self._total:
            parts.insert(0, self._count())
            if self.done > self._found:
                left = taken * max(self._total - self.done, 0) / (self.done - self._found)
                parts.append(f"about {_clock(left)} left")
        return f"{printable(self._stage) or 'working'}: {', '.join(parts)}"

    def _count(self) -> str:
        if self._unit == "B":
            return f"{self.done / 1e6:.0f} of {self._total / 1e6:.0f} MB"
        return f"{self.done} of {self._total} {self._unit}"

    def stage(self, category: str, stage: str = "") -> None:
        self._stage = f"{category}: {stage}" if stage else category
        if self._bar is not None:
            self._bar.set_description(printable(self._stage))

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self._bar is not None:
            self._bar.update(steps)

    def reset(self, total: int, done: int) -> None:
        """Another total, and what of it was there before, which counts for no speed."""
        self._total, self.done, self._found = total, done, done
        if self._bar is not None:
            self._bar.reset(total or None)
            self._bar.n = self._bar.initial = done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._ended is not None:
            self._ended.set()
            _open.remove(self)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
