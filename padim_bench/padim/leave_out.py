"""Scores every training image as a new one: by Gaussians fitted without its fold (k-fold cross-validation)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError
from padim_bench.padim.backbones import CPU_BATCH_SIZE
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.model import batches_of, score_features
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.sharing import NEVER, selected_bytes
from padim_bench.padim.training_scores import TrainingScores

if TYPE_CHECKING:
    from padim_bench.padim.model import PaDiM


@torch.no_grad()
def leave_out_scores(
    model: PaDiM, total: TrainingMoments, images: Tensor | Iterable[Any], folds: int
) -> TrainingScores:
    """Scores of all training images; image i is in fold ``i % folds``.

    Moments are additive: without a fold they are those of the other images' held features, or where features were
    folded for want of memory, the total's less the fold's. Images are then read again once a fold, and there are as
    many folds as it takes to hold the features of one within ``model.memory_limit``.
    A learned reduction stays as it was learned from all images.

    Args:
        model: whose configuration is fitted; it need not be fitted itself.
        total: its moments of all images, which stay.
        images: as given to ``PaDiM.fit``.
        folds: 2 or more.

    Raises:
        PadimBenchError: fewer than 2 folds, more folds than images, fewer than 3 images; or an iterator, which cannot
            be read again where it has to be.
        StrategyInvalidError: as of a fit.
    """
    if not 2 <= folds <= total.n or total.n < 3:
        raise PadimBenchError(
            f"{folds} folds of {total.n} training images: give 2 folds or more, 3 images or more, and no more folds "
            "than images"
        )
    if not total.held:
        folds = max(folds, min(total.n, ceil(total.n * selected_bytes(total.embedding) / model.memory_limit)))
        if isinstance(images, Iterator):
            raise PadimBenchError(
                f"scores of left-out images need images again once their features pass {model.memory_limit:,} bytes: "
                "give fit() a list or a DataLoader, not an iterator, or raise memory_limit"
            )
    scores = torch.empty(total.n, dtype=torch.float64)
    for fold in range(folds):
        if total.held:
            own, others = total.leave_out(fold, folds)
        else:
            own = _read_again(model, total, images, fold, folds)
            others = TrainingMoments(total.embedding, total.dtype, NEVER, total.tiling)
            others.update(own)
            others.become_rest_of(total)
        scores[fold::folds] = _scored(model, others, own)
    return TrainingScores(folds, tuple(scores.tolist()))


def _read_again(
    model: PaDiM, total: TrainingMoments, images: Tensor | Iterable[Any], fold: int, folds: int
) -> list[Tensor]:
    """Selected features of one fold's images."""
    parts: list[list[Tensor]] = []
    waiting: list[Tensor] = []
    start = 0
    for batch in batches_of(images):
        waiting.append(batch[(fold - start) % folds :: folds])
        start += len(batch)
        if sum(map(len, waiting)) >= CPU_BATCH_SIZE:
            parts.append(total.embedding.select(model.backbone(torch.cat(waiting))))
            waiting = []
    if sum(map(len, waiting)):
        parts.append(total.embedding.select(model.backbone(torch.cat(waiting))))
    if start != total.n:
        raise PadimBenchError(
            f"{start} images where there were {total.n} before: give fit() the same images every time"
        )
    return [torch.cat(layers, dim=1) for layers in zip(*parts, strict=True)]


def _scored(model: PaDiM, others: TrainingMoments, own: Sequence[Tensor]) -> Tensor:
    """Image scores of a fold's features by Gaussians of the other images."""
    config = model.config
    gaussians = fit_gaussians(
        others,
        epsilon=config.protocol.epsilon,
        strategy=config.strategy,
        storage=config.storage,
        half_products=config.half_products,
        consume=True,
    )
    assert model.image_size is not None
    return torch.cat(
        [
            score_features(
                [(gaussians, [layer[:, i : i + CPU_BATCH_SIZE] for layer in own])], model.image_size, config.protocol
            )[1].cpu()
            for i in range(0, own[0].shape[1], CPU_BATCH_SIZE)
        ]
    )
