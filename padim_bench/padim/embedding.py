"""Patch embeddings: nearest upsampling, concatenation over layers, channel reduction (section III-A).

Deeper layers have coarser grids; "many pixels have the same embeddings", which is nearest-neighbour
replication onto the largest grid. Channels are selected before it, so what is dropped is never copied.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError


def draw_channels(n_channels: int, n_features: int | None, seed: int) -> tuple[int, ...]:
    """Channels kept by random dimensionality reduction (section III-A), drawn without replacement.

    ``random.Random(seed).sample(range(n_channels), n_features)`` is the same on every machine and
    version; seed 1024 at (448, 100) gives the indices of the most popular public script.

    Raises PadimBenchError if ``n_features`` is not in 1..n_channels; None keeps all, in order.
    """
    if n_features is None:
        return tuple(range(n_channels))
    if seed < 0:  # random.Random draws the same for -1 and 1
        raise PadimBenchError(f"seed is {seed}: choose 0 or more")
    if not 1 <= n_features <= n_channels:
        raise PadimBenchError(
            f"n_features is {n_features} but the layers in use have {n_channels} channels: "
            f"choose 1 to {n_channels}, or 'all'"
        )
    return tuple(random.Random(seed).sample(range(n_channels), n_features))


@dataclass(frozen=True)
class PatchEmbedding:
    """How feature maps of several layers become one embedding per position of the largest grid.

    Attributes:
        layer_channels: channels of each layer, in order.
        layer_grids: (h, w) of each layer.
        channels: indices kept, into the concatenation of all layers, in order.
    """

    layer_channels: tuple[int, ...]
    layer_grids: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        for h, w in self.layer_grids:
            if self.grid[0] % h or self.grid[1] % w:
                raise PadimBenchError(
                    f"grid {h}x{w} does not divide {self.grid[0]}x{self.grid[1]}: choose other layers or image size"
                )

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the largest activation map."""
        return max(self.layer_grids)

    @property
    def n_positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def n_features(self) -> int:
        return len(self.channels)

    @property
    def digest(self) -> str:
        """sha256 of the kept channels, for records."""
        return hashlib.sha256(",".join(map(str, self.channels)).encode()).hexdigest()

    @cached_property
    def _parts(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per layer: channels within the layer, their slots in the embedding, source cell of each position."""
        parts, first = [], 0
        kept = torch.tensor(self.channels)
        rows, columns = torch.meshgrid(torch.arange(self.grid[0]), torch.arange(self.grid[1]), indexing="ij")
        for n, (h, w) in zip(self.layer_channels, self.layer_grids, strict=True):
            slots = torch.nonzero((kept >= first) & (kept < first + n)).flatten()
            cells = (rows // (self.grid[0] // h)) * w + columns // (self.grid[1] // w)
            parts.append((kept[slots] - first, slots, cells.flatten()))
            first += n
        return parts

    @property
    def local_channels(self) -> list[Tensor]:
        """Per layer, the kept channels counted within that layer, in embedding order."""
        return [local for local, _, _ in self._parts]

    def select(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The kept channels of each layer on its own grid: (B, c_l, h_l * w_l), contiguous, so the rest is freed."""
        return [f.flatten(2)[:, local.to(f.device)] for f, (local, _, _) in zip(features, self._parts, strict=True)]

    def gather(self, selected: Sequence[Tensor], positions: slice) -> Tensor:
        """Embeddings of some positions, (positions, B, n_features), from what :meth:`select` kept."""
        first = selected[0]
        n = len(range(*positions.indices(self.n_positions)))
        out = first.new_empty(n, first.shape[0], self.n_features)
        for part, (_, slots, cells) in zip(selected, self._parts, strict=True):
            if slots.numel():
                out[:, :, slots.to(part.device)] = part[:, :, cells[positions].to(part.device)].permute(2, 0, 1)
        return out

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """Patch embeddings (B, n_features, H, W) of feature maps (B, C_l, h_l, w_l)."""
        patches = self.gather(self.select(features), slice(None))
        return patches.permute(1, 2, 0).reshape(-1, self.n_features, *self.grid)
