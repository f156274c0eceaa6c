"""Every strategy of the registry: factorise and score positions like those of MVTec AD (n = 209)."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from padim_bench import STRATEGIES, StrategyInvalidError
from padim_bench.padim.strategies import PositionChunk, State

POSITIONS, IMAGES = 28, 209


def chunk(d: int) -> PositionChunk:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POSITIONS, IMAGES, d, generator=generator, dtype=torch.float64)
    return PositionChunk(IMAGES, 0.01, centred=x - x.mean(dim=1, keepdim=True))


def fitted(name: str, d: int) -> State:
    try:
        return STRATEGIES[name].fit(chunk(d))
    except StrategyInvalidError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("d", [100, 448, 550])
def test_fit(benchmark: BenchmarkFixture, d: int, name: str) -> None:
    benchmark.group = f"fit, d = {d}, float64, {POSITIONS} positions"
    fitted(name, d)
    given = chunk(d)
    state = benchmark.pedantic(STRATEGIES[name].fit, args=(given,), rounds=5, warmup_rounds=1)
    benchmark.extra_info["values_per_position"] = sum(t[0].numel() for t in state.values())


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("d", [100, 448, 550])
def test_apply(benchmark: BenchmarkFixture, d: int, batch: int, name: str) -> None:
    benchmark.group = f"distances, d = {d}, batch {batch}, float32, {POSITIONS} positions"
    state = {k: v.float() for k, v in fitted(name, d).items()}
    delta = torch.randn(POSITIONS, d, batch)
    squared = benchmark(STRATEGIES[name].apply, state, delta)
    assert (squared >= 0).all()
