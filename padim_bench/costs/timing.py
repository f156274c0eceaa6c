"""Seconds per stage of one model over one category, and how inference grows with the training set (Table VII)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_bench.costs.memory import state_bytes
from padim_bench.data.datasets import official_split
from padim_bench.data.loading import sample_name, split_digest
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import read_image
from padim_bench.errors import PadimBenchError
from padim_bench.machine.environment import environment
from padim_bench.machine.torch_settings import full_precision, stopwatch, torch_threads
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.layers import layer_names
from padim_bench.padim.model import COMPUTE_DTYPES, DEFAULT_MEMORY_LIMIT
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.weights import Weights
from padim_bench.protocols import Protocol, get_protocol
from padim_bench.records.config import Execution, RunConfig
from padim_bench.records.files import Record, as_read
from padim_bench.records.measurements import measurement_id
from padim_bench.records.sealed import SCHEMA_VERSION

INFERENCE_STAGES = ("read", "backbone", "distance", "map")
TRAINING_STAGES = ("read", "backbone", "fit")
GROWTH_COUNTS = (10, 25, 50, 100, 200)
GROWTH_STRATEGY = "cholesky"  # its state does not depend on the number of images
N_WARMUP = 3
# All models of a growth series are held at once, since they are measured in turns.
GROWTH_BYTES = 8 << 30


@dataclass
class _Rig:
    """One model's parts, called one stage at a time."""

    category: Category
    config: RunConfig
    backbone: Backbone
    embedding: PatchEmbedding
    image_sizes: set[str] = field(default_factory=set)

    @property
    def protocol(self) -> Protocol:
        return self.config.protocol

    def read(self, sample: Sample) -> Tensor:
        """Read, decode, resize and crop one file: (1, 3, S, S) uint8."""
        pixels, (width, height), _ = read_image(sample.image, self.protocol, sample_name(self.category, sample))
        self.image_sizes.add(f"{width}x{height}")
        return torch.from_numpy(pixels).unsqueeze(0)

    def distances(self, gaussians: PatchGaussians, features: Sequence[Tensor]) -> Tensor:
        """Mahalanobis distances (B, h, w) of feature maps (equation 2)."""
        squared = gaussians.squared_distances(self.embedding.select(features))
        return squared.sqrt_().reshape(-1, *self.embedding.grid)

    def maps(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        return anomaly_maps(distances, (self.protocol.size, self.protocol.size), self.protocol)

    def fit(self, features: Sequence[Sequence[Tensor]], strategy: str, n: int | None = None) -> PatchGaussians:
        """Gaussians of the first ``n`` images of selected features, batch by batch; None for all."""
        moments = TrainingMoments(self.embedding, COMPUTE_DTYPES[self.config.model.compute_dtype], DEFAULT_MEMORY_LIMIT)
        left = sum(batch[0].shape[1] for batch in features) if n is None else n
        for batch in features:
            if left > 0:
                moments.update([layer[:, :left] for layer in batch])
                left -= min(left, batch[0].shape[1])
        return fit_gaussians(
            moments,
            epsilon=self.protocol.epsilon,
            strategy=strategy,
            storage=self.config.model.storage,
            consume=True,
        )


def measure_timing(
    category: Category,
    weights: Weights,
    *,
    n_features: int | None,
    seed: int,
    strategy: str = "auto",
    protocol: str | Protocol = "paper",
    threads: int = 1,
    device: str = "cpu",
    n_images: int = 30,
    growth: Sequence[int] = GROWTH_COUNTS,
    growth_bytes: int = GROWTH_BYTES,
    layers: str = "paper",
    dtype: str = "float32",
    on_message: Callable[[str], None] = lambda _: None,
) -> Record:
    """Times training over the whole training set and inference image by image, in this process.

    Files are read by one thread and lie in the system's cache, since their digest is taken first. The
    model is refitted on the first n training images for each n of ``growth`` and for all; the models
    are then timed in turns on every image, so that other load on the machine strikes all alike.

    Args:
        category: trained on, and its test images timed, evenly spread over the test set.
        weights: of the backbone.
        n_features, seed, layers: of the embedding, as for ``PaDiM``.
        strategy: of the main measurement and of the second growth series; the first is "cholesky".
        dtype: storage of the strategy's state.
        protocol: a preset or a :class:`Protocol`.
        threads: of torch; recorded.
        device: where the backbone and the Gaussians run; synchronised at the end of every stage.
        n_images: test images timed, after ``N_WARMUP`` that are not; fewer if there are fewer.
        growth: numbers of training images; those that the category does not exceed are left out.
        growth_bytes: bound on the state held at once; beyond it, counts in the middle are left out.
        on_message: told in a line what is being done.

    Returns:
        A record of kind "timing": ``training_s`` {stage: seconds, "total"}, ``inference_s`` {stage:
        {"median", "p90"}, "total"} per image, ``growth`` [{"strategy", "n_train", "state_bytes",
        "total_s", "distance_map_s", ...}], with configuration, digests and environment.

    Raises:
        PadimBenchError: unreadable images, unfit options, fewer than 2 training images.
        StrategyInvalidError: the strategy's factorisation is wrong on this machine.
    """
    if len(category.train) < 2 or not category.test or n_images < 1:
        raise PadimBenchError(
            f"{category.name} has {len(category.train)} training and {len(category.test)} test images, and {n_images} "
            "are to be timed: timing needs at least 2, 1 and 1"
        )
    model = PaDiMConfig(
        weights.arch,
        layer_names(weights.arch, layers),
        n_features,
        seed=seed,
        strategy=strategy,
        storage=dtype,
        protocol=get_protocol(protocol),
    )
    config = RunConfig(category.dataset, category.name, model, weights.label, Execution(device, threads))
    with torch_threads(threads), full_precision():
        digest = split_digest(category, threads=threads)
        rig = _rig(category, weights, config)
        config = rig.config
        counts = sorted({n for n in growth if 2 <= n < len(category.train)} | {len(category.train)})
        asked = {"n_images": n_images, "growth": list(growth), "growth_bytes": growth_bytes}
        described = describe("timing", config, asked, category, weights, digest)

        on_message(f"{category.name} {config.model_name}: training on {len(category.train)} images")
        training, features, gaussians = _time_training(rig)
        on_message(f"{category.name} {config.model_name}: timing inference with {gaussians.strategy.name}")
        samples = _spread(category.test, n_images)
        inference = _time_inference(rig, gaussians, samples)
        stored = {"strategy_used": gaussians.strategy.name, "state_bytes": gaussians.state_bytes}

        # Popped when its turn comes, so that one series never holds what another needed.
        fitted, points = {strategy: {len(category.train): gaussians}}, []
        del gaussians
        for series in dict.fromkeys((strategy, GROWTH_STRATEGY)):
            on_message(f"{category.name} {config.model_name}: timing growth with {series}")
            affordable = _affordable(rig, series, counts, growth_bytes)
            points += _time_growth(rig, features, series, affordable, fitted.pop(series, {}), samples)
    described["dataset"]["image_sizes"] = sorted(rig.image_sizes)
    return as_read(
        described
        | stored
        | {
            "training_s": training,
            "inference_s": inference,
            "n_timed": len(samples),
            "n_warmup": N_WARMUP,
            "growth": points,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def describe(
    kind: str,
    config: RunConfig,
    asked: dict[str, Any],
    category: Category,
    weights: Weights,
    digest: str,
) -> Record:
    """The part of a measurement's record that says what was measured, where.

    Its id is the sha256 of the canonical JSON of what was asked and of the digests of split and weights.

    Args:
        kind: of the record.
        config: of the model; with ``asked``, what else was chosen, it becomes the record's config.
        digest: of the category's split.
    """
    return {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "id": measurement_id(kind, config, asked, digest, weights.sha256),
        "status": "ok",
        "config": config.to_dict() | asked,
        "model_name": config.model_name,
        "dataset": {
            "name": category.dataset,
            "category": category.name,
            "split_digest": digest,
            "n_train": len(category.train),
            "n_test": len(category.test),
            "official_split": official_split(category),
        },
        "weights": weights.to_dict(),
        # Of the measurement, which need not be what this process happens to be set to.
        "environment": environment(config.execution.device) | {"threads": config.execution.threads},
    }


def _rig(category: Category, weights: Weights, config: RunConfig) -> _Rig:
    backbone = Backbone(weights, config.layers, image_size=config.protocol.size).to(
        torch.device(config.execution.device)
    )
    config = replace(config, model=config.model.normalised(sum(backbone.channels)))
    channels = draw_channels(sum(backbone.channels), config.model.n_features, config.model.seed)
    # The blank image that tells the grids is also the backbone's warm-up.
    grids = backbone.grids(config.protocol.size)
    return _Rig(category, config, backbone, PatchEmbedding(backbone.channels, grids, channels))


def _spread(samples: Sequence[Sample], n: int) -> list[Sample]:
    """``n`` samples evenly spread, so that every kind of defect has its part."""
    n = min(n, len(samples))
    return [samples[i * len(samples) // n] for i in range(n)]


def _time_training(rig: _Rig) -> tuple[dict[str, float], list[list[Tensor]], PatchGaussians]:
    """Seconds by stage, the selected features batch by batch, and the fitted Gaussians."""
    seconds = dict.fromkeys(TRAINING_STAGES, 0.0)
    features: list[list[Tensor]] = []
    device, size = rig.config.execution.device, rig.config.execution.batch_size
    for start in range(0, len(rig.category.train), size):
        with stopwatch(seconds, "read", device):
            images = torch.cat([rig.read(sample) for sample in rig.category.train[start : start + size]])
        with stopwatch(seconds, "backbone", device):
            maps = rig.backbone(images)
        with stopwatch(seconds, "fit", device):
            features.append(rig.embedding.select(maps))
    with stopwatch(seconds, "fit", device):
        gaussians = rig.fit(features, rig.config.model.strategy)
    return seconds | {"total": sum(seconds.values())}, features, gaussians


def _time_inference(rig: _Rig, gaussians: PatchGaussians, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Median and 90th percentile in seconds of every stage and of their sum, one image at a time."""
    device = rig.config.execution.device
    rows: list[dict[str, float]] = []
    for _, sample in _after_warmup(samples, rows):
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "read", device):
            image = rig.read(sample)
        with stopwatch(seconds, "backbone", device):
            features = rig.backbone(image)
        with stopwatch(seconds, "distance", device):
            distances = rig.distances(gaussians, features)
        with stopwatch(seconds, "map", device):
            rig.maps(distances)
        rows.append(seconds)
    taken = {stage: [row[stage] for row in rows] for stage in INFERENCE_STAGES}
    taken["total"] = [sum(row.values()) for row in rows]
    return {stage: _summary(values) for stage, values in taken.items()}


def _after_warmup(samples: Sequence[Sample], rows: list[Any]) -> Iterator[tuple[int, Sample]]:
    """All samples with their numbers, after some whose ``rows`` are thrown away."""
    for i in range(N_WARMUP):
        yield i, samples[i % len(samples)]
    rows.clear()
    yield from enumerate(samples)


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.percentile(seconds, 50)), "p90": float(np.percentile(seconds, 90))}


def _affordable(rig: _Rig, strategy: str, counts: Sequence[int], limit: int) -> list[int]:
    """The counts whose states together stay under ``limit``: the extremes always, then whatever fits."""
    positions, d = rig.embedding.n_positions, rig.embedding.n_features
    kept: list[int] = []
    total = 0
    for n in sorted(counts, key=lambda n: (n not in {counts[0], counts[-1]}, -n)):
        total += state_bytes(strategy, rig.config.model.storage, n, d, positions)
        if len(kept) < 2 or total <= limit:
            kept.append(n)
    return sorted(kept)


def _time_growth(
    rig: _Rig,
    features: Sequence[Sequence[Tensor]],
    strategy: str,
    counts: Sequence[int],
    models: dict[int, PatchGaussians],
    samples: Sequence[Sample],
) -> list[dict[str, Any]]:
    """A point for each number of training images; ``models`` are those that are fitted already."""
    device = rig.config.execution.device
    models = models | {n: rig.fit(features, strategy, n) for n in counts if n not in models}
    rows: list[dict[int, tuple[float, float]]] = []
    for i, sample in _after_warmup(samples, rows):
        shared: dict[str, float] = {}
        with stopwatch(shared, "read", device):
            image = rig.read(sample)
        with stopwatch(shared, "backbone", device):
            maps = rig.backbone(image)
        row = {}
        turn = i % len(counts)  # whoever comes right after the backbone finds the caches cold
        for n in (*counts[turn:], *counts[:turn]):
            own: dict[str, float] = {}
            with stopwatch(own, "distance and map", device):
                rig.maps(rig.distances(models[n], maps))
            own_s = sum(own.values())
            row[n] = (sum(shared.values()) + own_s, own_s)
        rows.append(row)
    return [
        {
            "strategy": strategy,
            "strategy_used": models[n].strategy.name,
            "n_train": n,
            "state_bytes": models[n].state_bytes,
            "total_s": _summary([row[n][0] for row in rows]),
            "distance_map_s": _summary([row[n][1] for row in rows]),
        }
        for n in counts
    ]
