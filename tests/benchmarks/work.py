"""What benchmarks share: the paper's two embeddings at the size of MVTec AD, and plain timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from padim_bench.padim.embedding import PatchEmbedding, draw_channels

IMAGES = 209
Measure = Callable[..., Any]
Invalid = Callable[[str, Exception], NoReturn]

RESNET18, WIDE_RESNET50 = (64, 128, 256), (256, 512, 1024)
WHOLE = ((56, 56), (28, 28), (14, 14))
WINDOW = ((14, 14), (7, 7), (7, 7))  # 196 of 3136 positions, where all of them take minutes

EMBEDDINGS = {
    100: PatchEmbedding(RESNET18, WHOLE, draw_channels(448, 100, 1024)),
    550: PatchEmbedding(WIDE_RESNET50, WHOLE, draw_channels(1792, 550, 1024)),
}
# What fits and distances are timed on: the whole grid for d = 100, a window for d = 550.
TIMED = {100: EMBEDDINGS[100], 550: PatchEmbedding(WIDE_RESNET50, WINDOW, EMBEDDINGS[550].channels)}


def features(embedding: PatchEmbedding, batch: int, seed: int = 0) -> list[Tensor]:
    """Random feature maps (B, C_l, h_l, w_l)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = zip(embedding.layer_channels, embedding.layer_grids, strict=True)
    return [torch.randn(batch, c, *grid, generator=generator) for c, grid in shapes]


def nbytes(tensors: list[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def best_time(function: Callable[[], object], seconds: float = 0.4) -> float:
    """Shortest of several calls after one that does not count."""
    function()
    times = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
