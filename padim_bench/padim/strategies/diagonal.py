"""Variances only: the lossy baseline of PaDiM-Lite (arXiv:2603.20288)."""

from __future__ import annotations

from torch import Tensor

from padim_bench.padim.strategies.base import PositionChunk, State, Strategy


def fit(chunk: PositionChunk) -> State:
    if chunk.centred is not None:
        variances = chunk.centred.square().sum(dim=1)
    else:
        assert chunk.scatter is not None
        variances = chunk.scatter.diagonal(dim1=1, dim2=2).clone()
    return {"variances": variances / chunk.freedom + chunk.epsilon}


def apply(state: State, delta: Tensor, epsilon: float) -> Tensor:
    return (delta.square() / state["variances"].unsqueeze(2)).sum(dim=1)


STRATEGY = Strategy(
    name="diagonal",
    summary="variances only; lossy baseline",
    exact=False,
    fit=fit,
    apply=apply,
    shapes=lambda n, d: {"variances": (d,)},
    automatic=False,
)
