"""AUROC, average precision and F1-max against scikit-learn and by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from padim_bench.metrics.roc import DetectionMetrics, StreamingROC, detection_metrics
from padim_bench.metrics.summary import compute_metrics, f1_thresholds

labels_and_levels = st.lists(
    st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40
)  # seven score levels at most: nearly everything is tied


def oracle(labels: NDArray[np.bool_], scores: NDArray[np.generic]) -> DetectionMetrics:
    f1 = max(f1_score(labels, scores >= threshold, zero_division=0.0) for threshold in np.unique(scores))
    return DetectionMetrics(roc_auc_score(labels, scores), average_precision_score(labels, scores), float(f1))


def assert_equal(found: DetectionMetrics, expected: DetectionMetrics) -> None:
    assert found.auroc == pytest.approx(expected.auroc, abs=1e-12)
    assert found.average_precision == pytest.approx(expected.average_precision, abs=1e-12)
    assert found.f1_max == pytest.approx(expected.f1_max, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(pairs=labels_and_levels, dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int64]))
def test_equal_to_scikit_learn_with_heavy_ties(pairs: list[tuple[bool, int]], dtype: type) -> None:
    labels = np.array([label for label, _ in pairs])
    assume(labels.any() and not labels.all())
    scores = np.array([score for _, score in pairs]).astype(dtype)
    assert_equal(detection_metrics(labels, scores), oracle(labels, scores))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_scikit_learn_with_distinct_scores(dtype: type) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.2
    scores = (rng.normal(size=300) + labels).astype(dtype)
    assert_equal(detection_metrics(labels, scores), oracle(labels, scores))


extremes = st.sampled_from([-np.inf, -3e38, -1.0, -1e-44, -0.0, 0.0, 1e-44, 1.0, 3e38, np.inf])


@settings(max_examples=100, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.booleans(), extremes), min_size=2, max_size=30),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_extreme_scores_are_ordered_as_pairs_say(pairs: list[tuple[bool, float]], dtype: type) -> None:
    labels, scores = np.array([y for y, _ in pairs]), np.array([s for _, s in pairs]).astype(dtype)
    assume(labels.any() and not labels.all())
    positive, negative = scores[labels, None], scores[None, ~labels]
    won = (positive > negative) + (positive == negative) / 2
    found = detection_metrics(labels, scores)
    assert found.auroc == pytest.approx(won.mean(), abs=1e-12)
    at = [(labels[scores >= t].mean(), labels[scores >= t].sum() / labels.sum()) for t in np.unique(scores)]
    assert found.f1_max == pytest.approx(max(2 * p * r / (p + r) if p + r else 0.0 for p, r in at), abs=1e-12)


def test_arguments_are_left_as_they_are() -> None:
    labels, scores = np.zeros(50, dtype=bool), np.random.default_rng(2).normal(size=50).astype(np.float32)
    labels[::7] = True
    before = labels.copy(), scores.copy()
    detection_metrics(labels, scores)
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(scores, before[1])


def test_auroc_of_many_float32_pixels_is_exact() -> None:
    # More pairs than 2^32 and counts that float32 cannot hold.
    rng = np.random.default_rng(1)
    labels = rng.random(400_000) < 0.05
    scores = np.round(rng.normal(size=labels.size) + 2 * labels, 2).astype(np.float32)
    found = detection_metrics(labels, scores)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-10)


def test_hand_computed_case() -> None:
    # Pairs (positive, negative) won: 4 > 3, 4 > 1, 3 = 3 (half), 3 > 1, so 3.5 of 4. Thresholds 4 and 3 gain
    # half of the recall each at precision 1 and 2/3. F1 at 4: 2*1/(1+2); at 3: 2*2/(3+2).
    found = detection_metrics([1, 1, 0, 0], [4.0, 3.0, 3.0, 1.0])
    assert_equal(found, DetectionMetrics(3.5 / 4, (1 + 2 / 3) / 2, 4 / 5))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([0.0, 0.0, 1.0, 1.0], DetectionMetrics(1.0, 1.0, 1.0), id="separated"),
        pytest.param([1.0, 1.0, 0.0, 0.0], DetectionMetrics(0.0, 0.5, 2 / 3), id="inverted"),
        pytest.param([5.0, 5.0, 5.0, 5.0], DetectionMetrics(0.5, 0.5, 2 / 3), id="all tied"),
        pytest.param([-np.inf, 0.0, 0.0, np.inf], DetectionMetrics(0.875, 5 / 6, 0.8), id="infinite"),
    ],
)
def test_extreme_orderings(scores: list[float], expected: DetectionMetrics) -> None:
    assert_equal(detection_metrics([0, 0, 1, 1], scores), expected)


@pytest.mark.parametrize("one", [True, 1, 1.0, 255])
def test_labels_may_have_any_shape_and_be_0_and_1_or_as_in_masks_255(one: float) -> None:
    labels = np.array([[0, one], [one, 0]])
    scores = np.array([[0.1, 0.9], [0.4, 0.5]], dtype=np.float32)
    assert_equal(detection_metrics(labels, scores), oracle(labels.ravel() != 0, scores.ravel()))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_nan_and_a_warning_that_names_the_scores(label: int) -> None:
    with pytest.warns(UserWarning, match="pixel scores: only one class"):
        found = detection_metrics([label] * 3, [1.0, 2.0, 3.0], what="pixel scores")
    assert all(math.isnan(value) for value in (found.auroc, found.average_precision, found.f1_max))


def test_nothing_at_all_gives_nan_and_a_warning() -> None:
    with pytest.warns(UserWarning, match="only one class"):
        assert math.isnan(detection_metrics([], []).auroc)


def test_two_classes_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detection_metrics([0, 1], [0.0, 1.0]).auroc == 1


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.0, float("nan"), 1.0], "NaN"),
        ([-1, 1, 1], "-1"),
        ([0, 1, 2], "there is 2"),
        ([0, 2, 0], "there is 2"),
        ([0, 255, 1], "there is 1"),
        ([0.0, 0.5, 1.0], "there is 0.5"),
        (["good", "bad", "good"], "labels of <U4"),
    ],
)
def test_labels_that_are_neither_normal_nor_anomalous_are_refused(labels: list[object], said: str) -> None:
    scores = np.array([0.1, 0.2, 0.3])
    for run in (
        lambda: detection_metrics(labels, scores),
        lambda: StreamingROC().update(scores, labels),
        lambda: compute_metrics(np.array(labels), scores),
    ):
        with pytest.raises(ValueError, match="labels") as raised:
            run()
        assert said in str(raised.value)


def test_refused_labels_leave_a_stream_as_it_was() -> None:
    roc = StreamingROC()
    with pytest.raises(ValueError):
        roc.update([0.0, 1.0], [0.0, float("nan")])
    roc.update([0.0, 1.0], [0, 1])
    assert roc.compute().value == 1


@settings(max_examples=60, deadline=None)
@given(pairs=labels_and_levels)
def test_f1_is_largest_at_the_threshold_that_is_told(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([y for y, _ in pairs]), np.array([float(s) for _, s in pairs])
    assume(labels.any() and not labels.all())
    found = detection_metrics(labels, scores)
    assert f1_score(labels, scores >= found.f1_threshold) == pytest.approx(found.f1_max, abs=1e-12)
    higher = scores[scores > found.f1_threshold]
    assert all(f1_score(labels, scores >= t, zero_division=0.0) < found.f1_max for t in higher)


def test_without_one_of_the_classes_there_is_no_threshold() -> None:
    with pytest.warns(UserWarning, match="only one class"):
        assert math.isnan(detection_metrics([0, 0], [0.0, 1.0]).f1_threshold)
    assert f1_thresholds(np.array([0, 0]), np.array([0.0, 1.0], dtype=np.float32)) == {}


def test_nan_score_is_refused() -> None:
    with pytest.raises(ValueError, match="image scores contain NaN"):
        detection_metrics([0, 1], [0.0, float("nan")], what="image scores")


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((2, 3), (3, 2)), ((2, 2), (4,))])
def test_different_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    labels, scores = (np.arange(math.prod(shape)).reshape(shape) % 2 for shape in shapes)
    with pytest.raises(ValueError, match="image scores"):
        detection_metrics(labels, scores.astype(float), what="image scores")
