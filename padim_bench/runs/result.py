"""What one configuration gave, over images or frames, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from padim_bench.machine.environment import environment
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig
from padim_bench.records.facts import Environment, WeightsUsed
from padim_bench.records.runs import (
    INVALID,
    OK,
    RESAMPLED_DIGITS,
    Embedding,
    Extra,
    RunDataset,
    RunMemory,
    RunRecord,
    Score,
    TrainedOn,
)
from padim_bench.runs.methods import Fitted


@dataclass
class Result:
    """What one configuration gave, or why it gave nothing. ``fitted`` has a model for each member."""

    timings: dict[str, float]
    memory: dict[str, Any]
    embeddings: list[PatchEmbedding]
    fitted: list[Fitted] | None = None
    metrics: dict[str, float | None] | None = None
    extra: Extra = field(default_factory=Extra)
    scores: Tensor | None = None
    reason: str | None = None
    backbone_error: float = 0.0  # of the features, relative to float32
    folding_error: float | None = None  # of the features, by folding batch normalisations
    resampled: tuple[str, ...] = ()  # names of weights that were resampled for the images' size


def rounded(drawn: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, ...]]:
    """Resampled metrics as records keep them; those that are undefined in a resample are left out."""
    found = {name: values for name, values in drawn.items() if np.isfinite(values).all()}
    return {name: tuple(values.round(RESAMPLED_DIGITS).tolist()) for name, values in found.items()}


def make_record(
    config: RunConfig,
    weights: Weights,
    dataset: RunDataset,
    result: Result,
    names: Sequence[str],
    labels: Sequence[int],
) -> RunRecord:
    """The record of a run, with the score of every test image (``names`` and ``labels``, in order)."""
    fitted, embeddings = result.fitted, result.embeddings
    residuals = [f.residual for f in fitted or () if f.residual is not None]
    scores = [] if result.scores is None else result.scores.tolist()
    return RunRecord(
        id=config.run_id(dataset.split_digest, weights.identity),
        status=OK if result.reason is None else INVALID,
        reason=result.reason,
        config=config,
        dataset=dataset,
        weights=WeightsUsed(**weights.to_dict(), resampled=result.resampled),
        embedding=Embedding(
            n_channels=sum(sum(e.layer_channels) for e in embeddings),
            n_features=sum(e.n_features for e in embeddings),
            channels_sha256=embeddings[0].digest if len(embeddings) == 1 else tuple(e.digest for e in embeddings),
            grid=max(e.grid for e in embeddings),
        ),
        backbone_error=result.backbone_error,
        folding_error=result.folding_error,
        metrics=result.metrics,
        extra=result.extra,
        strategy_used="+".join(dict.fromkeys(f.strategy.name for f in fitted)) if fitted else None,
        applied="+".join(sorted({name for f in fitted for name in f.applied})) or None if fitted else None,
        computed_in="+".join(dict.fromkeys(f.computed_in for f in fitted)) if fitted else None,
        state_bytes=sum(f.state_bytes for f in fitted) if fitted else None,
        residual=max(residuals, default=None),
        clamped=sum(f.clamped for f in fitted) if fitted else None,
        timings_s=result.timings,
        memory=RunMemory(**result.memory),
        scores=tuple(map(Score, names, labels, scores)) if scores else (),
        environment=Environment(**environment(config.execution.device)),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        trained_on=TrainedOn.of(config.trained, dataset.n_train),
    )
