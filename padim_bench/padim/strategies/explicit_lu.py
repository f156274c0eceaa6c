"""The dense inverse by batched LU: what public code does, kept as the guarded baseline.

Batched ``torch.linalg.inv`` is wrong on multi-threaded CPUs, mostly without an exception
(pytorch#142815, #141358, #181570). So the residual of every matrix is measured, and a bad one raises.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from padim_bench.errors import StrategyInvalidError
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


@contextmanager
def native_output_silenced() -> Iterator[None]:
    """Keeps a library's own prints (oneMKL writes thousands of lines here) off standard output and error."""
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else lambda _: 0
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        flush(None)
        for fd, _ in saved:
            os.dup2(nowhere, fd)
        yield
    finally:
        flush(None)
        for fd, copy in saved:
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)


def fit(chunk: PositionChunk) -> State:
    sigma = chunk.covariance()
    try:
        with native_output_silenced():
            inverse = torch.linalg.inv(sigma)
    except RuntimeError as error:  # includes LinAlgError
        raise _invalid(f"raised {str(error).splitlines()[0]!r}") from error
    residual = inverse_residual(sigma, inverse)
    if residual > RESIDUAL_LIMIT:
        raise _invalid(f"left |Sigma Sigma^-1 - I| = {residual:.3g}")
    return {"precision": inverse}


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
