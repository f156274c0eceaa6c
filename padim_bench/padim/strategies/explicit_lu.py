"""The dense inverse by batched LU: what public code does, kept as the guarded baseline.

Batched ``torch.linalg.inv`` on several CPU threads is wrong, raises, or never returns (pytorch#142815, #141358,
#181570); with MKL here, once ``torch.set_num_threads`` has been called, with whatever number, and not before. So it
runs in a process of its own with a time limit, and the residual of every matrix is measured.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from padim_bench.errors import StrategyInvalidError
from padim_bench.machine import apart
from padim_bench.padim.strategies import explicit
from padim_bench.padim.strategies.base import PositionChunk, State, Strategy

# Honest float32 residuals stay under 1e-2 for PaDiM's covariances; the fault gives 10 to 1e4.
RESIDUAL_LIMIT = 0.1


def inverse_residual(sigma: Tensor, inverse: Tensor) -> float:
    """Largest entry of |Sigma Sigma^-1 - I| over a batch (P, D, D); infinity if anything is not finite."""
    product = torch.bmm(sigma, inverse)
    product.diagonal(dim1=1, dim2=2).sub_(1)
    largest = float(product.abs().max())
    return largest if math.isfinite(largest) else float("inf")


def batched_inverse(sigma: Tensor) -> Tensor:
    """Inverses (P, D, D) of ``sigma``, as public code computes them: not to be called on a CPU but apart."""
    inverse: Tensor = torch.linalg.inv(sigma)
    return inverse


def fit(chunk: PositionChunk) -> State:
    sigma = chunk.covariance()
    try:
        inverse = batched_inverse(sigma) if sigma.is_cuda else _inverse_apart(sigma)
    except (RuntimeError, apart.ApartError) as error:  # includes LinAlgError
        what = str(error).splitlines()[0]
        raise _invalid(what if isinstance(error, apart.ApartError) else f"raised {what!r}") from error
    residual = inverse_residual(sigma, inverse)
    if residual > RESIDUAL_LIMIT:
        apart.end()  # what gave this may have written anywhere in its process
        raise _invalid(f"left |Sigma Sigma^-1 - I| = {residual:.3g}")
    return {"precision": inverse}


def _inverse_apart(sigma: Tensor) -> Tensor:
    limit_s = apart.time_limit(2 * len(sigma) * sigma.shape[1] ** 3)
    (inverse,) = apart.call(f"{__name__}:batched_inverse", [sigma], limit_s=limit_s)
    return inverse


def _invalid(what: str) -> StrategyInvalidError:
    return StrategyInvalidError(
        f"explicit-lu is wrong here: batched torch.linalg.inv (torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads) {what}; pytorch#142815: use another strategy, or --threads 1"
    )


STRATEGY = Strategy(
    name="explicit-lu",
    summary="dense inverse by batched LU, as public code does; guarded baseline, wrong on many CPUs",
    exact=True,
    fit=fit,
    apply=explicit.apply,
    shapes=lambda n, d: {"precision": (d, d)},
    automatic=False,
    all_threads=True,  # as public code runs it; on one thread it would be right
)
