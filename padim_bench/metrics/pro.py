"""Per-region overlap (PRO), the area under its curve up to a false-positive rate of 0.3.

The definition of Bergmann et al. (IJCV 2021), which the paper's section IV-A uses: every connected
component (8-connectivity) of every ground-truth mask weighs the same; the false-positive rate is over
all anomaly-free pixels of the category, those of normal images included; the curve runs over all
distinct scores (ties together), is integrated by trapezoids up to FPR 0.3 with interpolation there,
and the area is divided by 0.3.

How others differ is in ``pro_variants``: averaging regions per image; leaving normal images out;
dividing by the last FPR kept instead of 0.3; squashing scores with a float32 sigmoid, which ties all
distances above 16.6; and more.

The area needs no curve. A region's pixel with score s joins the overlap once the FPR passes
b = P(normal >= s); inside a tie, which spans [a, b] with a = P(normal > s), it joins linearly. So

    area = sum over region pixels of weight * integral of that ramp over [0, 0.3],

weight = 1 / (regions * pixels of the region), and only normal scores below FPR 0.3 need ordering.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from padim_bench.metrics._bins import BINS, score_bins
from padim_bench.metrics._truth import as_mask

FPR_LIMIT = 0.3
_EIGHT = np.ones((3, 3), dtype=bool)


def _region_weights(mask: NDArray[np.bool_], structure: NDArray[np.bool_] = _EIGHT) -> tuple[NDArray[np.float64], int]:
    """1 / (pixels of its region) for each True pixel of a mask in C order, and the number of regions."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.empty(0), 0
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # finding it costs less than labelling the rest
    regions, count = ndimage.label(box, structure=structure)
    inside = regions[box]
    return 1.0 / np.bincount(inside)[inside], int(count)


def _checked(
    score_map: NDArray[np.floating], mask: NDArray[np.generic]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    if score_map.shape != mask.shape or score_map.ndim != 2:
        raise ValueError(f"map of shape {score_map.shape} for a mask of shape {mask.shape}")
    if np.isnan(score_map).any():
        raise ValueError("anomaly map contains NaN")
    return score_map, as_mask(mask)


def _undefined(regions: int, normal: int, *, stacklevel: int = 3) -> bool:
    if regions and normal:
        return False
    missing = "anomalous region" if not regions else "anomaly-free pixel"
    warnings.warn(f"PRO is NaN: no {missing} in the ground truth", stacklevel=stacklevel)
    return True


def average_pro(
    maps: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    masks: Sequence[NDArray[np.generic]] | NDArray[np.generic],
    *,
    fpr_limit: float = FPR_LIMIT,
) -> float:
    """Normalised area under the PRO curve up to ``fpr_limit``, exact over all distinct scores.

    Args:
        maps: n anomaly maps (H, W), normal images included; sizes may differ between images.
        masks: n ground-truth masks of the same shapes; non-zero is anomalous.
        fpr_limit: in (0, 1]; the paper's is 0.3.

    Returns:
        PRO in [0, 1]; NaN, with a warning, without any region or any anomaly-free pixel.

    Raises:
        ValueError: if shapes differ, a map or mask has NaN, a mask is negative, or ``fpr_limit`` is out of range.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit is {fpr_limit}; it must be in (0, 1]")
    return _exact(_gather(maps, masks), fpr_limit)


def own_pro(score_map: NDArray[np.floating], mask: NDArray[np.generic], *, fpr_limit: float = FPR_LIMIT) -> float:
    """The exact PRO of one image against its own anomaly-free pixels; NaN, without a warning, where it has none.

    NaN also of an image without a region. Raises ValueError as ``average_pro`` does.
    """
    score_map, mask_ = _checked(score_map, mask)
    if not mask_.any() or mask_.all():
        return float("nan")
    return _exact(_gather([score_map], [mask_]), fpr_limit)


class _Pixels(NamedTuple):
    """Scores of all anomaly-free pixels, and of all region pixels with weights that sum to 1."""

    normal: NDArray[np.floating]
    scores: NDArray[np.floating]
    weights: NDArray[np.float64]


def _gather(
    maps: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    masks: Sequence[NDArray[np.generic]] | NDArray[np.generic],
    *,
    structure: NDArray[np.bool_] = _EIGHT,
    by_image: bool = False,
) -> _Pixels:
    """Pixels of all images, every region of the same weight, or (``by_image``) every image that has any."""
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps for {len(masks)} masks")
    normal_parts, region_scores, region_weights, total = [], [], [], 0
    for raw_map, raw_mask in zip(maps, masks, strict=True):
        score_map, mask = _checked(raw_map, raw_mask)
        if mask.any():
            weights, count = _region_weights(mask, structure)
            region_scores.append(score_map[mask])
            region_weights.append(weights / count if by_image else weights)
            total += 1 if by_image else count
            normal_parts.append(score_map[~mask])
        else:
            normal_parts.append(score_map.ravel())
    return _Pixels(
        np.concatenate(normal_parts) if normal_parts else np.empty(0),
        np.concatenate(region_scores) if region_scores else np.empty(0),
        np.concatenate(region_weights) / total if region_weights else np.empty(0),
    )


def _top(normal: NDArray[np.floating], limit: float) -> NDArray[np.floating]:
    """The highest scores, ascending, until the FPR passes ``limit``; ties at the edge included.

    Reorders ``normal``: partitioning and sorting in place copy nothing.
    """
    cut = normal.size - min(int(np.ceil(limit * normal.size)) + 1, normal.size)
    normal.partition(cut)
    normal[cut:].sort()
    tied = np.count_nonzero(normal[:cut] == normal[cut])
    return np.concatenate([np.full(tied, normal[cut]), normal[cut:]]) if tied else normal[cut:]


def _exact(pixels: _Pixels, limit: float) -> float:
    """The area of the module's docstring; a warning names the caller of the caller. Reorders ``pixels.normal``."""
    normal = pixels.normal
    if _undefined(pixels.scores.size, normal.size, stacklevel=4):
        return float("nan")
    top = _top(normal, limit)  # the rest never enters the area
    order = np.argsort(pixels.scores)  # sorted look-ups walk memory once
    scores, weights = pixels.scores[order], pixels.weights[order]
    start = (top.size - np.searchsorted(top, scores, side="right")) / normal.size
    end = (top.size - np.searchsorted(top, scores, side="left")) / normal.size
    return float((weights * _ramp_area(start, end, limit)).sum() / limit)


def _ramp_area(start: NDArray[np.float64], end: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """Integral over [0, limit] of a ramp that is 0 up to ``start`` and 1 from ``end`` on."""
    whole = limit - (start + end) / 2
    cut = np.square(np.maximum(limit - start, 0)) / (2 * np.maximum(end - start, np.finfo(float).tiny))
    return np.where(end <= limit, whole, cut)


@dataclass(frozen=True)
class StreamedPRO:
    """PRO from histograms, and a bound: the exact value lies within ``value`` +- ``error_bound``."""

    value: float
    error_bound: float


class StreamingPRO:
    """PRO in bounded memory, for sets whose maps do not fit: 16 MB whatever the number of images.

    Scores are binned by the leading bits of their float32 representation, which is monotone and needs
    no range in advance (bins are 1/2048 of their score wide). Inside a bin the exact curve is
    monotone between the same two corners as ours, which gives the error bound.

    Example:
        >>> pro = StreamingPRO()
        >>> for score_map, mask in images: pro.update(score_map, mask)
        >>> pro.compute().value
    """

    def __init__(self, *, fpr_limit: float = FPR_LIMIT) -> None:
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit is {fpr_limit}; it must be in (0, 1]")
        self.fpr_limit = fpr_limit
        self._normal = np.zeros(BINS, dtype=np.int64)
        self._overlap = np.zeros(BINS, dtype=np.float64)
        self._regions = 0

    def update(self, score_map: NDArray[np.floating], mask: NDArray[np.generic]) -> None:
        """Adds one anomaly map (H, W) and its mask. Raises ValueError as ``average_pro`` does."""
        score_map, mask_ = _checked(score_map, mask)
        bins = score_bins(score_map)
        weights, count = _region_weights(mask_)
        self._regions += count
        np.add.at(self._normal, bins[~mask_], 1)  # touches the bins of this image, not all 2^20
        np.add.at(self._overlap, bins[mask_], weights)

    def compute(self) -> StreamedPRO:
        """The value and its error bound; NaN, with a warning, where ``average_pro`` gives NaN."""
        normal = int(self._normal.sum())
        if _undefined(self._regions, normal):
            return StreamedPRO(float("nan"), float("nan"))
        counts, gains = self._normal[::-1], self._overlap[::-1] / self._regions  # from the highest score
        used = (counts > 0) | (gains > 0)
        end = np.cumsum(counts[used]) / normal
        start = end - counts[used] / normal
        gains = gains[used]
        area = float((gains * _ramp_area(start, end, self.fpr_limit)).sum())
        width = np.clip(self.fpr_limit - start, 0, end - start)
        # The exact curve stays in the same box as our diagonal: it is off by half the box at most, and by
        # the whole of what is left of a box that the limit cuts.
        bound = float((gains * width * np.where(end <= self.fpr_limit, 0.5, 1.0)).sum())
        return StreamedPRO(area / self.fpr_limit, min(bound / self.fpr_limit, 1.0))  # rounding may pass 1
