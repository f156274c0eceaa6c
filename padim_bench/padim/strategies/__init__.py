"""Strategies: interchangeable representations of the inverse covariance (equation 2), in one registry.

To add one, write a module with a ``STRATEGY`` and name it in ``_MODULES``: it is then listed, tested,
timed and tabled.
"""

from __future__ import annotations

import torch

from padim_bench.errors import PadimBenchError
from padim_bench.padim.strategies import cholesky, diagonal, dual, explicit, explicit_lu, whitening, woodbury
from padim_bench.padim.strategies.base import PositionChunk, State, Strategy, working_dtype

_MODULES = (explicit, explicit_lu, cholesky, whitening, woodbury, dual, diagonal)

STRATEGIES: dict[str, Strategy] = {m.STRATEGY.name: m.STRATEGY for m in _MODULES}
STORAGE_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def strategy_names() -> tuple[str, ...]:
    """What ``PaDiM(strategy=...)`` takes: those of the registry, and "auto"."""
    return (*STRATEGIES, "auto")


def get_strategy(name: str, n_images: int, n_features: int) -> Strategy:
    """The strategy of that name; "auto" is the exact one that stores least for (n, d).

    Raises PadimBenchError for an unknown name.
    """
    if name == "auto":
        candidates = [s for s in STRATEGIES.values() if s.exact and s.automatic]
        return min(candidates, key=lambda s: s.n_values(n_images, n_features))
    if name not in STRATEGIES:
        raise PadimBenchError(f"unknown strategy {name!r}: choose one of {', '.join(strategy_names())}")
    return STRATEGIES[name]


__all__ = [
    "STORAGE_DTYPES",
    "STRATEGIES",
    "PositionChunk",
    "State",
    "Strategy",
    "get_strategy",
    "strategy_names",
    "working_dtype",
]
