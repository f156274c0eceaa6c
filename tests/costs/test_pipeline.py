"""The stages of a pipeline together are the model, and what times them changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from padim_bench import PaDiM
from padim_bench.costs.pipeline import Pipeline, TimedMoments, fit, percentiles, spread
from padim_bench.costs.work import Work
from padim_bench.data.samples import Category
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.tiling import Tiling
from padim_bench.padim.weights import Weights


@pytest.fixture(scope="module")
def pipeline(category: Category, work: Work, weights: Weights) -> Pipeline:
    return Pipeline.open(category, work.config, weights)


def test_stages_do_what_the_model_does(pipeline: Pipeline, category: Category) -> None:
    train = pipeline.prepared(category.train, {})
    image = pipeline.prepared(category.test[:1], {})
    features = [pipeline.selected(part, {}) for part in train.split(3)]
    whole, _ = fit(pipeline, lambda _: None)
    for n, gaussians in ((4, pipeline.fitted(features, "cholesky", 4)), (len(train), whole)):
        _, maps, scores = pipeline.mapped(gaussians, pipeline.selected(image, {}), {})
        model = PaDiM(pipeline.backbone, n_features=12, seed=5).fit(train[:n])
        wanted, wanted_scores = model.score(image)
        torch.testing.assert_close(maps, wanted)
        torch.testing.assert_close(scores, wanted_scores)


def test_each_stage_adds_its_seconds(pipeline: Pipeline, category: Category) -> None:
    seconds: dict[str, float] = {}
    gaussians = pipeline.fitted(
        [pipeline.selected(pipeline.prepared(category.train, {}), {})], "woodbury", len(category.train)
    )
    assert gaussians.strategy.name == "woodbury"
    pipeline.mapped(gaussians, pipeline.selected(pipeline.prepared(category.test[:2], seconds), seconds), seconds)
    assert list(seconds) == ["read", "decode", "resize", "backbone", "embed", "distance", "map"]
    assert pipeline.image_sizes == {"40x32"}


def test_embeddings_kept_for_the_check_are_those_of_spread_positions(pipeline: Pipeline, category: Category) -> None:
    kept: list[torch.Tensor] = []
    fit(pipeline, kept.append)
    assert [tuple(part.shape) for part in kept] == [(7, 64, 12)]
    selected = pipeline.selected(pipeline.prepared(category.train, {}), {})
    everywhere = pipeline.embedding.gather(selected, slice(0, pipeline.embedding.n_positions))
    assert torch.equal(kept[0], everywhere[pipeline.positions].transpose(0, 1))


def test_moments_that_are_timed_are_the_same_moments(work: Work, threads: int) -> None:
    two = Tiling(fit_bytes=2 * 9 * 6 * 8)  # positions to a tile
    embedding = PatchEmbedding((6,), ((4, 15),), tuple(range(6)))
    config = replace(work.config, model=replace(work.config.model, n_features=6))
    timed = TimedMoments(embedding, config, two)
    plain = TrainingMoments(embedding, torch.float64, 1 << 30, two)
    for moments in (timed, plain):
        moments.update(embedding.select([torch.randn(9, 6, 4, 15, generator=torch.Generator().manual_seed(0))]))
    found = fit_gaussians(timed, epsilon=0.01, on_positions=timed.finished)
    assert len(timed.reading) == 30 > len(list(plain.groups()))
    assert 0 < timed.share < 1
    same = fit_gaussians(plain, epsilon=0.01)
    assert all(torch.equal(found.state[k], same.state[k]) for k in same.state)


def test_few_samples_are_spread_over_all(category: Category) -> None:
    samples = category.train
    assert spread(samples, 3) == [samples[0], samples[2], samples[4]]
    assert spread(samples, 100) == list(samples)


def test_percentiles_computed_by_hand() -> None:
    found = percentiles([float(n) for n in range(101)])
    assert (found.p50, found.p90, found.p99, found.mean) == (50, 90, 99, 50)
    assert percentiles([2.0]).p99 == np.percentile([2.0], 99)
