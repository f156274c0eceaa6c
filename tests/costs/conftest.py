"""A category of small images and a configuration over it, which take a second or two to measure."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from padim_bench.costs.measure import run_config
from padim_bench.costs.work import Places, Work
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import Weights, resolve_weights
from padim_bench.records.config import Execution
from padim_bench.records.costs import CostChoices


@pytest.fixture(scope="session")
def category(tmp_path_factory: pytest.TempPathFactory) -> Category:
    """7 images to train on and 4 to test, of which 2 are anomalous; no masks."""
    root = tmp_path_factory.mktemp("costs") / "factory"
    generator = np.random.default_rng(0)
    for folder, n in (("train/good", 7), ("test/good", 2), ("test/scratch", 2)):
        (root / "part" / folder).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "part" / folder / f"{i:03d}.png")
    return mvtec(root, "part")


@pytest.fixture(scope="session")
def weights() -> Weights:
    return resolve_weights("resnet18", "random")


@pytest.fixture(scope="session")
def model() -> PaDiMConfig:
    return PaDiMConfig("resnet18", n_features=12, seed=5)


@pytest.fixture(scope="session")
def work(category: Category, weights: Weights, model: PaDiMConfig) -> Work:
    """A cost of three images timed at batches of 1 and 2."""
    config = run_config(category, model, weights, Execution())
    return Work(config, CostChoices((1, 2), 3), Places.of(category, weights))
