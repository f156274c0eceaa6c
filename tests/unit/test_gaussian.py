from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from padim_bench import STRATEGIES, PadimBenchError, StrategyInvalidError
from padim_bench.padim import equations, gaussian
from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.gaussian import TrainingMoments, fit_gaussians
from padim_bench.padim.reduction import reduced_embedding

EMBEDDING = PatchEmbedding((6, 10), ((8, 8), (4, 4)), draw_channels(16, 12, 3))


def features(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Far from zero, where E[xx'] - mm' would lose everything in float32.
    return [100 + torch.randn(n, c, *g, generator=generator) for c, g in zip((6, 10), ((8, 8), (4, 4)), strict=True)]


def moments_of(*batches: list[Tensor], limit: int = 1 << 30, dtype: torch.dtype = torch.float64) -> TrainingMoments:
    moments = TrainingMoments(EMBEDDING, dtype, limit)
    for batch in batches:
        moments.update(EMBEDDING.select(batch))
    return moments


def covariances(moments: TrainingMoments) -> tuple[Tensor, Tensor]:
    """Means and covariances of all positions."""
    read = [(mean, chunk.covariance()) for group in moments.groups() for _, mean, chunk in moments.read(group, 0.01)]
    return torch.cat([mean for mean, _ in read]), torch.cat([covariance for _, covariance in read])


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


@pytest.mark.parametrize("limit", [1 << 30, 1], ids=["held", "streamed"])
def test_streamed_and_merged_moments_give_the_same_gaussians_as_one_fit(limit: int) -> None:
    train = features(20)
    whole = covariances(moments_of(train))
    parts = [[f[i : i + 5] for f in train] for i in range(0, 20, 5)]
    left = moments_of(*parts[:2], limit=limit)
    left.merge(moments_of(*parts[2:], limit=limit))
    assert left.n == 20
    for merged, once in zip(covariances(left), whole, strict=True):
        torch.testing.assert_close(merged, once, rtol=1e-5, atol=1e-7)


def test_merging_held_into_streamed_and_back() -> None:
    train = features(12)
    first, second = ([f[:5] for f in train], [f[5:] for f in train])
    expected = fit_gaussians(moments_of(train), epsilon=0.01).state["factor"]
    for limits in ((1, 1 << 30), (1 << 30, 1)):
        moments = moments_of(first, limit=limits[0])
        moments.merge(moments_of(second, limit=limits[1]))
        torch.testing.assert_close(fit_gaussians(moments, epsilon=0.01).state["factor"], expected, rtol=1e-5, atol=1e-6)


def test_moments_of_another_embedding_are_refused() -> None:
    other = TrainingMoments(PatchEmbedding((6, 10), ((8, 8), (4, 4)), draw_channels(16, 12, 4)), torch.float64, 1)
    with pytest.raises(PadimBenchError, match="cannot be merged"):
        moments_of(features(3)).merge(other)


def test_state_is_stored_in_its_dtype_and_its_bytes_are_counted() -> None:
    for storage, size in (("float16", 2), ("bfloat16", 2), ("float32", 4), ("float64", 8)):
        fitted = fit_gaussians(moments_of(features(9)), epsilon=0.01, strategy="explicit", storage=storage)
        assert fitted.state["precision"].element_size() == size
        assert fitted.state_bytes == 64 * (size * 144 + max(size, 4) * 12)


@pytest.mark.parametrize("positions", [1, 3, 5])  # to a tile, which grouped do not divide the 64 there are
@pytest.mark.parametrize("storage", ["float32", "float16", "float64"])
def test_tiles_and_their_groups_do_not_change_a_value(
    monkeypatch: pytest.MonkeyPatch, threads: int, storage: str, positions: int
) -> None:
    train, test = features(9), EMBEDDING.select(features(3, seed=1))

    def distances() -> torch.Tensor:
        fitted = fit_gaussians(moments_of(train), epsilon=0.01, strategy="cholesky", storage=storage)
        return fitted.squared_distances(test)

    whole = distances()
    bytes_each = (8 if storage == "float64" else 4) * (12 * 12 + 2 * 3 * 12)
    monkeypatch.setattr(gaussian, "_FIT_BYTES", 5 * 12 * 12 * 8)  # 5 positions of 64: not a divisor
    monkeypatch.setattr(gaussian, "_APPLY_BYTES", positions * bytes_each)
    monkeypatch.setattr(gaussian, "_APPLY_BYTES_AS_STORED", positions * bytes_each)
    torch.testing.assert_close(distances(), whole, rtol=1e-6, atol=0)


def test_negative_squares_are_clamped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_one_image_and_nan_are_refused() -> None:
    with pytest.raises(PadimBenchError, match="at least 2"):
        fit_gaussians(moments_of(features(1)), epsilon=0.01)
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


_FOLDED = """
import resource, torch
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import TrainingMoments
torch.set_num_threads(2)
embedding = PatchEmbedding((100,), ((16, 16),), tuple(range(100)))
moments = TrainingMoments(embedding, torch.float64, 1)
moments.update(embedding.select([torch.randn(20, 100, 16, 16)]))
moments.memory_limit = 1 << 60
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
for _ in range(20):
    moments.update(embedding.select([torch.randn(100, 100, 16, 16)]))
before = peak()
list(moments.groups())
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted otherwise elsewhere")
def test_folding_many_images_takes_little_beside_their_features() -> None:
    found = subprocess.run([sys.executable, "-c", _FOLDED], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 120e6  # of 205 MB of features; 104 positions in float64 would be 166 MB, twice


def test_many_images_folded_after_few_are_as_if_all_were_held() -> None:
    embedding = PatchEmbedding((100,), ((12, 12),), tuple(range(100)))
    generator = torch.Generator().manual_seed(3)
    few, many = (embedding.select([1 + torch.randn(n, 100, 12, 12, generator=generator)]) for n in (10, 600))
    held, folded = (TrainingMoments(embedding, torch.float64, limit) for limit in (1 << 60, 1))
    for moments in (held, folded):
        moments.update(few)
        moments.update(many)
    for ours, theirs in zip(covariances(folded), covariances(held), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_moments_folded_after_differing_numbers_of_images_merge() -> None:
    big = PatchEmbedding((100,), ((56, 56),), tuple(range(100)))
    x = torch.randn(209, 100, 56, 56, generator=torch.Generator().manual_seed(0))
    parts = []
    for part in (x[:60], x[60:]):
        moments = TrainingMoments(big, torch.float64, 1)
        moments.update(big.select([part]))
        parts.append(moments)
    parts[0].merge(parts[1])
    _, mean, chunk = next(parts[0].read(next(parts[0].groups()), 0.01))
    mu, sigma = equations.gaussian(x[:, :, 0, 0], 0.01)
    np.testing.assert_allclose(mean[0], mu, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(chunk.covariance()[0], sigma, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [1 << 30, 1], ids=["held", "streamed"])
@pytest.mark.parametrize("reduction", ["none", "semi-orthogonal"])
def test_positions_read_in_groups_are_those_read_tile_by_tile(
    reduction: str, limit: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = reduced_embedding((200, 100), ((12, 14), (6, 7)), reduction)
    generator = torch.Generator().manual_seed(0)
    train = [torch.randn(21, c, *g, generator=generator) + 50 for c, g in ((200, (12, 14)), (100, (6, 7)))]
    # As backbones may lay out their features: of whole images, of images cut from more, channels last.
    batches = [
        [layer[:8] for layer in train],
        [torch.stack([layer[8:14]] * 2, dim=1)[:, 1] for layer in train],
        [layer[14:].to(memory_format=torch.channels_last) for layer in train],
    ]
    grouped, sizes = TrainingMoments._tiles_to_a_group, []
    monkeypatch.setattr(
        TrainingMoments, "_tiles_to_a_group", lambda self, step: sizes.append(grouped(self, step)) or sizes[-1]
    )
    monkeypatch.setattr(gaussian, "_FIT_BYTES", 2 << 20)
    found = []
    for run in (1, gaussian._FIT_RUN):
        monkeypatch.setattr(gaussian, "_FIT_RUN", run)
        sizes.clear()
        moments = TrainingMoments(embedding, torch.float64, limit)
        for batch in batches:
            moments.update(embedding.select(batch))
        found.append(covariances(moments))
        assert (max(sizes) > 1) == (run > 1)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    mean, covariance = (part[100] for part in found[0])
    mu, sigma = equations.gaussian(embedding.embed(train).flatten(2)[:, :, 100], 0.01)
    np.testing.assert_allclose(mean, mu, rtol=1e-12, atol=1e-12)
    # Projected once in batches and once whole: another rounding of float32, of entries around 50.
    rounding = 0 if reduction == "none" else 2e-4
    np.testing.assert_allclose(covariance, sigma, rtol=0, atol=rounding + (1e-12 if limit > 1 else 1e-6))


def test_epsilon_is_kept_whole_in_float16_storage() -> None:
    fitted = fit_gaussians(moments_of(features(9)), epsilon=0.01, strategy="woodbury", storage="float16")
    assert fitted.state["rows"].dtype == torch.float16
    assert fitted.state["epsilon"][0].item() == pytest.approx(0.01, rel=1e-7)


@pytest.mark.parametrize("small", [0, gaussian._SMALL_STATE], ids=["a thread to a tile", "all on one"])
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
    n: int, d: int, side: int, n_test: int, n_threads: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian, "_SMALL_STATE", small)
    embedding = PatchEmbedding((d,), ((side, side),), tuple(range(d)))
    generator = torch.Generator().manual_seed(n)
    scale = torch.logspace(0, -1.5, d).reshape(1, d, 1, 1)
    train, test = (torch.randn(k, d, side, side, generator=generator) * scale + 3 for k in (n, n_test))
    exact = equations.distances(train.flatten(2), test.flatten(2), 0.01) ** 2
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for name in (s for s in STRATEGIES if STRATEGIES[s].exact and s != "explicit-lu"):
            for storage, tolerance in (("float64", 1e-9), ("float32", 2e-5), ("float16", 5e-3)):
                moments = TrainingMoments(embedding, torch.float64, 1 << 30)
                moments.update(embedding.select([train]))
                fitted = fit_gaussians(moments, epsilon=0.01, strategy=name, storage=storage)
                found = fitted.squared_distances(embedding.select([test])).double().numpy()
                # Differences near zero are rounded with their means: relative to a distance of 1 there.
                assert (np.abs(found - exact) / np.maximum(exact, 1)).max() < tolerance, (name, storage)
                assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
