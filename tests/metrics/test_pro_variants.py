"""Each deviation by hand, against slow loops, and where it makes no difference."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from padim_bench.metrics.pro import average_pro
from padim_bench.metrics.pro_variants import PRO_VARIANTS, pro_by

Map = NDArray[np.floating]
Mask = NDArray[np.bool_]
Image = tuple[Map, Mask]
Curve = list[tuple[float, float]]

ANOMALIB = "anomalib <= 2.2"
RD4AD = "per image (RD4AD)"
ORTHOAD = "per image, quantile thresholds (orthoad)"
NO_CUT_OFF = "no cut-off (PyramidFlow)"
SIGMOID = "sigmoid-squashed (torchmetrics)"
NO_NORMAL = "no normal images"
BY_IMAGE = "regions by image"
FOUR = "4-connectivity"
STEPS = "200 thresholds"
LAST_KEPT = "no interpolation at 0.3"
PER_IMAGE = "per image"
NO_NORMAL_BY_IMAGE = "no normal images, regions by image"
PER_IMAGE_NO_NORMAL = "per image, no normal images"
ALIKE = "per anomalous image"
ALIKE_LAST_KEPT = "per anomalous image, no interpolation at 0.3"
ALIKE_STEPS = "per anomalous image, 200 thresholds"
ALIKE_BELOW = "per anomalous image, 200 thresholds below the maximum"
ALIKE_NO_ORIGIN = "per anomalous image, 200 thresholds below the maximum, no origin"
WHOLE = [ANOMALIB, RD4AD, ORTHOAD, NO_CUT_OFF, SIGMOID, NO_NORMAL, BY_IMAGE, FOUR, STEPS]
PARTS = [
    LAST_KEPT, PER_IMAGE, NO_NORMAL_BY_IMAGE, PER_IMAGE_NO_NORMAL, ALIKE, ALIKE_LAST_KEPT, ALIKE_STEPS, ALIKE_BELOW,
    ALIKE_NO_ORIGIN,
]  # fmt: skip
NAMES = [*WHOLE, *PARTS]

by_name = pytest.mark.parametrize("name", NAMES)


def variant(name: str, *images: Image) -> float:
    return PRO_VARIANTS[name].function([m for m, _ in images], [k for _, k in images])


def exact(*images: Image) -> float:
    return average_pro([m for m, _ in images], [k for _, k in images])


def one_row(*pixels: tuple[float, int]) -> Image:
    """An image of one row from (score, anomalous) pairs."""
    return np.array([[score for score, _ in pixels]], dtype=np.float32), np.array([[m == 1 for _, m in pixels]])


def normal_image(*scores: float) -> Image:
    return one_row(*((score, 0) for score in scores))


def test_the_variants_are_named_and_described() -> None:
    assert list(PRO_VARIANTS) == NAMES
    for name, entry in PRO_VARIANTS.items():
        assert entry.name == name
        assert entry.what
        assert entry.seen_in
        assert "\n" not in entry.what


# --- by hand: where the deviation shows ---


def test_anomalib_divides_by_the_last_fpr() -> None:
    # One region {9, 4.5}; of seven normal pixels 8 and 7 pass below 0.3, at 1/7 and 2/7. The overlap is 1/2 up to
    # there, which is all that counts; exactly, 4.5 joins from 2/7 to 0.3.
    image = one_row((9, 1), *((score, 0) for score in (8, 7, 4, 3, 2, 1, 0)), (4.5, 1))
    assert variant(ANOMALIB, image) == pytest.approx(0.5, abs=1e-12)
    assert exact(image) == pytest.approx((0.5 * 2 / 7 + 0.3 - 2 / 7) / 0.3, abs=1e-7)


def test_anomalib_averages_curves_by_index() -> None:
    # Normal pixels 10, 9, ..., 1 pass at 0.1, 0.2, 0.3, so the last FPR is 0.3 and only the averaging differs.
    # Region {8.5} has the points (0, 0) (.1, 0) (.2, 0) (.2, 1) (.3, 1), a region of five higher scores nine points:
    # up to TPR 1 in steps of 0.2 at FPR 0, then (.1, 1) (.2, 1) (.3, 1). The former is resampled to nine as well.
    image = one_row(*((100 + i, 1) for i in range(5)), *((score, 0) for score in range(10, 0, -1)), (8.5, 1))
    fpr = [0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.15, 0.225, 0.3]
    tpr = [0, 0.1, 0.2, 0.3, 0.4, 0.75, 1, 1, 1]
    assert variant(ANOMALIB, image) == pytest.approx(np.trapezoid(tpr, fpr) / 0.3, abs=1e-12)
    assert variant(ANOMALIB, image) == pytest.approx(0.7125, abs=1e-12)
    assert exact(image) == pytest.approx((1 + 1 / 3) / 2, abs=1e-7)


def test_anomalib_keeps_the_first_point_beyond_where_all_others_are_at_zero() -> None:
    # Two normal pixels, FPR 1/2 at once: (0, 0) (0, 1) (0.5, 1).
    image = one_row((3, 1), (2, 0), (1, 0))
    assert variant(ANOMALIB, image) == pytest.approx(1.0)


def test_rd4ad_leaves_normal_images_out_and_divides_by_the_last_fpr() -> None:
    # Thresholds 0, 1, ..., 199. The first image's FPR is 0, then 0.2 from 150 on, then 0.4; its region has 1/2 up to
    # 101 and 1 from 100 on, at FPR 0.2 still: area 0.2 * 1/2, divided by 0.2. The second image is perfect.
    first = one_row((200, 1), (100.5, 1), (150.5, 0), (10.5, 0), (0, 0), (0, 0), (0, 0))
    second = one_row((200, 1), *((score, 0) for score in (50, 40, 30, 20, 0)))
    assert variant(RD4AD, first) == pytest.approx(0.5)
    assert exact(first) == pytest.approx(2 / 3, abs=1e-7)
    assert variant(RD4AD, first, second, normal_image(500, 400, 300)) == pytest.approx(0.75)
    assert exact(first, second, normal_image(500, 400, 300)) < 0.5


def test_rd4ad_averages_regions_in_the_image() -> None:
    # Three regions missed here, one found there, which is one image of two.
    normal = [(score, 0) for score in (50, 40, 30, 20, 5)]
    missed = one_row((200, 0), (0, 1), normal[0], (0, 1), normal[1], (0, 1), *normal[2:])
    found = one_row((300, 1), *normal, (0, 0))
    assert variant(RD4AD, missed, found) == pytest.approx(0.5)
    assert exact(missed, found) == pytest.approx(0.25)


def test_orthoad_ends_at_the_midpoint_of_the_last_bin() -> None:
    # The thresholds are the two scores of the first image, so FPR jumps from 0 to 1, and the bin ends at 1/2.
    images = one_row((9, 1), (1, 0)), normal_image(8, 7, 6, 5)
    assert variant(ORTHOAD, *images) == pytest.approx(0.5 / 0.3)
    assert exact(*images) == pytest.approx(1.0)


def test_orthoad_averages_the_fprs_of_images_whatever_their_size() -> None:
    # At 9 both normal pixels of the small image pass and none of the hundred others: FPR 1/2, not 2/102. That bin
    # has no overlap yet and is the last: the region, at 2, comes too late.
    small, large = one_row((9, 0), (2, 1), (9, 0)), normal_image(*[1] * 100)
    assert variant(ORTHOAD, small, large) == 0
    assert exact(small, large) == pytest.approx((0.3 - 2 / 102) / 0.3)


def test_no_cut_off_counts_what_comes_after_the_limit() -> None:
    image = one_row((9, 0), (5, 1), (1, 0))
    assert variant(NO_CUT_OFF, image) == pytest.approx(0.5)
    assert exact(image) == 0


def test_sigmoid_ties_high_scores() -> None:
    # 40, 30 and 20 become 1: the region joins linearly up to FPR 2/3.
    image = one_row((40, 1), (30, 0), (20, 0), (1, 0))
    assert variant(SIGMOID, image) == pytest.approx(0.3**2 / 2 / (2 / 3) / 0.3)
    assert exact(image) == pytest.approx(1.0)


@pytest.mark.parametrize(("high", "tied"), [(16.0, False), (17.0, True)])
def test_sigmoid_ties_from_about_16_6_on(high: float, tied: bool) -> None:
    image = one_row((high + 1, 1), (high, 0), (0, 0))
    assert (variant(SIGMOID, image) < 0.9) == tied


def test_sigmoid_is_applied_only_if_a_score_of_any_image_lies_outside_the_unit_interval() -> None:
    one = np.float32(1)
    image = one_row((one, 1), (np.nextafter(one, np.float32(0)), 0), (0, 0))  # the sigmoid would tie them
    assert variant(SIGMOID, image) == 1
    assert variant(SIGMOID, image, normal_image(0.5, 0.5)) == 1
    assert variant(SIGMOID, image, normal_image(-0.5, 0.5)) < 0.9


def test_sigmoid_of_very_negative_scores_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert variant(SIGMOID, one_row((-1, 1), (-200, 0), (-300, 0))) == 1


def test_no_normal_images_drops_their_false_positives() -> None:
    images = one_row((5, 1), (1, 0)), normal_image(9, 1)
    assert variant(NO_NORMAL, *images) == 1
    assert exact(*images) == 0  # 9 alone is FPR 1/3


def test_regions_by_image_weighs_images_the_same() -> None:
    images = one_row((9, 1), (5, 0), (0, 1)), one_row((9, 1), (5, 0)), normal_image(5)
    assert variant(BY_IMAGE, *images) == pytest.approx(3 / 4)
    assert exact(*images) == pytest.approx(2 / 3)


def test_four_connectivity_splits_at_corners() -> None:
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    score_map = np.array([[9, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=np.float32)
    assert variant(FOUR, (score_map, mask)) == pytest.approx(1 / 3)
    assert exact((score_map, mask)) == pytest.approx(1 / 4)


def test_200_thresholds_tie_what_lies_between_two_of_them() -> None:
    # Thresholds 0, 1, ..., 199: {5.2} ties with two of ten normal pixels and joins from FPR 0 to 0.2, not at 0.2.
    image = one_row((199, 1), (5.7, 0), (5.2, 1), (5.7, 0), *[(0, 0)] * 8)
    assert variant(STEPS, image) == pytest.approx((1 + 2 / 3) / 2)
    assert exact(image) == pytest.approx((1 + 1 / 3) / 2)


def test_no_interpolation_divides_by_the_last_fpr_below_0_3() -> None:
    # Normal pixels pass at 1/4 and 1/2; the region's lower half joins from FPR 1/4 on.
    image = one_row((9, 1), (8, 0), (7, 1), (6, 0), (5, 0), (4, 0))
    assert variant(LAST_KEPT, image) == pytest.approx(1 / 2)
    assert exact(image) == pytest.approx((1 / 2 * 1 / 4 + 0.05) / 0.3)


def test_no_interpolation_leaves_out_a_point_at_0_3_itself_and_a_tie_that_passes_it() -> None:
    # At FPR 0.1, 0.2, 0.3: the region has 0, 1/2 and 1.
    image = one_row((20, 0), (19, 1), (18, 0), (17, 1), (16, 0), *[(0, 0)] * 7)
    assert variant(LAST_KEPT, image) == pytest.approx(0.1 * 1 / 2 / 0.2)
    tied = one_row((20, 0), (19, 1), (18, 0), (17, 1), (18, 0), *[(0, 0)] * 7)  # two at 18, which pass at 0.3
    assert variant(LAST_KEPT, tied) == 0  # the last that is kept is 0.1, where the region has nothing before


def test_per_image_counts_normal_images_in_every_curve_and_no_other_defective_image() -> None:
    # The first image's own normal pixels lie below its region, the second's above; the normal image has 6 above both.
    first, second = one_row((9, 1), *[(1, 0)] * 4), one_row((5, 1), (7, 0), (1, 0), (1, 0), (1, 0))
    beyond = normal_image(6, *[0] * 5)
    # First: nothing above 9. Second: 7 and 6 of ten pixels, FPR 0.2, so a third of the area is left.
    assert variant(PER_IMAGE, first, second, beyond) == pytest.approx((1 + 1 / 3) / 2)
    assert variant(PER_IMAGE_NO_NORMAL, first, second, beyond) == pytest.approx((1 + 0.05 / 0.3) / 2)
    # One curve of all: 5 is below 7 and 6 of fourteen.
    assert exact(first, second, beyond) == pytest.approx((1 + (0.3 - 2 / 14) / 0.3) / 2)


def test_images_weigh_the_same_or_by_their_regions() -> None:
    found = one_row((9, 1), *[(1, 0)] * 4)
    missed = one_row((0, 1), (1, 0), (0, 1), (1, 0), (0, 1), (1, 0))
    assert variant(PER_IMAGE_NO_NORMAL, found, missed, normal_image(20)) == pytest.approx(1 / 4)
    assert variant(ALIKE, found, missed, normal_image(20)) == pytest.approx(1 / 2)
    assert variant(NO_NORMAL_BY_IMAGE, found, missed, normal_image(20)) == pytest.approx(1 / 2)


def test_thresholds_below_the_maximum_start_later_and_need_a_score_above_them() -> None:
    # Of the image's thresholds the highest is 200 with it and 199 below it, and 199 itself is not above 199.
    image = one_row((200, 1), (199, 1), *[(0, 0)] * 10)
    choices: dict[str, Any] = {"curve": "per image", "normal_images": False}
    for spacing in ("closed", "half open"):
        value = pro_by([image[0]], [image[1]], **choices, thresholds=200, spacing=spacing)
        assert value == pytest.approx(1), spacing
    # A normal pixel at 199.5 is above the first threshold already: without the origin that part is left out.
    first = one_row((199.7, 1), (200, 0), (199.5, 0), *[(0, 0)] * 8)
    assert variant(ALIKE_BELOW, first) == pytest.approx((0.2 / 2 + 0.1) / 0.3)
    assert variant(ALIKE_NO_ORIGIN, first) == pytest.approx(0.1 / 0.3)
    assert variant(RD4AD, first) == pytest.approx(0)


# --- where the deviation has no effect ---

descending = [(score, 0) for score in range(10, 0, -1)]
imperfect = one_row((8.5, 1), (11, 1), *descending)  # one region, FPR 0.3 is a point, distinct scores
perfect = one_row((20, 1), *descending)
grid = one_row((199, 0), (198, 1), (5, 0), (198, 1), (7, 1), *[(3, 0)] * 3, *[(0, 0)] * 9)
many = one_row(*((2000 + i, 1) for i in range(5)), *((score, 0) for score in range(995)))


@pytest.mark.parametrize(
    ("name", "images"),
    [
        pytest.param(ANOMALIB, [imperfect], id="one region and a point at 0.3"),
        pytest.param(RD4AD, [perfect, perfect], id="RD4AD, perfect"),
        pytest.param(ORTHOAD, [many], id="a thousand pixels and a last bin around 0.3"),
        pytest.param(NO_CUT_OFF, [perfect, normal_image(1, 2)], id="no cut-off, perfect"),
        pytest.param(SIGMOID, [imperfect, normal_image(-3, 5, 9)], id="scores far below 16.6"),
        pytest.param(NO_NORMAL, [imperfect, perfect], id="no normal image there"),
        pytest.param(BY_IMAGE, [imperfect, perfect, normal_image(9, 30)], id="one region an image"),
        pytest.param(FOUR, [imperfect, perfect, normal_image(9, 30)], id="no corner"),
        pytest.param(STEPS, [grid], id="all scores are thresholds"),
        pytest.param(LAST_KEPT, [perfect, normal_image(1, 2)], id="perfect to the end"),
        pytest.param(PER_IMAGE, [imperfect, normal_image(9, 30)], id="one defective image"),
        pytest.param(ALIKE, [imperfect], id="one image of one region"),
    ],
)
def test_equal_to_the_exact_value_where_the_deviation_has_no_effect(name: str, images: Sequence[Image]) -> None:
    assert variant(name, *images) == pytest.approx(exact(*images), abs=1e-12)
    assert 0 < exact(*images) <= 1


# --- against slow loops ---


def regions_of(mask: Mask) -> list[Mask]:
    """One mask per 8-connected component, by growing it from its first pixel."""
    left, found = mask.copy(), []
    while left.any():
        region = np.zeros_like(mask)
        region[tuple(np.argwhere(left)[0])] = True
        while True:
            grown = ndimage.binary_dilation(region, np.ones((3, 3))) & mask
            if (grown == region).all():
                break
            region = grown
        found.append(region)
        left &= ~region
    return found


def share(scores: Map, threshold: float) -> float:
    return float(np.mean([score >= threshold for score in scores.tolist()]))


def area(curve: Curve, limit: float) -> float:
    """Trapezoids up to ``limit``, interpolated there."""
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < limit:
            x = min(x1, limit)
            y = y1 if x1 <= limit else y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            total += (x - x0) * (y0 + y) / 2
    return total


def all_normal(images: Sequence[Image]) -> Map:
    return np.concatenate([m[~k] for m, k in images])


def all_levels(images: Sequence[Image]) -> list[float]:
    return sorted({score for m, _ in images for score in m.ravel().tolist()}, reverse=True)


def slow_anomalib(images: Sequence[Image]) -> float:
    normal, curves = all_normal(images), []
    for m, k in images:
        for region in regions_of(k):
            curve = [(0.0, 0.0)]
            for t in sorted({*normal.tolist(), *m[region].tolist()}, reverse=True):
                point = share(normal, t), share(m[region], t)
                if point[0] > 0.3 and curve[-1][0] > 0:
                    break
                curve.append(point)
                if point[0] > 0.3:
                    break
            curves.append(np.array(curve))
    longest = max(len(curve) for curve in curves)
    averaged = np.zeros((longest, 2))
    for curve in curves:
        for i in range(longest):
            position = i * (len(curve) - 1) / (longest - 1)
            for axis in (0, 1):
                averaged[i, axis] += np.interp(position, np.arange(len(curve)), curve[:, axis]) / len(curves)
    return area([(x, y) for x, y in averaged], 1.0) / averaged[-1, 0]


def slow_rd4ad(images: Sequence[Image]) -> float:
    values = []
    for m, k in images:
        if not k.any():
            continue
        if k.all():
            return math.nan
        low, high = float(m.min()), float(m.max())
        curve = []
        for step in range(199, -1, -1):
            above = m.astype(np.float64) > low + step * ((high - low) / 200)
            fpr = float(above[~k].mean())
            if fpr < 0.3:
                curve.append((fpr, float(np.mean([above[region].mean() for region in regions_of(k)]))))
        if len(curve) < 2 or curve[-1][0] == 0:
            return math.nan
        largest = curve[-1][0]
        values.append(area([(x / largest, y) for x, y in curve], 1.0))
    return float(np.mean(values))


def slow_orthoad(images: Sequence[Image]) -> float:
    best = max(range(len(images)), key=lambda i: images[i][0].max())
    scores = sorted(images[best][0].ravel().tolist())
    curve = [(0.0, 0.0)]
    for rank in np.linspace(0, len(scores) - 1, 1000)[::-1]:
        t = scores[round(float(rank))]
        fpr = float(np.mean([share(m[~k], t) for m, k in images if not k.all()]))
        overlaps = [np.mean([share(m[r], t) for r in regions_of(k)]) for m, k in images if k.any()]
        point = fpr, float(np.mean(overlaps))
        if point == curve[-1]:
            continue
        if fpr > 0.3 + 1e-12:
            curve.append(((curve[-1][0] + point[0]) / 2, (curve[-1][1] + point[1]) / 2))
            break
        curve.append(point)
    return area(curve, 1.0) / 0.3


def slow_by_image(images: Sequence[Image]) -> float:
    curve = [(0.0, 0.0)]
    for t in all_levels(images):
        overlaps = [np.mean([share(m[r], t) for r in regions_of(k)]) for m, k in images if k.any()]
        curve.append((share(all_normal(images), t), float(np.mean(overlaps))))
    return area(curve, 0.3) / 0.3


def slow_steps(images: Sequence[Image]) -> float:
    levels = all_levels(images)
    curve = [(0.0, 0.0)]
    regions = [m[r] for m, k in images for r in regions_of(k)]
    for t in np.linspace(levels[-1], levels[0], 200)[::-1].tolist():
        curve.append((share(all_normal(images), t), float(np.mean([share(scores, t) for scores in regions]))))
    return area(curve, 0.3) / 0.3


@st.composite
def categories(draw: st.DrawFn) -> list[Image]:
    """A few tiny images of few score levels with masks of any shape, empty ones included."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    levels = draw(st.sampled_from([1, 3, 10, 200]))
    scores = draw(arrays(np.int64, shape, elements=st.integers(-levels, levels), fill=st.nothing()))
    masks = draw(arrays(np.bool_, shape, elements=st.booleans(), fill=st.just(False)))
    assume(masks.any() and not masks.all())
    return list(zip((scores / 4).astype(np.float32), masks, strict=True))


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        (ANOMALIB, slow_anomalib),
        (RD4AD, slow_rd4ad),
        (ORTHOAD, slow_orthoad),
        (BY_IMAGE, slow_by_image),
        (STEPS, slow_steps),
    ],
)
@settings(max_examples=40, deadline=None)
@given(images=categories())
def test_equal_to_a_slow_loop(name: str, slow: Callable[[Sequence[Image]], float], images: list[Image]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # RD4AD is often undefined for so few pixels
        found = variant(name, *images)
    assert found == pytest.approx(slow(images), abs=1e-9, nan_ok=True)


def slow_by(
    images: Sequence[Image],
    *,
    curve: str = "pooled",
    normal_images: bool = True,
    weigh: str = "regions",
    thresholds: str | int = "exact",
    spacing: str = "closed",
    start: str = "origin",
    end: str = "interpolated",
) -> float:
    """Every choice as the definition reads, point by point."""
    defective, others = [i for i in images if i[1].any()], [i for i in images if not i[1].any() and normal_images]
    groups = [[*defective, *others]] if curve == "pooled" else [[one, *others] for one in defective]
    areas, weights = [], []
    for group in groups:
        overlaps_of = [[m[r] for r in regions_of(k)] for m, k in group if k.any()]
        weights.append(len(overlaps_of[0]) if weigh == "regions" and curve == "per image" else 1)
        normal = all_normal(group)
        if not normal.size:
            return math.nan
        levels = all_levels(group)
        if isinstance(thresholds, int):
            low, high = levels[-1], levels[0]
            if spacing == "closed":
                levels = np.linspace(low, high, thresholds)[::-1].tolist()
            else:
                levels = [low + k * ((high - low) / thresholds) for k in range(thresholds - 1, -1, -1)]
        points: Curve = [(0.0, 0.0)] if start == "origin" else []
        for t in levels:
            least = float(np.nextafter(t, math.inf)) if spacing == "half open" else t
            overlaps = [[share(scores, least) for scores in regions] for regions in overlaps_of]
            if weigh == "images":
                points.append((share(normal, least), float(np.mean([np.mean(one) for one in overlaps]))))
            else:
                points.append((share(normal, least), float(np.mean([x for one in overlaps for x in one]))))
        if end == "last kept":
            points = [(x, y) for x, y in points if x < 0.3]
            if len(points) < 2 or points[-1][0] == 0:
                return math.nan
            areas.append(area(points, 1.0) / points[-1][0])
        elif points[0][0] > 0.3:
            return math.nan
        else:
            areas.append(area([*points, (max(0.3, points[-1][0]), points[-1][1])], 0.3) / 0.3)
    return float(np.average(areas, weights=weights))


@st.composite
def choices_of_a_definition(draw: st.DrawFn) -> dict[str, Any]:
    thresholds = draw(st.sampled_from(["exact", 2, 7, 200]))
    return {
        "curve": draw(st.sampled_from(["pooled", "per image"])),
        "normal_images": draw(st.booleans()),
        "weigh": draw(st.sampled_from(["regions", "images"])),
        "thresholds": thresholds,
        "spacing": "closed" if thresholds == "exact" else draw(st.sampled_from(["closed", "half open"])),
        "start": "origin" if thresholds == "exact" else draw(st.sampled_from(["origin", "first kept"])),
        "end": draw(st.sampled_from(["interpolated", "last kept"])),
    }


def by(images: Sequence[Image], **choices: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of so few pixels it is often undefined
        return pro_by([m for m, _ in images], [k for _, k in images], **choices)


@settings(max_examples=300, deadline=None)
@given(images=categories(), choices=choices_of_a_definition())
def test_every_choice_of_a_definition_is_what_a_slow_loop_gives(images: list[Image], choices: dict[str, Any]) -> None:
    assert by(images, **choices) == pytest.approx(slow_by(images, **choices), abs=1e-9, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(images=categories())
def test_by_default_it_is_mvtec_s_definition(images: list[Image]) -> None:
    assert by(images) == pytest.approx(exact(*images), abs=1e-12)


RD4AD_CHOICES: dict[str, Any] = {
    "curve": "per image", "normal_images": False, "weigh": "images", "thresholds": 200, "spacing": "half open",
    "start": "first kept", "end": "last kept",
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(images=categories())
def test_all_parts_together_are_rd4ad_s(images: list[Image]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        whole = variant(RD4AD, *images)
    assert by(images, **RD4AD_CHOICES) == pytest.approx(whole, abs=1e-12, nan_ok=True)


def test_all_parts_together_are_rd4ad_s_for_smooth_maps() -> None:
    images = smooth_category(12, 48, seed=3)
    assert by(images, **RD4AD_CHOICES) == pytest.approx(variant(RD4AD, *images), abs=1e-12)
    one_step_before = {name: value for name, value in RD4AD_CHOICES.items() if name != "end"}
    assert by(images, **one_step_before) == variant(ALIKE_NO_ORIGIN, *images)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"curve": "per region"}, "curve 'per region' is none of pooled, per image"),
        ({"weigh": "pixels"}, "weigh"),
        ({"thresholds": 1}, "thresholds 1"),
        ({"thresholds": "200"}, "thresholds '200'"),
        ({"thresholds": 200, "spacing": "open"}, "spacing"),
        ({"start": "first kept"}, "needs a number of thresholds"),
        ({"end": "midpoint"}, "end"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by([perfect], **choices)


def smooth_category(n: int, side: int, seed: int) -> list[Image]:
    """Smooth positive maps, a third of them of normal images, the others with defects that score higher."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(n):
        noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), 2)
        blobs = ndimage.gaussian_filter(rng.normal(size=(side, side)), 4)
        mask = (blobs > np.quantile(blobs, 0.97)) & (i % 3 > 0)
        score_map = 8 + 2 * noise / noise.std() + 3 * ndimage.gaussian_filter(mask.astype(float), 2)
        images.append((score_map.astype(np.float32), mask))
    return images


@pytest.mark.parametrize(("name", "slow"), [(ANOMALIB, slow_anomalib), (RD4AD, slow_rd4ad), (STEPS, slow_steps)])
def test_equal_to_a_slow_loop_for_smooth_maps(name: str, slow: Callable[[Sequence[Image]], float]) -> None:
    images = smooth_category(3, 20, seed=0)
    assert variant(name, *images) == pytest.approx(slow(images), abs=1e-9)


@by_name
def test_all_are_quick_at_full_size_and_stay_near_the_exact_value(name: str) -> None:
    images = smooth_category(83, 224, seed=1)
    start = time.perf_counter()
    value = variant(name, *images)
    assert time.perf_counter() - start < 20  # about a second each; the machine may be busy
    assert value == pytest.approx(exact(*images), abs=0.6 if name == NO_CUT_OFF else 0.1)


# --- what all share ---


@by_name
def test_no_warning_where_defined_and_arguments_stay_as_they_are(name: str) -> None:
    images = smooth_category(4, 32, seed=2)
    before = [(m.copy(), k.copy()) for m, k in images]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < variant(name, *images) <= 1
    for (m, k), (m_before, k_before) in zip(images, before, strict=True):
        np.testing.assert_array_equal(m, m_before)
        np.testing.assert_array_equal(k, k_before)


@by_name
@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param([normal_image(1, 2, 3)], "no anomalous region", id="no region"),
        pytest.param([one_row((1, 1), (2, 1))], "no anomaly-free pixel", id="no normal pixel"),
        pytest.param([], "PRO is NaN", id="no image"),
    ],
)
def test_nan_and_a_warning_where_undefined(name: str, images: Sequence[Image], message: str) -> None:
    if name in {NO_NORMAL, NO_NORMAL_BY_IMAGE} and message == "no anomalous region":
        message = "PRO is NaN"
    with pytest.warns(UserWarning, match=message) as caught:
        assert math.isnan(variant(name, *images))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(one_row((1, 1), (1, 0), (1, 0), (1, 0)), id="constant"),
        pytest.param(one_row((1, 1), (2, 0), (3, 0)), id="no FPR between 0 and 0.3"),
        pytest.param(one_row((1, 1), (2, 1)), id="no normal pixel in one of the images"),
    ],
)
def test_rd4ad_is_nan_with_a_warning_where_an_image_has_no_curve(image: Image) -> None:
    with pytest.warns(UserWarning, match="1 images have no curve"):
        assert math.isnan(variant(RD4AD, perfect, image))


@by_name
def test_nan_scores_and_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="NaN"):
        variant(name, one_row((math.nan, 1), (0, 0)))
    with pytest.raises(ValueError, match="shape"):
        variant(name, (np.ones((2, 3), dtype=np.float32), np.ones((3, 2), dtype=bool)))
    with pytest.raises(ValueError):
        PRO_VARIANTS[name].function([perfect[0]], [])


@pytest.mark.parametrize("name", [RD4AD, STEPS, ALIKE_STEPS, ALIKE_BELOW])
def test_equally_spaced_thresholds_need_finite_scores(name: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        variant(name, one_row((math.inf, 1), (0, 0)))
