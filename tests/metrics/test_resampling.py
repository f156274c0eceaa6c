"""Resampled metrics against the metrics of the images drawn; intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from padim_bench.evaluation import Maps
from padim_bench.metrics.pro import StreamingPRO, average_pro
from padim_bench.metrics.pro_variants import pro_by
from padim_bench.metrics.resampling import draws, interval, resampled_image_auroc, resampled_metrics
from padim_bench.protocols import get_protocol

SPLIT = "c0ffee" + "0" * 58


def drawn(n: int, side: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Labels, maps and masks of n images, two thirds anomalous with one or two regions."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 > 0).astype(np.int64)
    maps = generator.gamma(3.0, 2.0, (n, side, side)).astype(np.float32)
    masks = np.zeros((n, side, side), dtype=bool)
    for i in np.flatnonzero(labels):
        masks[i, : side // 3, : side // 4] = True
        if i % 2:
            masks[i, -side // 4 :, -side // 3 :] = True
    return labels, maps + 4 * masks * generator.random((n, 1, 1), dtype=np.float32), masks


@settings(max_examples=15, deadline=None)
@given(n=st.integers(3, 9), side=st.integers(8, 20), seed=st.integers(0, 99))
def test_a_resample_is_the_metric_of_the_images_that_it_drew(n: int, side: int, seed: int) -> None:
    labels, maps, masks = drawn(n, side, seed)
    scores = maps.max(axis=(1, 2))
    found = resampled_metrics(labels, scores, SPLIT, list(masks), list(maps), n=4)
    for r, counts in enumerate(draws(labels, SPLIT, 4)):
        chosen = np.repeat(np.arange(n), counts)
        assert labels[chosen].sum() == labels.sum()
        pro = StreamingPRO()
        for i in chosen:
            pro.update(maps[i], masks[i])
        assert found["pro"][r] == pytest.approx(pro.compute().value, abs=1e-12)
        exact = average_pro(maps[chosen], masks[chosen])
        assert abs(found["pro"][r] - exact) <= pro.compute().error_bound + 1e-12
        auroc = roc_auc_score(masks[chosen].ravel(), maps[chosen].ravel())
        assert found["pixel_auroc"][r] == pytest.approx(auroc, abs=2e-3)
        assert found["image_auroc"][r] == pytest.approx(roc_auc_score(labels[chosen], scores[chosen]), abs=1e-12)
        own = [average_pro(maps[i : i + 1], masks[i : i + 1]) for i in chosen if labels[i]]
        assert found["pro_per_image"][r] == pytest.approx(np.mean(own), abs=1e-12)


def test_every_configuration_of_a_split_draws_alike_and_every_split_otherwise() -> None:
    labels = np.array([0] * 20 + [1] * 30)
    assert (draws(labels, SPLIT) == draws(labels, SPLIT)).all()
    assert (draws(labels, SPLIT) != draws(labels, "b" * 64)).any()
    assert draws(labels, SPLIT).shape == (200, 50)
    assert (draws(labels, SPLIT)[:, labels == 1].sum(axis=1) == 30).all()


def test_ties_count_half_by_hand() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])
    counts = np.array([[1, 1, 1, 1], [0, 2, 2, 0], [2, 0, 0, 2]])
    assert resampled_image_auroc(counts, labels, scores).tolist() == [(1 + 0.5 + 1 + 1) / 4, 0.5, 1.0]


def test_one_class_is_undefined() -> None:
    assert np.isnan(resampled_metrics(np.zeros(4, int), np.arange(4.0), SPLIT)["image_auroc"]).all()


def test_an_interval_covers_what_it_promises() -> None:
    """AUROC of 40 against 40 images of two normal distributions, whose true value is known; 300 test sets."""
    generator, labels = np.random.default_rng(0), np.array([0] * 40 + [1] * 40)
    true = 0.7602  # of N(1, 1) over N(0, 1): the standard normal at 1 / sqrt(2)
    covered = 0
    for i in range(300):
        scores = generator.normal(labels.astype(float), 1.0)
        low, high = interval(resampled_image_auroc(draws(labels, f"{i:032x}"), labels, scores))
        covered += low <= true <= high
    assert 0.90 <= covered / 300 <= 0.985  # 95 % within four standard errors, and what 200 resamples lose


def test_paired_differences_are_narrower_than_either() -> None:
    generator, labels = np.random.default_rng(0), np.array([0] * 30 + [1] * 60)
    one = generator.normal(labels * 1.5, 1.0)
    other = one + generator.normal(0, 0.05, 90)
    counts = draws(labels, SPLIT)
    first, second = (resampled_image_auroc(counts, labels, s) for s in (one, other))
    (low, high), (one_low, one_high) = interval(first - second), interval(first)
    assert high - low < (one_high - one_low) / 3
    assert low <= 0 <= high


def test_maps_give_the_resamples_of_what_they_hold_and_of_histograms_those_of_scores() -> None:
    labels, maps, masks = drawn(9, 224, 3)
    scores = maps.max(axis=(1, 2))
    expected = resampled_metrics(labels, scores, SPLIT, list(masks), list(maps))
    for exact in (True, False):
        held = Maps(get_protocol("paper"), exact=exact)
        held.add(torch.from_numpy(maps), list(masks))
        metrics, _ = held.metrics(labels, scores)
        found = held.resampled(labels, scores, SPLIT)
        assert set(found) == (set(expected) if exact else {"image_auroc"})
        for name, values in found.items():
            assert values.tolist() == expected[name].tolist()
        own = [average_pro([m], [k]) for m, k in zip(maps, masks, strict=True) if k.any()]
        assert metrics["pro_per_image"] == pytest.approx(np.mean(own), abs=1e-12)
        same = pro_by(maps, masks, curve="per image", normal_images=False, weigh="images")
        assert metrics["pro_per_image"] == pytest.approx(same, abs=1e-12)
