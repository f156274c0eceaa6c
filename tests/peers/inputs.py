"""Seeded inputs of the sizes that PaDiM meets, the same for every contender."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

N_TRAIN = 209  # bottle


def embeddings(n: int, d: int, grid: int, seed: int) -> Tensor:
    """(n, d, grid, grid) float32 with channels of unlike scale that vary together, as a CNN's do."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, grid, grid, generator=generator)
    x += torch.randn(n, 1, grid, grid, generator=generator)
    return x.mul_(torch.logspace(-1.3, 0, d).view(1, d, 1, 1)).add_(0.5)


def feature_maps(batch: int, seed: int, grid: int = 56) -> dict[str, Tensor]:
    """The outputs of ResNet-18's first three layers for images of 4 * ``grid`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{i + 1}": torch.randn(batch, 64 << i, grid >> i, grid >> i, generator=generator).relu_()
        for i in range(3)
    }


def maps_and_masks(n: int, side: int, *, tied: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Smooth maps, three in four with one or two regions; ``tied`` rounds scores to some hundreds of values."""
    rng = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(rng.standard_normal((n, side, side)), (0, 4, 4)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    for i in range(3 * n // 4):
        for _ in range(1 + i % 2):
            y, x = rng.integers(side // 10, side * 7 // 10, 2)
            masks[i, y : y + side // 6, x : x + side // 8] = True
    maps += masks * np.float32(0.15)
    return (np.round(maps * 1024) / 1024 if tied else maps).astype(np.float32), masks
