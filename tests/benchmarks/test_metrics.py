"""Metrics on a category-sized set, beside a global argsort (the definition) and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from work import Measure, best_time

from padim_bench import average_pro, detection_metrics
from padim_bench.metrics.pro import StreamedPRO, StreamingPRO
from padim_bench.metrics.roc import StreamedValue, StreamingROC
from tests.peers.reference import pro_by_global_argsort

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


def moved(maps: Maps, masks: Masks) -> int:
    return maps.nbytes + masks.nbytes


def streamed_pro(maps: Maps, masks: Masks) -> StreamedPRO:
    streaming = StreamingPRO()
    for score_map, mask in zip(maps, masks, strict=True):
        streaming.update(score_map, mask)
    return streaming.compute()


def streamed_auroc(maps: Maps, masks: Masks) -> StreamedValue:
    streaming = StreamingROC()
    for score_map, mask in zip(maps, masks, strict=True):
        streaming.update(score_map, mask)
    return streaming.compute()


def sorting_floor(maps: Maps, masks: Masks, limit: float) -> float:
    """Copy and partition the normal scores at the limit, copy and sort those above it."""
    normal = maps[~masks]
    cut = int((1 - limit) * normal.size)
    top = np.partition(normal, cut)[cut:]
    partitioning = best_time(lambda: np.partition(normal, cut), 0.1) if cut else 0.0
    return partitioning + best_time(lambda: np.sort(top), 0.1)


def streaming_floor(maps: Maps) -> float:
    """Read each pixel, add it to a histogram that fits a cache."""
    bins = np.arange(maps.size, dtype=np.intp) % 4096
    scratch = np.empty_like(maps)
    return best_time(lambda: np.copyto(scratch, maps), 0.1) + best_time(lambda: np.bincount(bins), 0.2)


@pytest.mark.parametrize("name", ["exact", "streaming", "global argsort"])
def test_pro(measure: Measure, name: str, category: tuple[Maps, Masks]) -> None:
    functions = {"exact": average_pro, "streaming": streamed_pro, "global argsort": pro_by_global_argsort}
    if name == "streaming":
        floor = {"copy, histogram": streaming_floor(category[0])}
    else:
        floor = {"partition, sort the top": sorting_floor(*category, limit=0.3)}
    found = measure(functions[name], *category, group=f"PRO, {SIZE}", label=name, floor=floor, moved=moved(*category))
    expected = pro_by_global_argsort(*category)
    if isinstance(found, StreamedPRO):
        assert abs(found.value - expected) <= found.error_bound < 1e-3
    else:
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["AUROC, AP and F1", "AUROC, streaming", "AUROC by scikit-learn"])
def test_pixel_auroc(measure: Measure, name: str, category: tuple[Maps, Masks]) -> None:
    maps, masks = category

    def by_scikit_learn(maps: Maps, masks: Masks) -> float:
        return float(roc_auc_score(masks.ravel(), maps.ravel()))

    def ours(maps: Maps, masks: Masks) -> float:
        return detection_metrics(masks, maps).auroc

    functions = {"AUROC, AP and F1": ours, "AUROC, streaming": streamed_auroc, "AUROC by scikit-learn": by_scikit_learn}
    if name == "AUROC, streaming":
        floor = {"copy, histogram": streaming_floor(maps)}
    else:
        floor = {"sort": sorting_floor(maps, masks, limit=1)}
    group = f"Pixel AUROC, {SIZE}"
    found = measure(functions[name], maps, masks, group=group, label=name, floor=floor, moved=moved(maps, masks))
    expected = by_scikit_learn(maps, masks)
    if isinstance(found, StreamedValue):
        assert abs(found.value - expected) <= found.error_bound < 1e-3
    else:
        assert found == pytest.approx(expected, abs=1e-9)
