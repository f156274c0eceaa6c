"""The Cholesky factor of the covariance; scoring solves a triangular system."""

from __future__ import annotations

import torch
from torch import Tensor

from padim_bench.padim.strategies.base import PositionChunk, State, Strategy


def fit(chunk: PositionChunk) -> State:
    return {"factor": chunk.cholesky()}


def apply(state: State, delta: Tensor, epsilon: float) -> Tensor:
    whitened: Tensor = torch.linalg.solve_triangular(state["factor"], delta, upper=False)
    return whitened.square().sum(dim=1)


STRATEGY = Strategy(
    name="cholesky",
    summary="lower Cholesky factor; triangular solve when scoring; never negative",
    exact=True,
    fit=fit,
    apply=apply,
    shapes=lambda n, d: {"factor": (d, d)},
)
