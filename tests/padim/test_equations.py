"""The paper's two equations: by hand, against SciPy's own distance, and by what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis as scipys
from scipy.stats import ortho_group

from padim_bench.padim.equations import distances, gaussian, mahalanobis


def test_two_images_in_two_dimensions_by_hand() -> None:
    mu, sigma = gaussian([[0, 1], [2, 5]], epsilon=1)
    assert mu.tolist() == [1, 3]
    assert sigma.tolist() == [[2 + 1, 4], [4, 8 + 1]]  # divided by N - 1 = 1
    # Sigma^-1 is [[9, -4], [-4, 3]] / 11.
    assert mahalanobis([[2, 3], [1, 4], [1, 3]], mu, sigma) == pytest.approx([(9 / 11) ** 0.5, (3 / 11) ** 0.5, 0])


def test_the_distance_from_one_image_is_the_euclidean_one_over_the_root_of_epsilon() -> None:
    mu, sigma = gaussian([[1, 2]], epsilon=0.25)
    assert (mu.tolist(), sigma.tolist()) == ([1, 2], [[0.25, 0], [0, 0.25]])
    assert mahalanobis([[4, 6], [1, 2]], mu, sigma) == pytest.approx([5 / 0.5, 0])


def test_positions_are_independent_of_each_other_and_float32_is_widened() -> None:
    generator = np.random.default_rng(0)
    train, images = (generator.normal(size=(n, 4, 3)).astype(np.float32) for n in (9, 5))
    found = distances(train, images, 0.01)
    assert found.shape == (5, 3)
    assert found.dtype == np.float64
    for p in range(3):
        alone = distances(train[:, :, p : p + 1].astype(np.float64), images[:, :, p : p + 1].astype(np.float64), 0.01)
        assert (found[:, p : p + 1] == alone).all()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(2, 20), epsilon=st.sampled_from([1e-3, 0.01, 1.0]), seed=st.integers(0, 999))
def test_distances_are_scipys_and_do_not_turn_with_the_axes(n: int, d: int, epsilon: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, d)) * np.logspace(0, -1, d) + 3, generator.normal(size=(4, d)) + 3
    found = mahalanobis(y, *gaussian(x, epsilon))
    inverse = np.linalg.inv(np.cov(x, rowvar=False) + epsilon * np.eye(d))
    np.testing.assert_allclose(found, [scipys(one, x.mean(axis=0), inverse) for one in y], rtol=1e-8)
    turn = ortho_group.rvs(d, random_state=seed)
    np.testing.assert_allclose(mahalanobis(y @ turn, *gaussian(x @ turn, epsilon)), found, rtol=1e-8)
