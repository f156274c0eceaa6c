"""Gaussians of all positions against the paper's equations, whatever the strategy, storage, tiles and threads."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim_bench import STRATEGIES, PadimBenchError, StrategyInvalidError
from padim_bench.padim import equations
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import GATES
from padim_bench.padim.tiling import MEASURED, Tiling
from tests.padim.small_moments import EMBEDDING, features, moments_of


@pytest.mark.parametrize("limit", [1 << 30, 1], ids=["held", "streamed"])
@pytest.mark.parametrize("strategy", ["explicit", "cholesky", "whitening", "woodbury", "dual", "auto"])
def test_distances_are_the_papers_equations(strategy: str, limit: int, threads: int) -> None:
    train, test = features(9), features(4, seed=1)
    batches = [[f[:2] for f in train], [f[2:3] for f in train], [f[3:] for f in train]]
    fitted = fit_gaussians(moments_of(*batches, limit=limit), epsilon=0.01, strategy=strategy, storage="float64")
    found = fitted.squared_distances(EMBEDDING.select(test))
    # Streamed scatter is kept in float32: 6e-8 of its entries, against epsilon.
    exact = equations.distances(*(EMBEDDING.embed(part).flatten(2) for part in (train, test)), 0.01) ** 2
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-8 if limit > 1 else 2e-5)
    assert fitted.residual < (1e-10 if limit > 1 else 1e-5)
    assert fitted.clamped == 0


def test_state_is_stored_in_its_dtype_and_its_bytes_are_counted() -> None:
    for storage, size in (("float16", 2), ("bfloat16", 2), ("float32", 4), ("float64", 8)):
        fitted = fit_gaussians(moments_of(features(9)), epsilon=0.01, strategy="explicit", storage=storage)
        assert fitted.state["precision"].element_size() == size
        assert fitted.state_bytes == 64 * (size * 144 + max(size, 4) * 12)


@pytest.mark.parametrize("positions", [1, 3, 5])  # to a tile, which grouped do not divide the 64 there are
@pytest.mark.parametrize("storage", ["float32", "float16", "float64"])
def test_tiles_and_their_groups_do_not_change_a_value(threads: int, storage: str, positions: int) -> None:
    train, test = features(9), EMBEDDING.select(features(3, seed=1))

    def distances(tiling: Tiling) -> Tensor:
        fitted = fit_gaussians(moments_of(train, tiling=tiling), epsilon=0.01, strategy="cholesky", storage=storage)
        return fitted.squared_distances(test, tiling=tiling)

    bytes_each = (8 if storage == "float64" else 4) * (12 * 12 + 2 * 3 * 12)
    small = Tiling(
        fit_bytes=5 * 12 * 12 * 8,  # 5 positions of 64: not a divisor
        widened_bytes=positions * bytes_each,
        stored_bytes=positions * bytes_each,
    )
    torch.testing.assert_close(distances(small), distances(MEASURED), rtol=1e-6, atol=0)


def test_negative_squares_are_clamped_and_counted() -> None:
    fitted = fit_gaussians(moments_of(features(9)), epsilon=0.01, strategy="explicit")
    fitted.state["precision"].neg_()
    squared = fitted.squared_distances(EMBEDDING.select(features(2, seed=1)))
    assert (squared == 0).all()
    assert fitted.clamped == squared.numel()


def test_a_wrong_factorisation_never_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = STRATEGIES["explicit"]
    wrong = type(broken)(**{**vars(broken), "fit": lambda chunk: {"precision": 2 * broken.fit(chunk)["precision"]}})
    monkeypatch.setitem(STRATEGIES, "explicit", wrong)
    with pytest.raises(StrategyInvalidError, match="relative to float64"):
        fit_gaussians(moments_of(features(9)), epsilon=0.01, strategy="explicit")


@pytest.mark.parametrize("limit", [1 << 30, 1], ids=["held", "streamed"])
@pytest.mark.parametrize("name", [*STRATEGIES, "auto"])
def test_one_image_and_two_have_gaussians_too(name: str, limit: int) -> None:
    def distances(n: int, storage: str) -> tuple[Tensor, Tensor]:
        train, test = features(n), features(4, seed=1)
        fitted = fit_gaussians(moments_of(train, limit=limit), epsilon=0.01, strategy=name, storage=storage)
        exact = equations.distances(*(EMBEDDING.embed(part).flatten(2) for part in (train, test)), 0.01) ** 2
        return fitted.squared_distances(EMBEDDING.select(test)), torch.from_numpy(exact)

    for storage, gate in GATES.items():
        found, exact = distances(1, storage)  # without a covariance, of which a lossy strategy would lose some
        np.testing.assert_allclose(found, exact, rtol=gate)
    x, y = (EMBEDDING.embed(features(n, seed)).flatten(2) for n, seed in ((1, 0), (4, 1)))
    np.testing.assert_allclose(exact, (y - x).double().square().sum(dim=1) / 0.01)
    for storage in ("float64", "float32") if name != "diagonal" else ():
        found, exact = distances(2, storage)
        # Streamed scatter is kept in float32: 6e-8 of its entries, against epsilon.
        np.testing.assert_allclose(found, exact, rtol=2e-4 if limit == 1 or storage == "float32" else 1e-8)


def test_no_image_and_nan_are_refused() -> None:
    with pytest.raises(PadimBenchError, match="at least 1"):
        fit_gaussians(moments_of(), epsilon=0.01)
    poisoned = features(3)
    poisoned[1][2, 0, 0, 0] = float("nan")
    with pytest.raises(PadimBenchError, match="images 0 to 2 contain NaN"):
        moments_of(poisoned)
    fitted = fit_gaussians(moments_of(features(4)), epsilon=0.01)
    with pytest.raises(PadimBenchError, match="image 2 of the batch"):
        fitted.squared_distances(
            [p.index_fill(1, torch.tensor([2]), float("nan")) for p in EMBEDDING.select(features(3))]
        )


def test_two_images_are_enough_and_threads_are_left_as_they_were(threads: int) -> None:
    fitted = fit_gaussians(moments_of(features(2)), epsilon=0.01, strategy="woodbury")
    assert torch.isfinite(fitted.squared_distances(EMBEDDING.select(features(1, seed=5)))).all()
    assert torch.get_num_threads() == threads


@cache
def drawn(n: int, d: int, side: int, n_test: int) -> tuple[PatchEmbedding, Tensor, Tensor, NDArray[np.float64]]:
    """Embeddings with a decaying spectrum of n training and some test images, and the squares of equation 2."""
    embedding = PatchEmbedding((d,), ((side, side),), tuple(range(d)))
    generator = torch.Generator().manual_seed(n)
    scale = torch.logspace(0, -1.5, d).reshape(1, d, 1, 1)
    train, test = (torch.randn(k, d, side, side, generator=generator) * scale + 3 for k in (n, n_test))
    return embedding, train, test, equations.distances(train.flatten(2), test.flatten(2), 0.01) ** 2


@pytest.mark.parametrize("tiling", [Tiling(together_bytes=0), MEASURED], ids=["a thread to a tile", "all on one"])
@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("n", "d", "side", "n_test"),
    [
        (2, 1, 1, 1),
        (209, 550, 1, 1),
        (30, 67, 3, 1),
        (131, 65, 3, 5),
        (40, 203, 4, 2),
        (66, 129, 2, 33),
        (9, 550, 7, 2),
    ],
    ids=["least", "one position", "one image", "n above d", "n below d", "no block divides", "groups of tiles"],
)
def test_every_fast_path_equals_float64_whatever_the_sizes_and_threads(
    n: int, d: int, side: int, n_test: int, n_threads: int, tiling: Tiling
) -> None:
    embedding, train, test, exact = drawn(n, d, side, n_test)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for name in (s for s in STRATEGIES if STRATEGIES[s].exact and s != "explicit-lu"):
            for storage, tolerance in (("float64", 1e-9), ("float32", 2e-5), ("float16", 5e-3)):
                moments = TrainingMoments(embedding, torch.float64, 1 << 30)
                moments.update(embedding.select([train]))
                fitted = fit_gaussians(moments, epsilon=0.01, strategy=name, storage=storage)
                found = fitted.squared_distances(embedding.select([test]), tiling=tiling).double().numpy()
                # Differences near zero are rounded with their means: relative to a distance of 1 there.
                assert (np.abs(found - exact) / np.maximum(exact, 1)).max() < tolerance, (name, storage)
                assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
