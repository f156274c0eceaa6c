"""One configuration over one category, measured in a process that does nothing else: ``python -m``, see ``measure``."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim_bench.costs.fresh import answer
from padim_bench.costs.pipeline import N_WARMUP, Pipeline, fit, percentiles, spread
from padim_bench.costs.work import Subject, Work
from padim_bench.data.loading import load_masks
from padim_bench.errors import StrategyInvalidError
from padim_bench.evaluation import maps_at
from padim_bench.machine.environment import PeakMemory
from padim_bench.machine.torch_settings import full_precision, torch_threads
from padim_bench.metrics.summary import compute_metrics
from padim_bench.padim.gaussian import PatchGaussians
from padim_bench.padim.loading_timm import timm  # noqa: F401 - late otherwise, and no part of a backbone's memory
from padim_bench.padim.model import PaDiM
from padim_bench.padim.strategies import GATES
from padim_bench.records.costs import (
    LOSSY,
    OK,
    SCORE_STAGES,
    VOID,
    Accuracy,
    CostChoices,
    CostMemory,
    CostRecord,
    FileTimes,
    Loads,
    MeasuredCost,
    Peaks,
    Scoring,
    ScoringTimes,
    to_dict,
)


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


def verdict(strategy: str, storage: str, largest_error: float, *, exact: bool) -> tuple[str, str | None]:
    """Status of a configuration and, where it is not "ok", the reason.

    Args:
        strategy, storage: names.
        largest_error: relative, of squared distances against float64.
        exact: whether the strategy claims equation 2 up to rounding.
    """
    if not exact:
        return LOSSY, f"{strategy} is an approximation: its distances are off by up to {largest_error:.2g}"
    if not largest_error <= GATES[storage]:  # NaN too
        return VOID, f"distances are off by up to {largest_error:.2g} relative to float64, allowed {GATES[storage]:g}"
    return OK, None


def measure(work: Work) -> CostRecord:
    """The record of one configuration: fit, score and check, then time; speed is measured only of what is right.

    Raises PadimBenchError for images and weights that cannot be read.
    """
    assert isinstance(work.asked, CostChoices)
    execution, load_before = work.config.execution, _load()
    with torch_threads(execution.threads), full_precision():
        memory = PeakMemory(execution.device)
        peaks = [memory.read()["peak_rss_bytes"]]
        subject = Subject.open(work)  # which reads the weights once for their digest: of the backbone's memory
        category = subject.category
        pipeline = Pipeline.open(category, work.config, subject.weights)
        peaks.append(memory.read()["peak_rss_bytes"])
        train = Spool()
        try:
            gaussians, fit_s = fit(pipeline, train.append)
        except StrategyInvalidError as error:
            loads = Loads(load_before, _load())
            return CostRecord(**subject.header("cost"), status=VOID, reason=str(error), load_average=loads)
        peaks.append(memory.read()["peak_rss_bytes"])
        size = max(work.asked.batch_sizes)
        test, squared, maps, scores = _scored(pipeline, gaussians, size)
        peak = memory.read()
        peaks.append(peak["peak_rss_bytes"])

        accuracy = _accuracy(pipeline, train, test, squared)
        largest = math.nan if accuracy.largest_error is None else accuracy.largest_error
        strategy, storage = gaussians.strategy, work.config.model.storage
        status, reason = verdict(strategy.name, storage, largest, exact=strategy.exact)
        found: dict[str, Any] = {
            "status": status,
            "reason": reason,
            "strategy_used": strategy.name,
            "accuracy": accuracy,
            "residual": gaussians.residual,
            "folding_error": pipeline.backbone.folding_error,
            "clamped": gaussians.clamped,
        }
        if status == VOID:
            return CostRecord(**subject.header("cost"), **found, load_average=Loads(load_before, _load()))
        found["metrics"] = _metrics(pipeline, scores, maps)
        latency, found["from_file_s"] = time_files(pipeline, gaussians, work.asked.n_images)
        images = pipeline.prepared(spread(category.test, max(work.asked.n_images, size)), {})
        batches = [
            time_batches(pipeline, gaussians, images, n, work.asked.n_images) for n in work.asked.batch_sizes if n != 1
        ]
        found["applied"] = "+".join(sorted(gaussians.applied)) or None  # of every batch size: each may take its own way
        return MeasuredCost(
            **subject.header("cost", tuple(sorted(pipeline.image_sizes))),
            **found,
            fit_s=fit_s,
            scoring=(latency, *batches),
            n_warmup=N_WARMUP,
            memory=CostMemory(**peak, peaks=Peaks(*peaks), scored_in_batches_of=size),
            state_bytes=gaussians.state_bytes,
            file_bytes=_file_bytes(pipeline, gaussians),
            load_average=Loads(load_before, _load()),
        )


def time_files(pipeline: Pipeline, gaussians: PatchGaussians, n_images: int) -> tuple[Scoring, FileTimes]:
    """Seconds of one image at a time, from pixels and from its file: test images spread over all, warm-up left out."""
    samples = spread(pipeline.category.test, n_images)
    rows, reading = [], []
    for i in range(N_WARMUP + n_images):
        seconds: dict[str, float] = {}
        image = pipeline.prepared([samples[i % len(samples)]], seconds)
        read = sum(seconds.values())
        seconds.clear()
        pipeline.mapped(gaussians, pipeline.selected(image, seconds), seconds)
        if i >= N_WARMUP:
            reading.append(read)
            rows.append(seconds)
    totals = [read + sum(row.values()) for read, row in zip(reading, rows, strict=True)]
    return _scoring(rows, 1), FileTimes(percentiles(reading), percentiles(totals))


def time_batches(pipeline: Pipeline, gaussians: PatchGaussians, images: Tensor, size: int, n_images: int) -> Scoring:
    """Seconds per image by stage, over batches of ``size`` of prepared images, taken in turns; warm-up left out."""
    rows = []
    for i in range(N_WARMUP + max(3, math.ceil(n_images / size))):
        seconds: dict[str, float] = {}
        chosen = [(i * size + k) % len(images) for k in range(size)]
        pipeline.mapped(gaussians, pipeline.selected(images[chosen], seconds), seconds)
        if i >= N_WARMUP:
            rows.append(seconds)
    return _scoring(rows, size)


def _scoring(rows: Sequence[dict[str, float]], size: int) -> Scoring:
    """Of the seconds by stage of every batch of ``size``."""
    taken = {stage: percentiles([row[stage] / size for row in rows]) for stage in SCORE_STAGES}
    totals = [sum(row.values()) / size for row in rows]
    return Scoring(size, len(rows), len(rows) / sum(totals), ScoringTimes(**taken, total=percentiles(totals)))


def _scored(pipeline: Pipeline, gaussians: PatchGaussians, size: int) -> tuple[Spool, Spool, Spool, Spool]:
    """Of all test images: embeddings and squared distances at the sampled positions, maps, scores."""
    spools = test, squared, maps, scores = Spool(), Spool(), Spool(), Spool()
    for samples in pipeline.batches(pipeline.category.test, size):
        selected = pipeline.selected(pipeline.prepared(samples, {}), {})
        some_squared, some_maps, some_scores = pipeline.mapped(gaussians, selected, {})
        test.append(pipeline.sampled(selected))
        squared.append(some_squared[:, pipeline.positions])
        maps.append(some_maps)
        scores.append(some_scores)
        del selected, some_squared, some_maps, some_scores
    return spools


def _accuracy(pipeline: Pipeline, train: Spool, test: Spool, squared: Spool) -> Accuracy:
    """Of squared distances at the sampled positions, against equations 1 and 2 in float64."""
    # Imported here, after the peak is read, of which SciPy's linear algebra is no part.
    from padim_bench.padim.equations import distances

    config = pipeline.config
    exact = torch.from_numpy(distances(train.read().mT, test.read().mT, config.protocol.epsilon) ** 2)
    errors = (squared.read().double() - exact).abs() / exact
    largest, median = float(errors.max()), float(errors.median())
    return Accuracy(
        largest_error=largest if math.isfinite(largest) else None,
        median_error=median if math.isfinite(median) else None,
        gate=GATES[config.model.storage],
        n_positions=exact.shape[1],
        n_images=exact.shape[0],
        reference="float64 Cholesky of the same features",
    )


def _metrics(pipeline: Pipeline, scores: Spool, maps: Spool) -> dict[str, float | None]:
    category, protocol = pipeline.category, pipeline.config.protocol
    threads = pipeline.config.execution.threads
    masks = load_masks(category, protocol, threads=threads) if category.has_masks else None
    labels = np.array([s.label for s in category.test], dtype=np.int64)
    found = compute_metrics(labels, scores.read().numpy(), masks, maps_at(masks, maps.read(), protocol))
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _file_bytes(pipeline: Pipeline, gaussians: PatchGaussians) -> int:
    """Bytes of the model as ``PaDiM.save`` writes it; the backbone is only named in it."""
    config = pipeline.config.model
    model = PaDiM(
        pipeline.backbone,
        n_features=config.n_features,
        seed=config.seed,
        strategy=config.strategy,
        storage=config.storage,
        compute_dtype=config.compute_dtype,
        half_products=config.half_products,
        protocol=config.protocol,
        device=pipeline.config.execution.device,
        reduction=config.reduction,
    ).use(gaussians, (config.protocol.size, config.protocol.size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return path.stat().st_size


def _load() -> tuple[float, ...] | None:
    """Processes that want a core, over the last 1, 5 and 15 minutes, where the system tells."""
    return os.getloadavg() if hasattr(os, "getloadavg") else None


if __name__ == "__main__":
    answer(lambda asked: to_dict(measure(Work.from_dict(asked))))
