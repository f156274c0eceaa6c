"""SPADE: by hand, and against every pair of positions in float64, whatever the grids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from padim_bench import PadimBenchError, create_backbone, load_images, mvtec
from padim_bench.baselines import BASELINES
from padim_bench.baselines.spade import SPADE, levels
from padim_bench.padim.embedding import PatchEmbedding

Grid = tuple[int, int]
Maps = list[Tensor]
EXACT = "donot_use_mm_for_euclid_dist"


def embedding_of(maps: Maps) -> PatchEmbedding:
    channels = tuple(m.shape[1] for m in maps)
    grids = tuple((m.shape[2], m.shape[3]) for m in maps)
    return PatchEmbedding(channels, grids, tuple(range(sum(channels))))


def fitted(train: Maps, k: int, batches: tuple[int, ...] = (1, 99)) -> SPADE:
    embedding = embedding_of(train)
    model, first = SPADE(embedding, k), 0
    for size in batches:
        if batch := [layer[first : first + size] for layer in train if first < len(layer)]:
            model.update(embedding.select(batch))
        first += size
    model.fit()
    return model


def by_every_pair(train: Maps, test: Maps, k: int, every: int = 1) -> tuple[Tensor, Tensor]:
    """The two equations of ``spade.py`` in float64: distances (B, P) of one in ``every`` position, scores (B,)."""
    train, test = [m.double() for m in train], [m.double() for m in test]
    pooled, wanted = (maps[-1].mean(dim=(2, 3)) for maps in (train, test))
    gaps = (wanted[:, None] - pooled).norm(dim=2).sort(dim=1)
    whole = embedding_of(train[:3])
    gallery, queries = (whole.embed(maps[:3]).permute(0, 2, 3, 1) for maps in (train, test))
    grids = [
        torch.cdist(query.flatten(0, 1)[::every], gallery[images].flatten(0, 2), compute_mode=EXACT).amin(dim=1)
        for query, images in zip(queries, gaps.indices[:, :k], strict=True)
    ]
    return torch.stack(grids), gaps.values[:, :k].mean(dim=1)


def test_two_images_of_two_positions_by_hand() -> None:
    train = [torch.tensor([[[[0.0, 3.0]]], [[[8.0, 20.0]]]])]  # means 1.5 and 14
    test = [torch.tensor([[[[1.0, 8.0]]]])]  # mean 4.5
    model = fitted(train, k=1)
    distances, scores = model.score(model.embedding.select(test))
    assert distances[0, 0].tolist() == pytest.approx([1, 5])  # from 0, and from 3: 8 is of the other image
    assert scores.tolist() == pytest.approx([3])
    both = fitted(train, k=2)
    distances, scores = both.score(both.embedding.select(test))
    assert distances[0, 0].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert scores.tolist() == pytest.approx([(3 + 9.5) / 2])


sides = st.integers(1, 6)
chains = st.lists(st.sampled_from([1, 2, 3]), max_size=2).map(  # grids that divide each other, as networks' do
    lambda ratios: [(2 * a, b) for a, b in zip(_products(ratios), _products(ratios[::-1]), strict=True)][::-1]
)


def _products(ratios: list[int]) -> list[int]:
    found = [1]
    for ratio in ratios:
        found.append(found[-1] * ratio)
    return found


@settings(max_examples=40, deadline=None)
@given(
    grids=st.one_of(chains, st.lists(st.tuples(sides, sides), min_size=1, max_size=5)),
    n=st.integers(1, 5),
    k=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_distances_are_those_of_every_pair_whatever_the_grids(grids: list[Grid], n: int, k: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    channels = [3 + i for i in range(len(grids))]

    def maps(count: int) -> Maps:
        return [torch.randn(count, c, *grid, generator=draw) + 9 for c, grid in zip(channels, grids, strict=True)]

    train, test = maps(n), maps(2)
    model = fitted(train, k)
    distances, scores = model.score(model.embedding.select(test))
    exact, exact_scores = by_every_pair(train, test, k)
    torch.testing.assert_close(distances.flatten(1).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.double(), exact_scores, rtol=1e-5, atol=1e-5)
    entry = next(b for b in BASELINES.values() if b.name == "spade")
    assert model.state_bytes == entry.state_bytes(model.embedding, n)


def test_a_network_s_layers_are_a_level_each_and_others_join_the_finest() -> None:
    assert [level.grid for level in levels((64, 128, 256), ((56, 56), (28, 28), (14, 14)))] == [
        (56, 56),
        (28, 28),
        (14, 14),
    ]
    odd = levels((1, 2, 3), ((57, 57), (29, 29), (19, 19)))
    assert [(level.grid, level.layers) for level in odd] == [((57, 57), (0, 1)), ((19, 19), (2,))]


def test_an_image_that_it_was_trained_on_is_normal_and_a_nan_is_refused() -> None:
    train = [torch.randn(3, 2, 4, 4) + 5]
    model = fitted(train, 2)
    distances, _ = model.score(model.embedding.select([train[0][:1]]))
    assert float(distances.max()) < 1e-2
    with pytest.raises(PadimBenchError, match="training images 0 to 2 contain NaN"):
        fitted([train[0].sub(5).sqrt()], 2, (3,))


@pytest.mark.data
def test_squared_distances_of_real_features_are_right_to_rounding_of_their_squares(
    real_data: Path, real_weights: Path
) -> None:
    category = mvtec(real_data, "bottle")
    backbone = create_backbone("resnet18", real_weights)
    train, test = (
        [torch.cat(parts) for parts in zip(*map(backbone, load_images(samples)), strict=True)]
        for samples in (category.train[:6], category.test[:70:35])
    )
    model = fitted(train, 50)
    distances, _ = model.score(model.embedding.select(test))
    exact, _ = by_every_pair(train, test, 50, every=29)
    largest = float(model.embedding.embed(train).square().sum(dim=1).max())
    errors = (distances.flatten(1)[:, ::29].double().square() - exact.square()).abs()
    assert float(errors.max()) < 1e-6 * largest
    assert float((errors / exact.square()).median()) < 2e-6
