"""The distance in the space of the n training images, without any d x d matrix.

With Y the n - 1 rows of centred embeddings over sqrt(n - 1), Sigma = Y^T Y + epsilon I, and the squared
distance is the value of a ridge regression of delta on the training images:

    delta^T Sigma^-1 delta = min over z of |delta - Y^T z|^2 / epsilon + |z|^2,
    at z = A^-1 Y delta, A = Y Y^T + epsilon I of side n - 1.

Stored are Y and W, the inverse Cholesky factor of A. A sum of squares: never negative. At a minimum an
error of z counts only by its square, and one step of refinement takes most of it away, whatever W was
rounded to: so float32 serves for fitting too, and a fit is one product and one small factorisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from padim_bench.padim.strategies import triangular
from padim_bench.padim.strategies.base import PositionChunk, State, Strategy, cholesky_factor
from padim_bench.padim.strategies.woodbury import image_rows, principal_rows


def fit(chunk: PositionChunk) -> State:
    rows = image_rows(chunk)
    if rows is None:
        rows = principal_rows(chunk)[1].contiguous()
    gram = torch.bmm(rows, rows.mT)
    gram.diagonal(dim1=1, dim2=2).add_(chunk.epsilon)
    factor = cholesky_factor(gram, chunk.epsilon)
    return {
        "rows": rows,
        **triangular.trimmed(triangular.triangular_inverse(factor), "factor"),
    }


def apply(state: State, delta: Tensor, epsilon: float) -> Tensor:
    rows, images = state["rows"], delta.mT
    z = _solve(state, torch.bmm(images, rows.mT))
    rest = torch.baddbmm(images, z, rows, alpha=-1)
    z += _solve(state, torch.bmm(rest, rows.mT) - epsilon * z)
    rest = torch.baddbmm(images, z, rows, alpha=-1)
    return rest.square().sum(dim=2) / epsilon + z.square().sum(dim=2)


def _solve(state: State, right: Tensor) -> Tensor:
    """A^-1 applied to rows: right W^T W."""
    solution = torch.zeros_like(right)
    for rows, block in triangular.blocks_of(state, "factor"):
        solution[:, :, : rows.stop].baddbmm_(torch.bmm(right[:, :, : rows.stop], block.mT), block)
    return solution


def _shapes(n: int, d: int) -> dict[str, tuple[int, ...]]:
    rank = min(n - 1, d)
    return {"rows": (rank, d), **triangular.shapes(rank, "factor")}


STRATEGY = Strategy(
    name="dual",
    summary="rows of centred embeddings and a factor of side n - 1; fastest to fit when n < d / 2; never negative",
    exact=True,
    fit=fit,
    apply=apply,
    shapes=_shapes,
    fits_in_float32=lambda n, d: n - 1 <= d,  # beyond, rows are eigenvectors, whose errors count in full
)
