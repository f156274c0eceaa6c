"""MahalanobisAD: against scikit-learn's shrinkage and SciPy's distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from torch import Tensor

from padim_bench import PadimBenchError, StrategyInvalidError
from padim_bench.baselines.mahalanobis import BASELINES, MahalanobisAD, ledoit_wolf
from padim_bench.padim.embedding import PatchEmbedding

CHANNELS, GRIDS = (3, 40), ((4, 4), (2, 2))
EMBEDDING = PatchEmbedding(CHANNELS, GRIDS, tuple(range(sum(CHANNELS))))


def features(n: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(n, c, *grid, generator=draw) + 3 for c, grid in zip(CHANNELS, GRIDS, strict=True)]


def fitted(train: list[Tensor]) -> MahalanobisAD:
    model = MahalanobisAD(EMBEDDING)
    for batch in zip(*(layer.split(4) for layer in train), strict=True):
        model.update(EMBEDDING.select(batch))
    model.fit()
    return model


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 30), p=st.integers(1, 20), seed=st.integers(0, 999))
def test_covariances_are_shrunk_as_scikit_learn_does(n: int, p: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, p)) * np.logspace(0, -1, p) + 3
    found = ledoit_wolf(torch.from_numpy(rows - rows.mean(axis=0)))
    np.testing.assert_allclose(found, LedoitWolf().fit(rows).covariance_, rtol=1e-9, atol=1e-12)


def test_scores_are_sums_of_scipys_distances_and_there_is_no_map() -> None:
    train, test = features(11), features(5, seed=1)
    model = fitted(train)
    maps, scores = model.score(EMBEDDING.select(test))
    expected = np.zeros(5)
    for learned, seen in zip(train, test, strict=True):
        rows, others = (layer.double().mean(dim=(2, 3)).numpy() for layer in (learned, seen))
        shrunk = LedoitWolf().fit(rows)
        expected += [mahalanobis(one, shrunk.location_, np.linalg.inv(shrunk.covariance_)) for one in others]
    assert maps is None
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert model.state_bytes == BASELINES[0].state_bytes(EMBEDDING, 11)


def test_a_single_image_and_images_that_are_all_alike_have_no_covariance() -> None:
    with pytest.raises(PadimBenchError, match="at least 2 training images"):
        fitted(features(1))
    with pytest.raises(StrategyInvalidError, match="not positive definite"):
        fitted([layer.expand(4, -1, -1, -1) for layer in features(1)])
