"""One configuration, measured in a process that does nothing else: run as ``python -m``, asked for by ``profile``."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import timm  # noqa: F401 - imported late otherwise, and no part of a backbone's memory
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim_bench.costs.fresh import answer
from padim_bench.costs.profile import GATES, VOID, ProfileModel, ProfileSettings, profile_config, verdict
from padim_bench.costs.timing import describe
from padim_bench.data.loading import load_masks, sample_name, split_digest
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import decode_image, prepare_image, read_bytes
from padim_bench.errors import StrategyInvalidError
from padim_bench.evaluation import maps_at
from padim_bench.machine.environment import PeakMemory
from padim_bench.machine.torch_settings import full_precision, stopwatch, torch_threads
from padim_bench.metrics.summary import compute_metrics
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians
from padim_bench.padim.model import COMPUTE_DTYPES, DEFAULT_MEMORY_LIMIT, PaDiM
from padim_bench.padim.moments import Group, TrainingMoments
from padim_bench.padim.reduction import reduced_embedding
from padim_bench.padim.strategies.base import PositionChunk
from padim_bench.padim.tiling import MEASURED, Tiling
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.config import RunConfig
from padim_bench.records.files import Record
from padim_bench.runs.result import fit_moments

FIT_STAGES = ("read", "decode", "resize", "backbone", "embed", "moments", "factorise")
SCORE_STAGES = ("backbone", "embed", "distance", "map")
PERCENTILES = (50, 90, 99)
N_WARMUP = 3  # calls that are not timed, at every batch size
N_POSITIONS = 64  # spread over the grid, whose distances are compared with float64


class Spool:
    """Rows on disk until the peak of memory is read, so that what is kept for a check is no part of it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its owner
        self._shape: tuple[int, ...] = ()

    def append(self, rows: Tensor) -> None:
        """Adds float32 rows (B, ...)."""
        self._shape = tuple(rows.shape[1:])
        np.ascontiguousarray(rows.cpu().numpy().astype(np.float32, copy=False)).tofile(self._file)

    def read(self) -> Tensor:
        """All rows, (n, ...)."""
        self._file.seek(0)
        rows: NDArray[np.float32] = np.fromfile(self._file, dtype=np.float32)
        return torch.from_numpy(rows.reshape(-1, *self._shape))


class TimedMoments(TrainingMoments):
    """Moments that note how much of the work on each tile went into reading it (gathering, mean and centring).

    What several tiles are gathered from at once is counted with the first.
    """

    def __init__(self, embedding: PatchEmbedding, config: RunConfig, tiling: Tiling = MEASURED) -> None:
        super().__init__(embedding, COMPUTE_DTYPES[config.model.compute_dtype], DEFAULT_MEMORY_LIMIT, tiling)
        self._device = config.execution.device
        self._begun = threading.local()  # a tile is read and worked on by one thread
        self.reading: list[float] = []
        self.working: list[float] = []

    def read(
        self, group: Group, epsilon: float, dtype: torch.dtype | None = None
    ) -> Iterator[tuple[slice, Tensor, PositionChunk]]:
        tiles = super().read(group, epsilon, dtype)
        while True:
            self._begun.at = time.perf_counter()
            found = next(tiles, None)
            if found is None:
                return
            self.reading.append(self._since())
            yield found

    def finished(self, _n_positions: int) -> None:
        """To be called after each tile, by the thread that worked on it."""
        self.working.append(self._since())

    @property
    def share(self) -> float:
        """Of all threads' seconds on tiles, the part that went into reading."""
        assert len(self.reading) == len(self.working)
        return sum(self.reading) / sum(self.working)

    def _since(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - float(self._begun.at)


@dataclass
class Bench:
    """One configuration's parts, called one stage at a time."""

    category: Category
    config: RunConfig
    backbone: Backbone
    embedding: PatchEmbedding
    image_sizes: set[str] = field(default_factory=set)  # as stored

    def images(self, samples: Sequence[Sample], seconds: dict[str, float]) -> Tensor:
        """(B, 3, S, S) uint8 of files, one after the other on one thread."""
        prepared = []
        for sample in samples:
            with stopwatch(seconds, "read"):
                content = read_bytes(sample.image)
            with stopwatch(seconds, "decode"):
                image = decode_image(content, sample.image, self.config.protocol)
            self.image_sizes.add(f"{image.width}x{image.height}")
            with stopwatch(seconds, "resize"):
                name = sample_name(self.category, sample)
                prepared.append(torch.from_numpy(prepare_image(image, self.config.protocol, name)))
        return torch.stack(prepared)

    def selected(self, images: Tensor, seconds: dict[str, float]) -> list[Tensor]:
        with stopwatch(seconds, "backbone", self.config.execution.device):
            features = self.backbone(images)
        with stopwatch(seconds, "embed", self.config.execution.device):
            return self.embedding.select(features)

    def score(self, gaussians: PatchGaussians, images: Tensor, seconds: dict[str, float]) -> tuple[Tensor, ...]:
        """Selected features by layer, squared distances (B, P), maps (B, S, S) and scores (B,) of a batch."""
        selected = self.selected(images, seconds)
        protocol = self.config.protocol
        with stopwatch(seconds, "distance", self.config.execution.device):
            squared = gaussians.squared_distances(selected)
        with stopwatch(seconds, "map", self.config.execution.device):
            distances = squared.sqrt().reshape(-1, *self.embedding.grid)
            maps, scores = anomaly_maps(distances, (protocol.size, protocol.size), protocol)
        return (*selected, squared, maps, scores)

    @property
    def positions(self) -> slice:
        """``N_POSITIONS``, or on a small grid all, evenly spread over the grid's rows and columns."""
        step = max(1, self.embedding.n_positions // N_POSITIONS)
        return slice(step // 2, step * min(N_POSITIONS, self.embedding.n_positions), step)

    def sampled(self, selected: Sequence[Tensor]) -> Tensor:
        """Embeddings (B, positions, D) at the sampled positions."""
        return self.embedding.gather(selected, self.positions).transpose(0, 1)


def fit(bench: Bench, kept: Spool) -> tuple[PatchGaussians, dict[str, float]]:
    """Gaussians of all training images and seconds by stage; embeddings at sampled positions go to ``kept``.

    Tiles of positions are read and factorised in turn by several threads: the wall-clock time of both together is
    divided in proportion to the threads' seconds.

    Raises StrategyInvalidError if the strategy's factorisation is wrong here.
    """
    seconds = dict.fromkeys(FIT_STAGES, 0.0)
    moments, device = TimedMoments(bench.embedding, bench.config), bench.config.execution.device
    for samples in _batches(bench.category.train, bench.config.execution.batch_size):
        selected = bench.selected(bench.images(samples, seconds), seconds)
        with stopwatch(seconds, "moments", device):
            moments.update(selected)
        kept.append(bench.sampled(selected))
    tiles: dict[str, float] = {}
    with stopwatch(tiles, "all", device):
        gaussians = fit_moments(bench.config, moments, on_positions=moments.finished)
    seconds["moments"] += moments.share * tiles["all"]
    seconds["factorise"] = (1 - moments.share) * tiles["all"]
    return gaussians, seconds | {"total": sum(seconds.values())}


def time_scoring(bench: Bench, gaussians: PatchGaussians, images: Tensor, size: int, n_images: int) -> dict[str, Any]:
    """Seconds per image by stage, over batches of ``size`` of prepared images, taken in turns; warm-up left out."""
    n_batches = max(3, math.ceil(n_images / size))
    rows: list[dict[str, float]] = []
    for i in range(N_WARMUP + n_batches):
        seconds: dict[str, float] = {}
        chosen = [(i * size + k) % len(images) for k in range(size)]
        bench.score(gaussians, images[chosen], seconds)
        if i >= N_WARMUP:
            rows.append(seconds)
    taken = {stage: [row[stage] / size for row in rows] for stage in SCORE_STAGES}
    taken["total"] = [sum(row.values()) / size for row in rows]
    return {
        "batch_size": size,
        "n_batches": n_batches,
        "images_per_s": n_batches / sum(taken["total"]),
        "per_image_s": {
            stage: {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES} | {"mean": float(np.mean(values))}
            for stage, values in taken.items()
        },
    }


def measure(asked: dict[str, Any]) -> Record:
    """The record of one configuration.

    Args:
        asked: root, category, dataset, normal, backbone, weights, n_features, strategy, dtype, the settings' fields.
    """
    settings = ProfileSettings(**asked["settings"] | {"batch_sizes": tuple(asked["settings"]["batch_sizes"])})
    load_before = _load()
    with torch_threads(settings.threads), full_precision():
        memory = PeakMemory(settings.device)
        category = mvtec(asked["root"], asked["category"], dataset=asked["dataset"], normal=asked["normal"])
        weights = resolve_weights(asked["backbone"], asked["weights"])
        model = ProfileModel(weights, asked["n_features"], asked["strategy"], asked["dtype"])
        config = profile_config(category, model, settings)
        digest = split_digest(category, threads=settings.threads)
        record = describe("profile", config, settings.choices(), category, weights, digest)
        record["dataset"] |= {
            "kind": category.kind,
            "resolution": config.protocol.resolution,
            "has_masks": category.has_masks,
        }
        peaks = {"imports": memory.read()["peak_rss_bytes"]}
        bench = _bench(category, config, weights)
        peaks["backbone"] = memory.read()["peak_rss_bytes"]
        found = _profile(bench, settings, memory, peaks)
        record["dataset"]["image_sizes"] = sorted(bench.image_sizes)
    ends = {"load_average": {"before": load_before, "after": _load()}}
    return record | found | ends | {"finished": datetime.now(UTC).isoformat(timespec="seconds")}


def _profile(bench: Bench, settings: ProfileSettings, memory: PeakMemory, peaks: dict[str, int]) -> Record:
    """Fit, score and check, then time: speed is measured only of what is right."""
    config, category = bench.config, bench.category
    train, test, squared, maps, scores = (Spool() for _ in range(5))
    try:
        gaussians, fit_s = fit(bench, train)
    except StrategyInvalidError as error:
        return {"status": VOID, "reason": str(error), "gate": GATES[config.model.storage]}
    peaks["fit"] = memory.read()["peak_rss_bytes"]
    size = max(settings.batch_sizes)
    for samples in _batches(category.test, size):
        *selected, found, some_maps, some_scores = bench.score(gaussians, bench.images(samples, {}), {})
        for spool, rows in (
            (test, bench.sampled(selected)),
            (squared, found[:, bench.positions]),
            (maps, some_maps),
            (scores, some_scores),
        ):
            spool.append(rows)
        del selected, found, some_maps, some_scores
    peak = memory.read()
    peaks["score"] = peak["peak_rss_bytes"]

    # Imported here, after the peak is read, of which SciPy's linear algebra is no part.
    from padim_bench.padim.equations import distances

    exact = torch.from_numpy(distances(train.read().mT, test.read().mT, config.protocol.epsilon) ** 2)
    errors = (squared.read().double() - exact).abs() / exact
    largest = float(errors.max())
    accuracy = {
        "largest_error": largest,
        "median_error": float(errors.median()),
        "gate": GATES[config.model.storage],
        "n_positions": exact.shape[1],
        "n_images": exact.shape[0],
        "reference": "float64 Cholesky of the same features",
    }
    strategy = gaussians.strategy
    status, reason = verdict(strategy.name, config.model.storage, largest, exact=strategy.exact)
    record = {
        "status": status,
        "reason": reason,
        "strategy_used": strategy.name,
        "accuracy": accuracy,
        "residual": gaussians.residual,
        "folding_error": bench.backbone.folding_error,
        "clamped": gaussians.clamped,
    }
    if status == VOID:
        return record
    masks = load_masks(category, config.protocol, threads=settings.threads) if category.has_masks else None
    labels = np.array([s.label for s in category.test], dtype=np.int64)
    metrics = compute_metrics(labels, scores.read().numpy(), masks, maps_at(masks, maps.read(), config.protocol))
    some = category.test[: max(settings.n_images, size)]
    images = bench.images(some, {})
    return record | {
        "metrics": metrics,
        "fit_s": fit_s,
        "scoring": [
            time_scoring(bench, gaussians, images, n, settings.n_images) for n in settings.choices()["batch_sizes"]
        ],
        "n_warmup": N_WARMUP,
        "memory": peak | {"peaks": peaks, "scored_in_batches_of": size},
        "state_bytes": gaussians.state_bytes,
        "file_bytes": _file_bytes(bench, gaussians),
    }


def _bench(category: Category, config: RunConfig, weights: Any) -> Bench:
    backbone = Backbone(weights, config.layers, image_size=config.protocol.size).to(
        torch.device(config.execution.device)
    )
    grids = backbone.grids(config.protocol.size)  # of a blank image, which is the backbone's warm-up
    embedding = reduced_embedding(
        backbone.channels, grids, config.model.reduction, config.model.n_features, config.model.seed
    )
    return Bench(category, config, backbone, embedding)


def _file_bytes(bench: Bench, gaussians: PatchGaussians) -> int:
    """Bytes of the model as ``PaDiM.save`` writes it; the backbone is only named in it."""
    config = bench.config
    model = PaDiM(
        bench.backbone,
        n_features=config.model.n_features,
        seed=config.model.seed,
        strategy=config.model.strategy,
        dtype=config.model.storage,
        compute_dtype=config.model.compute_dtype,
        protocol=config.protocol,
        device=config.execution.device,
        reduction=config.model.reduction,
    ).use(gaussians, (config.protocol.size, config.protocol.size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return path.stat().st_size


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


def _load() -> list[float] | None:
    """Processes that want a core, over the last 1, 5 and 15 minutes, where the system tells."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


if __name__ == "__main__":
    answer(measure)
