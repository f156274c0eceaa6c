"""From image files to maps, a stage at a time: the one place where a model is taken apart to be timed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from padim_bench.data.loading import sample_name
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import decode_image, prepare_image, read_bytes
from padim_bench.machine.torch_settings import stopwatch
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians
from padim_bench.padim.model import COMPUTE_DTYPES, DEFAULT_MEMORY_LIMIT
from padim_bench.padim.moments import Group, TrainingMoments
from padim_bench.padim.reduction import reduced_embedding
from padim_bench.padim.strategies.base import PositionChunk
from padim_bench.padim.tiling import MEASURED, Tiling
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig
from padim_bench.records.costs import FIT_STAGES, PERCENTILES, FitTimes, Percentiles
from padim_bench.runs import methods
from padim_bench.runs.methods import Fitted, fit_moments, squared_distances, training

N_WARMUP = 3  # calls that are not timed, of whatever is timed over and over
N_POSITIONS = 64  # spread over the grid, whose distances are compared with float64

Seconds = dict[str, float]


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
class Pipeline:
    """One configuration's parts, called one stage at a time; each call adds its seconds to those it is given.

    ``image_sizes`` are those of the files read so far, as stored.
    """

    category: Category
    config: RunConfig
    backbone: Backbone
    embedding: PatchEmbedding
    image_sizes: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, category: Category, config: RunConfig, weights: Weights) -> Pipeline:
        """Builds the backbone, which a blank image warms up."""
        model, size, device = config.model, config.protocol.size, torch.device(config.execution.device)
        backbone = Backbone(weights, config.layers, dtype=model.backbone_dtype, image_size=size).to(device)
        grids = backbone.grids(size)
        embedding = reduced_embedding(backbone.channels, grids, model.reduction, model.n_features, model.seed)
        return cls(category, config, backbone, embedding)

    def prepared(self, samples: Sequence[Sample], seconds: Seconds) -> Tensor:
        """(B, 3, S, S) uint8 of files, one after the other on one thread: read, decode, resize."""
        images = []
        for sample in samples:
            with stopwatch(seconds, "read"):
                content = read_bytes(sample.image)
            with stopwatch(seconds, "decode"):
                image = decode_image(content, sample.image, self.config.protocol)
            self.image_sizes.add(f"{image.width}x{image.height}")
            with stopwatch(seconds, "resize"):
                name = sample_name(self.category, sample)
                images.append(torch.from_numpy(prepare_image(image, self.config.protocol, name)))
        return torch.stack(images)

    def selected(self, images: Tensor, seconds: Seconds) -> list[Tensor]:
        """Features by layer, as ``PatchEmbedding.select`` gives them: backbone, embed."""
        with stopwatch(seconds, "backbone", self.config.execution.device):
            features = self.backbone(images)
        with stopwatch(seconds, "embed", self.config.execution.device):
            return self.embedding.select(features)

    def mapped(self, fitted: Fitted, selected: Sequence[Tensor], seconds: Seconds) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances (B, P), maps (B, S, S) and scores (B,): distance, map.

        A baseline's own search of nearest images is part of "distance"; its scores are the maps' here.
        """
        protocol = self.config.protocol
        with stopwatch(seconds, "distance", self.config.execution.device):
            squared = squared_distances(fitted, selected)
        with stopwatch(seconds, "map", self.config.execution.device):
            distances = squared.sqrt().reshape(-1, *self.embedding.grid)
            maps, scores = anomaly_maps(distances, (protocol.size, protocol.size), protocol)
        return squared, maps, scores

    def fitted(self, features: Sequence[Sequence[Tensor]], strategy: str, n: int) -> Fitted:
        """A model of the first ``n`` images of selected features, batch by batch, by any strategy of its method."""
        config = replace(self.config, model=replace(self.config.model, strategy=strategy))
        seen = training(config, self.embedding, DEFAULT_MEMORY_LIMIT)
        for batch in features:
            if n > 0:
                seen.update([layer[:, :n] for layer in batch])
            n -= batch[0].shape[1]
        return methods.fit(config, seen, consume=True)

    @property
    def positions(self) -> slice:
        """``N_POSITIONS``, or on a small grid all, evenly spread over the grid's rows and columns."""
        step = max(1, self.embedding.n_positions // N_POSITIONS)
        return slice(step // 2, step * min(N_POSITIONS, self.embedding.n_positions), step)

    def sampled(self, selected: Sequence[Tensor]) -> Tensor:
        """Embeddings (B, positions, D) at the sampled positions."""
        return self.embedding.gather(selected, self.positions).transpose(0, 1)

    def batches(self, samples: Sequence[Sample], size: int | None = None) -> Iterator[Sequence[Sample]]:
        """Of ``size``, by default the configuration's."""
        size = size or self.config.execution.batch_size
        return (samples[start : start + size] for start in range(0, len(samples), size))


def fit(pipeline: Pipeline, keep: Callable[[Tensor], None]) -> tuple[PatchGaussians, FitTimes]:
    """Gaussians of all training images, and seconds by stage.

    Tiles of positions are read and factorised in turn by several threads: the wall-clock time of both together is
    divided in proportion to the threads' seconds.

    Args:
        pipeline: of the category and the strategy.
        keep: given the embeddings at the sampled positions of each batch (B, positions, D), untimed.

    Raises:
        PadimBenchError: unreadable images.
        StrategyInvalidError: the strategy's factorisation is wrong here.
    """
    seconds, device = dict.fromkeys(FIT_STAGES, 0.0), pipeline.config.execution.device
    moments = TimedMoments(pipeline.embedding, pipeline.config)
    for samples in pipeline.batches(pipeline.category.train):
        selected = pipeline.selected(pipeline.prepared(samples, seconds), seconds)
        with stopwatch(seconds, "moments", device):
            moments.update(selected)
        keep(pipeline.sampled(selected))
    tiles: Seconds = {}
    with stopwatch(tiles, "all", device):
        gaussians = fit_moments(pipeline.config, moments, on_positions=moments.finished)
    seconds["moments"] += moments.share * tiles["all"]
    seconds["factorise"] = (1 - moments.share) * tiles["all"]
    return gaussians, FitTimes(**seconds, total=sum(seconds.values()))


def spread(samples: Sequence[Sample], n: int) -> list[Sample]:
    """``n`` samples evenly spread, so that every kind of defect has its part; all where there are fewer."""
    n = min(n, len(samples))
    return [samples[i * len(samples) // n] for i in range(n)]


def percentiles(seconds: Sequence[float]) -> Percentiles:
    p50, p90, p99 = (float(np.percentile(seconds, p)) for p in PERCENTILES)
    return Percentiles(p50, p90, p99, float(np.mean(seconds)))
