"""The inverse Cholesky factor W = L^-1: the distance is |W (x - mu)|^2, one product, never negative."""

from __future__ import annotations

import torch
from torch import Tensor

from padim_bench.padim.strategies import triangular
from padim_bench.padim.strategies.base import PositionChunk, State, Strategy
from padim_bench.padim.strategies.products import product


def fit(chunk: PositionChunk) -> State:
    return triangular.trimmed(triangular.triangular_inverse(chunk.cholesky()), "rows")


def apply(state: State, delta: Tensor, epsilon: float) -> Tensor:
    total = torch.zeros_like(delta[:, 0], dtype=torch.promote_types(delta.dtype, torch.float32))
    for rows, block in triangular.blocks_of(state, "rows"):
        total += product(block, delta[:, : rows.stop]).to(total.dtype).square().sum(dim=1)
    return total


STRATEGY = Strategy(
    name="whitening",
    summary="inverse Cholesky factor, as trimmed blocks of rows; one product when scoring; never negative",
    exact=True,
    fit=fit,
    apply=apply,
    shapes=lambda n, d: triangular.shapes(d, "rows"),
    products=True,
    native=True,
)
