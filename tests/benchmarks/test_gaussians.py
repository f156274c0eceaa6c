"""Fits and distances as the model makes them: all positions, tile by tile, on one and several threads."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from work import IMAGES, TIMED, Invalid, Measure, features, nbytes

from padim_bench import STRATEGIES, StrategyInvalidError
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from tests.peers.reference import FLOPS_PER_VALUE

every_strategy = pytest.mark.parametrize("name", list(STRATEGIES))


@lru_cache(maxsize=2)
def moments(d: int) -> TrainingMoments:
    kept = TrainingMoments(TIMED[d], torch.float64, memory_limit=1 << 40)
    for seed in range(IMAGES // 19):
        kept.update(TIMED[d].select(features(TIMED[d], 19, seed)))
    return kept


@lru_cache(maxsize=1)
def fitted(name: str, d: int, storage: str, threads: int) -> PatchGaussians:
    """``threads`` for the cache: not every strategy is right on all of them."""
    assert threads == torch.get_num_threads()
    return fit_gaussians(moments(d), epsilon=0.01, strategy=name, storage=storage)


@every_strategy
@pytest.mark.parametrize("d", list(TIMED))
def test_fit_gaussians(measure: Measure, invalid: Invalid, d: int, name: str, threads: int) -> None:
    def fit() -> PatchGaussians:
        return fit_gaussians(moments(d), epsilon=0.01, strategy=name)

    moments(d)
    positions, strategy = TIMED[d].n_positions, STRATEGIES[name]
    try:
        result = measure(
            fit,
            group=f"Fit {positions} positions from features, d = {d}, n = {IMAGES}",
            label=name,
            lossy=not STRATEGIES[name].exact,
            flops=positions * (IMAGES * d**2 + d**3 / 3 if strategy.exact else 3 * IMAGES * d),
            moved=positions * (4 * IMAGES * d + 4 * strategy.n_values(IMAGES, d)),
            dtype="float64",
        )
    except StrategyInvalidError as error:
        invalid(f"{name}, d = {d}", error)
    assert not strategy.exact or result.residual < 1e-4


@pytest.mark.parametrize("batch", [1, 32])
@every_strategy
@pytest.mark.parametrize(("d", "storage"), [(100, "float32"), (550, "float32"), (550, "float16")])
def test_squared_distances(
    measure: Measure, invalid: Invalid, d: int, storage: str, name: str, batch: int, threads: int
) -> None:
    try:
        gaussians = fitted(name, d, storage, threads)
    except StrategyInvalidError as error:
        invalid(f"{name}, d = {d}", error)
    selected = TIMED[d].select(features(TIMED[d], batch, seed=99))
    positions, values = TIMED[d].n_positions, STRATEGIES[name].n_values(IMAGES, d)
    squared = measure(
        gaussians.squared_distances,
        selected,
        group=f"Distances of {positions} positions from features, d = {d}, batch {batch}, stored in {storage}",
        label=name,
        lossy=not STRATEGIES[name].exact,
        flops=positions * batch * values * FLOPS_PER_VALUE.get(name, 2),
        moved=gaussians.state_bytes + nbytes(selected) + 4 * positions * batch,
        state_bytes=gaussians.state_bytes,
    )
    assert gaussians.clamped == 0
    assert torch.isfinite(squared).all()
