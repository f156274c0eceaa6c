"""Patch embeddings: nearest upsampling, concatenation over layers, dimensionality reduction (section III-A).

Deeper layers have coarser grids; "many pixels have the same embeddings", which is nearest-neighbour
replication onto the largest grid, whether or not the coarser one divides it. Selecting and projecting
channels commute with it and come first, so what is dropped is never copied.
:mod:`padim_bench.padim.reduction` says which channels and projections.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError


def draw_channels(n_channels: int, n_features: int | None, seed: int) -> tuple[int, ...]:
    """Channels kept by random dimensionality reduction (section III-A), drawn without replacement.

    ``random.Random(seed).sample(range(n_channels), n_features)`` is the same on every machine and
    version; seed 1024 at (448, 100) gives the indices of the most popular public script.

    Raises PadimBenchError as :func:`check_draw` does; None keeps all channels, in order.
    """
    check_draw(n_channels, n_features, seed)
    if n_features is None:
        return tuple(range(n_channels))
    return tuple(random.Random(seed).sample(range(n_channels), n_features))


def check_draw(n_channels: int, n_features: int | None, seed: int) -> None:
    """Raises PadimBenchError for a seed below 0, or ``n_features`` outside 1..n_channels."""
    if seed < 0:  # random.Random draws the same for -1 and 1
        raise PadimBenchError(f"seed is {seed}: choose 0 or more")
    if n_features is not None and not 1 <= n_features <= n_channels:
        raise PadimBenchError(
            f"n_features is {n_features} but the layers in use have {n_channels} channels: "
            f"choose 1 to {n_channels}, or 'all'"
        )


def require_finite(selected: Sequence[Tensor], first: int) -> None:
    """Raises PadimBenchError for NaN or infinity in features of training images counted from ``first``."""
    # A finite sum has finite terms and costs one pass; one that is not may have overflowed.
    if not all(torch.isfinite(layer.sum()) or torch.isfinite(layer).all() for layer in selected):
        raise PadimBenchError(
            f"features of training images {first} to {first + selected[0].shape[1] - 1} contain NaN or infinity: "
            "check those images and the weights"
        )


def take_channels(maps: Tensor, channels: Tensor) -> Tensor:
    """(B, c, cells) with the given channels of (B, C, cells); ``maps`` itself where these are all, in order."""
    if torch.equal(channels, torch.arange(maps.shape[1])):
        return maps
    return maps[:, channels.to(maps.device)]


def nearest_indices(n: int, of: int) -> Tensor:
    """For each of ``n`` cells in a row the one of ``of`` cells that torch's "nearest" interpolation takes."""
    # torch's own, in the features' dtype, which it also rounds places in: 156 of 12,720 ratios differ in float64.
    places = torch.arange(of, dtype=torch.float32).view(1, 1, of)
    return torch.nn.functional.interpolate(places, size=n, mode="nearest").flatten().long()


# Lines of memory read side by side when the layout changes; all of them stay in the cache.
_LINES = 1600


def _fill(out: Tensor, part: Tensor) -> None:
    """``out.copy_(part)`` of (cells, B, c), a few images at a time where ``part`` is a view of (B, c, cells).

    A line of memory then holds many cells of one channel, and is read for one cell after the other.
    """
    if part.stride(2) == 1 or part.is_cuda:
        out.copy_(part)
        return
    images = max(1, _LINES // max(1, part.shape[2]))
    for first in range(0, part.shape[1], images):
        out[:, first : first + images] = part[:, first : first + images]


def _contiguous(part: Tensor) -> Tensor:
    out = torch.empty(part.shape, dtype=part.dtype, device=part.device)
    _fill(out, part)
    return out


@dataclass(frozen=True, eq=False)
class PatchEmbedding:
    """How feature maps of several layers become one embedding per position of the largest grid.

    Attributes:
        layer_channels: channels of each layer, in order.
        layer_grids: (h, w) of each layer.
        channels: indices kept, into the concatenation of all layers. Grouped by layer when made, in the
            order given within each: no distance depends on it, and gathering then copies in runs.
        projection: (D, len(channels)) float32, applied to the kept channels; None for none.
    """

    layer_channels: tuple[int, ...]
    layer_grids: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    projection: Tensor | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatchEmbedding) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @cached_property
    def _identity(self) -> tuple[object, ...]:
        return self.layer_channels, self.layer_grids, self.digest

    def __post_init__(self) -> None:
        ends = list(accumulate(self.layer_channels))
        by_layer = self.channels if self.projection is not None else sorted(self.channels, key=partial(bisect, ends))
        object.__setattr__(self, "channels", tuple(by_layer))

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the largest activation map; of maps of which none is, the most rows and the most columns."""
        return max(h for h, _ in self.layer_grids), max(w for _, w in self.layer_grids)

    @property
    def n_positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def n_features(self) -> int:
        return len(self.channels) if self.projection is None else len(self.projection)

    @cached_property
    def digest(self) -> str:
        """sha256 of the kept channels, and of the projection if there is one, for records."""
        named = hashlib.sha256(",".join(map(str, self.channels)).encode())
        if self.projection is not None:
            named.update(self.projection.numpy().tobytes())
        return named.hexdigest()

    @cached_property
    def _parts(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per layer: channels within the layer, their slots in ``channels``, source cell of each position."""
        parts, first = [], 0
        kept = torch.tensor(self.channels)
        for n, (h, w) in zip(self.layer_channels, self.layer_grids, strict=True):
            slots = torch.nonzero((kept >= first) & (kept < first + n)).flatten()
            rows, columns = (nearest_indices(at, of) for at, of in zip(self.grid, (h, w), strict=True))
            parts.append((kept[slots] - first, slots, (rows[:, None] * w + columns).flatten()))
            first += n
        return parts

    @property
    def local_channels(self) -> list[Tensor]:
        """Per layer, the kept channels counted within that layer, in embedding order."""
        return [local for local, _, _ in self._parts]

    def select(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What embeddings are made of, each layer on its own grid, so that the rest can be freed.

        Takes feature maps (B, C_l, h_l, w_l); gives (h_l * w_l, B, c_l) with the kept channels of each
        layer, or with a projection each layer's (h_l * w_l, B, D) share of the embedding. Positions come
        first because everything after works position by position. A coarse layer, read many times, is
        copied so that gathering copies whole rows; the largest stays where it is, as a view.
        """
        return self.project(
            [take_channels(f.flatten(2), local) for f, local in zip(features, self.local_channels, strict=True)]
        )

    def project(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """The same from the kept channels alone, (B, c_l, h_l * w_l)."""
        by_cell = [part.permute(2, 0, 1) for part in kept]
        if self.projection is None:
            return [part if len(part) == self.n_positions else _contiguous(part) for part in by_cell]
        return [
            _contiguous(part) @ self.projection[:, p[1]].to(part).T
            for part, p in zip(by_cell, self._parts, strict=True)
        ]

    def gather(self, selected: Sequence[Tensor], positions: slice, out: Tensor | None = None) -> Tensor:
        """Embeddings of some positions, (positions, B, n_features), from what :meth:`select` gave.

        Written to ``out``, of whatever dtype and strides, if that is given.
        """
        if out is None:
            n = len(range(*positions.indices(self.n_positions)))
            out = selected[0].new_empty(n, selected[0].shape[1], self.n_features)
        here = [
            part[positions] if len(part) == self.n_positions else part[cells[positions].to(part.device)]
            for part, (_, _, cells) in zip(selected, self._parts, strict=True)
        ]
        if self.projection is not None:
            return out.copy_(torch.stack(here).sum(dim=0))
        for part, to in zip(here, torch.split(out, [part.shape[2] for part in here], dim=2), strict=True):
            _fill(to, part)
        return out

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """Patch embeddings (B, n_features, H, W) of feature maps (B, C_l, h_l, w_l)."""
        out = features[0].new_empty(len(features[0]), self.n_features, self.n_positions)
        self.gather(self.select(features), slice(None), out=out.permute(2, 0, 1))
        return out.reshape(-1, self.n_features, *self.grid)
