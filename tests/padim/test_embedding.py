from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from padim_bench import PadimBenchError
from padim_bench.padim.embedding import PatchEmbedding, draw_channels, nearest_indices, require_finite

R18 = {"layer_channels": (64, 128, 256), "layer_grids": ((56, 56), (28, 28), (14, 14))}


def upsampled_then_selected(features: list[torch.Tensor], channels: tuple[int, ...]) -> torch.Tensor:
    """The definition: nearest upsampling of everything, concatenation, then selection."""
    size = features[0].shape[2:]
    whole = torch.cat([functional.interpolate(f, size=size, mode="nearest") for f in features], dim=1)
    return whole[:, list(channels)]


@pytest.mark.parametrize("n_features", [1, 100, 448, None])
def test_selecting_before_upsampling_is_bit_equal_to_selecting_after(n_features: int | None) -> None:
    features = [torch.randn(3, c, *grid) for c, grid in zip(*R18.values(), strict=True)]
    embedding = PatchEmbedding(**R18, channels=draw_channels(448, n_features, 1024))
    expected = upsampled_then_selected(features, embedding.channels)
    assert torch.equal(embedding.embed(features), expected)
    part = embedding.gather(embedding.select(features), slice(55, 200, None))
    assert torch.equal(part, expected.flatten(2)[:, :, 55:200].permute(2, 0, 1))
    wide = torch.zeros(145, 5, embedding.n_features, dtype=torch.float64)
    assert embedding.gather(embedding.select(features), slice(55, 200), out=wide[:, 1:4]).dtype == torch.float64
    assert torch.equal(wide[:, 1:4], part.double())
    assert not wide[:, [0, 4]].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32), st.data())
def test_any_dividing_grids_and_any_layer_order(a: int, b: int, seed: int, data: st.DataObject) -> None:
    shapes = [(2, (4 * a, 4 * b)), (3, (2 * a, 2 * b)), (4, (a, b))]
    shapes = data.draw(st.permutations(shapes))
    features = [torch.randn(2, c, *grid, generator=torch.Generator().manual_seed(seed)) for c, grid in shapes]
    kept = draw_channels(9, data.draw(st.integers(1, 9)), seed)
    embedding = PatchEmbedding(tuple(c for c, _ in shapes), tuple(g for _, g in shapes), kept)
    size = embedding.grid
    assert size == (4 * a, 4 * b)
    whole = torch.cat([functional.interpolate(f, size=size, mode="nearest") for f in features], dim=1)
    assert sorted(embedding.channels) == sorted(kept)
    assert torch.equal(embedding.embed(features), whole[:, list(embedding.channels)])


def test_channels_are_those_of_the_popular_script() -> None:
    random.seed(1024)  # as that script draws them
    assert draw_channels(448, 100, 1024) == tuple(random.sample(range(448), 100))
    assert draw_channels(448, 100, 1024)[:5] == (408, 9, 247, 435, 199)


def test_channels_differ_by_seed_and_never_repeat() -> None:
    one, two = draw_channels(1792, 550, 0), draw_channels(1792, 550, 1)
    assert set(one) != set(two)
    assert len(set(one)) == 550


@pytest.mark.parametrize("n_features", [0, -1, 449])
def test_more_or_fewer_features_than_channels_is_refused(n_features: int) -> None:
    with pytest.raises(PadimBenchError, match="448 channels"):
        draw_channels(448, n_features, 0)


@pytest.mark.parametrize(
    "grids",
    [
        ((54, 54), (25, 25), (12, 12)),  # inception_v4 at 224 pixels
        ((44, 30), (26, 13)),  # where the ratio's rounding to float32 decides a row
        ((9, 4), (6, 6)),  # neither is the larger
        ((6, 6), (9, 4), (9, 6)),
        ((5, 7), (1, 1)),
    ],
)
def test_grids_that_do_not_divide_are_upsampled_as_torch_does(grids: tuple[tuple[int, int], ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, *grid, generator=generator) for grid in grids]
    size = max(h for h, _ in grids), max(w for _, w in grids)
    whole = torch.cat([functional.interpolate(f, size=size, mode="nearest") for f in features], dim=1)
    everything = PatchEmbedding((3,) * len(grids), grids, tuple(range(3 * len(grids))))
    assert everything.grid == size
    assert torch.equal(everything.embed(features), whole)
    part = everything.gather(everything.select(features), slice(3, 17))
    assert torch.equal(part, whole.flatten(2)[:, :, 3:17].permute(2, 0, 1))
    projection = torch.randn(2, 3 * len(grids), generator=generator)
    projected = PatchEmbedding(everything.layer_channels, grids, everything.channels, projection).embed(features)
    torch.testing.assert_close(projected, torch.einsum("dc,bchw->bdhw", projection, whole))


def test_every_ratio_of_grids_takes_torch_s_cell() -> None:
    for n in (1, 2, 7, 14, 27, 44, 49, 54, 56, 64, 112):
        for of in range(1, n + 1):
            cells = torch.arange(of * of, dtype=torch.float32).view(1, 1, of, of)
            upsampled = functional.interpolate(cells, size=(n, n), mode="nearest").flatten().long()
            at = nearest_indices(n, of)
            assert torch.equal((at[:, None] * of + at).flatten(), upsampled), (n, of)


def test_finite_features_whose_sum_overflows_are_finite() -> None:
    large = torch.full((4, 2, 3), 3e38)
    require_finite([torch.zeros(4, 2, 3), large], 0)
    large[1, 1, 2] = float("inf")
    with pytest.raises(PadimBenchError, match="features of training images 7 to 8 contain NaN or infinity"):
        require_finite([torch.zeros(4, 2, 3), large], 7)
