"""Which of a category's normal images a model learns from: nested draws of a few, and resamples of all of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from padim_bench.protocols import STORED_STRICTLY


@dataclass(frozen=True)
class Drawn:
    """Some of the training images, drawn from their sorted paths by a seed that is the draw's number.

    Without replacement the order of all images is drawn, as ``random.Random(draw).sample(range(N), N)`` has it, and
    the first ``n`` are taken: a draw of few is part of the draw of more that has its number. With replacement it is
    ``random.Random(draw).choices(range(N), k=n)``. Both are the same on every machine.

    Attributes:
        n: how many; None for as many as there are, which is a draw only with replacement.
        draw: which, 0 and up.
        replaced: whether with replacement.
    """

    n: int | None = None
    draw: int = 0
    replaced: bool = False

    __pydantic_config__: ClassVar = STORED_STRICTLY

    def problem(self) -> str | None:
        """What is wrong with it, in a few words that name the member; None where nothing is."""
        if self.n is not None and self.n < 1:
            return f"n: {self.n} is less than 1"
        if self.draw < 0:  # random.Random draws the same for -1 and 1
            return f"draw: {self.draw} is less than 0"
        if self.n is None and not self.replaced:
            return "n: all images, each once, are no draw"
        return None

    def fits(self, n_images: int) -> bool:
        """Whether it can be drawn from so many images, and is not simply all of them."""
        return self.replaced or (self.n is not None and self.n < n_images)

    def count(self, n_images: int) -> int:
        """How many images of ``n_images`` are learned from, each as often as it was drawn."""
        return n_images if self.n is None else self.n

    def indices(self, n_images: int) -> tuple[int, ...]:
        """Into the ``n_images`` training images in the order of their paths; ascending, some of them repeated."""
        draw = random.Random(self.draw)
        n = self.count(n_images)
        if self.replaced:
            return tuple(sorted(draw.choices(range(n_images), k=n)))
        return tuple(sorted(draw.sample(range(n_images), n_images)[:n]))

    @property
    def label(self) -> str:
        """For file names and narrow lines: n8-d0, boot-d3."""
        which = "boot" if self.replaced else "n"
        return f"{which}{'' if self.n is None else self.n}-d{self.draw}"


def count_of(drawn: Drawn | None, n_images: int) -> int:
    """How many images are learned from; all, each once, without a draw."""
    return n_images if drawn is None else drawn.count(n_images)


def indices_digest(indices: Sequence[int]) -> str:
    """sha256 of the indices, for records."""
    return hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()
