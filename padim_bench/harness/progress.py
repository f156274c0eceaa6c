"""A progress bar on standard error, quiet when that is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """One bar over all the work: category and stage in front, time left behind.

    Args:
        total: steps, an image through a stage each.
        enabled: None for "only on a terminal".
    """

    def __init__(self, total: int, *, enabled: bool | None = None) -> None:
        # Even a disabled bar takes a semaphore, which a worker process that is ended would leak.
        self._bar: tqdm[Any] | None = None
        if enabled is not False:
            quiet = False if enabled else None  # None: tqdm looks for a terminal
            self._bar = tqdm(total=total, disable=quiet, unit="img", dynamic_ncols=True, leave=False)

    def stage(self, category: str, stage: str) -> None:
        if self._bar is not None:
            self._bar.set_description(f"{category}: {stage}")

    def advance(self, steps: int = 1) -> None:
        if self._bar is not None:
            self._bar.update(steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
