"""What a baseline is: a method that learns from the feature maps of normal images and scores those of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from padim_bench.padim.embedding import PatchEmbedding


class Learner(Protocol):
    """One model of a baseline: it sees training images batch by batch, is fitted once, then scores.

    Attributes:
        embedding: of all channels of the layers in use, in their order.
        clamped: how many squared distances came out negative, and were set to 0, since it was fitted.
        computed_in: dtype of what is fitted.
    """

    embedding: PatchEmbedding
    clamped: int
    computed_in: str

    def update(self, selected: Sequence[Tensor]) -> None:
        """Adds training images: feature maps (cells, B, C) of each layer, as ``PatchEmbedding.select`` gives them.

        Raises PadimBenchError if a feature is NaN or infinite.
        """

    def fit(self) -> None:
        """Makes what scoring needs of the images seen; a second call makes nothing new.

        Raises PadimBenchError for too few images, StrategyInvalidError where what they give cannot be used.
        """

    def score(self, selected: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
        """Distances (B, H, W) on the grid of the map, None of a method without one, and image scores (B,), float32."""

    @property
    def state_bytes(self) -> int:
        """Bytes of all that scoring needs, once fitted."""


@dataclass(frozen=True)
class Baseline:
    """An entry of the registry.

    Attributes:
        name: as in ``--method`` and records.
        summary: what it is, with its source, for listings.
        has_maps: whether it scores pixels; without, pixel metrics are undefined.
        make: (embedding of all channels of the layers in use) -> a model that has seen nothing.
        state_bytes: (that embedding, training images) -> what the fitted model will hold.
    """

    name: str
    summary: str
    has_maps: bool
    make: Callable[[PatchEmbedding], Learner]
    state_bytes: Callable[[PatchEmbedding, int], int]
