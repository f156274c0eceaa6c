"""Moments of the training images: kept as features, folded batch by batch, and merged (Chan's update)."""

from __future__ import annotations

import torch
from work import EMBEDDINGS, Measure, features, nbytes

from padim_bench.padim.moments import TrainingMoments

BATCH, D = 32, 100
EMBEDDING = EMBEDDINGS[D]
STATE = EMBEDDING.n_positions * (8 * D + 4 * D * D)  # mean in float64, scatter in float32


def folded(seed: int) -> TrainingMoments:
    """Folds whatever it is given at once."""
    moments = TrainingMoments(EMBEDDING, torch.float64, memory_limit=0)
    moments.update(EMBEDDING.select(features(EMBEDDING, BATCH, seed)))
    return moments


def test_keep(measure: Measure, threads: int) -> None:
    selected = EMBEDDING.select(features(EMBEDDING, BATCH))

    def keep() -> TrainingMoments:
        moments = TrainingMoments(EMBEDDING, torch.float64, memory_limit=1 << 40)
        moments.update(selected)
        return moments

    group = f"Keep a batch of {BATCH}, d = {D}, 3136 positions"
    assert measure(keep, group=group, label="keep the features", moved=nbytes(selected)).n == BATCH


def test_fold(measure: Measure, threads: int) -> None:
    moments, selected = folded(0), EMBEDDING.select(features(EMBEDDING, BATCH, 1))
    measure(
        moments.update,
        selected,
        group=f"Fold a batch of {BATCH} into moments, d = {D}, 3136 positions",
        label="fold into mean and scatter",
        flops=EMBEDDING.n_positions * BATCH * D**2,
        moved=2 * STATE + nbytes(selected),
        dtype="float64",
    )
    assert moments.n % BATCH == 0


def test_merge(measure: Measure, threads: int) -> None:
    moments, other = folded(0), folded(1)
    group = f"Merge two folded moments, d = {D}, 3136 positions"
    measure(moments.merge, other, group=group, label="merge", flops=0, moved=3 * STATE)
    assert other.n == BATCH
