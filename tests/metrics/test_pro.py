"""PRO against the definition, spelled out slowly, and by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from padim_bench.metrics.pro import FPR_LIMIT, StreamingPRO, average_pro
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.metrics.summary import compute_metrics

Maps = NDArray[np.floating]
Masks = NDArray[np.bool_]
Curve = list[tuple[float, float]]
EIGHT = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
FOUR = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def regions_of(mask: Masks, neighbours: Sequence[tuple[int, int]] = EIGHT) -> list[Masks]:
    """One mask per connected component, by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        front, region = [left.pop()], np.zeros_like(mask)
        while front:
            y, x = front.pop()
            region[y, x] = True
            touching = {(y + dy, x + dx) for dy, dx in neighbours} & left
            left -= touching
            front += touching
        found.append(region)
    return found


def curve_of(normal: NDArray[np.floating], overlaps: Sequence[NDArray[np.floating]]) -> Curve:
    """(FPR, mean overlap) at every distinct threshold, from the strictest on."""
    thresholds = np.unique(np.concatenate([normal, *overlaps]))[::-1]
    steps = [(float((normal >= t).mean()), float(np.mean([(o >= t).mean() for o in overlaps]))) for t in thresholds]
    return [(0.0, 0.0), *steps]


def area_under(curve: Curve, limit: float) -> float:
    """Trapezoids up to ``limit``, the one that it falls into cut by linear interpolation."""
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < limit:
            x = min(x1, limit)
            y = y1 if x1 <= limit else y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (x - x0) * (y0 + y) / 2
    return area


def oracle(
    maps: Sequence[Maps],
    masks: Sequence[Masks],
    limit: float = FPR_LIMIT,
    neighbours: Sequence[tuple[int, int]] = EIGHT,
) -> float:
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    overlaps = [m[region] for m, k in zip(maps, masks, strict=True) for region in regions_of(k, neighbours)]
    return area_under(curve_of(normal, overlaps), limit) / limit


def by_global_argsort(maps: Maps, masks: Masks, limit: float = FPR_LIMIT) -> float:
    """The same for millions of pixels: every score in one order, then cumulative sums."""
    gains, n_regions = np.zeros(maps.shape), 0
    for gain, mask in zip(gains, masks, strict=True):
        labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
        n_regions += count
        for region in range(1, count + 1):
            gain[labelled == region] = 1 / (labelled == region).sum()
    order = np.argsort(-maps.ravel(), kind="stable")
    scores, normal = maps.ravel()[order], ~masks.ravel()[order]
    last = np.append(scores[1:] != scores[:-1], True)  # only the end of a tie is a point of the curve
    fpr = np.concatenate([[0], np.cumsum(normal)[last] / normal.sum()])
    pro = np.concatenate([[0], np.cumsum(gains.ravel()[order])[last] / n_regions])
    inside = fpr <= limit
    edge = np.interp(limit, fpr, pro)
    x, y = np.append(fpr[inside], limit), np.append(pro[inside], edge)
    return float(np.trapezoid(y, x) / limit)


def smooth_category(n: int, side: int, seed: int) -> tuple[Maps, Masks]:
    """Smooth positive maps, a third of them of normal images, the others with defects that score higher."""
    rng = np.random.default_rng(seed)
    maps = np.empty((n, side, side), dtype=np.float32)
    masks = np.zeros((n, side, side), dtype=bool)
    for i in range(n):
        noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), 4)
        if i % 3:
            blobs = ndimage.gaussian_filter(rng.normal(size=(side, side)), 8)
            masks[i] = blobs > np.quantile(blobs, 0.97)
        maps[i] = 12 + 2 * noise / noise.std() + 3 * ndimage.gaussian_filter(masks[i].astype(float), 4)
    return maps, masks


def stream(maps: Sequence[Maps], masks: Sequence[Masks], limit: float = FPR_LIMIT) -> tuple[float, float]:
    streaming = StreamingPRO(fpr_limit=limit)
    for score_map, mask in zip(maps, masks, strict=True):
        streaming.update(score_map, mask)
    result = streaming.compute()
    return result.value, result.error_bound


@st.composite
def categories(draw: st.DrawFn) -> tuple[Maps, Masks]:
    """A few tiny maps of few levels with masks of any shape, empty ones included."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)))
    levels = draw(st.sampled_from([1, 3, 10, 200]))
    scores = draw(arrays(np.int64, shape, elements=st.integers(-levels, levels), fill=st.nothing()))
    masks = draw(arrays(np.bool_, shape, elements=st.booleans(), fill=st.just(False)))
    assume(masks.any() and not masks.all())
    return (scores / 4).astype(draw(st.sampled_from([np.float32, np.float64]))), masks


limits = st.one_of(st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0]), st.floats(1e-3, 1.0))


@settings(max_examples=150, deadline=None)
@given(category=categories(), limit=limits)
def test_equal_to_the_definition(category: tuple[Maps, Masks], limit: float) -> None:
    maps, masks = category
    assert average_pro(maps, masks, fpr_limit=limit) == pytest.approx(oracle(maps, masks, limit), abs=1e-10)


EXTREMES = [-np.inf, -3e38, -1.0, -1e-44, -0.0, 0.0, 1e-44, 1.0, float(np.nextafter(np.float32(1), 2)), 3e38, np.inf]


@st.composite
def extreme_categories(draw: st.DrawFn) -> tuple[Maps, Masks]:
    """Ties of zeros of both signs, infinities, denormal and huge scores; one image or a few."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
    scores = draw(arrays(np.float64, shape, elements=st.sampled_from(EXTREMES), fill=st.nothing()))
    masks = draw(arrays(np.bool_, shape, elements=st.booleans(), fill=st.just(False)))
    assume(masks.any() and not masks.all())
    return scores.astype(draw(st.sampled_from([np.float32, np.float64]))), masks


@settings(max_examples=150, deadline=None)
@given(category=extreme_categories(), limit=limits)
def test_extreme_scores_are_ordered_as_the_definition_says(category: tuple[Maps, Masks], limit: float) -> None:
    maps, masks = category
    exact = average_pro(maps, masks, fpr_limit=limit)
    assert exact == pytest.approx(oracle(maps, masks, limit), abs=1e-10)
    value, bound = stream(maps, masks, limit)
    assert abs(value - exact) <= bound + 1e-12


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_any_number_type_is_a_score(dtype: type) -> None:
    maps, masks = smooth_category(4, 24, seed=9)
    maps = maps.astype(dtype)  # few levels: nearly everything is tied, across the limit too
    assert average_pro(maps, masks) == pytest.approx(oracle(maps, masks), abs=1e-10)


@pytest.mark.parametrize("corner", [(0, 0), (0, 15), (15, 0), (15, 15)])
def test_regions_at_the_border_are_whole(corner: tuple[int, int]) -> None:
    maps, masks = smooth_category(2, 16, seed=10)
    masks[0, 4:9, 5:7] = masks[0][corner] = True
    assert average_pro(maps, masks) == pytest.approx(oracle(maps, masks), abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(category=categories())
def test_the_default_limit_is_the_papers(category: tuple[Maps, Masks]) -> None:
    maps, masks = category
    assert average_pro(maps, masks) == pytest.approx(oracle(maps, masks, 0.3), abs=1e-10)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equal_to_a_global_argsort_at_full_size(limit: float, full_size: tuple[Maps, Masks]) -> None:
    maps, masks = full_size
    assert average_pro(maps, masks, fpr_limit=limit) == pytest.approx(by_global_argsort(maps, masks, limit), abs=1e-9)


@pytest.fixture(scope="module")
def full_size() -> tuple[Maps, Masks]:
    return smooth_category(83, 224, seed=0)


def test_the_global_argsort_is_equal_to_the_definition() -> None:
    maps, masks = smooth_category(4, 24, seed=1)
    maps = np.round(maps, 1)
    assert by_global_argsort(maps, masks) == pytest.approx(oracle(maps, masks), abs=1e-12)


def one_row(*pixels: tuple[float, int]) -> tuple[Maps, Masks]:
    """A map of one row from (score, anomalous) pairs."""
    return np.array([[score for score, _ in pixels]], dtype=np.float32), np.array([[m == 1 for _, m in pixels]])


def normal_image(*scores: float) -> tuple[Maps, Masks]:
    return one_row(*((score, 0) for score in scores))


def test_hand_computed_case() -> None:
    # Regions {9} and {6, 1}; the ten normal pixels pass 8, 7 and 5 at FPR 0.1, 0.2 and 0.3. The overlap is 1/2
    # up to FPR 0.2, where 6 joins, and 3/4 from there on: (0.2 * 0.5 + 0.1 * 0.75) / 0.3.
    (m1, k1), (m2, k2) = one_row((9, 1), (8, 0), (5, 0), (6, 1), (1, 1)), normal_image(7, 4, 3, 2, 0, 0, 0, 0)
    assert average_pro([m1, m2], [k1, k2]) == pytest.approx(0.175 / 0.3, abs=1e-7)


def test_a_tie_across_the_limit_is_cut_by_interpolation() -> None:
    # Four of ten normal pixels tie with the region, from FPR 0.1 to 0.5: the overlap has risen to 1/2 at 0.3.
    score_map, mask = one_row((9, 0), (5, 0), (5, 1), *[(5, 0)] * 3, *[(1, 0)] * 5)
    assert average_pro([score_map], [mask]) == pytest.approx(0.2 * 0.5 / 2 / 0.3, abs=1e-7)


def test_a_constant_map_is_worth_half_the_limit() -> None:
    score_map, mask = one_row((5, 1), *[(5, 0)] * 9)
    assert average_pro([score_map], [mask]) == pytest.approx(0.15)


@pytest.mark.parametrize(("normal", "defect", "expected"), [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0)])
def test_perfect_and_inverted_maps(normal: float, defect: float, expected: float) -> None:
    masks = smooth_category(5, 32, seed=2)[1]
    # Inverted: the defects come after every normal pixel, so only the limit 1 ever reaches them.
    assert average_pro(np.where(masks, defect, normal), masks) == pytest.approx(expected, abs=1e-12)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    # Regions {9, 0} and {0}; two by 4-connectivity would be three.
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    score_map = np.array([[9, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=np.float32)
    assert average_pro([score_map], [mask]) == pytest.approx(1 / 4)
    assert oracle([score_map], [mask], neighbours=FOUR) == pytest.approx(1 / 3)


def test_regions_weigh_the_same_whatever_their_size() -> None:
    # The large region is missed, the small one found.
    score_map, mask = one_row((9, 1), (1, 0), *[(0, 1)] * 50, *[(1, 0)] * 9)
    assert average_pro([score_map], [mask]) == pytest.approx(0.5)


def test_images_may_differ_in_size() -> None:
    maps, masks = smooth_category(3, 16, seed=3)
    cut_maps, cut_masks = [maps[0], maps[1][:, :9], maps[2][:5]], [masks[0], masks[1][:, :9], masks[2][:5]]
    assert average_pro(cut_maps, cut_masks) == pytest.approx(oracle(cut_maps, cut_masks), abs=1e-10)


def test_any_non_zero_mask_value_is_anomalous() -> None:
    maps, masks = smooth_category(3, 16, seed=4)
    assert average_pro(maps, masks.astype(np.uint8) * 255) == average_pro(maps, masks)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (-1.0, "below 0"), (-0.5, "below 0")])
def test_a_mask_with_a_value_that_is_neither_normal_nor_anomalous_is_refused(value: float, said: str) -> None:
    maps, masks = smooth_category(3, 16, seed=4)
    spoilt = masks.astype(float)
    spoilt[1, 2, 3] = value
    streaming = StreamingPRO()
    for run in (
        lambda: average_pro(maps, spoilt),
        lambda: streaming.update(maps[1], spoilt[1]),
        lambda: compute_metrics(masks.any(axis=(1, 2)), maps.max(axis=(1, 2)), spoilt, maps),
        *(lambda variant=variant: variant.function(maps, spoilt) for variant in PRO_VARIANTS.values()),
    ):
        with pytest.raises(ValueError, match=f"mask .*{said}"):
            run()
    for score_map, mask in zip(maps, masks, strict=True):
        streaming.update(score_map, mask)
    assert streaming.compute().value == pytest.approx(average_pro(maps, masks), abs=1e-2)


@settings(max_examples=50, deadline=None)
@given(
    category=categories(),
    transform=st.sampled_from([np.cbrt, np.arctan, lambda x: 3 * x - 7, lambda x: np.exp(x / 8)]),
    limit=limits,
)
def test_only_the_order_of_scores_matters(
    category: tuple[Maps, Masks], transform: Callable[[Maps], Maps], limit: float
) -> None:
    maps, masks = category[0].astype(np.float64), category[1]
    before, after = (average_pro(m, masks, fpr_limit=limit) for m in (maps, transform(maps)))
    assert after == pytest.approx(before, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(category=categories(), data=st.data())
def test_the_order_of_images_does_not_matter(category: tuple[Maps, Masks], data: st.DataObject) -> None:
    maps, masks = category
    order = data.draw(st.permutations(range(len(maps))))
    assert average_pro(maps[order], masks[order]) == pytest.approx(average_pro(maps, masks), abs=1e-12)


def test_arguments_are_left_as_they_are() -> None:
    maps, masks = smooth_category(3, 16, seed=5)
    before = maps.copy(), masks.copy()
    average_pro(maps, masks)
    average_pro(maps[1:2], masks[1:2])
    stream(maps, masks)
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


# Known variants of other implementations, on one small example where each gives another number.
EXAMPLE = [
    one_row((9, 1), (8, 0), (4, 1), (3, 0), (2, 0)),
    one_row((7, 1), (1, 0), (0, 0)),
    normal_image(6, 5, 1, 1, 0, 0),
]
EXAMPLE_MAPS, EXAMPLE_MASKS = [m for m, _ in EXAMPLE], [k for _, k in EXAMPLE]


def averaged_per_image() -> float:
    normal = np.concatenate([m[~k] for m, k in EXAMPLE])
    scores = [[m[region] for region in regions_of(k)] for m, k in EXAMPLE if k.any()]
    thresholds = np.unique(np.concatenate([m.ravel() for m in EXAMPLE_MAPS]))[::-1]
    curve = [(0.0, 0.0)]
    for t in thresholds:
        per_image = [np.mean([(region >= t).mean() for region in image]) for image in scores]
        curve.append((float((normal >= t).mean()), float(np.mean(per_image))))
    return area_under(curve, 0.3) / 0.3


def without_normal_images() -> float:
    defective = [(m, k) for m, k in EXAMPLE if k.any()]
    return oracle([m for m, _ in defective], [k for _, k in defective])


def divided_by_the_last_fpr() -> float:
    normal = np.concatenate([m[~k] for m, k in EXAMPLE])
    curve = curve_of(normal, [m[region] for m, k in EXAMPLE for region in regions_of(k)])
    last = max(fpr for fpr, _ in curve if fpr <= 0.3)
    return area_under(curve, last) / last


@pytest.mark.parametrize("variant", [averaged_per_image, without_normal_images, divided_by_the_last_fpr])
def test_known_variants_give_another_number(variant: Callable[[], float]) -> None:
    # Eleven normal pixels: 8, 6 and 5 pass at 1/11, 2/11 and 3/11, and 3 only after the limit. Regions join at
    # 0 (score 9), 1/11 (7) and 3/11 (4).
    value = average_pro(EXAMPLE_MAPS, EXAMPLE_MASKS)
    assert value == pytest.approx(((0.3 - 0) + (0.3 - 1 / 11) + (0.3 - 3 / 11)) / 3 / 0.3)
    assert abs(variant() - value) > 0.01


def test_a_float32_sigmoid_before_it_gives_another_number() -> None:
    maps = [np.array([[40.0, 30.0, 20.0, 1.0]], dtype=np.float32)]
    masks = [np.array([[True, False, False, False]])]
    squashed = [1 / (1 + np.exp(-m)) for m in maps]
    assert average_pro(maps, masks) == pytest.approx(1.0)
    assert average_pro(squashed, masks) < 0.5


no_region = pytest.param([0, 0, 0], "no anomalous region", id="no region")
no_normal = pytest.param([1, 1, 1], "no anomaly-free pixel", id="no normal pixel")


@pytest.mark.parametrize(("mask", "message"), [no_region, no_normal])
def test_nan_and_a_warning_where_undefined(mask: list[int], message: str) -> None:
    maps, masks = np.ones((1, 1, 3), dtype=np.float32), np.array([[mask]])
    with pytest.warns(UserWarning, match=message):
        assert math.isnan(average_pro(maps, masks))
    streaming = StreamingPRO()
    streaming.update(maps[0], masks[0])
    with pytest.warns(UserWarning, match=message):
        result = streaming.compute()
    assert math.isnan(result.value)
    assert math.isnan(result.error_bound)


def test_nan_and_a_warning_without_any_image() -> None:
    with pytest.warns(UserWarning, match="PRO is NaN"):
        assert math.isnan(average_pro([], []))
    with pytest.warns(UserWarning, match="PRO is NaN"):
        assert math.isnan(StreamingPRO().compute().value)


def test_no_warning_where_defined() -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        average_pro(EXAMPLE_MAPS, EXAMPLE_MASKS)
        stream(EXAMPLE_MAPS, EXAMPLE_MASKS)
    assert given == []


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, float("nan")])
def test_limits_outside_zero_to_one_are_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="fpr_limit"):
        average_pro(EXAMPLE_MAPS, EXAMPLE_MASKS, fpr_limit=limit)
    with pytest.raises(ValueError, match="fpr_limit"):
        StreamingPRO(fpr_limit=limit)


def test_maps_and_masks_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="3 maps for 2 masks"):
        average_pro(EXAMPLE_MAPS, EXAMPLE_MASKS[:2])


bad_pairs = pytest.mark.parametrize(
    ("score_map", "mask", "message"),
    [
        pytest.param(np.ones((2, 3)), np.ones((3, 2)), "shape", id="transposed"),
        pytest.param(np.ones((1, 2, 3)), np.ones((1, 2, 3)), "shape", id="three dimensions"),
        pytest.param(np.array([[1.0, np.nan]]), np.array([[1, 0]]), "NaN", id="NaN"),
    ],
)


@bad_pairs
def test_bad_maps_are_refused(score_map: Maps, mask: Masks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_pro([score_map], [mask])


@bad_pairs
def test_bad_maps_are_refused_when_streamed(score_map: Maps, mask: Masks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingPRO().update(score_map, mask)


@st.composite
def close_categories(draw: st.DrawFn) -> tuple[Maps, Masks]:
    """Scores of which many share a bin though they differ: around a few centres, of both signs and any size."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    centres = st.sampled_from([0.0, -0.0, 1.0, -1.0, 17.3, -17.3, 1e-30, 1e30])
    steps = st.integers(-4, 4).map(lambda k: 1 + k * 1e-4)
    scores = draw(arrays(np.float64, shape, elements=st.builds(lambda c, s: c * s, centres, steps), fill=st.nothing()))
    masks = draw(arrays(np.bool_, shape, elements=st.booleans(), fill=st.just(False)))
    assume(masks.any() and not masks.all())
    return scores.astype(draw(st.sampled_from([np.float32, np.float64]))), masks


# Weights of these regions sum to a little over 1.
ALL_TIED_MASK = np.isin(np.arange(24), [0, 2, 8, 12, 16]).reshape(1, 6, 4)


@settings(max_examples=150, deadline=None)
@given(category=st.one_of(categories(), close_categories()), limit=limits)
@example(category=(np.array([[[-0.0, 0.0, -1.0]]]), np.array([[[True, False, False]]])), limit=1.0)
@example(category=(np.array([[[1e-50, -1e-50, -1.0]]]), np.array([[[True, False, False]]])), limit=0.3)
@example(category=(np.zeros((1, 6, 4)), ALL_TIED_MASK), limit=0.1)
def test_streaming_stays_within_its_error_bound(category: tuple[Maps, Masks], limit: float) -> None:
    maps, masks = category
    value, bound = stream(maps, masks, limit)
    assert 0 <= bound <= 1
    assert abs(value - average_pro(maps, masks, fpr_limit=limit)) <= bound + 1e-12


@settings(max_examples=50, deadline=None)
@given(category=categories(), limit=limits)
def test_streaming_is_exact_where_no_two_scores_share_a_bin(category: tuple[Maps, Masks], limit: float) -> None:
    maps, masks = category  # multiples of 1/4 up to 50: far apart beside 1/2048 of a score
    assert stream(maps, masks, limit)[0] == pytest.approx(average_pro(maps, masks, fpr_limit=limit), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, -30], ids=["positive", "negative"])
def test_streaming_bound_is_small_at_real_sizes(dtype: type, offset: float) -> None:
    maps, masks = smooth_category(20, 224, seed=6)
    maps = (maps + offset).astype(dtype)
    value, bound = stream(maps, masks)
    assert 0 < bound < 1e-3
    assert abs(value - average_pro(maps, masks)) <= bound


def test_streaming_does_not_depend_on_the_order_of_images() -> None:
    maps, masks = smooth_category(6, 32, seed=7)
    assert stream(maps[::-1], masks[::-1]) == pytest.approx(stream(maps, masks), abs=1e-12)


def test_streaming_can_be_read_between_updates() -> None:
    maps, masks = smooth_category(6, 32, seed=8)
    streaming = StreamingPRO()
    for i, (score_map, mask) in enumerate(zip(maps, masks, strict=True)):
        streaming.update(score_map, mask)
        if i == 3:
            assert streaming.compute().value == stream(maps[:4], masks[:4])[0]
    assert streaming.compute().value == stream(maps, masks)[0]
