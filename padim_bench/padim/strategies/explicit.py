"""The dense inverse covariance, through Cholesky: the "explicit inverse", done safely."""

from __future__ import annotations

import torch
from torch import Tensor

from padim_bench.padim.strategies.base import PositionChunk, State, Strategy
from padim_bench.padim.strategies.products import product


def fit(chunk: PositionChunk) -> State:
    return {"precision": torch.cholesky_inverse(chunk.cholesky())}


def apply(state: State, delta: Tensor, epsilon: float) -> Tensor:
    return (delta * product(state["precision"], delta)).sum(dim=1)


STRATEGY = Strategy(
    name="explicit",
    summary="dense inverse covariance, computed through Cholesky; one product when scoring",
    exact=True,
    fit=fit,
    apply=apply,
    shapes=lambda n, d: {"precision": (d, d)},
    products=True,
)
