"""Methods beside PaDiM on the runner's rails: the same records, in one spelling, and only what makes sense of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from padim_bench import PadimBenchError
from padim_bench.baselines import BASELINES
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.metrics.summary import METRICS
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.protocols import get_protocol
from padim_bench.records.config import Wanted
from padim_bench.records.files import record_path
from padim_bench.records.runs import RunRecord
from padim_bench.runs.plan import Settings, plan, plan_scenes
from padim_bench.runs.runner import run

WEIGHTS = resolve_weights("resnet18", "random")
SMALL = get_protocol("paper").vary(resize=64, crop=64)
METHODS = {"padim": "paper", "spade-k5": "all", "mahalanobis": "all"}


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Category:
    """Noise; anomalous images have a white square."""
    root, draw = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for folder, n in (("train/good", 7), ("test/good", 3), ("test/square", 3)):
        place = root / "part" / folder
        place.mkdir(parents=True)
        truth = root / "part" / "ground_truth" / "square"
        truth.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = draw.integers(0, 120, (64, 64, 3), dtype=np.uint8)
            if place.name == "square":
                pixels[20:40, 20 + i : 40 + i] = 255
                mask = np.zeros((64, 64), dtype=np.uint8)
                mask[20:40, 20 + i : 40 + i] = 255
                Image.fromarray(mask).save(truth / f"{i:03d}_mask.png")
            Image.fromarray(pixels).save(place / f"{i:03d}.png")
    return mvtec(root, "part")


def wanted(method: str, **choices: object) -> Wanted:
    chosen = {"layers": METHODS.get(method, "all"), "protocol": SMALL, "method": method} | choices
    return Wanted(replace(PaDiMConfig(n_features=10), **chosen))


def records(category: Category, results: Path, settings: Settings, *models: Wanted) -> dict[str, RunRecord]:
    outcomes = run(plan([category], [(m, WEIGHTS) for m in models], settings), results)
    assert all(o.path == record_path(results, o.record) for o in outcomes)
    return {o.config.model.method: o.record for o in outcomes}


@pytest.fixture(scope="module")
def found(category: Category, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    return records(category, tmp_path_factory.mktemp("held"), Settings(), *map(wanted, METHODS))


def test_every_method_leaves_a_record_that_says_what_it_holds(found: dict[str, RunRecord]) -> None:
    assert list(found) == list(METHODS)
    for method, record in found.items():
        assert record.valid
        assert record.memory.images == "held"
        if method == "padim":
            continue
        assert (record.strategy_used, record.residual, record.applied) == (method, None, None)
        assert (record.config.model_name, record.file_parts) == (f"{method}-R18", ("part", "resnet18", method))
        assert record.state_bytes
        assert len(record.scores) == record.dataset.n_test
    each = 64 * (16**2) + 128 * (8**2) + 256 * (4**2) + 512 + 16**2 + 8**2 + 4**2
    assert found["spade-k5"].state_bytes == 4 * (7 * each + 64 + 128 + 256)
    assert found["spade-k5"].metrics is not None
    assert found["spade-k5"].metrics["pixel_auroc"] > 0.9  # white squares in noise


def test_a_method_without_maps_has_image_metrics_alone(found: dict[str, RunRecord]) -> None:
    metrics = found["mahalanobis"].metrics
    assert metrics is not None
    assert all((metrics[m.name] is None) is (m.level == "pixel") for m in METRICS.values())


def test_batch_by_batch_within_a_memory_limit_the_numbers_are_the_same(
    category: Category, tmp_path: Path, found: dict[str, RunRecord]
) -> None:
    limit = 2 << 20
    streamed = records(category, tmp_path, Settings(memory_limit=limit), wanted("spade-k5"), wanted("mahalanobis"))
    for method, record in streamed.items():
        assert record.memory.images == "streamed"
        assert [s.score for s in record.scores] == pytest.approx([s.score for s in found[method].scores], rel=1e-4)
        image = [record.value(name) for name in ("image_auroc", "image_ap")]
        assert image == [found[method].value(name) for name in ("image_auroc", "image_ap")]
    assert streamed["spade-k5"].state_bytes == found["spade-k5"].state_bytes


def test_what_only_padim_has_makes_no_second_run_of_a_baseline(category: Category) -> None:
    ways = [{}, {"n_features": 20}, {"seed": 3}, {"strategy": "woodbury"}, {"storage": "float16"}, {"fusion": "sum"}]
    (unit,) = plan([category], [(wanted("spade", **way), WEIGHTS) for way in ways], Settings())
    (config,) = unit.configs
    assert (config.model.strategy, config.model.n_features, config.model.seed) == ("spade", None, 0)


def test_a_method_that_there_is_not_and_scenes_of_one_are_refused(category: Category) -> None:
    with pytest.raises(PadimBenchError, match=r"--method spad: choose from padim, spade, spade-k5, mahalanobis"):
        plan([category], [(wanted("spad"), WEIGHTS)], Settings())
    with pytest.raises(PadimBenchError, match="video scenes are run with padim alone"):
        plan_scenes([], [(wanted("spade"), WEIGHTS)], Settings())


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_s_size_is_known_before_it_is_fitted_and_one_fit_is_enough(name: str) -> None:
    from padim_bench.padim.embedding import PatchEmbedding

    embedding = PatchEmbedding((2, 3), ((4, 4), (2, 2)), tuple(range(5)))
    model = BASELINES[name].make(embedding)
    selected = embedding.select([torch.randn(4, 2, 4, 4), torch.randn(4, 3, 2, 2)])
    model.update(selected)
    model.fit()
    assert model.state_bytes == BASELINES[name].state_bytes(embedding, 4)
    first = model.score(selected)
    model.fit()
    assert torch.equal(model.score(selected)[1], first[1])
    assert (first[0] is not None) is BASELINES[name].has_maps
