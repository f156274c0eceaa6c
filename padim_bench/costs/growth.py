"""How inference grows with the number of training images, measured in a fresh process: ``python -m``, see ``measure``.

The model is fitted to the first n training images for each n; the models are then timed in turns on every image, so
that other load on the machine strikes all alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from padim_bench.costs.fresh import answer
from padim_bench.costs.pipeline import N_WARMUP, Pipeline, percentiles, spread
from padim_bench.costs.sizes import state_bytes
from padim_bench.costs.work import Subject, Work
from padim_bench.data.samples import Sample
from padim_bench.machine.torch_settings import full_precision, torch_threads
from padim_bench.records.costs import OK, GrowthChoices, GrowthPoint, GrowthRecord, to_dict
from padim_bench.runs.methods import baseline_of

CONSTANT_STRATEGY = "cholesky"  # whose state does not depend on the number of images


def measure(work: Work) -> GrowthRecord:
    """The record of a configuration: a series of its own strategy, and of PaDiM one of ``CONSTANT_STRATEGY``.

    Raises:
        PadimBenchError: images and weights that cannot be read.
        StrategyInvalidError: the strategy's factorisation is wrong on this machine.
    """
    asked, config = work.asked, work.config
    assert isinstance(asked, GrowthChoices)
    with torch_threads(config.execution.threads), full_precision():
        subject = Subject.open(work)
        category = subject.category
        pipeline = Pipeline.open(category, config, subject.weights)
        counts = sorted({n for n in asked.counts if 2 <= n < len(category.train)} | {len(category.train)})
        features = [
            pipeline.selected(pipeline.prepared(samples, {}), {}) for samples in pipeline.batches(category.train)
        ]
        samples = spread(category.test, asked.n_images)
        points: list[GrowthPoint] = []
        others = () if baseline_of(config.model.method) else (CONSTANT_STRATEGY,)
        for strategy in dict.fromkeys((config.model.strategy, *others)):
            affordable = counts_within(pipeline, strategy, counts, asked.limit_bytes)
            points += _series(pipeline, features, strategy, affordable, samples)
    return GrowthRecord(
        **subject.header("growth", tuple(sorted(pipeline.image_sizes))),
        status=OK,
        reason=None,
        n_warmup=N_WARMUP,
        n_timed=len(samples),
        points=tuple(points),
    )


def counts_within(pipeline: Pipeline, strategy: str, counts: Sequence[int], limit_bytes: int) -> list[int]:
    """The counts whose states together stay under the limit: the extremes always, then whatever fits."""
    model, embedding = pipeline.config.model, pipeline.embedding
    baseline = baseline_of(model.method)
    kept: list[int] = []
    total = 0
    for n in sorted(counts, key=lambda n: (n not in {counts[0], counts[-1]}, -n)):
        if baseline is not None:
            total += baseline.state_bytes(embedding, n)
        else:
            total += state_bytes(strategy, model.storage, n, embedding.n_features, embedding.n_positions)
        if len(kept) < 2 or total <= limit_bytes:
            kept.append(n)
    return sorted(kept)


def _series(
    pipeline: Pipeline,
    features: Sequence[Sequence[Tensor]],
    strategy: str,
    counts: Sequence[int],
    samples: Sequence[Sample],
) -> list[GrowthPoint]:
    """A point for each number of training images."""
    models = {n: pipeline.fitted(features, strategy, n) for n in counts}
    whole: dict[int, list[float]] = {n: [] for n in counts}
    own: dict[int, list[float]] = {n: [] for n in counts}
    for i in range(N_WARMUP + len(samples)):
        shared: dict[str, float] = {}
        image = pipeline.prepared([samples[i % len(samples)]], shared)
        selected = pipeline.selected(image, shared)
        turn = i % len(counts)  # whoever comes right after the backbone finds the caches cold
        for n in (*counts[turn:], *counts[:turn]):
            seconds: dict[str, float] = {}
            pipeline.mapped(models[n], selected, seconds)
            if i >= N_WARMUP:
                own[n].append(sum(seconds.values()))
                whole[n].append(sum(shared.values()) + own[n][-1])
    return [
        GrowthPoint(
            strategy,
            model.strategy.name,
            n,
            model.state_bytes,
            total_s=percentiles(whole[n]),
            distance_map_s=percentiles(own[n]),
        )
        for n, model in models.items()
    ]


if __name__ == "__main__":
    answer(lambda asked: to_dict(measure(Work.from_dict(asked))))
