"""What training moments take, and how embeddings share a limit of bytes: one rule for the API and for runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.reduction import REDUCTIONS, reduced_embedding

# Batches whose features are held at least before they are folded: to read and write moments costs as much as some.
FOLDED_BATCHES = 8
NEVER = 1 << 62  # bytes that no features take


def moments_bytes(n_positions: int, n_features: int, dtype: torch.dtype) -> int:
    """What ``TrainingMoments`` hold once folded, whatever the images: scatter in float32, means in ``dtype``."""
    return n_positions * n_features * (4 * n_features + torch.finfo(dtype).bits // 8)


@dataclass(frozen=True)
class Cost:
    """Bytes of training moments: of all features, if held; else of moments and the least that is folded at once."""

    held: int
    moments: int
    least: int

    @property
    def folded(self) -> int:
        return self.moments + self.least


def sized_embedding(
    channels: Sequence[int], grids: Sequence[tuple[int, int]], reduction: str, n_features: int | None, seed: int
) -> PatchEmbedding:
    """An embedding as large as that of a reduction; where it projects, with other numbers: their making takes long."""
    if REDUCTIONS[reduction].projects:
        total = sum(channels)
        return PatchEmbedding(
            tuple(channels), tuple(grids), tuple(range(total)), torch.empty(n_features or total, total)
        )
    return reduced_embedding(tuple(channels), tuple(grids), reduction, n_features, seed)


def selected_bytes(embedding: PatchEmbedding) -> int:
    """Of what an embedding is made of, one image's: layers stay on their own grids."""
    parts = zip(embedding.layer_grids, embedding.local_channels, strict=True)
    projected = embedding.projection is not None
    return sum(4 * prod(grid) * (embedding.n_features if projected else len(own)) for grid, own in parts)


def training_cost(embedding: PatchEmbedding, dtype: torch.dtype, n: int, batch_size: int) -> Cost:
    """Of the training moments of ``n`` images."""
    each = selected_bytes(embedding)
    moments = moments_bytes(embedding.n_positions, embedding.n_features, dtype)
    return Cost(n * each, moments, min(FOLDED_BATCHES * batch_size, n) * each)


def share(costs: Sequence[Cost], limit: int) -> tuple[list[int | None], int]:
    """The bytes of features that each embedding holds before it folds them (None: all), and what all take.

    Nothing is folded that can be held within the limit, or that would take more folded; the rest share what is left.
    """
    taken = [min(cost.held, cost.folded) for cost in costs]
    for i, cost in enumerate(costs):
        if sum(taken) - taken[i] + cost.held <= limit:
            taken[i] = cost.held
    fold = [took < cost.held for took, cost in zip(taken, costs, strict=True)]
    spare = max(0, limit - sum(taken)) // max(1, sum(fold))
    rooms = [cost.least + spare if folds else None for folds, cost in zip(fold, costs, strict=True)]
    return rooms, sum(taken) + spare * sum(fold)
