"""PRO variants, for explanation only: what other implementations compute under the name.

Published PRO values differ by more than methods do, since implementations deviate from the definition
in ``pro``. Each deviation is here as a function, written from its description, so that the same maps
can be scored both ways. None is a recommendation, and none is bit for bit what the other code gives:
where a description leaves something open, the function's docstring says which reading it takes.

``pro_by`` has the choices that a definition makes as arguments, one by one, so that a deviation that mixes
several is taken apart into them.

Every function takes n maps (H, W) of finite float scores and n masks of the same shapes (non-zero is
anomalous), returns a float that is NaN, with a warning, where the variant is undefined, and raises
ValueError as ``average_pro`` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from padim_bench.metrics.pro import (
    _EIGHT,
    FPR_LIMIT,
    _checked,
    _exact,
    _gather,
    _Pixels,
    _ramp_area,
    _region_weights,
    _top,
    _undefined,
)

Maps = Sequence[NDArray[np.floating]] | NDArray[np.floating]
Masks = Sequence[NDArray[np.generic]] | NDArray[np.generic]
Floats = NDArray[np.float64]

_FOUR = ndimage.generate_binary_structure(2, 1)
_STEPS = 200
_QUANTILES = 1000
_LONGEST_CURVE = 10_000


@dataclass(frozen=True)
class Variant:
    """A deviating definition: its name, how it differs, where it is used, and (maps, masks) -> PRO."""

    name: str
    what: str
    seen_in: str
    function: Callable[[Maps, Masks], float]


def _reaching(
    thresholds: Floats, scores: NDArray[np.floating], weights: Floats | None = None, *, strict: bool = False
) -> Floats:
    """Number, or weight, of scores >= (``strict``: >) each of the ascending thresholds, highest first."""
    passed = np.searchsorted(thresholds, scores, side="left" if strict else "right")
    counts = np.bincount(passed, weights, minlength=thresholds.size + 1)
    return np.cumsum(counts[:0:-1], dtype=np.float64)


def _equally_spaced(scores: NDArray[np.floating]) -> tuple[float, float]:
    low, high = float(scores.min()), float(scores.max())
    if not np.isfinite(high - low):
        raise ValueError("equally spaced thresholds need finite scores")
    return low, high


def anomalib_2_2(maps: Maps, masks: Masks) -> float:
    """AUPRO of anomalib up to 2.2.

    One ROC per region, of its pixels against all anomaly-free ones, at all distinct scores from (0, 0)
    to the last point of FPR <= 0.3. The curves are resampled linearly at equally spaced positions of
    their *index*, as many as the longest has points (10,000 at most), and FPR and TPR averaged position
    by position; the area under that is divided by its last FPR.

    Left open, and read so: no point is interpolated at 0.3; a curve whose first FPR above 0 is above
    0.3 keeps that point; regions are 8-connected; scores are not squashed (see ``sigmoid_squashed``).
    This reading never exceeds 1: the values above 1 that were reported need a fault in the
    interpolation at 0.3 as well.
    """
    normal_parts: list[NDArray[np.floating]] = []
    regions: list[NDArray[np.floating]] = []
    for raw_map, raw_mask in zip(maps, masks, strict=True):
        score_map, mask = _checked(raw_map, raw_mask)
        normal_parts.append(score_map[~mask])
        labelled, count = ndimage.label(mask, structure=_EIGHT)
        if count:
            inside = labelled[mask]
            ends = np.cumsum(np.bincount(inside)[1:])[:-1]
            regions += np.split(score_map[mask][np.argsort(inside, kind="stable")], ends)
    normal = np.concatenate(normal_parts) if normal_parts else np.empty(0)
    if _undefined(len(regions), normal.size):
        return float("nan")
    # Ascending distinct scores, and the FPR at each from the highest on.
    levels, counts = np.unique(_top(normal, FPR_LIMIT), return_counts=True)
    fpr = np.concatenate([[0.0], np.cumsum(counts[::-1]) / normal.size])
    curves = [_RegionCurve(region, levels, fpr) for region in regions]
    samples = min(max(curve.last for curve in curves) + 1, _LONGEST_CURVE)
    x, y = np.zeros(samples), np.zeros(samples)
    for curve in curves:
        fpr_at, tpr_at = curve.resampled(samples)
        x += fpr_at / len(curves)
        y += tpr_at / len(curves)
    return float(np.trapezoid(y, x) / x[-1])


class _RegionCurve:
    """A region's ROC up to FPR 0.3, by index, without building its points: they are mostly shared.

    Point 0 is (0, 0). Each distinct score of a normal pixel or of the region adds one.
    """

    def __init__(self, region: NDArray[np.floating], levels: NDArray[np.floating], fpr: Floats) -> None:
        values, counts = np.unique(region, return_counts=True)
        values, counts = values[::-1], counts[::-1]
        above = levels.size - np.searchsorted(levels, values, side="right")
        own = above == levels.size - np.searchsorted(levels, values, side="left")  # no normal pixel ties
        index = 1 + above + np.cumsum(own) - own
        self._fpr, self._tpr = fpr, np.concatenate([[0.0], np.cumsum(counts) / region.size])
        self._steps, self._own = index, index[own]
        first_beyond = int(np.argmax(fpr > FPR_LIMIT))
        beyond = first_beyond + int((values[own] > levels[levels.size - first_beyond]).sum())
        self.last = beyond - 1 if fpr[first_beyond - 1] > 0 else beyond

    def resampled(self, samples: int) -> tuple[Floats, Floats]:
        """FPR and TPR at ``samples`` equally spaced positions of the index."""
        position = np.linspace(0, self.last, samples)
        index = np.minimum(position.astype(np.int64), self.last - 1)
        part = position - index
        (x0, y0), (x1, y1) = self._points(index), self._points(index + 1)
        return x0 + part * (x1 - x0), y0 + part * (y1 - y0)

    def _points(self, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
        shared = index - np.searchsorted(self._own, index, side="right")
        return self._fpr[shared], self._tpr[np.searchsorted(self._steps, index, side="right")]


def per_image_rd4ad(maps: Maps, masks: Masks) -> float:
    """PRO of each image that has a defect, averaged over them; normal images never contribute.

    In an image, regions are averaged, the FPR is over its own anomaly-free pixels, and only points of
    FPR < 0.3 are kept; FPRs are divided by the largest kept, with no point interpolated at 0.3.

    Left open, and read so: the 200 thresholds are min + k (max - min) / 200, k from 0 to 199, of the
    image's map; a pixel is anomalous above its threshold, not at it; (0, 0) is not added to the curve.
    NaN if in any such image fewer than two points, or none of FPR > 0, are kept.
    """
    values, any_normal = [], 0
    for raw_map, raw_mask in zip(maps, masks, strict=True):
        score_map, mask = _checked(raw_map, raw_mask)
        if not mask.any():
            continue
        normal = score_map[~mask]
        if not normal.size:
            values.append(float("nan"))
            continue
        any_normal += 1
        low, high = _equally_spaced(score_map)
        thresholds = low + np.arange(_STEPS, dtype=np.float64) * ((high - low) / _STEPS)
        fpr = _reaching(thresholds, normal, strict=True) / normal.size
        weights, count = _region_weights(mask)
        pro = _reaching(thresholds, score_map[mask], weights, strict=True) / count
        kept = fpr < FPR_LIMIT
        x, y = fpr[kept], pro[kept]
        values.append(float(np.trapezoid(y, x) / x[-1]) if x.size > 1 and x[-1] > 0 else float("nan"))
    if _undefined(len(values), any_normal):
        return float("nan")
    if missing := int(np.isnan(values).sum()):
        warnings.warn(f"PRO per image is NaN: {missing} images have no curve below FPR {FPR_LIMIT}", stacklevel=2)
    return float(np.mean(values))


def per_image_quantiles_orthoad(maps: Maps, masks: Masks) -> float:
    """One curve of overlaps averaged in each image, then over images, against the mean of their FPRs.

    Thresholds are 1000 quantiles of the one image with the highest score. The area is divided by 0.3.

    Left open, and read so: quantiles are scores of that image (the nearest rank), from its minimum to
    its maximum; any image may be it, and the first is where several tie; a pixel at its threshold is
    anomalous; normal images count in the FPR; the curve starts at (0, 0); the bin that crosses FPR 0.3
    is integrated up to its midpoint, wherever that lies, so the value may pass 1.
    """
    pairs = [_checked(raw_map, raw_mask) for raw_map, raw_mask in zip(maps, masks, strict=True)]
    n_regional = sum(bool(mask.any()) for _, mask in pairs)
    n_normal = sum(not mask.all() for _, mask in pairs)
    if _undefined(n_regional, n_normal):
        return float("nan")
    highest = max((score_map for score_map, _ in pairs if score_map.size), key=lambda score_map: score_map.max())
    ranks = np.linspace(0, highest.size - 1, _QUANTILES).round().astype(np.int64)
    thresholds = np.sort(highest, axis=None)[ranks].astype(np.float64)
    fpr, pro = np.zeros(_QUANTILES), np.zeros(_QUANTILES)
    for score_map, mask in pairs:
        normal = score_map[~mask]
        if normal.size:
            fpr += _reaching(thresholds, normal) / normal.size / n_normal
        if mask.any():
            weights, count = _region_weights(mask)
            pro += _reaching(thresholds, score_map[mask], weights) / count / n_regional
    x, y = np.concatenate([[0.0], fpr]), np.concatenate([[0.0], pro])
    # Means of fractions carry rounding: a point that belongs at 0.3 stays inside.
    inside = int(np.searchsorted(x, FPR_LIMIT + 1e-12, side="right"))
    if inside < x.size:
        x[inside], y[inside] = (x[inside - 1] + x[inside]) / 2, (y[inside - 1] + y[inside]) / 2
    return float(np.trapezoid(y[: inside + 1], x[: inside + 1]) / FPR_LIMIT)


def no_cut_off(maps: Maps, masks: Masks) -> float:
    """The exact definition, integrated over the whole range of FPR."""
    return _exact(_gather(maps, masks), 1.0)


def sigmoid_squashed(maps: Maps, masks: Masks) -> float:
    """The exact definition after a float32 sigmoid, which maps all scores above about 16.6 to 1.

    The sigmoid is applied to all maps if any score of any map lies outside [0, 1], else to none.
    """
    scores: list[NDArray[np.floating]] = [np.asarray(score_map, dtype=np.float32) for score_map in maps]
    if any(((s < 0) | (s > 1)).any() for s in scores):
        with np.errstate(over="ignore"):  # exp(-x) of very negative scores is inf, and the sigmoid 0
            scores = [np.float32(1) / (np.float32(1) + np.exp(-s)) for s in scores]
    return _exact(_gather(scores, masks), FPR_LIMIT)


def four_connectivity(maps: Maps, masks: Masks) -> float:
    """The exact definition with regions that pixels touching at a corner do not join."""
    return _exact(_gather(maps, masks, structure=_FOUR), FPR_LIMIT)


def pro_by(
    maps: Maps,
    masks: Masks,
    *,
    curve: Literal["pooled", "per image"] = "pooled",
    normal_images: bool = True,
    weigh: Literal["regions", "images"] = "regions",
    thresholds: Literal["exact"] | int = "exact",
    spacing: Literal["closed", "half open"] = "closed",
    start: Literal["origin", "first kept"] = "origin",
    end: Literal["interpolated", "last kept"] = "interpolated",
) -> float:
    """PRO by the choices that its definition makes; by default MVTec's, which is ``average_pro``.

    Args:
        maps: n anomaly maps (H, W), normal images included; sizes may differ between images.
        masks: n ground-truth masks of the same shapes; non-zero is anomalous.
        curve: "pooled": one curve of all images. "per image": one for each image that has a region, of its regions
            against its own anomaly-free pixels and those of the images without a region; the areas are averaged.
        normal_images: whether the pixels of images without a region count as anomaly-free.
        weigh: "regions": every region weighs the same. "images": every image that has a region does, and in it every
            region.
        thresholds: "exact": all distinct scores. A number: so many, equally spaced over the scores of a curve.
        spacing: of a number of thresholds. "closed": from the lowest score to the highest, and a pixel at its
            threshold is anomalous. "half open": low + k (high - low) / n for k from 0 to n - 1, and it is not.
        start: of a curve of a number of thresholds. "origin": (0, 0). "first kept": its point of the highest threshold;
            what lies before it is not integrated.
        end: "interpolated": at FPR 0.3, and the area is divided by 0.3; a curve whose last point lies before is level
            from there. "last kept": at the last point of FPR < 0.3, and the area is divided by that FPR.

    Returns:
        PRO; NaN, with a warning, without any region or any anomaly-free pixel that counts, and where one of the curves
        has none, or has no two points and FPR > 0 up to its last kept one.

    Raises:
        ValueError: as ``average_pro`` does; for a choice that is none of these; for "first kept" of exact thresholds;
            for infinite scores and a number of thresholds.
    """
    for name, value, choices in (
        ("curve", curve, ("pooled", "per image")),
        ("weigh", weigh, ("regions", "images")),
        ("spacing", spacing, ("closed", "half open")),
        ("start", start, ("origin", "first kept")),
        ("end", end, ("interpolated", "last kept")),
    ):
        if value not in choices:
            raise ValueError(f"{name} {value!r} is none of {', '.join(choices)}")
    if thresholds == "exact":
        if start != "origin":
            raise ValueError("start 'first kept' needs a number of thresholds")
    elif not isinstance(thresholds, int) or thresholds < 2:
        raise ValueError(f"thresholds {thresholds!r} is neither 'exact' nor a number of 2 or more")
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps for {len(masks)} masks")
    pairs = [_checked(score_map, mask) for score_map, mask in zip(maps, masks, strict=True)]
    others = [score_map.ravel() for score_map, mask in pairs if not mask.any()] if normal_images else []
    defective = [(score_map, mask) for score_map, mask in pairs if mask.any()]
    if curve == "pooled":
        kept = pairs if normal_images else defective
        pixels = _gather([score_map for score_map, _ in kept], [mask for _, mask in kept], by_image=weigh == "images")
        if _undefined(pixels.scores.size, pixels.normal.size):
            return float("nan")
        if thresholds == "exact" and end == "interpolated":
            return _exact(pixels, FPR_LIMIT)
        pixels.normal.sort()
        values, weights = [_one_curve(pixels, pixels.normal[:0], thresholds, spacing, start, end)], [1]
    else:
        shared = np.sort(np.concatenate(others)) if others else np.empty(0, dtype=np.float32)
        values, weights, n_normal = [], [], shared.size
        for score_map, mask in defective:
            pixels = _gather([score_map], [mask])
            pixels.normal.sort()
            n_normal += pixels.normal.size
            values.append(_one_curve(pixels, shared, thresholds, spacing, start, end))
            weights.append(_region_weights(mask)[1] if weigh == "regions" else 1)
        if _undefined(len(values), n_normal):
            return float("nan")
    if missing := int(np.isnan(values).sum()):
        warnings.warn(f"PRO is NaN: {missing} of {len(values)} curves have no part below FPR {FPR_LIMIT}", stacklevel=2)
    return float(np.average(values, weights=weights))


def _one_curve(
    pixels: _Pixels,
    shared: NDArray[np.floating],
    thresholds: Literal["exact"] | int,
    spacing: str,
    start: str,
    end: str,
) -> float:
    """Normalised area under one curve; ``pixels.normal`` and ``shared``, further anomaly-free pixels, are ascending."""
    parts = [part for part in (pixels.normal, shared) if part.size]
    n_normal = sum(part.size for part in parts)
    if not n_normal:
        return float("nan")

    def fpr(scores: Floats | NDArray[np.floating], side: Literal["left", "right"]) -> Floats:
        """The share of anomaly-free pixels >= ("left") or > ("right") each score."""
        counts = sum(part.size - np.searchsorted(part, scores, side=side) for part in parts)
        return np.asarray(counts / n_normal, dtype=np.float64)

    if thresholds == "exact":
        limit = FPR_LIMIT
        if end == "last kept":
            n_below = int(np.ceil(FPR_LIMIT * n_normal))
            while n_below / n_normal >= FPR_LIMIT:
                n_below -= 1
            # The highest score that is not kept: what is above it is, ties together.
            first_left = np.partition(np.concatenate(parts), n_normal - n_below - 1)[n_normal - n_below - 1]
            limit = float(fpr(np.array([first_left]), "right")[0])
        if limit == 0:
            return float("nan")
        order = np.argsort(pixels.scores)  # sorted look-ups walk memory once
        scores, weights = pixels.scores[order], pixels.weights[order]
        return float((weights * _ramp_area(fpr(scores, "right"), fpr(scores, "left"), limit)).sum() / limit)

    ends = [one for part in (pixels.scores, *parts) for one in (part.min(), part.max())]
    low, high = _equally_spaced(np.array(ends))
    if spacing == "closed":
        levels = np.linspace(low, high, thresholds)
        strict = False
    else:
        levels = low + np.arange(thresholds, dtype=np.float64) * ((high - low) / thresholds)
        strict = True
    x = fpr(levels, "right" if strict else "left")[::-1]
    y = _reaching(levels, pixels.scores, pixels.weights, strict=strict)
    if start == "origin":
        x, y = np.concatenate([[0.0], x]), np.concatenate([[0.0], y])
    if end == "last kept":
        x, y = x[x < FPR_LIMIT], y[x < FPR_LIMIT]
        return float(np.trapezoid(y, x) / x[-1]) if x.size > 1 and x[-1] > 0 else float("nan")
    inside = x <= FPR_LIMIT
    if not inside.any():  # the first kept lies beyond
        return float("nan")
    last = np.interp(FPR_LIMIT, x, y)
    return float(np.trapezoid(np.append(y[inside], last), np.append(x[inside], FPR_LIMIT)) / FPR_LIMIT)


PER_ANOMALOUS_IMAGE = "per anomalous image"
_per_anomalous_image = partial(pro_by, curve="per image", normal_images=False, weigh="images")

PRO_VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "anomalib <= 2.2",
            "averages per-region ROCs by index, FPR too, and divides by the last averaged FPR, not by 0.3",
            "anomalib up to 2.2 (anomalib issues 3718, 1651 and 2442)",
            anomalib_2_2,
        ),
        Variant(
            "per image (RD4AD)",
            "one curve per defective image at 200 thresholds, divided by its last FPR below 0.3, then averaged",
            "RD4AD and code derived from it (patchcore-inspection issue 26)",
            per_image_rd4ad,
        ),
        Variant(
            "per image, quantile thresholds (orthoad)",
            "averages regions by image and FPRs over images, at 1000 quantiles of the highest-scoring image",
            "orthoad (semi-orthogonal embedding)",
            per_image_quantiles_orthoad,
        ),
        Variant(
            "no cut-off (PyramidFlow)",
            "integrates up to FPR 1 instead of 0.3",
            "PyramidFlow (its issue 13)",
            no_cut_off,
        ),
        Variant(
            "sigmoid-squashed (torchmetrics)",
            "a float32 sigmoid first, if any score is outside [0, 1]: scores above about 16.6 tie",
            "metrics built on the ROC of torchmetrics",
            sigmoid_squashed,
        ),
        Variant(
            "no normal images",
            "the FPR leaves out images without a defect",
            "part of all per-image variants",
            partial(pro_by, normal_images=False),
        ),
        Variant(
            "regions by image",
            "regions are averaged within their image first, so images weigh the same instead of regions",
            "part of all per-image variants",
            partial(pro_by, weigh="images"),
        ),
        Variant(
            "4-connectivity",
            "pixels that touch only at a corner are separate regions",
            "code that keeps its labelling function's default, such as scipy.ndimage.label",
            four_connectivity,
        ),
        Variant(
            "200 thresholds",
            "200 equally spaced thresholds from the lowest to the highest score instead of all scores",
            "part of RD4AD's variant, on one curve for all images",
            partial(pro_by, thresholds=_STEPS),
        ),
        Variant(
            "no interpolation at 0.3",
            "the curve ends at its last point of FPR below 0.3 and the area is divided by that FPR",
            "part of RD4AD's variant, on one curve of all scores",
            partial(pro_by, end="last kept"),
        ),
        Variant(
            "per image",
            "each defective image has its own curve, against its own normal pixels and those of images without a "
            "defect; regions weigh the same",
            "part of RD4AD's variant",
            partial(pro_by, curve="per image"),
        ),
        Variant(
            "no normal images, regions by image",
            "one curve, but images without a defect are left out and images weigh the same",
            "two parts of RD4AD's variant",
            partial(pro_by, normal_images=False, weigh="images"),
        ),
        Variant(
            "per image, no normal images",
            "each defective image has its own curve against its own normal pixels alone; regions weigh the same",
            "two parts of RD4AD's variant",
            partial(pro_by, curve="per image", normal_images=False),
        ),
        Variant(
            PER_ANOMALOUS_IMAGE,
            "each defective image has its own curve against its own normal pixels alone, and images weigh the same",
            "RD4AD's variant with all scores as thresholds and interpolation at 0.3",
            _per_anomalous_image,
        ),
        Variant(
            f"{PER_ANOMALOUS_IMAGE}, no interpolation at 0.3",
            "the same, ended at the last point of FPR below 0.3 and divided by that FPR",
            "RD4AD's variant with all scores as thresholds",
            partial(_per_anomalous_image, end="last kept"),
        ),
        Variant(
            f"{PER_ANOMALOUS_IMAGE}, 200 thresholds",
            "the same at 200 equally spaced thresholds, the highest score of each image the last",
            "towards RD4AD's variant, a first step",
            partial(_per_anomalous_image, thresholds=_STEPS),
        ),
        Variant(
            f"{PER_ANOMALOUS_IMAGE}, 200 thresholds below the maximum",
            "thresholds end a step below the highest score, and a pixel counts above its threshold, not at it",
            "towards RD4AD's variant, a second step",
            partial(_per_anomalous_image, thresholds=_STEPS, spacing="half open"),
        ),
        Variant(
            f"{PER_ANOMALOUS_IMAGE}, 200 thresholds below the maximum, no origin",
            "nothing is integrated before the first of these points; ended at the last below 0.3 it is RD4AD's",
            "towards RD4AD's variant, a third step",
            partial(_per_anomalous_image, thresholds=_STEPS, spacing="half open", start="first kept"),
        ),
    )
}
