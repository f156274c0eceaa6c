"""Metrics on a category-sized set, beside a global argsort (the definition) and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import best_time
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from work import Measure

from padim_bench import average_pro, detection_metrics
from padim_bench.metrics.pro import StreamedPRO, StreamingPRO
from padim_bench.metrics.roc import StreamedAUROC, StreamingROC

Maps, Masks = NDArray[np.float32], NDArray[np.bool_]
SIZE = "117 maps of 224x224"


@pytest.fixture(scope="module")
def category() -> tuple[Maps, Masks]:
    """117 smooth maps of 224x224, 83 of them with one or two regions."""
    rng = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(rng.standard_normal((117, 224, 224)), (0, 4, 4)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    for i in range(83):
        for _ in range(1 + i % 2):
            y, x = rng.integers(20, 160, 2)
            masks[i, y : y + 40, x : x + 30] = True
    return maps + masks * np.float32(0.03), masks


def pro_by_global_argsort(maps: Maps, masks: Masks) -> float:
    weights = np.zeros(masks.shape)
    count = 0
    for weight, mask in zip(weights, masks, strict=True):
        regions, n = ndimage.label(mask, np.ones((3, 3)))
        count += n
        if n:
            weight[mask] = 1 / np.bincount(regions[mask])[regions[mask]]
    order = np.argsort(maps, axis=None)[::-1]
    scores = maps.ravel()[order]
    last = np.append(np.diff(scores) != 0, True)
    fpr = np.concatenate([[0], np.cumsum(~masks.ravel()[order])[last] / (~masks).sum()])
    pro = np.concatenate([[0], np.cumsum(weights.ravel()[order])[last] / count])
    inside = fpr <= 0.3
    at = np.interp(0.3, fpr, pro)
    return float(np.trapezoid(np.append(pro[inside], at), np.append(fpr[inside], 0.3)) / 0.3)


def streamed_pro(maps: Maps, masks: Masks) -> StreamedPRO:
    streaming = StreamingPRO()
    for score_map, mask in zip(maps, masks, strict=True):
        streaming.update(score_map, mask)
    return streaming.compute()


def streamed_auroc(maps: Maps, masks: Masks) -> StreamedAUROC:
    streaming = StreamingROC()
    for score_map, mask in zip(maps, masks, strict=True):
        streaming.update(score_map, mask)
    return streaming.compute()


def exact_floor(maps: Maps, masks: Masks, limit: float = 0.3) -> float:
    """Copy the normal scores, partition them at the limit, sort those above it."""
    normal = maps[~masks]
    cut = int((1 - limit) * normal.size)
    parted = np.partition(normal, cut)
    scratch = np.empty_like(normal)
    steps: list[Callable[[], object]] = [
        lambda: np.copyto(scratch, normal),
        lambda: np.partition(normal, cut),
        lambda: np.sort(parted[cut:]),
    ]
    return sum(best_time(step, 0.1) for step in steps[: 3 if limit < 1 else 1]) + (
        best_time(lambda: np.sort(normal), 0.2) if limit == 1 else 0.0
    )


def streaming_floor(maps: Maps) -> float:
    """Read each pixel, add it to a histogram that fits a cache."""
    bins = np.arange(maps.size, dtype=np.intp) % 4096
    scratch = np.empty_like(maps)
    return best_time(lambda: np.copyto(scratch, maps), 0.1) + best_time(lambda: np.bincount(bins), 0.2)


@pytest.mark.parametrize("name", ["exact", "streaming", "global argsort"])
def test_pro(measure: Measure, name: str, category: tuple[Maps, Masks]) -> None:
    function, floor, steps = {
        "exact": (average_pro, exact_floor(*category), "copy, partition, sort the top"),
        "streaming": (streamed_pro, streaming_floor(category[0]), "copy, histogram"),
        "global argsort": (pro_by_global_argsort, None, ""),
    }[name]
    label = f"{name} ({steps})" if steps else name
    found = measure(function, *category, group=f"PRO, {SIZE}", label=label, floor=floor, moved=_bytes(*category))
    expected = pro_by_global_argsort(*category)
    if isinstance(found, StreamedPRO):
        assert abs(found.value - expected) <= found.error_bound < 1e-3
    else:
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["AUROC, AP and F1, exact", "AUROC, streaming", "scikit-learn's AUROC"])
def test_pixel_auroc(measure: Measure, name: str, category: tuple[Maps, Masks]) -> None:
    maps, masks = category

    def by_scikit_learn(maps: Maps, masks: Masks) -> float:
        return float(roc_auc_score(masks.ravel(), maps.ravel()))

    def ours(maps: Maps, masks: Masks) -> float:
        return detection_metrics(masks, maps).auroc

    function, floor, steps = {
        "AUROC, AP and F1, exact": (ours, exact_floor(maps, masks, 1), "copy, sort"),
        "AUROC, streaming": (streamed_auroc, streaming_floor(maps), "copy, histogram"),
        "scikit-learn's AUROC": (by_scikit_learn, None, ""),
    }[name]
    label = f"{name} ({steps})" if steps else name
    found = measure(
        function, maps, masks, group=f"Pixel AUROC, {SIZE}", label=label, floor=floor, moved=_bytes(*category)
    )
    expected = by_scikit_learn(maps, masks)
    if isinstance(found, StreamedAUROC):
        assert abs(found.value - expected) <= found.error_bound < 1e-3
    else:
        assert found == pytest.approx(expected, abs=1e-9)


def _bytes(maps: Maps, masks: Masks) -> int:
    return maps.nbytes + masks.nbytes
