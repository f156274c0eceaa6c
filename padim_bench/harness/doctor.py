"""Is this machine's linear algebra right? Found out by running it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from padim_bench.harness.records import to_json

DIMENSIONS = (100, 200, 550)
BATCH = 8
TIMEOUT_S = 120


def diagnose(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Versions, hardware and a verdict per (operation, dimension, dtype).

    Each operation runs in a process of its own: a faulty one may print thousands of lines, hang or crash.
    """
    import torch

    from padim_bench.harness.environment import environment

    found = environment(device)
    found["threads"] = threads
    found["parallel"] = [line.strip() for line in torch.__config__.parallel_info().splitlines() if "threads" in line]
    found["cuda_available"] = torch.cuda.is_available()
    return {"environment": found, "checks": [c for name in OPERATIONS for c in _check_apart(name, threads, device)]}


def _check_apart(name: str, threads: int, device: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "padim_bench.harness.doctor", name, str(threads), device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        # The answer is the last line; what comes before is the library's own complaints.
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        problem = f"did not finish in {TIMEOUT_S} s"
    except (json.JSONDecodeError, IndexError):
        problem = f"crashed with exit code {done.returncode}"
    return [{"operation": name, "d": None, "dtype": None, "right": False, "residual": None, "problem": problem}]


def _residual_lu(sigma: Any) -> Any:
    import torch

    lu, pivots = torch.linalg.lu_factor(sigma)
    p, lower, upper = torch.lu_unpack(lu, pivots)
    return p @ lower @ upper - sigma


def _residual_inverse(sigma: Any) -> Any:
    import torch

    return sigma @ torch.linalg.inv(sigma) - torch.eye(sigma.shape[-1], dtype=sigma.dtype, device=sigma.device)


def _residual_cholesky(sigma: Any) -> Any:
    import torch

    factor = torch.linalg.cholesky(sigma)
    return factor @ factor.mT - sigma


def _residual_triangular(sigma: Any) -> Any:
    import torch

    factor = torch.linalg.cholesky(sigma)
    right = torch.ones_like(sigma[:, :, :4])
    return factor @ torch.linalg.solve_triangular(factor, right, upper=False) - right


def _residual_eigh(sigma: Any) -> Any:
    import torch

    values, vectors = torch.linalg.eigh(sigma)
    return (vectors * values.unsqueeze(1)) @ vectors.mT - sigma


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "batched LU": _residual_lu,
    "batched inverse": _residual_inverse,
    "batched Cholesky": _residual_cholesky,
    "batched triangular solve": _residual_triangular,
    "batched eigh": _residual_eigh,
}


def _check(name: str, threads: int, device: str) -> list[dict[str, Any]]:
    """Residual of one operation over covariances like PaDiM's (eigenvalues from 0.01 to about 5)."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for d in DIMENSIONS:
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(BATCH, 209, d, generator=generator, dtype=torch.float64)
            sigma = (x.mT @ x / 208 + 0.01 * torch.eye(d, dtype=torch.float64)).to(device, dtype)
            row: dict[str, Any] = {"operation": name, "d": d, "dtype": str(dtype).removeprefix("torch.")}
            limit = 1e-2 if dtype == torch.float32 else 1e-8
            try:
                residual = float(OPERATIONS[name](sigma).abs().max())
                row |= {"right": residual <= limit, "residual": residual, "problem": None}
            except RuntimeError as error:
                row |= {"right": False, "residual": None, "problem": f"raised {str(error).splitlines()[0]!r}"}
            rows.append(row)
    return rows


if __name__ == "__main__":
    answer = _check(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    print()  # whatever a library has printed stands on lines of its own
    print(to_json(answer, indent=None))
