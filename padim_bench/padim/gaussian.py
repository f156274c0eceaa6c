"""One multivariate Gaussian per position (section III-B, equation 1) and its distances (III-C, equation 2)."""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.padim.embedding import PatchEmbedding, require_finite
from padim_bench.padim.parallel import for_each
from padim_bench.padim.strategies import STORAGE_DTYPES, PositionChunk, State, Strategy, get_strategy

# Made at a time when fitting, widened at a time when scoring: a tile stays inside the cache. What is applied as
# it was stored passes through once, and larger tiles are fewer calls.
_FIT_BYTES = 8 << 20
_APPLY_BYTES = 6 << 20
_APPLY_BYTES_AS_STORED = 16 << 20
_APPLY_GROUP = 8
# Bytes of a state up to which torch's own threads, still awake from the backbone, work on one tile together: a third
# to two thirds of the time of a pool, on whose cores they spin. Past it other load would hold up their many barriers.
_SMALL_STATE = 256 << 20
# Positions read together when fitting: of layers left as views, runs of a few lines of memory. And their bytes.
_FIT_RUN = 48
_FIT_RUN_BYTES = 32 << 20
# Of memory for small batches of features: more than malloc ever takes from its heap (32 MB), so that it is the
# system's again once they are folded.
_LOT_BYTES = 64 << 20
# A squared distance off by more than this (relative) is not rounding, whatever the storage dtype.
_RESIDUAL_LIMIT = 0.25
_RESIDUAL_SAMPLES = 64  # positions, evenly spaced; each costs a factorisation in float64


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


# Positions that are read together, and where moments are folded, their mean (P, D) and scatter (P, D, D).
Group = tuple[slice, Tensor | None, Tensor | None]


class TrainingMoments:
    """What is kept of the training images: the selected features, or past a limit, mean and scatter.

    Features stay on their own layers' grids (a fraction of the n * P * d embeddings). Past
    ``memory_limit`` bytes they are folded into centred moments by Chan's pairwise update, whose
    memory does not grow with the number of images. Either way the moments are centred, mergeable
    and read once, tile by tile.
    """

    def __init__(self, embedding: PatchEmbedding, dtype: torch.dtype, memory_limit: int) -> None:
        self.embedding = embedding
        self.dtype = dtype
        self.memory_limit = memory_limit
        self.n = 0
        self._pending: list[list[Tensor]] = []
        self._pending_n = 0
        self._pending_bytes = 0
        self._lot = torch.empty(0)
        self._tiles: list[tuple[slice, Tensor, Tensor]] = []
        self._folded_n = 0

    @property
    def on_gpu(self) -> bool:
        return any(layer.is_cuda for batch in self._pending for layer in batch) or any(
            t[1].is_cuda for t in self._tiles
        )

    def update(self, selected: Sequence[Tensor]) -> None:
        """Adds a batch of features as ``PatchEmbedding.select`` gives them, of one dtype.

        Large ones are kept, not copied. Small ones are copied out of the heap, where the backbone's activations would
        find no room between them any more: 3,000 images of 0.3 MB took 2.6 GB.

        Raises PadimBenchError if a feature is NaN or infinite.
        """
        require_finite(selected, self.n)
        size = sum(layer.nbytes for layer in selected)
        small = size < _LOT_BYTES and not selected[0].is_cuda
        self._pending.append([self._copied(layer) for layer in selected] if small else list(selected))
        self._pending_n += selected[0].shape[1]
        self._pending_bytes += size
        self.n += selected[0].shape[1]
        if self._pending_bytes > self.memory_limit:
            self._fold()

    def _copied(self, layer: Tensor) -> Tensor:
        """The same values with the same strides, in memory of whole lots."""
        if self._lot.dtype != layer.dtype or len(self._lot) < layer.numel():
            self._lot = layer.new_empty(_LOT_BYTES // layer.element_size())
        flat, self._lot = self._lot[: layer.numel()], self._lot[layer.numel() :]
        order = sorted(range(layer.ndim), key=layer.stride, reverse=True)
        laid = flat.view([layer.shape[i] for i in order]).permute([order.index(i) for i in range(layer.ndim)])
        return laid.copy_(layer)

    def merge(self, other: TrainingMoments) -> None:
        """Adds another's images, as if they had been seen here. Raises PadimBenchError if embeddings differ."""
        if self.embedding != other.embedding:
            raise PadimBenchError("models of different layers, channels or image sizes cannot be merged")
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

    def groups(self, *, consume: bool = False) -> Iterator[Group]:
        """All positions, a group at a time, for :meth:`read`; ``consume`` frees folded ones on the way."""
        if not self._tiles:
            step = self._step(self.n)
            size = step * self._tiles_to_a_group(step)
            yield from ((positions, None, None) for positions in _slices(self.embedding.n_positions, size))
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
        d = self.embedding.n_features
        bytes_each = max(d * d, n * d) * torch.finfo(self.dtype).bits // 8
        return max(1, min(self.embedding.n_positions, _FIT_BYTES // bytes_each))

    def _tiles_to_a_group(self, step: int) -> int:
        """As many as make for long runs of memory, where enough groups are left for all threads."""
        fair = self.embedding.n_positions // (4 * step * torch.get_num_threads())
        bytes_each = 4 * self._pending_n * self.embedding.n_features  # features are float32 as a rule
        return max(1, min(_FIT_RUN // step, fair, _FIT_RUN_BYTES // (step * bytes_each)))

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
        for tile in _slices(size, step):
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
            sizes = ((p, p.stop - p.start) for p in _slices(self.embedding.n_positions, step))
            self._tiles = [
                (p, first.new_zeros(n, d, dtype=self.dtype), _returned_zeros((n, d, d), first)) for p, n in sizes
            ]

        whole = self._tiles[0][0].stop
        # Tiles are of as many positions as few images allow: of many images they are read in parts.
        step = min(whole, self._step(self._pending_n))
        together = self._tiles_to_a_group(step)

        def fold(some: slice) -> None:
            first, last = self._tiles[some][0][0].start, self._tiles[some][-1][0].stop
            for read in _slices(last - first, last - first if step == whole else step * together):
                positions = slice(first + read.start, first + read.stop)
                for part, mean, centred in self._centred(positions, self.dtype, step):
                    tile, means, scatters = self._tiles[part.start // whole]
                    here = slice(part.start - tile.start, part.stop - tile.start)
                    scatter = torch.bmm(centred.mT, centred)
                    _chan_update(means[here], scatters[here], self._folded_n, mean, scatter, self._pending_n)

        neighbours = _slices(len(self._tiles), together if step == whole else 1)
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


@dataclass
class PatchGaussians:
    """The fitted Gaussians of all positions.

    Attributes:
        embedding: what the D dimensions are.
        strategy: how the inverse covariance is held.
        n: training images.
        epsilon: on the diagonal of every covariance.
        mean: (P, D), float32 (float64 for float64 storage).
        state: the strategy's tensors, (P, ...), in the storage dtype.
        residual: largest relative error of the squared distance against float64 on sampled positions,
            from centred embeddings of ``computed_in``.
        computed_in: dtype of means, covariances and factorisations.
        clamped: how many squared distances came out negative, and were set to 0, so far.
    """

    embedding: PatchEmbedding
    strategy: Strategy
    n: int
    epsilon: float
    mean: Tensor
    state: State
    residual: float = float("nan")
    clamped: int = field(default=0)
    computed_in: str = "float64"

    @property
    def state_bytes(self) -> int:
        """Bytes of the strategy's tensors and the means."""
        return sum(t.numel() * t.element_size() for t in (*self.state.values(), self.mean))

    def squared_distances(self, selected: Sequence[Tensor]) -> Tensor:
        """Equation 2, squared: (B, P), never negative, of features as ``PatchEmbedding.select`` gives them."""
        n_images = selected[0].shape[1]
        total = self.embedding.n_positions
        out = self.mean.new_empty(n_images, total)
        width = torch.finfo(self.mean.dtype).bits // 8
        values = sum(t[0].numel() for t in self.state.values())
        bytes_each = width * (values + 2 * n_images * self.embedding.n_features)

        # Whether the state is widened: stored in a narrower dtype than the means, in which it is applied.
        narrow = [k for k, t in self.state.items() if t.element_size() < self.mean.element_size()]
        threads = torch.get_num_threads()
        together = self.strategy.products and sum(t.nbytes for t in self.state.values()) <= _SMALL_STATE
        tile_bytes = (_APPLY_BYTES if narrow else _APPLY_BYTES_AS_STORED) * (threads if together else 1)
        step = min(total, max(1, tile_bytes // bytes_each))
        # Work done for a group of tiles at once, where enough groups are left for all threads.
        group = step * max(1, min(_APPLY_GROUP, total // (8 * step * threads)))

        def apply(positions: slice) -> None:
            delta = self.embedding.gather(selected, positions).to(self.mean.dtype)
            delta -= self.mean[positions].unsqueeze(1)
            # Widened into the same memory every time: fresh memory costs as much as the widening.
            wide = {k: self.mean.new_empty((step, *self.state[k].shape[1:])) for k in narrow}
            for first in range(positions.start, positions.stop, step):
                tile = slice(first, min(first + step, positions.stop))
                state = {k: t[tile] for k, t in self.state.items()}
                for k in narrow:
                    state[k] = wide[k][: len(state[k])].copy_(state[k])
                here = delta[tile.start - positions.start : tile.stop - positions.start]
                out[:, tile] = self.strategy.apply(state, here.mT).T

        for_each(apply, _slices(total, group), parallel=not (together or out.is_cuda))
        self.clamped += int((out < 0).sum())
        out.clamp_(min=0)
        if not torch.isfinite(out).all():
            # A NaN may spread to its neighbours in a kernel, so the features are asked first.
            sound = torch.stack([torch.isfinite(layer).all(dim=2).all(dim=0) for layer in selected]).all(dim=0)
            bad = int(torch.nonzero(~(torch.isfinite(out).all(dim=1) if sound.all() else sound))[0])
            raise PadimBenchError(
                f"distances of image {bad} of the batch are NaN or infinite: check it and the weights"
            )
        return out


def fit_gaussians(
    moments: TrainingMoments,
    *,
    epsilon: float,
    strategy: str = "cholesky",
    storage: str = "float32",
    consume: bool = False,
    on_positions: Callable[[int], None] = lambda _: None,
) -> PatchGaussians:
    """Factorises the covariance of every position, tile by tile.

    Args:
        moments: of at least 2 images.
        epsilon: added to the diagonal (equation 1).
        strategy: a name in ``STRATEGY_NAMES``.
        storage: a name in ``STORAGE_DTYPES``.
        consume: free the moments on the way; they cannot be used again.
        on_positions: told after each tile how many positions it had.

    Raises:
        PadimBenchError: fewer than 2 images, or an unknown name.
        StrategyInvalidError: the factorisation is wrong or impossible.
    """
    if moments.n < 2:
        raise PadimBenchError(f"{moments.n} training images: a covariance needs at least 2")
    if storage not in STORAGE_DTYPES:
        raise PadimBenchError(f"unknown dtype {storage!r}: choose one of {', '.join(STORAGE_DTYPES)}")
    d, total = moments.embedding.n_features, moments.embedding.n_positions
    chosen = get_strategy(strategy, moments.n, d)
    working = torch.float64 if storage == "float64" else torch.float32
    narrow = storage != "float64" and chosen.fits_in_float32(moments.n, d)
    dtype = torch.float32 if narrow else moments.dtype
    result = PatchGaussians(
        moments.embedding, chosen, moments.n, epsilon, torch.empty(0), {}, computed_in=str(dtype).removeprefix("torch.")
    )
    allocation = threading.Lock()
    sampled = range(0, total, max(1, total // _RESIDUAL_SAMPLES))
    residuals: list[float] = []

    def fit(group: Group) -> None:
        for positions, mean, chunk in moments.read(group, epsilon, dtype):
            fit_tile(positions, mean, chunk)

    def fit_tile(positions: slice, mean: Tensor, chunk: PositionChunk) -> None:
        state = chosen.fit(chunk)
        with allocation:
            if not result.state:  # the first tile tells the shapes
                result.mean = mean.new_empty((total, d), dtype=working)
                for key, value in state.items():
                    # A lone number per position (epsilon) costs nothing to keep whole.
                    kept = working if value[0].numel() == 1 and d > 1 else STORAGE_DTYPES[storage]
                    result.state[key] = value.new_empty((total, *value.shape[1:]), dtype=kept)
        result.mean[positions] = mean
        for key, value in state.items():
            result.state[key][positions] = value.to(result.state[key].dtype)
        for position in sampled[-(-positions.start // sampled.step) : -(-positions.stop // sampled.step)]:
            residuals.append(_residual(result, chunk, positions.start, position, working))
        on_positions(positions.stop - positions.start)

    with torch.no_grad():
        for_each(fit, moments.groups(consume=consume), parallel=not (chosen.all_threads or moments.on_gpu))
    result.residual = max(residuals)
    if chosen.exact and not result.residual <= _RESIDUAL_LIMIT:
        raise StrategyInvalidError(
            f"{chosen.name} in {storage} is wrong here: squared distances are off by up to "
            f"{result.residual:.3g} relative to float64: use another strategy or dtype"
        )
    return result


def _residual(fitted: PatchGaussians, chunk: PositionChunk, first: int, position: int, working: torch.dtype) -> float:
    """Relative error of squared distances at one position of a chunk, for random directions and covariates.

    Half of the probes are isotropic, half are drawn from the Gaussian itself, as real data is.
    """
    here = slice(position - first, position - first + 1)
    one = PositionChunk(
        chunk.n,
        chunk.epsilon,
        None if chunk.centred is None else chunk.centred[here].double(),
        None if chunk.scatter is None else chunk.scatter[here].double(),
    )
    factor = one.cholesky()
    generator = torch.Generator().manual_seed(position)
    noise = torch.randn(1, factor.shape[1], 8, generator=generator, dtype=torch.float64).to(factor.device)
    delta = torch.cat([noise[:, :, :4], factor @ noise[:, :, 4:]], dim=2).to(working)
    exact = torch.linalg.solve_triangular(factor, delta.double(), upper=False).square().sum(dim=1)
    tile = {k: t[position : position + 1].to(working) for k, t in fitted.state.items()}
    error = ((fitted.strategy.apply(tile, delta).double() - exact) / exact).abs().max()
    return float(error) if torch.isfinite(error) else float("inf")
