"""SPADE (Cohen and Hoshen, arXiv:2005.02357): nearest normal images, and nearest positions among theirs.

The last layer gives an image one vector f(y), its mean over all positions; the first three give each position p of the
largest grid one vector F(y, p), concatenated as PaDiM's embeddings are. (Published are a ResNet's four stages, the
fourth for images alone.) With N_K(y) the K training images whose f are nearest to f(y), and
G = {F(x, q): x in N_K(y), q any position} their gallery, an image and a position score, by distances as public code
has them and the nearest position alone,

    d(y) = 1/K sum over x in N_K(y) of |f(x) - f(y)|,    d(y, p) = min over g in G of |g - F(y, p)|.

All training features are held to score, so that memory grows with the training images; published are K = 50 and
Wide ResNet-50-2, public re-implementations have K = 5.

A deep layer has one vector for many positions. So the squared distance of two positions is a sum over layers, each of
which has far fewer pairs than the layer before, and the minimum is taken from the finest layer to the coarsest: with
R18 at 224 pixels a sixth of the products of the concatenated vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from padim_bench.baselines.base import Baseline
from padim_bench.padim.embedding import PatchEmbedding, nearest_indices, require_finite
from padim_bench.padim.parallel import for_each
from padim_bench.padim.tiling import slices

Grid = tuple[int, int]
POSITIONS_LAYERS = 3
# Numbers of the largest matrix of distances that a thread works on: it stays inside the cache.
_TILE_NUMBERS = 1 << 18
_IMAGES_AT_ONCE = 8  # copied


@dataclass(frozen=True)
class Level:
    """Layers that have one vector for the same positions.

    Attributes:
        grid: (h, w) of its cells.
        layers: which, by their places.
        n_channels: of all of them.
        rows: its cells, those of one cell of the coarsest level together, and so on down.
        columns: its cells, the first of every next coarser cell's children, then the second, and so on.
    """

    grid: Grid
    layers: tuple[int, ...]
    n_channels: int
    rows: Tensor
    columns: Tensor


def levels(channels: Sequence[int], grids: Sequence[Grid]) -> list[Level]:
    """Layers from the finest grid to the coarsest: a level each, where its grid divides that of the level before.

    A layer whose grid does not is replicated onto the finest.
    """
    finest = max(h for h, _ in grids), max(w for _, w in grids)
    found: list[tuple[Grid, list[int]]] = [(finest, [])]
    for i in sorted(range(len(grids)), key=lambda i: -prod(grids[i])):
        if grids[i] == found[-1][0]:
            found[-1][1].append(i)
        elif all(map(_nested, finest, found[-1][0], grids[i])):
            found.append((grids[i], [i]))
        else:
            found[0][1].append(i)
    chain = [grid for grid, _ in found]
    return [
        Level(grid, tuple(own), sum(channels[i] for i in own), *_orders(chain[place:]))
        for place, (grid, own) in enumerate(found)
    ]


def _nested(finest: int, fine: int, coarse: int) -> bool:
    """Whether the cells of one side are each a whole number of finer ones, as torch's "nearest" has it."""
    whole = fine % coarse == 0
    return whole and torch.equal(nearest_indices(finest, coarse), torch.arange(finest) // (finest // coarse))


def _orders(chain: Sequence[Grid]) -> tuple[Tensor, Tensor]:
    """The cells of the first of some grids, each dividing the one before, in the orders of rows and of columns."""
    sides = [[fine // coarse for fine, coarse in pairwise(side)] for side in zip(*chain, strict=True)]
    coarse_first = [[side, *reversed(ratios)] for side, ratios in zip(chain[-1], sides, strict=True)]
    depth = len(chain)
    cells = torch.arange(prod(chain[0])).reshape(*coarse_first[0], *coarse_first[1])
    pairs = [(i, depth + i) for i in range(depth)]
    rows = cells.permute([axis for pair in pairs for axis in pair])
    columns = cells.permute([axis for pair in reversed(pairs) for axis in pair])
    return rows.flatten(), columns.flatten()


def nearest_squared(queries: Sequence[Tensor], galleries: Sequence[Tensor]) -> Tensor:
    """Of every position of the finest level, its smallest squared distance to the gallery, less its own square.

    Args:
        queries: by level from the finest, rows of cells (R_l, C_l + 1), which :func:`_as_query` makes.
        galleries: by level, columns of cells (Q_l, C_l + 1), which :func:`_as_gallery` makes.

    Returns:
        (R_0,), in the order of ``Level.rows``.
    """
    found: Tensor | None = None
    for query, gallery in zip(queries, galleries, strict=True):
        here = query @ gallery.T
        if found is not None:
            # The best child of every column; then the rows of each coarser row together.
            best = found.view(len(found), -1, len(gallery)).amin(dim=1).view(len(query), -1, len(gallery))
            here = best.add_(here.unsqueeze(1)).view(-1, len(gallery))
        found = here
    assert found is not None
    return found.amin(dim=1)


def _as_query(cells: Tensor) -> Tensor:
    """Rows q (R, C) as (-2 q, 1), whose product with :func:`_as_gallery`'s is |g - q|^2 - |q|^2."""
    return torch.cat([-2 * cells, cells.new_ones(len(cells), 1)], dim=1)


def _as_gallery(cells: Tensor) -> Tensor:
    """Columns g (..., C) as (g, |g|^2)."""
    return torch.cat([cells, cells.square().sum(dim=-1, keepdim=True)], dim=-1)


class SPADE:
    """The features of all training images, centred, in float32.

    Args:
        embedding: of all channels of the layers in use; the last is the images', the first three are the positions'.
        k: nearest images; all where there are fewer.
    """

    computed_in = "float32"

    def __init__(self, embedding: PatchEmbedding, k: int) -> None:
        self.k = k
        self.embedding = embedding
        self.clamped = 0
        self._grids = embedding.layer_grids[:POSITIONS_LAYERS]
        self.levels = levels(embedding.layer_channels[:POSITIONS_LAYERS], self._grids)
        self._batches: list[list[Tensor]] = []  # by batch: of each level (B, cells, C), then pooled (B, C)
        self._means: list[Tensor] = []  # of each level (C,)
        self._galleries: list[Tensor] = []  # of each level (n, cells, C + 1)
        self._pooled = torch.empty(0)
        self._n = 0

    @property
    def grid(self) -> Grid:
        """(h, w) of the distances."""
        return self.levels[0].grid

    def update(self, selected: Sequence[Tensor]) -> None:
        """See :class:`~padim_bench.baselines.base.Learner`."""
        require_finite(selected, self._n)
        self._n += selected[0].shape[1]
        columns = [self._cells(selected, level)[:, level.columns.to(selected[0].device)] for level in self.levels]
        self._batches.append([*columns, _pooled(selected[-1])])

    def fit(self) -> None:
        """See :class:`~padim_bench.baselines.base.Learner`."""
        self.clamped = 0
        if not self._batches:
            return
        self._pooled = torch.cat([batch.pop() for batch in self._batches])
        for level in self.levels:
            parts = [batch.pop(0) for batch in self._batches]
            total = torch.stack([part.sum(dim=(0, 1), dtype=torch.float64) for part in parts]).sum(dim=0)
            # Distances stay what they are, and squares that are subtracted from each other become small.
            mean = (total / (self._n * prod(level.grid))).float()
            gallery = parts[0].new_empty(self._n, prod(level.grid), level.n_channels + 1)
            first = 0
            while parts:
                for images in torch.split(parts.pop(0), _IMAGES_AT_ONCE):
                    gallery[first : first + len(images)] = _as_gallery(images - mean)
                    first += len(images)
            self._means.append(mean)
            self._galleries.append(gallery)
        self._batches = []

    def score(self, selected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See :class:`~padim_bench.baselines.base.Learner`."""
        found = torch.cdist(_pooled(selected[-1]), self._pooled, compute_mode="donot_use_mm_for_euclid_dist")
        distances, nearest = found.topk(min(self.k, self._n), dim=1, largest=False)
        rows = [self._cells(selected, level)[:, level.rows.to(selected[0].device)] for level in self.levels]
        maps = [
            self._nearest([of_level[i] - mean for of_level, mean in zip(rows, self._means, strict=True)], images)
            for i, images in enumerate(nearest.tolist())
        ]
        return torch.stack(maps).view(-1, *self.grid), distances.mean(dim=1)

    @property
    def state_bytes(self) -> int:
        """Of all features, their squares and means."""
        return sum(t.nbytes for t in (*self._galleries, *self._means, self._pooled))

    def _cells(self, selected: Sequence[Tensor], level: Level) -> Tensor:
        """(B, cells, C) of a level, row by row."""
        parts = []
        for i in level.layers:
            part = selected[i]
            if self._grids[i] != level.grid:
                at, of = level.grid, self._grids[i]
                ys, xs = (nearest_indices(n, m).to(part.device) for n, m in zip(at, of, strict=True))
                part = part[(ys[:, None] * of[1] + xs).flatten()]
            parts.append(part)
        return torch.cat(parts, dim=2).transpose(0, 1)

    def _nearest(self, rows: Sequence[Tensor], images: Sequence[int]) -> Tensor:
        """Distances (P,), row by row, of one image's centred cells by level, from the galleries of some images."""
        queries = [_as_query(cells) for cells in rows]
        coarsest = len(rows[-1])
        each = [len(cells) // coarsest for cells in rows]
        step = max(1, _TILE_NUMBERS // (each[0] * len(rows[0])))
        best = rows[0].new_empty(len(rows[0]))

        def search(some: slice) -> None:
            here = [query[some.start * n : some.stop * n] for query, n in zip(queries, each, strict=True)]
            found: Tensor | None = None
            for image in images:
                one = nearest_squared(here, [gallery[image] for gallery in self._galleries])
                found = one if found is None else torch.minimum(found, one, out=found)
            assert found is not None
            best[some.start * each[0] : some.stop * each[0]] = found

        for_each(search, slices(coarsest, step), parallel=not best.is_cuda)
        for cells, n in zip(rows, each, strict=True):
            best += cells.square().sum(dim=1).repeat_interleave(each[0] // n)
        self.clamped += int((best < 0).sum())
        return torch.empty_like(best).index_copy_(0, self.levels[0].rows.to(best.device), best.clamp_(min=0).sqrt_())


def _pooled(layer: Tensor) -> Tensor:
    """The mean over all cells (B, C) of feature maps (cells, B, C)."""
    return layer.mean(dim=0)


def _state_bytes(embedding: PatchEmbedding, n: int) -> int:
    found = levels(embedding.layer_channels[:POSITIONS_LAYERS], embedding.layer_grids[:POSITIONS_LAYERS])
    each = sum(prod(level.grid) * (level.n_channels + 1) for level in found) + embedding.layer_channels[-1]
    return 4 * (n * each + sum(level.n_channels for level in found))


BASELINES = tuple(
    Baseline(
        name,
        f"SPADE: the {k} nearest training images, and the nearest of their positions{what} (arXiv:2005.02357)",
        has_maps=True,
        make=partial(SPADE, k=k),
        state_bytes=_state_bytes,
    )
    for name, k, what in (("spade", 50, ", as published"), ("spade-k5", 5, ", as public code has it"))
)
