"""Is this machine's linear algebra right? Found out by running it, apart, with a limit on everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from padim_bench.machine import apart
from padim_bench.machine.environment import environment
from padim_bench.machine.features import mkl_kernel

DIMENSIONS = (100, 200, 550)
BATCH, IMAGES = 8, 209
# All of it, whatever hangs; what is left over by then is told as not tried.
BUDGET_S = 45.0
LIMITS = {torch.float32: 1e-2, torch.float64: 1e-8}  # of a residual
DTYPES = tuple(LIMITS)
Check = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One operation of linear algebra over a batch of covariances like PaDiM's.

    Attributes:
        name: in words.
        flops: of one matrix of side d, over d^3.
        used_by: the strategies that need it.
        run: covariances (P, D, D) -> what it gives; called apart, by its name in this module.
        residual: (covariances, what it gave) -> what should be zero; computed here, by products alone.
        patience_s: beside the time for its flops. Short for what is known to hang, so that there is time for all.
    """

    name: str
    flops: float
    used_by: tuple[str, ...]
    run: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
    residual: Callable[[Tensor, Sequence[Tensor]], Tensor]
    patience_s: float = 15


def run_lu(sigma: Tensor) -> tuple[Tensor, ...]:
    lu, pivots = torch.linalg.lu_factor(sigma)
    return lu, pivots


def run_inverse(sigma: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(sigma)
    return inverse


def run_cholesky(sigma: Tensor) -> Tensor:
    factor: Tensor = torch.linalg.cholesky(sigma)
    return factor


def run_triangular(sigma: Tensor) -> Tensor:
    """Of the lower triangles: (P, D, 4), of a right side of ones."""
    solution: Tensor = torch.linalg.solve_triangular(sigma.tril(), torch.ones_like(sigma[:, :, :4]), upper=False)
    return solution


def run_eigh(sigma: Tensor) -> tuple[Tensor, ...]:
    values, vectors = torch.linalg.eigh(sigma)
    return values, vectors


def _residual_lu(sigma: Tensor, given: Sequence[Tensor]) -> Tensor:
    p, lower, upper = torch.lu_unpack(given[0], given[1])
    return p @ lower @ upper - sigma


def _residual_triangular(sigma: Tensor, given: Sequence[Tensor]) -> Tensor:
    """Relative to the terms of each sum: the solution of a lower triangle may be large."""
    lower = sigma.tril()
    terms = lower.abs() @ given[0].abs()
    return (lower @ given[0] - 1) / terms


# The faulty ones last: what they do to the clock and to their process is then nobody else's.
OPERATIONS = (
    Operation(
        "batched Cholesky", 1 / 3, ("explicit", "cholesky", "whitening", "dual"), run_cholesky,
        lambda sigma, given: given[0] @ given[0].mT - sigma,
    ),
    Operation(
        "batched triangular solve", 0.01, ("cholesky", "whitening", "dual"), run_triangular, _residual_triangular,
    ),
    Operation(
        "batched eigh", 9, ("woodbury",), run_eigh,
        lambda sigma, given: (given[1] * given[0].unsqueeze(1)) @ given[1].mT - sigma,
    ),
    Operation("batched LU", 2 / 3, ("explicit-lu",), run_lu, _residual_lu, 6),
    Operation(
        "batched inverse", 2, ("explicit-lu",), run_inverse,
        lambda sigma, given: sigma @ given[0] - torch.eye(sigma.shape[-1], dtype=sigma.dtype), 6,
    ),
)  # fmt: skip


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Versions and hardware, with MKL's own word on it."""
    found = environment(device) | {"threads": threads, "mkl": mkl_kernel()}
    found["parallel"] = [line.strip() for line in torch.__config__.parallel_info().splitlines() if "threads" in line]
    found["cuda_available"] = torch.cuda.is_available()
    return found


def checks(threads: int, device: str = "cpu", *, budget_s: float = BUDGET_S) -> Iterator[Check]:
    """A verdict per (operation, dimension, dtype), each as soon as it is known.

    Each is {"operation", "d", "dtype", "right", "residual", "problem"}; "right" is None where it was not tried,
    after a smaller one that did not return, or because ``budget_s`` seconds had passed.
    """
    until = time.monotonic() + budget_s
    for operation in OPERATIONS:
        hung: dict[torch.dtype, int] = {}
        wrong = False
        for d, dtype in product(DIMENSIONS, DTYPES):
            about: Check = {"operation": operation.name, "d": d, "dtype": str(dtype).removeprefix("torch.")}
            limit_s = operation.patience_s + BATCH * operation.flops * d**3 / 1e9
            untried = (
                f"it did not return at d = {hung[dtype]}"
                if dtype in hung
                else f"{budget_s:g} s are over"
                if time.monotonic() + limit_s > until
                else None
            )
            if untried:
                yield about | {"right": None, "residual": None, "problem": f"not tried: {untried}"}
                continue
            verdict, returned = _check(operation, d, dtype, threads, device, limit_s)
            wrong = wrong or not verdict["right"]
            if not returned:
                hung[dtype] = d
            yield about | verdict
        if wrong:
            apart.end()  # it may have written anywhere in its process


def _check(
    operation: Operation, d: int, dtype: torch.dtype, threads: int, device: str, limit_s: float
) -> tuple[Check, bool]:
    """The verdict, and whether the operation returned at all."""
    x = torch.randn(BATCH, IMAGES, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    # Eigenvalues from 0.01 to about 5.
    sigma = (x.mT @ x / (IMAGES - 1) + 0.01 * torch.eye(d, dtype=torch.float64)).to(dtype)
    function = f"{__name__}:{operation.run.__name__}"
    try:
        given = apart.call(function, [sigma], limit_s=limit_s, threads=threads, device=device)
        residual = float(operation.residual(sigma, given).abs().max())
    except (apart.ApartError, RuntimeError) as error:  # pivots that are none make the residual raise
        problem = str(error).splitlines()[0]
        return {"right": False, "residual": None, "problem": problem}, not isinstance(error, apart.DidNotReturnError)
    return {"right": residual <= LIMITS[dtype], "residual": residual, "problem": None}, True


def advice(found: Sequence[Check]) -> str:
    """In a line, what to avoid on this machine."""
    wrong = {row["operation"] for row in found if row["right"] is False}
    bad = [o for o in OPERATIONS if o.name in wrong]
    untried = {row["operation"] for row in found if row["right"] is None} - wrong
    open_ = f"; not judged: {', '.join(o.name for o in OPERATIONS if o.name in untried)}" if untried else ""
    if not bad:
        return f"Nothing to avoid here: every operation that was tried is right{open_}."
    strategies = list(dict.fromkeys(name for operation in bad for name in operation.used_by))
    known = (
        " Batched torch.linalg.inv, solve and lu_factor are wrong, raise or hang on many CPUs (pytorch#142815): "
        "use Cholesky in your own code too."
        if "explicit-lu" in strategies
        else ""
    )
    operations = ", ".join(operation.name for operation in bad)
    return f"Avoid here: --strategy {', '.join(strategies)} ({operations}){open_}.{known}"
