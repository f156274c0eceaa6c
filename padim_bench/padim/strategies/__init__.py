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


# Largest relative error of a squared distance against float64 that a storage dtype is allowed: rounding, and no
# more: what docs/methods.md promises, and the tests on real features hold every exact strategy to.
GATES = {"float64": 1e-9, "float32": 2e-5, "float16": 5e-3, "bfloat16": 4e-2}

# Of the smallest state, up to which "auto" may take one that is multiplied as it lies instead.
AUTO_FACTOR = 1.5
AUTO = (
    f"the exact one that stores least; whitening, up to {AUTO_FACTOR:g} times that, "
    "where half precision is multiplied as it lies"
)


def get_strategy(name: str, n_images: int, n_features: int, *, native: bool = False) -> Strategy:
    """The strategy of that name for (n, d); "auto" is the exact one that stores least.

    With ``native``, for storage that this machine multiplies as it lies (``half.multiplies``), it is the one that is
    made for that where it stores at most ``AUTO_FACTOR`` times as much, which takes a third of the time; widened first
    it would take twice as long as the smallest.

    Raises PadimBenchError for an unknown name.
    """
    if name == "auto":
        candidates = [s for s in STRATEGIES.values() if s.exact and s.automatic]
        sizes = {s: s.n_values(n_images, n_features) for s in candidates}
        smallest = min(sizes.values())
        made_for_it = [s for s in candidates if s.native and sizes[s] <= AUTO_FACTOR * smallest]
        return min(made_for_it if native and made_for_it else candidates, key=sizes.__getitem__)
    if name not in STRATEGIES:
        raise PadimBenchError(f"unknown strategy {name!r}: choose one of {', '.join(strategy_names())}")
    return STRATEGIES[name]


__all__ = [
    "AUTO",
    "AUTO_FACTOR",
    "GATES",
    "STORAGE_DTYPES",
    "STRATEGIES",
    "PositionChunk",
    "State",
    "Strategy",
    "get_strategy",
    "strategy_names",
    "working_dtype",
]
