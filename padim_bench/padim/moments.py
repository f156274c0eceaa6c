"""What is kept of the training images: their features, held, or folded into mean and scatter (equation 1's sums)."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError
from padim_bench.padim.embedding import PatchEmbedding, require_finite
from padim_bench.padim.parallel import for_each
from padim_bench.padim.sharing import NEVER
from padim_bench.padim.strategies import PositionChunk
from padim_bench.padim.tiling import MEASURED, Tiling, slices

# Of memory for small batches of features: more than malloc ever takes from its heap (32 MB), so that it is the
# system's again once they are folded.
LOT_BYTES = 64 << 20

# Positions that are read together, and where moments are folded, their mean (P, D) and scatter (P, D, D).
Group = tuple[slice, Tensor | None, Tensor | None]


class TrainingMoments:
    """What is kept of the training images: the selected features, or past a limit, mean and scatter.

    Features stay on their own layers' grids (a fraction of the n * P * d embeddings). Past
    ``memory_limit`` bytes they are folded into centred moments by Chan's pairwise update, whose
    memory does not grow with the number of images. Either way the moments are centred, mergeable
    and read once, tile by tile.

    Args:
        embedding: of D dimensions at each position.
        dtype: of means and of the moments that are read.
        memory_limit: bytes of features past which they are folded.
        tiling: how positions are cut.
    """

    def __init__(
        self, embedding: PatchEmbedding, dtype: torch.dtype, memory_limit: int, tiling: Tiling = MEASURED
    ) -> None:
        self.embedding = embedding
        self.dtype = dtype
        self.memory_limit = memory_limit
        self.tiling = tiling
        self.n = 0
        self._pending: list[list[Tensor]] = []
        self._pending_n = 0
        self._pending_bytes = 0
        self._lot = torch.empty(0)
        self._tiles: list[tuple[slice, Tensor, Tensor]] = []
        self._folded_n = 0

    @property
    def device(self) -> torch.device:
        """Where the features came from; the CPU before any."""
        if self._pending:
            return self._pending[0][0].device
        return self._tiles[0][1].device if self._tiles else torch.device("cpu")

    def update(self, selected: Sequence[Tensor]) -> None:
        """Adds a batch of features as ``PatchEmbedding.select`` gives them, of one dtype.

        Large ones are kept, not copied. Small ones are copied out of the heap, where the backbone's activations would
        find no room between them any more: 3,000 images of 0.3 MB took 2.6 GB.

        Raises PadimBenchError if a feature is NaN or infinite.
        """
        require_finite(selected, self.n)
        size = sum(layer.nbytes for layer in selected)
        small = size < LOT_BYTES and not selected[0].is_cuda
        self._pending.append([self._copied(layer) for layer in selected] if small else list(selected))
        self._pending_n += selected[0].shape[1]
        self._pending_bytes += size
        self.n += selected[0].shape[1]
        if self._pending_bytes > self.memory_limit:
            self._fold()

    def _copied(self, layer: Tensor) -> Tensor:
        """The same values with the same strides, in memory of whole lots."""
        if self._lot.dtype != layer.dtype or len(self._lot) < layer.numel():
            self._lot = layer.new_empty(LOT_BYTES // layer.element_size())
        flat, self._lot = self._lot[: layer.numel()], self._lot[layer.numel() :]
        order = sorted(range(layer.ndim), key=layer.stride, reverse=True)
        laid = flat.view([layer.shape[i] for i in order]).permute([order.index(i) for i in range(layer.ndim)])
        return laid.copy_(layer)

    def merge(self, other: TrainingMoments) -> None:
        """Adds another's images, as if they had been seen here.

        Raises PadimBenchError if embeddings differ, or the tiles into which they are folded.
        """
        if self.embedding != other.embedding:
            raise PadimBenchError("models of different layers, channels or image sizes cannot be merged")
        if self.tiling != other.tiling:
            raise PadimBenchError("moments that are tiled differently cannot be merged")
        if other._tiles:
            self._fold()
            if not self._tiles:
                self._tiles = [(p, m.clone(), _returned_zeros(tuple(s.shape), s).copy_(s)) for p, m, s in other._tiles]
                self._folded_n = other._folded_n
            else:
                for mine, theirs in zip(self._tiles, other._tiles, strict=True):
                    _chan_update(mine[1], mine[2], self._folded_n, theirs[1], theirs[2], other._folded_n)
                self._folded_n += other._folded_n
        self.n += other._folded_n
        for batch in list(other._pending):
            self.update(batch)

    @property
    def held(self) -> bool:
        """Whether the features of all images are still here."""
        return not self._tiles

    def leave_out(self, fold: int, folds: int) -> tuple[list[Tensor], TrainingMoments]:
        """Of held features those of every ``folds``-th image from ``fold`` on, and the moments of all other images.

        The first are a copy, as ``PatchEmbedding.select`` gives them; the others are views and take no memory.
        """
        assert self.held
        others = TrainingMoments(self.embedding, self.dtype, NEVER, self.tiling)
        own, start = list[list[Tensor]](), 0
        for batch in self._pending:
            for one in range(min(folds, batch[0].shape[1])):
                part = [layer[:, one::folds] for layer in batch]
                if (start + one) % folds == fold:
                    own.append(part)
                else:
                    others._pending.append(part)
            start += batch[0].shape[1]
        selected = [torch.cat(layers, dim=1) for layers in zip(*own, strict=True)]
        others.n = others._pending_n = self.n - selected[0].shape[1]
        return selected, others

    def become_rest_of(self, total: TrainingMoments) -> None:
        """Turns into the moments of ``total``'s images without these, which were among them. Both are folded.

        Chan's update, solved for one of its parts; exact but for the rounding of ``total``'s scatter to float32.
        """
        assert (self.embedding, self.tiling) == (total.embedding, total.tiling)
        self._fold()
        total._fold()
        rest = total.n - self.n
        for (_, mean, scatter), (_, whole_mean, whole) in zip(self._tiles, total._tiles, strict=True):
            gap = (whole_mean - mean) * (total.n / rest)  # from these images' mean to the others'
            left = whole.to(mean.dtype) - scatter
            scatter.copy_(left.baddbmm_(gap.unsqueeze(2), gap.unsqueeze(1), alpha=-self.n * rest / total.n))
            mean.add_(gap)
        self.n = self._folded_n = rest

    def groups(self, *, consume: bool = False) -> Iterator[Group]:
        """All positions, a group at a time, for :meth:`read`; ``consume`` frees folded ones on the way."""
        if not self._tiles:
            step = self._step(self.n)
            size = step * self._tiles_read(step)
            yield from ((positions, None, None) for positions in slices(self.embedding.n_positions, size))
            return
        self._fold()
        for i, tile in enumerate(self._tiles):
            if consume:
                self._tiles[i] = (tile[0], tile[1], tile[1].new_empty(0))
            yield tile

    def read(
        self, group: Group, epsilon: float, dtype: torch.dtype | None = None
    ) -> Iterator[tuple[slice, Tensor, PositionChunk]]:
        """Tiles of a group: positions, mean (P, D) and moments, in ``dtype`` or that of these moments.

        The moments of one tile are overwritten by those of the next.
        """
        positions, mean, scatter = group
        dtype = dtype or self.dtype
        if mean is not None and scatter is not None:
            yield positions, mean, PositionChunk(self.n, epsilon, scatter=scatter.to(dtype))
            return
        for tile, mean, centred in self._centred(positions, dtype, self._step(self.n)):
            yield tile, mean, PositionChunk(self.n, epsilon, centred=centred)

    def _step(self, n: int) -> int:
        """Positions to a tile, of n images."""
        width = torch.finfo(self.dtype).bits // 8
        return self.tiling.fit_tile(self.embedding.n_positions, n, self.embedding.n_features, width)

    def _tiles_read(self, step: int) -> int:
        """Tiles of the pending features to read together."""
        positions, d = self.embedding.n_positions, self.embedding.n_features
        return self.tiling.tiles_read(positions, step, self._pending_n, d, torch.get_num_threads())

    def _centred(self, positions: slice, dtype: torch.dtype, step: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Tiles of ``step`` of these positions, with their means (P, D) and centred embeddings (P, n, D)."""
        first, start = self._pending[0][0], 0
        size = positions.stop - positions.start
        # Several tiles are kept as they came, so that the conversion of each stays inside the cache.
        held = dtype if size <= step else first.dtype
        x = first.new_empty(size, self._pending_n, self.embedding.n_features, dtype=held)
        for batch in self._pending:
            stop = start + batch[0].shape[1]
            self.embedding.gather(batch, positions, out=x[:, start:stop])
            start = stop
        wide = x.new_empty((step, *x.shape[1:]), dtype=dtype) if held != dtype else None
        for tile in slices(size, step):
            centred = x[tile] if wide is None else wide[: tile.stop - tile.start].copy_(x[tile])
            mean = centred.mean(dim=1)
            centred -= mean.unsqueeze(1)
            yield slice(positions.start + tile.start, positions.start + tile.stop), mean, centred

    def _fold(self) -> None:
        """Moves the pending features into the moments."""
        if not self._pending:
            return
        if not self._tiles:
            step = self._step(0)  # the same in every model, so that they can be merged
            d = self.embedding.n_features
            first = self._pending[0][0]
            sizes = ((p, p.stop - p.start) for p in slices(self.embedding.n_positions, step))
            self._tiles = [
                (p, first.new_zeros(n, d, dtype=self.dtype), _returned_zeros((n, d, d), first)) for p, n in sizes
            ]

        whole = self._tiles[0][0].stop
        # Tiles are of as many positions as few images allow: of many images they are read in parts.
        step = min(whole, self._step(self._pending_n))
        together = self._tiles_read(step)

        def fold(some: slice) -> None:
            first, last = self._tiles[some][0][0].start, self._tiles[some][-1][0].stop
            for read in slices(last - first, last - first if step == whole else step * together):
                positions = slice(first + read.start, first + read.stop)
                for part, mean, centred in self._centred(positions, self.dtype, step):
                    tile, means, scatters = self._tiles[part.start // whole]
                    here = slice(part.start - tile.start, part.stop - tile.start)
                    scatter = torch.bmm(centred.mT, centred)
                    _chan_update(means[here], scatters[here], self._folded_n, mean, scatter, self._pending_n)

        neighbours = slices(len(self._tiles), together if step == whole else 1)
        for_each(fold, neighbours, parallel=not self._pending[0][0].is_cuda)
        self._folded_n += self._pending_n
        self._pending, self._pending_n, self._pending_bytes = [], 0, 0
        self._lot = torch.empty(0)


def _returned_zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """float32 zeros whose memory goes back to the system when freed; malloc would keep it beside the fitted state."""
    if like.is_cuda:
        return like.new_zeros(shape, dtype=torch.float32)
    count = math.prod(shape)
    return torch.from_numpy(np.frombuffer(mmap.mmap(-1, 4 * count), dtype=np.float32)).view(shape)


def _chan_update(mean: Tensor, scatter: Tensor, n: int, other_mean: Tensor, other_scatter: Tensor, m: int) -> None:
    """Adds m images' mean and scatter to n images', in place (Chan, Golub and LeVeque 1979).

    Kept in float32, which halves the largest thing a streamed fit holds; added in the mean's dtype.
    """
    gap = other_mean - mean
    total = scatter.to(mean.dtype) + other_scatter
    scatter.copy_(total.baddbmm_(gap.unsqueeze(2), gap.unsqueeze(1), alpha=n * m / (n + m)))
    mean += gap * (m / (n + m))
