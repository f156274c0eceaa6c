"""Every strategy of the registry, one tile of positions like those of MVTec AD (n = 209) on one thread."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from work import IMAGES, Invalid, Measure

from padim_bench import STRATEGIES, StrategyInvalidError
from padim_bench.padim.equations import gaussian, mahalanobis
from padim_bench.padim.strategies import PositionChunk, State
from tests.peers.reference import FLOPS_PER_VALUE

POSITIONS = 28


@lru_cache(maxsize=1)
def chunk(d: int) -> PositionChunk:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POSITIONS, IMAGES, d, generator=generator, dtype=torch.float64)
    return PositionChunk(IMAGES, 0.01, centred=x - x.mean(dim=1, keepdim=True))


@lru_cache(maxsize=1)
def fitted(name: str, d: int) -> State:
    return {k: v.float() for k, v in STRATEGIES[name].fit(chunk(d)).items()}


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("d", [100, 448, 550])
def test_fit(measure: Measure, invalid: Invalid, d: int, name: str) -> None:
    strategy = STRATEGIES[name]
    try:
        state = measure(
            strategy.fit,
            chunk(d),
            group=f"Factorise {POSITIONS} positions, d = {d}, n = {IMAGES}, float64",
            label=name,
            lossy=not STRATEGIES[name].exact,
            flops=POSITIONS * (IMAGES * d**2 + d**3 / 3 if strategy.exact else 3 * IMAGES * d),
            moved=8 * POSITIONS * (IMAGES * d + strategy.n_values(IMAGES, d)),
            dtype="float64",
        )
    except StrategyInvalidError as error:
        invalid(f"{name}, d = {d}", error)
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("d", [100, 448, 550])
def test_apply(measure: Measure, invalid: Invalid, d: int, batch: int, name: str) -> None:
    strategy = STRATEGIES[name]
    try:
        state = fitted(name, d)
    except StrategyInvalidError as error:
        invalid(f"{name}, d = {d}", error)
    delta = torch.randn(POSITIONS, batch, d).mT  # as the model gathers it
    values = strategy.n_values(IMAGES, d)
    squared = measure(
        strategy.apply,
        state,
        delta,
        0.01,
        group=f"Distances of {POSITIONS} positions, d = {d}, batch {batch}, float32",
        label=name,
        lossy=not STRATEGIES[name].exact,
        flops=POSITIONS * batch * values * FLOPS_PER_VALUE.get(name, 2),
        moved=4 * POSITIONS * (values + (d + 1) * batch),
    )
    if strategy.exact:
        centred = chunk(d).centred
        assert centred is not None
        exact = mahalanobis(delta[0].mT, *gaussian(centred[0], 0.01)) ** 2
        torch.testing.assert_close(squared[0].double(), torch.from_numpy(exact), rtol=2e-5, atol=0)
