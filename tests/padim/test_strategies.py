"""Every strategy of the registry, against squared Mahalanobis distances in float64."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from padim_bench import STRATEGIES, PadimBenchError, StrategyInvalidError
from padim_bench.padim.equations import distances
from padim_bench.padim.strategies import PositionChunk, get_strategy
from padim_bench.padim.strategies.explicit_lu import inverse_residual
from padim_bench.padim.strategies.triangular import blocks_of, shapes, triangular_inverse, trimmed

EXACT = [name for name, s in STRATEGIES.items() if s.exact]
# Batched LU is wrong on some machines; there its guard raises, and nothing is left to compare.
LU_MAY_RAISE = {"explicit-lu"}


def training(p: int, n: int, d: int, seed: int = 0) -> Tensor:
    """Centred embeddings with a decaying spectrum, as features have."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(p, n, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, d, dtype=torch.float64)
    return x - x.mean(dim=1, keepdim=True)


def reference(x: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    """Equation 2, squared, of differences (P, D, B) from the mean of centred embeddings (P, n, D): (P, B)."""
    exact = distances(x.permute(1, 2, 0), delta.permute(2, 1, 0), epsilon) ** 2
    return torch.from_numpy(exact.T)


def relative_error(name: str, chunk: PositionChunk, delta: Tensor, exact: Tensor, storage: torch.dtype) -> float:
    strategy = STRATEGIES[name]
    try:
        state = strategy.fit(chunk)
    except StrategyInvalidError:
        assert name in LU_MAY_RAISE
        pytest.skip("batched LU is wrong on this machine, and the guard says so")
    working = torch.float64 if storage == torch.float64 else torch.float32
    widened = {k: v.to(storage).to(working) for k, v in state.items()}
    squared = strategy.apply(widened, delta.to(working), chunk.epsilon).double()
    return float(((squared - exact) / exact).abs().max())


@pytest.mark.parametrize("n", [40, 130], ids=["n < d", "n > d"])
@pytest.mark.parametrize("source", ["embeddings", "scatter"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_strategies_equal_float64(name: str, source: str, n: int, threads: int) -> None:
    x, epsilon = training(5, n, 100), 0.01
    delta = torch.randn(5, 100, 7, dtype=torch.float64)
    chunk = (
        PositionChunk(n, epsilon, centred=x)
        if source == "embeddings"
        else PositionChunk(n, epsilon, scatter=torch.bmm(x.mT, x))
    )
    exact = reference(x, delta, epsilon)
    assert relative_error(name, chunk, delta, exact, torch.float64) < 1e-9
    assert relative_error(name, chunk, delta, exact, torch.float32) < 2e-5
    assert relative_error(name, chunk, delta, exact, torch.float16) < 5e-3
    assert relative_error(name, chunk, delta, exact, torch.bfloat16) < 4e-2


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from([n for n in EXACT if n not in LU_MAY_RAISE]),
    p=st.integers(1, 3),
    n=st.integers(1, 40),
    d=st.integers(1, 70),
    b=st.integers(1, 3),
    epsilon=st.sampled_from([1e-3, 0.01, 1.0]),
    seed=st.integers(0, 1000),
)
def test_any_shape_equals_float64(name: str, p: int, n: int, d: int, b: int, epsilon: float, seed: int) -> None:
    x = training(p, n, d, seed)
    delta = torch.randn(p, d, b, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    exact = reference(x, delta, epsilon)
    assert relative_error(name, PositionChunk(n, epsilon, centred=x), delta, exact, torch.float64) < 1e-7


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_bytes_stored_are_those_stated_and_distances_never_negative(name: str) -> None:
    for n, d in ((12, 40), (60, 40), (30, 300), (1, 40), (2, 40)):
        x = training(2, n, d)
        try:
            state = STRATEGIES[name].fit(PositionChunk(n, 0.01, centred=x))
        except StrategyInvalidError:
            pytest.skip("batched LU is wrong on this machine, and the guard says so")
        assert {key: tuple(t.shape[1:]) for key, t in state.items()} == STRATEGIES[name].shapes(n, d)
        assert sum(t[0].numel() for t in state.values()) == STRATEGIES[name].n_values(n, d)
        assert (STRATEGIES[name].apply(state, x.mT.contiguous(), 0.01) >= 0).all()


@pytest.mark.parametrize("n", [30, 150, 199])
@pytest.mark.parametrize("source", ["embeddings", "scatter"])
def test_the_dual_form_is_right_in_float32_where_the_covariance_is_ill_conditioned(
    source: str, n: int, threads: int
) -> None:
    """At condition 1e6 to 1e7 a fit in float32 keeps the promise, as a Cholesky factor of few does not."""
    x, epsilon = training(4, n, 200) * 100, 0.01
    delta = torch.bmm(torch.randn(4, 8, n, dtype=torch.float64), x).mT + torch.randn(4, 200, 8, dtype=torch.float64)
    exact = reference(x, delta, epsilon)
    narrow = x.float() if source == "embeddings" else torch.bmm(x.mT, x)
    chunk = PositionChunk(n, epsilon, **{"centred" if source == "embeddings" else "scatter": narrow})
    assert relative_error("dual", chunk, delta, exact, torch.float32) < 2e-5
    if source == "embeddings" and n == 30:
        assert relative_error("cholesky", chunk, delta, exact, torch.float32) > 1e-3


@settings(max_examples=30, deadline=None)
@given(p=st.integers(1, 3), d=st.integers(1, 300), seed=st.integers(0, 1000), double=st.booleans())
def test_triangular_inverse_of_any_size(p: int, d: int, seed: int, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    factor = torch.randn(p, d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tril_(-1) / d
    factor.diagonal(dim1=1, dim2=2).fill_(1.5)
    inverse = triangular_inverse(factor.to(dtype))
    assert inverse.dtype == dtype
    assert (inverse.triu(1) == 0).all()
    expected = np.linalg.inv(factor.numpy())
    assert np.abs(inverse.double().numpy() - expected).max() < (1e-12 if double else 1e-5)


def test_an_inverse_is_freed_with_its_last_reference() -> None:
    """Not when the garbage collector comes round: that is gigabytes later."""
    factor = torch.eye(300).expand(2, 300, 300).contiguous()
    gc.collect()
    gc.disable()
    try:
        inverse = triangular_inverse(factor)
        held = [weakref.ref(factor), weakref.ref(inverse)]
        del factor, inverse
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("d", [1, 100, 128, 129, 550])
def test_trimmed_blocks_are_the_whole_triangle(d: int) -> None:
    triangle = torch.arange(1.0, 2 * d * d + 1).reshape(2, d, d).tril()
    state = trimmed(triangle, "rows")
    again = torch.zeros_like(triangle)
    for rows, block in blocks_of(state, "rows"):
        again[:, rows, : rows.stop] = block
    assert torch.equal(again, triangle)
    assert {name: tuple(t.shape[1:]) for name, t in state.items()} == shapes(d, "rows")


@pytest.mark.parametrize("d", [100, 203, 550])  # whole, and by blocks that do not divide it
def test_the_lower_covariance_is_the_covariance(d: int) -> None:
    chunk = PositionChunk(30, 0.01, centred=training(2, 30, d))
    torch.testing.assert_close(chunk.covariance(lower=True).tril(), chunk.covariance().tril(), rtol=1e-12, atol=1e-14)


def test_one_dimension_by_hand() -> None:
    x = torch.tensor([[[-1.0], [1.0]]], dtype=torch.float64)  # variance 2, so sigma = 2.01
    for strategy in STRATEGIES.values():
        state = strategy.fit(PositionChunk(2, 0.01, centred=x))
        squared = strategy.apply(state, torch.tensor([[[3.0]]], dtype=torch.float64), 0.01)
        assert squared.item() == pytest.approx(9 / 2.01)


def test_auto_takes_the_smallest_exact_one() -> None:
    assert get_strategy("auto", 60, 550).name == "woodbury"
    assert get_strategy("auto", 209, 550).name == "woodbury"
    assert get_strategy("auto", 391, 550).name == "whitening"
    assert get_strategy("auto", 209, 100).name == "whitening"
    stored = STRATEGIES["woodbury"].n_values(60, 550)
    assert 550 * 550 / stored > 9  # toothbrush, nine times smaller than dense


def test_bytes_are_those_of_the_state_in_its_storage_and_of_the_means() -> None:
    stored = STRATEGIES["woodbury"].stored(5, 12, torch.float16)
    assert stored == {"rows": ((4, 12), torch.float16)}
    assert STRATEGIES["woodbury"].state_bytes(5, 12, torch.float16) == 2 * 4 * 12 + 4 * 12
    assert STRATEGIES["woodbury"].state_bytes(5, 12, torch.float64) == 8 * (4 * 12 + 12)


def test_unknown_strategy_lists_the_known() -> None:
    with pytest.raises(PadimBenchError, match=r"cholesky.*auto"):
        get_strategy("lu", 10, 10)


def test_inverse_residual_by_hand() -> None:
    sigma = torch.eye(3).mul(2).expand(2, 3, 3)
    assert inverse_residual(sigma, torch.eye(3).mul(0.5).expand(2, 3, 3)) == 0
    assert inverse_residual(sigma, torch.eye(3).expand(2, 3, 3)) == 1


def test_covariance_that_is_not_positive_definite_is_refused() -> None:
    scatter = -torch.eye(4).expand(2, 4, 4)
    with pytest.raises(StrategyInvalidError, match="positive definite"):
        STRATEGIES["cholesky"].fit(PositionChunk(3, 0.01, scatter=scatter))
