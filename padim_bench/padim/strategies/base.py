"""What a strategy is: how the inverse covariance of each position is represented and applied."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from padim_bench.errors import StrategyInvalidError

State = dict[str, Tensor]


def working_dtype(storage: torch.dtype) -> torch.dtype:
    """In which means are kept, and what is stored in ``storage`` is applied."""
    return torch.float64 if storage == torch.float64 else torch.float32


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

    @property
    def freedom(self) -> int:
        """What the scatter is divided by: n - 1; of one image, whose scatter is 0, 1: its covariance is epsilon I."""
        return max(self.n - 1, 1)

    def covariance(self, *, lower: bool = False) -> Tensor:
        """Equation 1 of the paper: scatter / (n - 1) + epsilon I, (P, D, D). The caller may overwrite it.

        With ``lower`` little more than the lower triangle is computed, which is what a factorisation reads.
        """
        if self.centred is not None:
            sigma = _gram(self.centred, blocks=4 if lower and self.centred.shape[2] >= _WORTH_HALVING else 1)
        else:
            assert self.scatter is not None
            sigma = self.scatter.clone()
        sigma /= self.freedom
        sigma.diagonal(dim1=1, dim2=2).add_(self.epsilon)
        return sigma

    def cholesky(self) -> Tensor:
        """Lower L with L L^T = covariance. Raises StrategyInvalidError if it is not positive definite."""
        return cholesky_factor(self.covariance(lower=True), self.epsilon)


# Four products of blocks cost more than they save on smaller matrices.
_WORTH_HALVING = 200


def _gram(x: Tensor, blocks: int) -> Tensor:
    """x^T x of (P, n, D); of several blocks of rows, each without what lies right of its diagonal block."""
    if blocks == 1:
        return torch.bmm(x.mT, x)
    d = x.shape[2]
    gram = x.new_zeros(len(x), d, d)
    edges = [d * i // blocks for i in range(blocks + 1)]
    for start, end in pairwise(edges):
        gram[:, start:end, :end] = torch.bmm(x[:, :, start:end].mT, x[:, :, :end])
    return gram


def cholesky_factor(matrices: Tensor, epsilon: float) -> Tensor:
    """Lower Cholesky factors of (P, d, d), whose lower triangles are read.

    Raises StrategyInvalidError, with the ``epsilon`` on their diagonals, if one is not positive definite.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrices)
    if info.any():
        raise StrategyInvalidError(
            f"covariance is not positive definite at {int((info != 0).sum())} positions "
            f"with epsilon {epsilon:g}: raise epsilon, or use float64"
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
        apply: state, delta (P, D, B) = x - mean, epsilon -> squared Mahalanobis distances (P, B), never negative
            but for rounding. ``delta.mT`` is contiguous; with wide matrices products with it on the left are many
            times faster.
        shapes: (n images, D) -> the state's tensors by name, each as it is at one position.
        automatic: whether "auto" may choose it.
        fits_in_float32: (n images, D) -> whether ``fit`` needs no more, whatever the compute dtype.
        all_threads: fitted with all of torch's threads on one tile at a time, not a thread to a tile.
        products: applied by large products alone, which torch's threads share without loss.
        native: whether ``apply`` keeps its accuracy in the half precision of the storage too, where the state is not
            widened and ``delta`` is rounded to it: one product, whose errors average out in a sum of squares.
    """

    name: str
    summary: str
    exact: bool
    fit: Callable[[PositionChunk], State]
    apply: Callable[[State, Tensor, float], Tensor]
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]
    automatic: bool = True
    fits_in_float32: Callable[[int, int], bool] = lambda n, d: False
    all_threads: bool = False
    products: bool = False
    native: bool = False

    def n_values(self, n: int, d: int) -> int:
        """Numbers stored per position, of n images and D dimensions."""
        return sum(math.prod(shape) for shape in self.shapes(n, d).values())

    def stored(self, n: int, d: int, storage: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """The state's tensors by name, each as it is at one position: its shape, and the dtype it is kept in."""
        return {name: (shape, storage) for name, shape in self.shapes(n, d).items()}

    def state_bytes(self, n: int, d: int, storage: torch.dtype) -> int:
        """Bytes of the state and the mean at one position, fitted to n images in D dimensions."""
        kept = self.stored(n, d, storage).values()
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in kept) + d * working_dtype(storage).itemsize
