"""Runs configurations over categories: features once, one record per run, resumable at any point."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padim_bench.data.download import MVTEC_AD
from padim_bench.data.loading import LoadedCategory, load_category, split_digest
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.evaluation import compute_metrics
from padim_bench.harness.config import RunConfig, normalised
from padim_bench.harness.environment import PeakMemory, environment
from padim_bench.harness.features import Features, extract, union_of_channels
from padim_bench.harness.progress import Progress
from padim_bench.harness.records import SCHEMA_VERSION, Record, as_read, check_writable, read_records, write_record
from padim_bench.padim.backbones import Backbone, layer_names
from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.gaussian import PatchGaussians, TrainingMoments, fit_gaussians
from padim_bench.padim.model import COMPUTE_DTYPES, DEFAULT_MEMORY_LIMIT, score_features
from padim_bench.padim.weights import Weights
from padim_bench.protocols import Protocol


@dataclass(frozen=True)
class ModelSpec:
    """One model to run over every category asked for."""

    weights: Weights
    layers: str = "paper"
    n_features: int | None = 100
    seed: int = 0
    strategy: str = "cholesky"
    dtype: str = "float32"
    compute_dtype: str = "float64"


@dataclass(frozen=True)
class Settings:
    """What all runs of one command share."""

    protocol: Protocol
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 32
    memory_limit: int = DEFAULT_MEMORY_LIMIT


@dataclass(frozen=True)
class Unit:
    """The unit of work: the configurations that share the features of one backbone over one category."""

    category: Category
    weights: Weights
    configs: tuple[RunConfig, ...]
    settings: Settings


@dataclass(frozen=True)
class Outcome:
    """A record, where it lies, and whether it was there before."""

    config: RunConfig
    path: Path
    record: Record
    resumed: bool


class Interrupted(KeyboardInterrupt):
    """Ctrl-C between or within runs; every finished run is on disk."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"{done} of {total} runs are finished and kept")


def plan(categories: Sequence[Category], models: Sequence[ModelSpec], settings: Settings) -> list[Unit]:
    """All units, category by category, so that each category's images are decoded once.

    Raises PadimBenchError for layers or numbers of features that a backbone does not have, and for a
    category with a single training image.
    """
    for category in categories:
        if len(category.train) < 2:
            raise PadimBenchError(
                f"{category.name} has {len(category.train)} training image, a covariance needs at least 2: add normal "
                f"images beside {category.train[0].image}"
            )
    groups: dict[Weights, dict[RunConfig, None]] = {}
    for model in models:
        groups.setdefault(model.weights, {})[model_config(model, settings)] = None
    units = []
    for category in categories:
        for weights, group in groups.items():
            configs = tuple(replace(c, dataset=category.dataset, category=category.name) for c in group)
            units.append(Unit(category, weights, configs, settings))
    return units


def model_config(model: ModelSpec, settings: Settings) -> RunConfig:
    """The run of a model over no category yet. Raises as :func:`plan` does."""
    weights, names = model.weights, layer_names(model.weights.arch, model.layers)
    n_channels = sum(_backbone(weights, names, settings.device).channels)
    draw_channels(n_channels, model.n_features, model.seed)  # an error now, not after the first category
    config = RunConfig(
        dataset="",
        category="",
        backbone=weights.arch,
        weights=weights.label,
        layers=names,
        n_features=model.n_features,
        seed=model.seed,
        strategy=model.strategy,
        dtype=model.dtype,
        compute_dtype=model.compute_dtype,
        protocol=settings.protocol,
        device=settings.device,
        threads=settings.threads,
        batch_size=settings.batch_size,
    )
    return normalised(config, n_channels)


def run(
    units: Sequence[Unit],
    results: Path,
    *,
    executor: Executor | None = None,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Runs what has no record yet and returns all outcomes in order of the units.

    Args:
        units: from :func:`plan`.
        results: folder whose ``records/`` is read and added to.
        executor: runs whole units elsewhere; None runs them here, writing each record as it is made.
        show_progress: None for "only on a terminal".
        on_message: told in a line what a user should know.

    Raises:
        PadimBenchError: unreadable images, unfit options, a folder that cannot be written.
        Interrupted: Ctrl-C; finished runs are kept.
    """
    check_writable(results)
    existing = read_records(results)
    outcomes: dict[RunConfig, Outcome] = {}
    todo = []
    for unit in units:
        found = _finished(unit, existing)
        outcomes.update(found)
        if missing := tuple(c for c in unit.configs if c not in found):
            todo.append(Unit(unit.category, unit.weights, missing, unit.settings))
    total = sum(len(u.configs) for u in units)
    if outcomes:
        on_message(
            f"{len(outcomes)} of {total} runs are on record already in {results.as_posix()} and not repeated "
            "(with --results and another folder they are)"
        )

    def keep(config: RunConfig, record: Record) -> None:
        read = as_read(record)  # first, so that an interruption never finds a record written and not counted
        outcomes[config] = Outcome(config, write_record(results, record), read, resumed=False)
        if record["status"] != "ok":
            on_message(f"{config.category} {config.model_name} {config.strategy}: INVALID: {record['reason']}")

    try:
        with Progress(sum(_steps(u) for u in todo), enabled=show_progress) as progress:
            if executor is None:
                for unit in todo:
                    run_unit(unit, keep, progress)
            else:
                futures = {executor.submit(run_unit, unit): unit for unit in todo}
                try:
                    for future in as_completed(futures):
                        for config, record in zip(futures[future].configs, future.result(), strict=True):
                            keep(config, record)
                        progress.advance(_steps(futures[future]))
                finally:
                    for future in futures:
                        future.cancel()
    except BrokenExecutor as error:
        raise PadimBenchError(
            f"a worker died, most likely for want of memory ({error}): use fewer workers; finished runs are kept"
        ) from error
    except KeyboardInterrupt as error:
        raise Interrupted(len(outcomes), total) from error
    return [outcomes[config] for unit in units for config in unit.configs]


def _finished(unit: Unit, existing: dict[str, tuple[Path, Record]]) -> dict[RunConfig, Outcome]:
    """Outcomes of the unit's runs that are on record for these very images and weights."""
    described = {r["config"]["category"] for _, r in existing.values()}
    if unit.category.name not in described:  # no need to hash the images
        return {}
    digest = split_digest(unit.category, threads=unit.settings.threads)
    ids = {config: config.run_id(digest, unit.weights.sha256) for config in unit.configs}
    return {c: Outcome(c, *existing[i], resumed=True) for c, i in ids.items() if i in existing}


def _steps(unit: Unit) -> int:
    images = len(unit.category.train) + len(unit.category.test)
    return 2 * images + len(unit.configs) * images


def run_unit(
    unit: Unit,
    keep: Callable[[RunConfig, Record], None] = lambda _config, _record: None,
    progress: Progress | None = None,
) -> list[Record]:
    """Decodes, extracts features once, and runs every configuration of the unit.

    Args:
        unit: what to run.
        keep: given each record as soon as it is made.
        progress: advanced by image and stage.
    """
    settings, name = unit.settings, unit.category.name
    progress = progress or Progress(0, enabled=False)
    torch.backends.cudnn.allow_tf32 = False  # a GPU's convolutions would carry errors of 1e-3 by default
    timings: dict[str, float] = {}
    with torch_threads(settings.threads):
        memory = PeakMemory(settings.device)
        progress.stage(name, "decode")
        with stopwatch(timings, "decode", settings.device):
            loaded = _load(unit.category, settings, progress.advance)
        backbone = _backbone(unit.weights, _all_layers(unit.configs), settings.device)
        embeddings = _embeddings(unit.configs, backbone)
        kept = union_of_channels([(c.layers, e) for c, e in embeddings.items()])
        parts = []
        for part, images in (("train", loaded.train), ("test", loaded.test)):
            progress.stage(name, f"{unit.weights.arch} {part}")
            with stopwatch(timings, f"backbone_{part}", settings.device):
                parts.append(
                    extract(backbone, images, kept, batch_size=settings.batch_size, on_images=progress.advance)
                )
        shared_peak = memory.read()
        records = []
        for config in unit.configs:
            progress.stage(name, f"{config.model_name} {config.strategy}")
            try:
                result = _run_one(config, embeddings[config], parts[0], parts[1], loaded, settings)
            except PadimBenchError as error:  # the model knows no category
                raise PadimBenchError(f"{name} {config.model_name} {config.strategy}: {error}") from error
            record = _record(config, unit, loaded, embeddings[config], result, timings, shared_peak)
            del result  # its state is gigabytes, and the next run makes its own
            keep(config, record)
            records.append(record)
            progress.advance(len(loaded.train) + len(loaded.test))
    return records


@dataclass
class _Result:
    """What one configuration gave, or why it gave nothing."""

    timings: dict[str, float]
    memory: dict[str, Any]
    gaussians: PatchGaussians | None = None
    metrics: dict[str, float] | None = None
    scores: Tensor | None = None
    reason: str | None = None


def _run_one(
    config: RunConfig,
    embedding: PatchEmbedding,
    train: Features,
    test: Features,
    loaded: LoadedCategory,
    settings: Settings,
) -> _Result:
    memory = PeakMemory(settings.device)
    timings: dict[str, float] = {}
    try:
        with stopwatch(timings, "fit", settings.device):
            moments = TrainingMoments(embedding, COMPUTE_DTYPES[config.compute_dtype], settings.memory_limit)
            moments.update(train.select(config.layers, embedding))
            gaussians = fit_gaussians(
                moments,
                epsilon=config.protocol.epsilon,
                strategy=config.strategy,
                storage=config.dtype,
                consume=True,
            )
            del moments
    except StrategyInvalidError as error:
        return _Result(timings, memory.read(), reason=str(error))
    with stopwatch(timings, "score", settings.device):
        maps, scores = _score(config, gaussians, test.select(config.layers, embedding), settings.batch_size)
    with stopwatch(timings, "metrics", settings.device):
        metrics = compute_metrics(loaded.labels, scores.numpy(), loaded.masks, maps.numpy())
    return _Result(timings, memory.read(), gaussians, metrics, scores)


def _score(
    config: RunConfig, gaussians: PatchGaussians, selected: Sequence[Tensor], batch_size: int
) -> tuple[Tensor, Tensor]:
    size = (config.protocol.size, config.protocol.size)
    batches = zip(*(torch.split(layer, batch_size) for layer in selected), strict=True)
    results = [score_features(gaussians, batch, size, config.protocol) for batch in batches]
    return torch.cat([m for m, _ in results]).cpu(), torch.cat([s for _, s in results]).cpu()


def _record(
    config: RunConfig,
    unit: Unit,
    loaded: LoadedCategory,
    embedding: PatchEmbedding,
    result: _Result,
    shared_timings: dict[str, float],
    shared_peak: dict[str, Any],
) -> Record:
    category, fitted = unit.category, result.gaussians
    images = [s.image.relative_to(category.root).as_posix() for s in category.test]
    peaks = {k: max(v, shared_peak[k]) if k.endswith("bytes") else v for k, v in result.memory.items()}
    return {
        "schema": SCHEMA_VERSION,
        "id": config.run_id(loaded.split_digest, unit.weights.sha256),
        "status": "ok" if result.reason is None else "invalid",
        "reason": result.reason,
        "config": config.to_dict(),
        "dataset": {
            "name": category.dataset,
            "category": category.name,
            "kind": category.kind,
            "split_digest": loaded.split_digest,
            "n_train": len(category.train),
            "n_test": len(category.test),
            "n_anomalous": int(loaded.labels.sum()),
            "has_masks": category.has_masks,
            "official_split": _official_split(category),
            "image_sizes": loaded.image_sizes,
            "resolution": config.protocol.resolution,
        },
        "weights": unit.weights.to_dict(),
        "embedding": {
            "n_channels": sum(embedding.layer_channels),
            "n_features": embedding.n_features,
            "channels_sha256": embedding.digest,
            "grid": embedding.grid,
        },
        "metrics": result.metrics,
        "strategy_used": fitted.strategy.name if fitted else None,
        "state_bytes": fitted.state_bytes if fitted else None,
        "residual": fitted.residual if fitted else None,
        "clamped": fitted.clamped if fitted else None,
        "timings_s": shared_timings | result.timings,
        "memory": peaks | {"features_peak_rss_bytes": shared_peak["peak_rss_bytes"]},
        "scores": [
            {"image": image, "label": int(label), "score": float(score)}
            for image, label, score in zip(images, loaded.labels, result.scores.tolist(), strict=True)
        ]
        if result.scores is not None
        else [],
        "environment": environment(config.device),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _official_split(category: Category) -> bool | None:
    """Whether an MVTec AD category has as many images as the published one; None for other datasets."""
    if category.dataset != "mvtec-ad":
        return None
    counts = MVTEC_AD[category.name]
    return (counts.train, counts.test) == (len(category.train), len(category.test))


def _embeddings(configs: Sequence[RunConfig], backbone: Backbone) -> dict[RunConfig, PatchEmbedding]:
    """Of configurations that share a protocol: one pass of one blank image tells the grids of all."""
    grids = dict(zip(backbone.layers, backbone.grids(configs[0].protocol.size), strict=True))
    channels = dict(zip(backbone.layers, backbone.channels, strict=True))
    found = {}
    for config in configs:
        layer_channels = tuple(channels[name] for name in config.layers)
        kept = draw_channels(sum(layer_channels), config.n_features, config.seed)
        found[config] = PatchEmbedding(layer_channels, tuple(grids[name] for name in config.layers), kept)
    return found


def _all_layers(configs: Sequence[RunConfig]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for config in configs for name in config.layers))


@lru_cache(maxsize=4)
def _backbone(weights: Weights, layers: tuple[str, ...], device: str) -> Backbone:
    return Backbone(weights, layers).to(device)


_last_loaded: LoadedCategory | None = None


def _load(category: Category, settings: Settings, on_image: Callable[[], None]) -> LoadedCategory:
    """Decoded images of the last category are kept for the next backbone, while the files are what they were."""
    global _last_loaded  # noqa: PLW0603 - a cache of one, too large for lru_cache to keep two while loading
    if (
        _last_loaded is None
        or (_last_loaded.category, _last_loaded.protocol) != (category, settings.protocol)
        or _last_loaded.split_digest != split_digest(category, threads=settings.threads)
    ):
        _last_loaded = None
        _last_loaded = load_category(category, settings.protocol, threads=settings.threads, on_image=on_image)
    else:
        for _ in (*category.train, *category.test):
            on_image()
    return _last_loaded


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """torch's intra-op threads inside the block, as they were after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def stopwatch(timings: dict[str, float], stage: str, device: str = "cpu") -> Iterator[None]:
    """Adds the seconds of the block to ``timings[stage]``, the device's work included."""
    start = time.perf_counter()
    try:
        yield
    finally:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start


__all__ = ["Interrupted", "ModelSpec", "Outcome", "Settings", "Unit", "plan", "run", "run_unit"]
