"""PRO on a category-sized set, beside the global argsort that its definition suggests."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from padim_bench import average_pro, detection_metrics
from tests.peers.reference import pro_by_global_argsort

Maps = tuple[NDArray[np.float32], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def bottle_sized() -> Maps:
    """83 smooth maps of 224x224, 63 of them with one region."""
    rng = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(rng.standard_normal((83, 224, 224)), (0, 4, 4)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    for i in range(63):
        y, x = rng.integers(20, 160, 2)
        masks[i, y : y + 40, x : x + 30] = True
    return maps + masks * np.float32(0.03), masks


@pytest.mark.parametrize("implementation", [average_pro, pro_by_global_argsort])
def test_pro(benchmark: BenchmarkFixture, implementation: object, bottle_sized: Maps) -> None:
    benchmark.group = "PRO, 83 maps of 224x224"
    value = benchmark.pedantic(implementation, args=bottle_sized, rounds=5, warmup_rounds=1)
    assert value == pytest.approx(pro_by_global_argsort(*bottle_sized), abs=1e-9)


@pytest.mark.parametrize("name", ["padim-bench: AUROC, AP and F1", "scikit-learn: AUROC alone"])
def test_pixel_auroc(benchmark: BenchmarkFixture, name: str, bottle_sized: Maps) -> None:
    benchmark.group = "pixel AUROC, 4.2 Mpx"
    maps, masks = (a.ravel() for a in bottle_sized)
    if name.startswith("padim"):
        value = benchmark.pedantic(detection_metrics, args=(masks, maps), rounds=5, warmup_rounds=1).auroc
    else:
        value = benchmark.pedantic(roc_auc_score, args=(masks, maps), rounds=5, warmup_rounds=1)
    assert value == pytest.approx(roc_auc_score(masks, maps), abs=1e-9)
