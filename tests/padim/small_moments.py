"""Moments of a few drawn images on a small grid of two layers, and what is read from moments."""

from __future__ import annotations

import torch
from torch import Tensor

from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.tiling import MEASURED, Tiling

EMBEDDING = PatchEmbedding((6, 10), ((8, 8), (4, 4)), draw_channels(16, 12, 3))


def features(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Far from zero, where E[xx'] - mm' would lose everything in float32.
    return [100 + torch.randn(n, c, *g, generator=generator) for c, g in zip((6, 10), ((8, 8), (4, 4)), strict=True)]


def moments_of(*batches: list[Tensor], limit: int = 1 << 30, tiling: Tiling = MEASURED) -> TrainingMoments:
    moments = TrainingMoments(EMBEDDING, torch.float64, limit, tiling)
    for batch in batches:
        moments.update(EMBEDDING.select(batch))
    return moments


def covariances(moments: TrainingMoments) -> tuple[Tensor, Tensor]:
    """Means and covariances of all positions."""
    read = [(mean, chunk.covariance()) for group in moments.groups() for _, mean, chunk in moments.read(group, 0.01)]
    return torch.cat([mean for mean, _ in read]), torch.cat([covariance for _, covariance in read])
