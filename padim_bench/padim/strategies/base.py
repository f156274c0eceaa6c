"""What a strategy is: how the inverse covariance of each position is represented and applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from padim_bench.errors import StrategyInvalidError

State = dict[str, Tensor]


@dataclass(frozen=True)
class PositionChunk:
    """The training moments of some positions: the centred embeddings, or their scatter.

    Attributes:
        n: number of training images.
        epsilon: added to the diagonal of the covariance.
        centred: x - mean, (P, n, D), when the embeddings are at hand.
        scatter: sum over images of (x - mean)(x - mean)^T, (P, D, D), when they are not.
    """

    n: int
    epsilon: float
    centred: Tensor | None = None
    scatter: Tensor | None = None

    def covariance(self) -> Tensor:
        """Equation 1 of the paper: scatter / (n - 1) + epsilon I, (P, D, D). The caller may overwrite it."""
        if self.centred is not None:
            sigma = torch.bmm(self.centred.mT, self.centred)
        else:
            assert self.scatter is not None
            sigma = self.scatter.clone()
        sigma /= self.n - 1
        sigma.diagonal(dim1=1, dim2=2).add_(self.epsilon)
        return sigma

    def cholesky(self) -> Tensor:
        """Lower L with L L^T = covariance. Raises StrategyInvalidError if it is not positive definite."""
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(self.covariance())
        if info.any():
            raise StrategyInvalidError(
                f"covariance is not positive definite at {int((info != 0).sum())} positions "
                f"with epsilon {self.epsilon:g}: raise epsilon, or use float64"
            )
        return factor


@dataclass(frozen=True)
class Strategy:
    """One way to hold and apply the inverse covariance of every position.

    Attributes:
        name: as in ``PaDiM(strategy=...)``.
        summary: what it stores, for listings.
        exact: whether it gives equation 2 up to rounding.
        fit: chunk -> state, tensors of P leading positions in the compute dtype.
        apply: state, delta (P, D, B) = x - mean -> squared Mahalanobis distances (P, B).
        n_values: (n images, D) -> numbers stored per position.
        automatic: whether "auto" may choose it.
        all_threads: fitted with all of torch's threads on one tile at a time, not a thread to a tile.
    """

    name: str
    summary: str
    exact: bool
    fit: Callable[[PositionChunk], State]
    apply: Callable[[State, Tensor], Tensor]
    n_values: Callable[[int, int], int]
    automatic: bool = True
    all_threads: bool = False
