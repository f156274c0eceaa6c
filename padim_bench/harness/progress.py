"""A progress bar on standard error, quiet when that is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """One bar over all the work: category and stage in front, time left behind.

    Args:
        total: steps, an image through a stage each.
        enabled: None for "only on a terminal".
    """

    def __init__(self, total: int, *, enabled: bool | None = None) -> None:
        disable = None if enabled is None else not enabled
        self._bar = tqdm(total=total, disable=disable, unit="img", dynamic_ncols=True, leave=False)

    def stage(self, category: str, stage: str) -> None:
        self._bar.set_description(f"{category}: {stage}")

    def advance(self, steps: int = 1) -> None:
        self._bar.update(steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
