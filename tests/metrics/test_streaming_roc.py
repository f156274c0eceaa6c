"""Streamed AUROC against scikit-learn, within its error bound."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from padim_bench.metrics._bins import BINS, score_bins
from padim_bench.metrics.roc import StreamedValue, StreamingROC, detection_metrics

Batch = tuple[NDArray[np.floating], NDArray[np.bool_]]


def stream(*batches: Batch) -> StreamingROC:
    roc = StreamingROC()
    for scores, labels in batches:
        roc.update(scores, labels)
    return roc


def pixels(size: int, seed: int, offset: float = 0.0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < 0.1
    return (offset + 10 * rng.normal(size=size) + 15 * labels).astype(np.float32), labels


def centred(pair: tuple[float, int]) -> float:
    return pair[0] * (1 + pair[1] * 1e-4)


# Many scores share a bin though they differ: around a few centres, of both signs and any size.
close_scores = st.tuples(st.sampled_from([0.0, -0.0, 1.0, -1.0, 17.3, -17.3, 1e-30, 1e30]), st.integers(-4, 4)).map(
    centred
)
labelled = st.lists(st.tuples(close_scores, st.booleans()), min_size=2, max_size=40)


@settings(max_examples=150, deadline=None)
@given(pairs=labelled, dtype=st.sampled_from([np.float32, np.float64]), cut=st.integers(0, 40))
@example(pairs=[(-0.0, True), (0.0, False)], dtype=np.float32, cut=1)
@example(pairs=[(-0.0, False), (0.0, True)], dtype=np.float32, cut=0)
@example(pairs=[(1e-50, True), (-1e-50, False)], dtype=np.float64, cut=1)
def test_scikit_learns_value_is_within_the_bound(pairs: Sequence[tuple[float, bool]], dtype: type, cut: int) -> None:
    scores, labels = np.array([s for s, _ in pairs]).astype(dtype), np.array([y for _, y in pairs])
    assume(labels.any() and not labels.all())
    found = stream((scores[:cut], labels[:cut]), (scores[cut:], labels[cut:])).compute()
    assert 0 <= found.error_bound <= 0.5
    assert abs(found.value - roc_auc_score(labels, scores)) <= found.error_bound + 1e-12


@settings(max_examples=60, deadline=None)
@given(pairs=labelled, cut=st.integers(0, 40))
def test_exact_ap_and_f1_are_within_their_bounds(pairs: Sequence[tuple[float, bool]], cut: int) -> None:
    scores, labels = np.array([s for s, _ in pairs], dtype=np.float32), np.array([y for _, y in pairs])
    assume(labels.any() and not labels.all())
    streamed, exact = (
        stream((scores[:cut], labels[:cut]), (scores[cut:], labels[cut:])),
        detection_metrics(labels, scores),
    )
    for found, right in (
        (streamed.average_precision(), exact.average_precision),
        (streamed.f1_max(), exact.f1_max),
    ):
        assert 0 <= found.error_bound <= 1
        assert abs(found.value - right) <= found.error_bound + 1e-12


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(-200, 200), st.booleans()), min_size=2, max_size=40))
def test_exact_where_no_two_scores_share_a_bin(pairs: Sequence[tuple[int, bool]]) -> None:
    scores, labels = np.array([s for s, _ in pairs]) / 4, np.array([y for _, y in pairs])
    assume(labels.any() and not labels.all())
    assert stream((scores, labels)).compute().value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_hand_computed_case() -> None:
    # Of the pairs (positive, negative), 2 > 1, 2 > 0.5 and 1.00001 > 0.5 are won; 1.00001 and 1 share a bin, so
    # that pair counts half, and may be worth 0 or 1.
    found = stream((np.array([2.0, 1.00001, 1.0, 0.5]), np.array([True, True, False, False]))).compute()
    assert found == StreamedValue(3.5 / 4, 0.5 / 4)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([-1.0, -0.0, 0.0, 1.0], 0.875, id="zeros of both signs tie"),
        pytest.param([-3.0, -2.0, -1.0, -0.5], 1.0, id="negative"),
        pytest.param([-0.5, -1.0, -2.0, -3.0], 0.0, id="negative, inverted"),
        pytest.param([-np.inf, 0.0, 0.0, np.inf], 0.875, id="infinite"),
        pytest.param([0.0, 0.0, 0.0, 0.0], 0.5, id="all tied"),
    ],
)
def test_extreme_orderings(scores: list[float], expected: float) -> None:
    found = stream((np.array(scores), np.array([False, False, True, True]))).compute()
    assert found.value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 40.0, -40.0])
def test_bound_is_small_at_real_sizes(offset: float) -> None:
    scores, labels = pixels(400_000, seed=0, offset=offset)
    found = stream((scores, labels)).compute()
    assert 0 < found.error_bound < 1e-3
    assert abs(found.value - roc_auc_score(labels, scores)) <= found.error_bound
    exact, streamed = detection_metrics(labels, scores), stream((scores, labels))
    for one, right in (
        (streamed.average_precision(), exact.average_precision),
        (streamed.f1_max(), exact.f1_max),
    ):
        assert one.error_bound < 2e-3
        assert one.value == pytest.approx(right, abs=min(one.error_bound, 1e-4))


def test_order_and_split_of_the_pixels_do_not_matter() -> None:
    scores, labels = pixels(10_000, seed=1)
    order = np.random.default_rng(2).permutation(scores.size)
    shuffled = list(zip(np.split(scores[order], 5), np.split(labels[order], 5), strict=True))
    assert stream(*shuffled).compute() == stream((scores, labels)).compute()


def test_merging_is_the_same_as_seeing_both() -> None:
    first, second = pixels(1000, seed=3), pixels(2000, seed=4)
    merged, other = stream(first), stream(second)
    merged.merge(other)
    assert merged.compute() == stream(first, second).compute()
    assert other.compute() == stream(second).compute()


def test_any_shape_and_any_non_zero_label() -> None:
    scores, labels = pixels(600, seed=5)
    flat = stream((scores, labels)).compute()
    assert stream((scores.reshape(2, 15, 20), labels.reshape(2, 15, 20))).compute() == flat
    roc = StreamingROC()
    roc.update(scores.reshape(20, 30), labels.reshape(20, 30).astype(np.uint8) * 255)
    for score, label in ((0.0, False), (1.0, True)):  # scalars and lists are arrays too
        roc.update(score, label)
        roc.update([score], [label])
    assert roc.compute().value > 0.5


def test_arguments_are_left_as_they_are() -> None:
    scores, labels = pixels(100, seed=6)
    before = scores.copy(), labels.copy()
    stream((scores, labels))
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize("label", [False, True])
def test_one_class_gives_nan_and_a_warning(label: bool) -> None:
    roc = stream((np.ones(3), np.full(3, label)))
    for compute in (roc.compute, roc.average_precision, roc.f1_max):
        with pytest.warns(UserWarning, match="only one class"):
            found = compute()
        assert math.isnan(found.value)
        assert math.isnan(found.error_bound)


def test_nothing_at_all_gives_nan_and_a_warning() -> None:
    with pytest.warns(UserWarning, match="only one class"):
        assert math.isnan(StreamingROC().compute().value)


def test_classes_may_come_apart_without_a_warning() -> None:
    roc = stream((np.ones(3), np.ones(3, dtype=bool)), (np.zeros((2, 2)), np.zeros((2, 2), dtype=bool)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert roc.compute() == StreamedValue(1.0, 0.0)


def test_nan_score_is_refused_and_nothing_is_added() -> None:
    roc = stream((np.array([0.0, 1.0]), np.array([False, True])))
    with pytest.raises(ValueError, match="NaN"):
        roc.update(np.array([0.5, np.nan]), np.array([True, False]))
    assert roc.compute().value == 1


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((2, 3), (3, 2)), ((2, 2), (4,))])
def test_different_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        StreamingROC().update(np.ones(shapes[0]), np.ones(shapes[1]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50))
def test_bins_are_monotone_and_within_range(scores: list[float]) -> None:
    bins = score_bins(np.sort(np.array(scores, dtype=np.float32))).astype(np.int64)
    assert (np.diff(bins) >= 0).all()
    assert bins[0] >= 0
    assert bins[-1] < BINS


def test_zeros_of_both_signs_share_a_bin() -> None:
    assert len(set(score_bins(np.array([-0.0, 0.0])).tolist())) == 1
