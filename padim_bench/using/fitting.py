"""Training images that can be gone through again, batch by batch, which a fit within bounded memory may need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING

from padim_bench.data.samples import Sample
from padim_bench.evaluation import load_images
from padim_bench.machine.progress import Progress
from padim_bench.protocols import Protocol

if TYPE_CHECKING:
    from torch import Tensor


class TrainingImages:
    """Batches (B, 3, S, S) of uint8 images, decoded anew every time they are gone through, for ``PaDiM.fit``.

    Nothing is held. Going through them raises as ``load_images`` does; ``progress`` is told of every image.
    """

    def __init__(self, samples: Sequence[Sample], protocol: Protocol, batch_size: int, progress: Progress) -> None:
        self._samples, self._protocol, self._batch_size, self._progress = samples, protocol, batch_size, progress

    def __len__(self) -> int:
        return ceil(len(self._samples) / self._batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        self._progress.reset(len(self._samples), 0)
        self._progress.stage("reading images")
        for batch in load_images(self._samples, self._protocol, self._batch_size):
            yield batch
            self._progress.advance(len(batch))
        self._progress.stage("fitting")
        self._progress.reset(0, 0)  # which is not counted
