"""Runs that learn from some of the training images: from one backbone pass, and as models of those images alone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from padim_bench import Backbone, PaDiM, PadimBenchError, create_backbone, load_images
from padim_bench.data.drawn import Drawn, indices_digest
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.errors import DataWarning
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.protocols import PROTOCOLS
from padim_bench.records.config import Wanted
from padim_bench.records.runs import RunRecord
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.runner import run
from tests.drawn_records import run_config, run_record
from tests.passes import count_images

NETWORK, N_TRAIN, N_TEST = "test_resnet", 6, 4
PROTOCOL = PROTOCOLS["paper"].vary(resize=64, crop=64)
MODEL = PaDiMConfig(layers=("layer1", "layer2"), n_features=8, strategy="auto", protocol=PROTOCOL)
DRAWS = (None, Drawn(1, 0), Drawn(2, 0), Drawn(2, 1), Drawn(5, 0), Drawn(None, 0, replaced=True))


@pytest.fixture
def category(tmp_path: Path) -> Category:
    draw = np.random.default_rng(0)
    for folder, n in (("train/good", N_TRAIN), ("test/good", 2), ("test/cut", 2)):
        place = tmp_path / "data" / "part" / folder
        place.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(place / f"{i:03d}.png")
    return mvtec(tmp_path / "data", "part")


def records(category: Category, results: Path, limit: int, *wanted: Wanted) -> tuple[list[RunRecord], list[str]]:
    """The records of those runs, and what was said."""
    said: list[str] = []
    weights, settings = resolve_weights(NETWORK, "random"), Settings(memory_limit=limit)
    units = plan([category], [(one, weights) for one in wanted], settings, on_message=said.append)
    return [outcome.record for outcome in run(units, results, on_message=said.append)], said


@cache
def network() -> Backbone:
    return create_backbone(NETWORK, "random", MODEL.layers)


def alone(category: Category, model: PaDiMConfig, indices: tuple[int, ...]) -> list[float]:
    """Image scores of a model that has seen those training images and no others."""
    options = {"n_features": model.n_features, "reduction": model.reduction}
    train, test = (torch.cat(list(load_images(part, PROTOCOL))) for part in (category.train, category.test))
    with warnings.catch_warnings(action="ignore", category=DataWarning):
        fitted = PaDiM(network(), protocol=PROTOCOL, **options).fit(train[list(indices)])
    scores: list[float] = fitted.score(test)[1].tolist()
    return scores


@pytest.mark.parametrize(("limit", "how"), [(1 << 30, "held"), (1, "streamed")])
def test_each_run_is_as_if_there_were_no_other_images_and_all_are_from_one_pass(
    category: Category, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, how: str
) -> None:
    with monkeypatch.context() as patch:
        passes = count_images(patch)
        found, _ = records(category, tmp_path / "r", limit, *(Wanted(MODEL, trained=one) for one in DRAWS))
    assert {record.memory.images for record in found} == {how}
    if how == "held":
        assert [n for n in passes if n > 1] == [N_TRAIN, N_TEST]  # of one image the network is asked for its grids
    for record, drawn in zip(found, DRAWS, strict=True):
        indices = tuple(range(N_TRAIN)) if drawn is None else drawn.indices(N_TRAIN)
        expected = alone(category, MODEL, indices)
        np.testing.assert_allclose([score.score for score in record.scores], expected, rtol=1e-3)
        assert record.dataset.n_train == N_TRAIN
        if drawn is None:
            assert record.trained_on is None
        else:
            assert record.trained_on is not None
            assert (record.trained_on.n, record.trained_on.distinct) == (len(indices), len(set(indices)))
            assert record.trained_on.indices_sha256 == indices_digest(indices)
    assert len({record.id for record in found}) == len(DRAWS)


@pytest.mark.parametrize("limit", [1 << 30, 1], ids=["held", "streamed"])
def test_principal_components_are_of_the_drawn_images_alone(category: Category, tmp_path: Path, limit: int) -> None:
    model, draws = replace(MODEL, reduction="pca"), (Drawn(3, 0), Drawn(3, 1))
    found, _ = records(category, tmp_path / "r", limit, *(Wanted(model, trained=one) for one in draws))
    for record, drawn in zip(found, draws, strict=True):
        expected = alone(category, model, drawn.indices(N_TRAIN))
        np.testing.assert_allclose([score.score for score in record.scores], expected, rtol=1e-3)


def test_draws_of_all_images_or_more_are_left_out_and_said_to_be(category: Category, tmp_path: Path) -> None:
    wanted = [Wanted(MODEL, trained=Drawn(n)) for n in (1, 6, 100)]
    found, said = records(category, tmp_path, 1 << 30, *wanted)
    assert [record.config.trained for record in found] == [Drawn(1)]
    assert said[0] == ("part has 6 training images: draws of 6, 100: left out, since that is all of them or more")
    assert said[1].startswith("draws of one image: 1 training image has no covariance: epsilon I alone")
    with pytest.raises(PadimBenchError, match=r"part has 6 training images: draws of 6, 100: a draw is of fewer"):
        records(category, tmp_path, 1 << 30, *wanted[1:])
    with pytest.raises(PadimBenchError, match="a draw of training images has n: 0 is less than 1"):
        records(category, tmp_path, 1 << 30, Wanted(MODEL, trained=Drawn(0)))


def test_a_category_of_one_training_image_runs_and_says_what_that_means(category: Category, tmp_path: Path) -> None:
    one = replace(category, train=category.train[:1])
    (record,), said = records(one, tmp_path, 1 << 30, Wanted(MODEL))
    np.testing.assert_allclose([s.score for s in record.scores], alone(category, MODEL, (0,)), rtol=1e-4)
    assert any(line.startswith("part: 1 training image has no covariance") for line in said)


@pytest.mark.parametrize("trained_on", ["none", "of others"])
def test_a_record_that_says_of_which_images_it_is_twice_and_differently_is_refused(trained_on: str) -> None:
    record = run_record(run_config(trained=Drawn(8, 1)))
    record.check()
    other = run_record(run_config(trained=Drawn(8, 2))).trained_on if trained_on == "of others" else None
    with pytest.raises(ValueError, match="trained_on: not the images"):
        replace(record, trained_on=other).check()
