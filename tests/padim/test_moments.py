"""Training moments: held or folded, in parts or merged, they are those of all images at once."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from padim_bench import PadimBenchError
from padim_bench.padim import equations
from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.reduction import reduced_embedding
from padim_bench.padim.tiling import Tiling
from tests.padim.small_moments import covariances, features, moments_of


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


def test_moments_that_are_tiled_differently_are_refused() -> None:
    with pytest.raises(PadimBenchError, match="tiled differently cannot be merged"):
        moments_of(features(3)).merge(moments_of(features(3), tiling=Tiling(fit_bytes=1)))


_FOLDED = """
import resource, torch
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.moments import TrainingMoments
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
def test_positions_read_in_groups_are_those_read_tile_by_tile(reduction: str, limit: int, threads: int) -> None:
    embedding = reduced_embedding((200, 100), ((12, 14), (6, 7)), reduction)
    generator = torch.Generator().manual_seed(0)
    train = [torch.randn(21, c, *g, generator=generator) + 50 for c, g in ((200, (12, 14)), (100, (6, 7)))]
    # As backbones may lay out their features: of whole images, of images cut from more, channels last.
    batches = [
        [layer[:8] for layer in train],
        [torch.stack([layer[8:14]] * 2, dim=1)[:, 1] for layer in train],
        [layer[14:].to(memory_format=torch.channels_last) for layer in train],
    ]
    found = []
    for together in (1, 48):
        tiling = Tiling(fit_bytes=2 << 20, read_positions=together)
        tile = tiling.fit_tile(12 * 14, 21, 300, 8)
        assert (tiling.tiles_read(12 * 14, tile, 21, 300, threads) > 1) == (together > 1)
        moments = TrainingMoments(embedding, torch.float64, limit, tiling)
        for batch in batches:
            moments.update(embedding.select(batch))
        found.append(covariances(moments))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    mean, covariance = (part[100] for part in found[0])
    mu, sigma = equations.gaussian(embedding.embed(train).flatten(2)[:, :, 100], 0.01)
    np.testing.assert_allclose(mean, mu, rtol=1e-12, atol=1e-12)
    # Projected once in batches and once whole: another rounding of float32, of entries around 50.
    rounding = 0 if reduction == "none" else 2e-4
    np.testing.assert_allclose(covariance, sigma, rtol=0, atol=rounding + (1e-12 if limit > 1 else 1e-6))
