"""PRO of real maps: each definition against a plain curve of every image, and against MVTec's own evaluation code."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from padim_bench import PaDiM, load_images, mvtec
from padim_bench.data.loading import CategoryReader
from padim_bench.metrics.pro import average_pro
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.metrics.resampling import draws, resampled_metrics
from padim_bench.metrics.summary import compute_metrics
from padim_bench.protocols import get_protocol

pytestmark = pytest.mark.data


@cache
def scored(root: Path, weights: Path, category: str, protocol: str) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Labels, scores, maps and masks of R18-Rd100 with seed 1024."""
    torch.set_num_threads(2)
    images = mvtec(root, category)
    model = PaDiM("resnet18", weights=weights, n_features=100, seed=1024, protocol=protocol)
    model.fit(load_images(images.train, protocol))
    reader = CategoryReader(images, get_protocol(protocol), threads=2)
    maps, scores, masks = [], [], []
    with closing(reader.batches("test", 8)) as batches:
        for batch, of_batch in batches:
            found, maxima = model.score(torch.from_numpy(batch))
            maps.append(found.numpy())
            scores.append(maxima.numpy())
            masks += of_batch
    return reader.labels, np.concatenate(scores), np.concatenate(maps), np.stack(masks)


def plain_curve(maps: list[NDArray], masks: list[NDArray]) -> float:
    """PRO of some images by the whole curve: every pixel in the order of its score, ties together."""
    scores, normal, gains, n_regions = [], [], [], 0
    for score_map, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labelled.ravel())
        n_regions += count
        scores.append(score_map.ravel())
        normal.append(~mask.ravel())
        gains.append(np.where(mask, 1 / sizes[labelled], 0).ravel())
    score, is_normal = np.concatenate(scores), np.concatenate(normal)
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    x = np.cumsum(is_normal[order])[last_of_tie] / is_normal.sum()
    y = np.cumsum(np.concatenate(gains)[order])[last_of_tie] / n_regions
    x, y = np.append(0.0, x), np.append(0.0, y)
    kept = x <= 0.3
    return float(np.trapezoid(np.append(y[kept], np.interp(0.3, x, y)), np.append(x[kept], 0.3)) / 0.3)


# Percent: of MVTec's definition and of RD4AD's, from an independent trial.
@pytest.mark.parametrize(("category", "exact", "rd4ad"), [("bottle", 94.74, 94.2), ("transistor", 90.12, 79.6)])
def test_definitions_are_the_plain_curves_of_the_same_maps(
    real_data: Path, real_weights: Path, category: str, exact: float, rd4ad: float
) -> None:
    _, _, maps, masks = scored(real_data, real_weights, category, "paper")
    whole = plain_curve(list(maps), list(masks))
    assert average_pro(maps, masks) == pytest.approx(whole, abs=1e-9)
    assert 100 * whole == pytest.approx(exact, abs=0.05)
    ones = [plain_curve([m], [k]) for m, k in zip(maps, masks, strict=True) if k.any()]
    assert PRO_VARIANTS["per anomalous image"].function(maps, masks) == pytest.approx(np.mean(ones), abs=1e-9)
    # At 200 thresholds, ended where the last of them lies: a little less.
    assert 100 * PRO_VARIANTS["per image (RD4AD)"].function(maps, masks) == pytest.approx(rd4ad, abs=0.06)
    assert rd4ad - 0.06 < 100 * np.mean(ones) < rd4ad + 0.4
    defective = [(m, k) for m, k in zip(maps, masks, strict=True) if k.any()]
    pooled = plain_curve([m for m, _ in defective], [k for _, k in defective])
    assert PRO_VARIANTS["no normal images"].function(maps, masks) == pytest.approx(pooled, abs=1e-9)


def test_resampled_metrics_are_those_of_the_images_drawn(real_data: Path, real_weights: Path) -> None:
    labels, scores, maps, masks = scored(real_data, real_weights, "bottle", "paper")
    found = resampled_metrics(labels, scores, "ab" * 32, list(masks), list(maps))
    for r, counts in enumerate(draws(labels, "ab" * 32)[:2]):
        drawn = np.repeat(np.arange(len(labels)), counts)
        assert found["pro"][r] == pytest.approx(average_pro(maps[drawn], masks[drawn]), abs=2e-5)
        auroc = compute_metrics(labels[drawn], scores[drawn], masks[drawn], maps[drawn])["pixel_auroc"]
        assert found["pixel_auroc"][r] == pytest.approx(auroc, abs=1e-6)


@pytest.mark.parametrize(
    ("category", "pro", "image_auroc"),
    [
        ("bottle", 0.958358837, 0.996825397),
        ("capsule", 0.916772619, 0.886717192),
        ("transistor", 0.908820894, 0.9025),
    ],
)
def test_maps_at_256_have_what_mvtec_s_evaluation_code_printed(
    real_data: Path, real_weights: Path, category: str, pro: float, image_auroc: float
) -> None:
    labels, scores, maps, masks = scored(real_data, real_weights, category, "anomalib")
    found = compute_metrics(labels, scores, masks, maps)
    assert found["pro"] == pytest.approx(pro, abs=1e-5)
    assert found["image_auroc"] == pytest.approx(image_auroc, abs=1e-3)  # one pair of images in another order
