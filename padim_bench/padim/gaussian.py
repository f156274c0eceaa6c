"""Gaussians of all positions and distances from them, at speed: what ``equations.py`` states (equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.moments import Group, TrainingMoments
from padim_bench.padim.parallel import for_each
from padim_bench.padim.strategies import STORAGE_DTYPES, PositionChunk, State, Strategy, get_strategy, working_dtype
from padim_bench.padim.tiling import MEASURED, Tiling, slices

# A squared distance off by more than this (relative) is not rounding, whatever the storage dtype.
_RESIDUAL_LIMIT = 0.25
_RESIDUAL_SAMPLES = 64  # positions, evenly spaced; each costs a factorisation in float64


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

    def squared_distances(self, selected: Sequence[Tensor], *, tiling: Tiling = MEASURED) -> Tensor:
        """Equation 2, squared.

        Args:
            selected: features as ``PatchEmbedding.select`` gives them.
            tiling: how positions are cut.

        Returns:
            (B, P) in the dtype of the means, never negative.

        Raises:
            PadimBenchError: NaN or infinite distances.
        """
        n_images, total = selected[0].shape[1], self.embedding.n_positions
        out = self.mean.new_empty(n_images, total)
        # Widened is what is stored in a narrower dtype than the means, in which it is applied.
        narrow = [k for k, t in self.state.items() if t.element_size() < self.mean.element_size()]
        values = sum(t[0].numel() for t in self.state.values()) + 2 * n_images * self.embedding.n_features
        cut = tiling.scoring(
            total,
            self.mean.element_size() * values,
            sum(t.nbytes for t in self.state.values()),
            torch.get_num_threads(),
            widened=bool(narrow),
            products=self.strategy.products,
        )

        def apply(positions: slice) -> None:
            delta = self.embedding.gather(selected, positions).to(self.mean.dtype)
            delta -= self.mean[positions].unsqueeze(1)
            # Widened into the same memory every time: fresh memory costs as much as the widening.
            wide = {k: self.mean.new_empty((cut.tile, *self.state[k].shape[1:])) for k in narrow}
            for first in range(positions.start, positions.stop, cut.tile):
                tile = slice(first, min(first + cut.tile, positions.stop))
                state = {k: t[tile] for k, t in self.state.items()}
                for k in narrow:
                    state[k] = wide[k][: len(state[k])].copy_(state[k])
                here = delta[tile.start - positions.start : tile.stop - positions.start]
                out[:, tile] = self.strategy.apply(state, here.mT, self.epsilon).T

        for_each(apply, slices(total, cut.group), parallel=not (cut.together or out.is_cuda))
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
        strategy: a name in ``strategy_names()``.
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
    d, total, device = moments.embedding.n_features, moments.embedding.n_positions, moments.device
    chosen, stored = get_strategy(strategy, moments.n, d), STORAGE_DTYPES[storage]
    working = working_dtype(stored)
    narrow = working == torch.float32 and chosen.fits_in_float32(moments.n, d)
    dtype = torch.float32 if narrow else moments.dtype
    result = PatchGaussians(
        moments.embedding,
        chosen,
        moments.n,
        epsilon,
        mean=torch.empty(total, d, dtype=working, device=device),
        state={
            key: torch.empty(total, *shape, dtype=kept, device=device)
            for key, (shape, kept) in chosen.stored(moments.n, d, stored).items()
        },
        computed_in=str(dtype).removeprefix("torch."),
    )
    sampled = range(0, total, max(1, total // _RESIDUAL_SAMPLES))
    residuals: list[float] = []

    def fit(group: Group) -> None:
        for positions, mean, chunk in moments.read(group, epsilon, dtype):
            fit_tile(positions, mean, chunk)

    def fit_tile(positions: slice, mean: Tensor, chunk: PositionChunk) -> None:
        result.mean[positions] = mean
        for key, value in chosen.fit(chunk).items():
            result.state[key][positions] = value.to(result.state[key].dtype)
        for position in sampled[-(-positions.start // sampled.step) : -(-positions.stop // sampled.step)]:
            residuals.append(_residual(result, chunk, positions.start, position, working))
        on_positions(positions.stop - positions.start)

    with torch.no_grad():
        for_each(fit, moments.groups(consume=consume), parallel=not (chosen.all_threads or device.type == "cuda"))
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
    error = ((fitted.strategy.apply(tile, delta, fitted.epsilon).double() - exact) / exact).abs().max()
    return float(error) if torch.isfinite(error) else float("inf")
