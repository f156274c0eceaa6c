"""Reductions: each against an independent oracle, alone and inside a model."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from padim_bench import PROTOCOLS, REDUCTIONS, PaDiM, PadimBenchError, create_backbone
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.equations import distances
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.projection import ChannelMoments, draw_directions, principal_components
from padim_bench.padim.reduction import check_reduction, draw_stratified, reduced_embedding

CHANNELS, GRIDS = (3, 5), ((4, 4), (2, 2))
R18 = (64, 128, 256)
GENERATOR = torch.Generator().manual_seed(0)
TRAIN = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
TEST = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
WHOLE = PatchEmbedding(CHANNELS, GRIDS, tuple(range(8)))


def features_of(n: int, seed: int = 0) -> list[Tensor]:
    """Feature maps of two layers: means far from 0, every channel of another variance, neighbours correlated."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 8, generator=generator).tril() + 3 * torch.eye(8)
    parts = []
    for first, (c, (h, w)) in zip((0, 3), zip(CHANNELS, GRIDS, strict=True), strict=True):
        noise = torch.randn(n, c, h, w, generator=generator)
        mixed = torch.einsum("ij,njhw->nihw", mixing[first : first + c, first : first + c], noise)
        parts.append(mixed * torch.arange(1, c + 1)[:, None, None] + 10 + first)
    return parts


def upsampled(features: list[Tensor]) -> Tensor:
    """The definition of an unreduced embedding, (B, C, H, W)."""
    size = features[0].shape[2:]
    return torch.cat([functional.interpolate(f, size=size, mode="nearest") for f in features], dim=1)


def rows_of(whole: Tensor) -> NDArray[np.float64]:
    return whole.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


def components_of(*batches: list[Tensor], positions_at_a_time: int = 256) -> tuple[Tensor, Tensor]:
    moments = ChannelMoments(WHOLE)
    for batch in batches:
        moments.update(WHOLE.select(batch), positions_at_a_time)
    return principal_components(moments)


# Principal components.


def test_principal_components_are_those_of_sklearn() -> None:
    features = features_of(20)
    oracle = PCA(svd_solver="full").fit(rows_of(upsampled(features)))
    rows, variances = components_of(features)
    assert (rows.dtype, variances.dtype) == (torch.float32, torch.float64)
    np.testing.assert_allclose(variances.numpy(), oracle.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose((rows.double() @ rows.double().T).numpy(), np.eye(8), atol=1e-6)
    for k in range(1, 9):  # the cosines of the angles between both subspaces
        cosines = np.linalg.svd(rows[:k].double().numpy() @ oracle.components_[:k].T, compute_uv=False)
        np.testing.assert_allclose(cosines, 1, atol=1e-6)


@pytest.mark.parametrize("sizes", [(20,), (1, 12, 7), (1,) * 20])
@pytest.mark.parametrize("positions_at_a_time", [1, 5, 256])
def test_batches_of_any_sizes_are_one_pass(sizes: tuple[int, ...], positions_at_a_time: int) -> None:
    features = features_of(20)
    batches = zip(*(f.split(list(sizes)) for f in features), strict=True)
    moments = ChannelMoments(WHOLE)
    for batch in batches:
        moments.update(WHOLE.select(batch), positions_at_a_time)
    flat = rows_of(upsampled(features))
    assert moments.n == len(flat)
    np.testing.assert_allclose(moments.mean.numpy(), flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.scatter.numpy() / (len(flat) - 1), np.cov(flat, rowvar=False), rtol=1e-9)
    rows, variances = principal_components(moments)
    oracle = PCA(svd_solver="full").fit(flat)
    np.testing.assert_allclose(variances.numpy(), oracle.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(np.abs((rows.numpy() * oracle.components_).sum(axis=1)), 1, atol=1e-6)


def test_a_mean_a_million_times_the_spread_does_no_harm() -> None:
    features = [f.double() + 1e7 for f in features_of(20)]
    _, variances = components_of(features)
    oracle = PCA(svd_solver="full").fit(rows_of(upsampled(features)))
    np.testing.assert_allclose(variances.numpy(), oracle.explained_variance_, rtol=1e-6)


def test_the_signs_of_components_are_fixed() -> None:
    features = features_of(20)
    rows, _ = components_of(features)
    assert (rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)) > 0).all()
    assert torch.equal(components_of([-f for f in features])[0], rows)


def test_variances_of_fewer_samples_than_channels_are_not_negative() -> None:
    _, variances = components_of(
        [f[:, :, :1, :1].expand(-1, -1, *g) for f, g in zip(features_of(3), GRIDS, strict=True)]
    )
    assert (variances >= 0).all()
    assert (variances[2:] < 1e-9 * variances[0]).all()  # three distinct embeddings span two directions


def test_features_that_are_not_finite_are_refused_by_image() -> None:
    moments = ChannelMoments(WHOLE)
    moments.update(WHOLE.select(features_of(4)))
    bad = features_of(2)
    bad[1][1, 0, 0, 0] = float("nan")
    with pytest.raises(PadimBenchError, match="training images 4 to 5 contain NaN"):
        moments.update(WHOLE.select(bad))


# Draws.


@pytest.mark.parametrize(("channels", "kept"), [(448, 100), (448, 448), (5, 1)])
def test_directions_are_orthonormal_and_the_seeds_alone(channels: int, kept: int) -> None:
    rows = draw_directions(channels, kept, 3)
    assert (rows.dtype, rows.shape) == (torch.float32, (kept, channels))
    torch.testing.assert_close(rows.double() @ rows.double().T, torch.eye(kept).double(), rtol=0, atol=1e-6)
    assert torch.equal(draw_directions(channels, kept, 3), rows)
    assert not torch.allclose(draw_directions(channels, kept, 4), rows, atol=1e-3)


def test_directions_favour_no_side() -> None:
    """LAPACK's own QR has negative diagonals, so that without the fix of signs some means are far from 0."""
    drawn = torch.stack([draw_directions(3, 2, seed) for seed in range(600)])
    assert (drawn.mean(dim=0).abs() < 5 * math.sqrt(1 / 3 / 600)).all()
    assert ((drawn.square().mean(dim=0) - 1 / 3).abs() < 0.07).all()


def test_resnet18_at_100_takes_14_29_and_57() -> None:
    kept = draw_stratified(R18, 100, 1024)
    layers = [sum(first <= c < first + n for c in kept) for first, n in zip((0, 64, 192), R18, strict=True)]
    assert layers == [14, 29, 57]
    assert draw_stratified(R18, 100, 1024) == kept
    assert set(draw_stratified(R18, 100, 1025)) != set(kept)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**32), st.data())
def test_every_layer_gets_its_share(layers: list[int], seed: int, data: st.DataObject) -> None:
    total = sum(layers)
    n_features = data.draw(st.integers(1, total))
    kept = draw_stratified(layers, n_features, seed)
    assert len(kept) == len(set(kept)) == n_features
    assert set(kept) <= set(range(total))
    shares = []
    for last, n in zip(accumulate(layers), layers, strict=True):
        shares.append(sum(last - n <= c < last for c in kept))
        assert abs(shares[-1] * total - n_features * n) < total  # within one of the exact share
    remainders = [n_features * n % total for n in layers]
    up = [r for r, s, n in zip(remainders, shares, layers, strict=True) if s > n_features * n // total]
    down = [r for r, s, n in zip(remainders, shares, layers, strict=True) if s == n_features * n // total]
    assert min(up, default=total) >= max(down, default=0)  # the largest remainders are rounded up


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_cannot_be_drawn_is_refused(reduction: str) -> None:
    check_reduction(reduction, 448, 448, 0)
    check_reduction(reduction, 448, None, 0)
    with pytest.raises(PadimBenchError, match="448 channels"):
        check_reduction(reduction, 448, 449, 0)
    with pytest.raises(PadimBenchError, match="choose 1 to 448"):
        check_reduction(reduction, 448, 0, 0)
    with pytest.raises(PadimBenchError, match="seed is -1"):
        check_reduction(reduction, 448, 100, -1)


def test_an_unknown_reduction_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(PadimBenchError, match="unknown reduction 'umap'") as raised:
        check_reduction("umap", 448, 100, 0)
    assert all(name in str(raised.value) for name in REDUCTIONS)
    with pytest.raises(PadimBenchError, match="7 but the layers in use have 6 channels"):
        draw_stratified((2, 4), 7, 0)


# Projected embeddings.


@pytest.mark.parametrize("n_features", [1, 4, 8])
def test_a_projected_embedding_is_the_projection_of_the_whole(n_features: int) -> None:
    features = features_of(3)
    embedding = reduced_embedding(CHANNELS, GRIDS, "semi-orthogonal", n_features, seed=5)
    assert (embedding.n_features, embedding.projection is None) == (n_features, False)
    rows = draw_directions(8, n_features, 5).double()
    expected = torch.einsum("dc,bchw->bdhw", rows, upsampled(features).double())
    torch.testing.assert_close(embedding.embed(features).double(), expected, rtol=1e-5, atol=1e-4)
    part = embedding.gather(embedding.select(features), slice(3, 9))
    torch.testing.assert_close(part.double(), expected.flatten(2)[:, :, 3:9].permute(2, 0, 1), rtol=1e-5, atol=1e-4)


def test_pca_takes_the_first_components_and_needs_no_seed() -> None:
    features = features_of(20)
    rows, _ = components_of(features)
    one, other = (reduced_embedding(CHANNELS, GRIDS, "pca", 3, seed, rows) for seed in (0, 1))
    assert one == other
    whole = upsampled(features)
    scores = PCA(n_components=3, svd_solver="full").fit_transform(rows_of(whole)).T.reshape(3, 20, 4, 4)
    found = one.embed(features).double()
    centred = (found - found.mean(dim=(0, 2, 3), keepdim=True)).transpose(0, 1).numpy()
    for ours, theirs in zip(centred, scores, strict=True):
        np.testing.assert_allclose(ours * np.sign((ours * theirs).sum()), theirs, atol=1e-4)


def test_embeddings_are_told_apart_by_their_projection() -> None:
    one, same, other = (reduced_embedding(CHANNELS, GRIDS, "semi-orthogonal", 4, seed) for seed in (1, 1, 2))
    assert one == same
    assert hash(one) == hash(same)
    assert one.digest == same.digest != other.digest
    assert one != other


@pytest.mark.parametrize("strategy", ["explicit", "cholesky", "whitening", "woodbury", "dual"])
def test_turning_the_axes_leaves_distances_as_they_are(strategy: str) -> None:
    """Mahalanobis distances are invariant, and epsilon * I looks the same along any axes."""
    train, test = features_of(12, seed=1), features_of(4, seed=2)
    turned = reduced_embedding(CHANNELS, GRIDS, "semi-orthogonal", None, seed=7)
    assert turned.n_features == 8
    found = []
    for embedding in (WHOLE, turned):
        moments = TrainingMoments(embedding, torch.float64, 1 << 30)
        moments.update(embedding.select(train))
        gaussians = fit_gaussians(moments, epsilon=0.5, strategy=strategy)
        found.append(gaussians.squared_distances(embedding.select(test)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


# Inside a model.


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """Two layers, of 64 and 128 channels."""
    return create_backbone("resnet18", "random", "layer1+layer2")


def reduced_by_hand(reduction: str, train: Tensor, test: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(B, 20, H, W) of both, from the unreduced embeddings in float64."""
    if reduction == "pca":
        rows = torch.from_numpy(PCA(n_components=20, svd_solver="full").fit(rows_of(train)).components_)
    elif reduction == "semi-orthogonal":
        rows = draw_directions(192, 20, seed).double()
    else:
        drawn = {
            "random": lambda: draw_channels(192, 20, seed),
            "stratified": lambda: draw_stratified(R18[:2], 20, seed),
            "none": lambda: range(192),
        }
        return train[:, list(drawn[reduction]())], test[:, list(drawn[reduction]())]
    first, second = (torch.einsum("dc,bchw->bdhw", rows, one) for one in (train, test))
    return first, second


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_model_is_the_papers_equations_on_reduced_embeddings(backbone: Backbone, reduction: str) -> None:
    model = PaDiM(backbone, n_features=20, seed=3, reduction=reduction).fit(iter(TRAIN.split(3)))
    train, test = (upsampled(backbone(images)).double() for images in (TRAIN, TEST))
    x, y = (one.flatten(2) for one in reduced_by_hand(reduction, train, test, 3))
    assert model.gaussians.embedding.n_features == x.shape[1]
    grids = torch.from_numpy(distances(x, y, 0.01)).reshape(len(TEST), *train.shape[2:])
    maps, scores = anomaly_maps(grids, (32, 32), PROTOCOLS["paper"])
    found, found_scores = model.score(TEST)
    torch.testing.assert_close(found, maps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_scores, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reduction", ["pca", "semi-orthogonal"])
def test_all_directions_score_as_all_channels(backbone: Backbone, reduction: str) -> None:
    options = {"n_features": None, "protocol": PROTOCOLS["paper"].vary(epsilon=0.1)}
    whole = PaDiM(backbone, reduction="none", **options).fit(TRAIN).score(TEST)[0]
    turned = PaDiM(backbone, reduction=reduction, **options).fit(TRAIN)
    assert turned.gaussians.embedding.n_features == 192
    torch.testing.assert_close(turned.score(TEST)[0], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reduction", ["pca", "semi-orthogonal", "stratified"])
def test_a_loaded_reduction_scores_bit_identically(backbone: Backbone, tmp_path: Path, reduction: str) -> None:
    model = PaDiM(backbone, n_features=20, seed=3, reduction=reduction).fit(TRAIN)
    model.save(tmp_path / "model.safetensors")
    loaded = PaDiM.load(tmp_path / "model.safetensors")
    assert loaded.config.reduction == reduction
    assert loaded.gaussians.embedding == model.gaussians.embedding
    for ours, theirs in zip(loaded.score(TEST), model.score(TEST), strict=True):
        assert torch.equal(ours, theirs)


def test_pca_cannot_be_fitted_image_by_image(backbone: Backbone) -> None:
    model = PaDiM(backbone, n_features=20, reduction="pca")
    with pytest.raises(PadimBenchError, match=r"all training images at once: call fit\(train_images\)"):
        model.partial_fit(TRAIN)
    with pytest.raises(PadimBenchError, match="empty iterable"):
        model.fit([])
    with pytest.raises(PadimBenchError, match="not fitted"):
        model.score(TEST)


def test_semi_orthogonal_models_may_be_fitted_in_parts(backbone: Backbone) -> None:
    options = {"n_features": 20, "seed": 3, "reduction": "semi-orthogonal"}
    expected = PaDiM(backbone, **options).fit(TRAIN).score(TEST)[0]
    left = PaDiM(backbone, **options).partial_fit(TRAIN[:3]).merge(PaDiM(backbone, **options).partial_fit(TRAIN[3:]))
    torch.testing.assert_close(left.score(TEST)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_model_refuses_what_its_backbone_cannot_give(backbone: Backbone) -> None:
    with pytest.raises(PadimBenchError, match="unknown reduction"):
        PaDiM(backbone, reduction="umap")
    with pytest.raises(PadimBenchError, match="192 channels"):
        PaDiM(backbone, n_features=193, reduction="stratified")
