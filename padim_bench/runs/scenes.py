"""ShanghaiTech Campus, scene by scene (the paper's Table IV), in memory that does not grow with the frames.

Training frames stream through the backbone into moments, which are folded past the memory limit; test
frames stream into histograms of their scores. Nothing but the scores of frames is kept of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_bench.data.datasets import DATASETS
from padim_bench.data.stc import Clip, Frame, Scene, count_frames, read_frames, scene_digest
from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.machine.environment import PeakMemory
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from padim_bench.machine.torch_settings import full_precision, stopwatch, torch_threads
from padim_bench.metrics.roc import StreamingROC
from padim_bench.metrics.summary import compute_metrics
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians
from padim_bench.padim.model import COMPUTE_DTYPES, score_features
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.reduction import REDUCTIONS, reduced_embedding
from padim_bench.padim.sharing import NEVER, share, training_cost
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig, Wanted
from padim_bench.records.files import Record, as_read, read_records, write_record
from padim_bench.runs.budget import HISTOGRAM_BYTES, told
from padim_bench.runs.runner import (
    Interrupted,
    Outcome,
    Result,
    Settings,
    fit_moments,
    make_record,
    model_config,
)
from padim_bench.runs.session import Session


def run_scenes(
    scenes: Sequence[Scene],
    models: Sequence[tuple[Wanted, Weights]],
    settings: Settings,
    results: Path,
    *,
    every: int = 1,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Runs every model over every scene, one record each; what is on record already is not repeated.

    Args:
        scenes: from ``data.stc.stc``.
        models: their reductions may draw, not learn.
        settings: ``memory_limit`` bounds the features held between two foldings, and the moments where it can.
        results: folder of records.
        every: of each clip's frames, the first and then every so many; recorded.

    Raises:
        PadimBenchError: unreadable clips, fewer than two training frames, unfit options.
        Interrupted: Ctrl-C; finished runs are kept.
    """
    for wanted, _ in models:
        if REDUCTIONS[wanted.model.reduction].learned or wanted.model.fusion != "concatenate":
            raise PadimBenchError("video scenes are read once, frame by frame: choose a reduction that learns nothing")
    session, existing = Session(), read_records(results)
    outcomes: list[Outcome] = []
    total = len(scenes) * len(models)
    steps = sum(_frames((*s.train, *s.test), every) for s in scenes) * len(models)
    try:
        with (
            Progress(steps, enabled=show_progress) as progress,
            torch_threads(settings.execution.threads),
            full_precision(),
        ):
            for scene in scenes:
                digest = scene_digest(scene)
                for wanted, weights in models:
                    config = _config(wanted, weights, settings, scene, every)
                    run_id = config.run_id(digest, weights.sha256)
                    if run_id in existing:
                        outcomes.append(Outcome(config, *existing[run_id], resumed=True))
                        continue
                    check_writable(results / "records")
                    backbone = session.backbone(weights, config.layers, config)
                    room, line = _room(scene, config, backbone, settings)
                    if line:
                        on_message(line)
                    progress.stage(f"scene {scene.name}", config.model_name)
                    record = _run_scene(scene, config, weights, backbone, room, settings, digest, progress)
                    read = as_read(record)
                    outcomes.append(Outcome(config, write_record(results, record), read, resumed=False))
                    if record["status"] != "ok":
                        on_message(f"scene {scene.name} {config.model_name}: INVALID: {record['reason']}")
    except KeyboardInterrupt as error:
        raise Interrupted(len(outcomes), total) from error
    return outcomes


def _config(wanted: Wanted, weights: Weights, settings: Settings, scene: Scene, every: int) -> RunConfig:
    config = model_config(wanted, weights, settings)
    return replace(config, dataset=dataset_name(scene), category=scene.name, every=every)


def dataset_name(scene: Scene) -> str:
    """ "stc", or that of the stamp in the scene's folder: "demo-stc" for the drawn one."""
    of_scenes = [d for d in DATASETS.values() if d.members == "scenes"]
    return next((d.name for d in of_scenes if d.stamp and (scene.root / d.stamp).is_file()), of_scenes[0].name)


def _frames(clips: Sequence[Clip], every: int) -> int:
    return sum(-(-count_frames(clip) // every) for clip in clips)


def _batches(clips: Sequence[Clip], config: RunConfig) -> Iterator[list[Frame]]:
    frames = chain.from_iterable(read_frames(clip, config.protocol, every=config.every) for clip in clips)
    while batch := list(islice(frames, config.execution.batch_size)):
        yield batch


def _embedding(config: RunConfig, backbone: Backbone) -> PatchEmbedding:
    grids = backbone.grids(config.protocol.size)
    return reduced_embedding(
        backbone.channels, grids, config.model.reduction, config.model.n_features, config.model.seed
    )


def _room(scene: Scene, config: RunConfig, backbone: Backbone, settings: Settings) -> tuple[int | None, str]:
    """Bytes of features to hold before they are folded (None: all of them), and the line that says so."""
    n, limit = _frames(scene.train, config.every), settings.memory_limit
    cost = training_cost(
        _embedding(config, backbone), COMPUTE_DTYPES[config.model.compute_dtype], n, config.execution.batch_size
    )
    (room,), needed = share([cost], limit - HISTOGRAM_BYTES)
    if room is None:
        return None, ""
    return room, (
        f"scene {scene.name}, {config.model_name}: features of {n:,} training frames would take {told(cost.held)}, "
        f"over the limit of {told(limit)} (--memory-limit): folded into running moments; about "
        f"{told(needed + HISTOGRAM_BYTES)} needed beside the model"
    )


def _run_scene(
    scene: Scene,
    config: RunConfig,
    weights: Weights,
    backbone: Backbone,
    room: int | None,
    settings: Settings,
    digest: str,
    progress: Progress,
) -> Record:
    memory, timings = PeakMemory(settings.execution.device), dict[str, float]()
    embedding = _embedding(config, backbone)
    moments = TrainingMoments(embedding, COMPUTE_DTYPES[config.model.compute_dtype], NEVER if room is None else room)
    sizes: set[str] = set()
    result = Result(timings, {}, [embedding])

    def selected(frames: Sequence[Frame], part: str) -> list[Tensor]:
        with stopwatch(timings, f"backbone_{part}", settings.execution.device):
            images = torch.from_numpy(np.stack([f.image for f in frames]))
            if part == "train" and not sizes:
                result.backbone_error = backbone.check_dtype(images)
                result.folding_error = backbone.folding_error
            sizes.update(f.size for f in frames)
            progress.advance(len(frames))
            return embedding.select(backbone(images))

    with stopwatch(timings, "train", settings.execution.device):  # decoding included; the backbone's share stands apart
        for batch in _batches(scene.train, config):
            moments.update(selected(batch, "train"))
    n_train = moments.n
    if n_train < 2:
        raise PadimBenchError(f"scene {scene.name} has {n_train} training frame: lower --stc-every or add clips")
    labels: list[int] = []
    names: list[str] = []
    try:
        with stopwatch(timings, "fit", settings.execution.device):
            result.gaussians = [fit_moments(config, moments)]
        del moments
        with stopwatch(timings, "test", settings.execution.device):
            _score_scene(scene, config, result.gaussians[0], selected, result, names, labels)
    except StrategyInvalidError as error:
        result.reason = str(error)
    result.memory = memory.read() | {"images": "streamed", "limit_bytes": settings.memory_limit}
    dataset = {
        "name": dataset_name(scene),
        "category": scene.name,
        "kind": "scene",
        "split_digest": digest,
        "n_train": n_train,
        "n_test": len(names),
        "n_anomalous": sum(labels),
        "has_masks": True,
        "official_split": None,
        "image_sizes": sorted(sizes),
        "resolution": config.protocol.resolution,
    }
    return make_record(config, weights, dataset, result, names, labels)


def _score_scene(
    scene: Scene,
    config: RunConfig,
    gaussians: PatchGaussians,
    selected: Callable[[Sequence[Frame], str], list[Tensor]],
    result: Result,
    names: list[str],
    labels: list[int],
) -> None:
    """Fills in metrics and scores, and the frames they are of. Pixel AUROC comes with its error bound."""
    roc, scores = StreamingROC(), []
    size = (config.protocol.size, config.protocol.size)
    for batch in _batches(scene.test, config):
        maps, maxima = score_features([(gaussians, selected(batch, "test"))], size, config.protocol)
        masks = [np.zeros(size, dtype=bool) if f.mask is None else f.mask for f in batch]
        roc.update(maps.cpu().numpy(), np.stack(masks))
        scores.append(maxima.cpu())
        names += [f"{f.clip}/{f.index}" for f in batch]
        labels += [f.label for f in batch]
    result.scores = torch.cat(scores)
    metrics: dict[str, Any] = compute_metrics(np.array(labels), result.scores.numpy())
    streamed = roc.compute()
    result.metrics = metrics | {"pixel_auroc": streamed.value}
    result.extra = {"error_bounds": {"pixel_auroc": streamed.error_bound}}
