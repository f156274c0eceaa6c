"""Gaussians of all positions and distances from them, at speed: what ``equations.py`` states (equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.padim.config import HALF_PRODUCTS
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.half import HALF_DTYPES, image_class, multiplies, native_is_faster
from padim_bench.padim.moments import Group, TrainingMoments
from padim_bench.padim.parallel import for_each
from padim_bench.padim.strategies import (
    GATES,
    STORAGE_DTYPES,
    PositionChunk,
    State,
    Strategy,
    get_strategy,
    working_dtype,
)
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
        native_residual: the residual where a state in half precision is multiplied as it lies; None where no such
            product is tried: for other strategies and storage, and for "widened".
        half_products: "auto", "native" or "widened", as :class:`PaDiMConfig` has it.
        applied: "native" or "widened", what distances from a state in half precision were computed by so far.
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
    native_residual: float | None = None
    half_products: str = "auto"
    applied: set[str] = field(default_factory=set)

    @property
    def storage(self) -> torch.dtype:
        """Of the state's first tensor: of all but what a strategy keeps more exactly."""
        return next(iter(self.state.values())).dtype

    @property
    def may_be_native(self) -> bool:
        """Whether a product in half precision passes the storage's gate at the sampled positions."""
        return self.native_residual is not None and self.native_residual <= GATES[_name(self.storage)]

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
        out = self._squared(selected, tiling, native := self._chooses_native(selected[0].shape[1]))
        if native and not torch.isfinite(out).all():
            out = self._squared(selected, tiling, native := False)  # a product that overflows half precision
        if self.storage in HALF_DTYPES:
            self.applied.add("native" if native else "widened")
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

    def _chooses_native(self, n_images: int) -> bool:
        if not self.may_be_native or self.half_products == "widened":
            return False
        d, device, images = self.embedding.n_features, str(self.mean.device), image_class(n_images)
        return self.half_products == "native" or native_is_faster(
            self.strategy, self.n, d, self.storage, images, device
        )

    def _squared(self, selected: Sequence[Tensor], tiling: Tiling, native: bool) -> Tensor:
        """Squared distances before they are looked at; ``native``: from the state as it lies."""
        n_images, total = selected[0].shape[1], self.embedding.n_positions
        out = self.mean.new_empty(n_images, total)
        dtype = self.storage if native else self.mean.dtype
        # Widened is what is stored in a narrower dtype than it is applied in.
        narrow = [k for k, t in self.state.items() if t.element_size() < dtype.itemsize]
        values = sum(t[0].numel() for t in self.state.values()) + 2 * n_images * self.embedding.n_features
        cut = tiling.scoring(
            total,
            dtype.itemsize * values,
            sum(t.nbytes for t in self.state.values()),
            torch.get_num_threads(),
            widened=bool(narrow),
            products=self.strategy.products,
        )

        def apply(positions: slice) -> None:
            delta = self.embedding.gather(selected, positions).to(self.mean.dtype)
            delta -= self.mean[positions].unsqueeze(1)
            delta = delta.to(dtype)
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
        return out


def fit_gaussians(
    moments: TrainingMoments,
    *,
    epsilon: float,
    strategy: str = "cholesky",
    storage: str = "float32",
    half_products: str = "auto",
    consume: bool = False,
    on_positions: Callable[[int], None] = lambda _: None,
) -> PatchGaussians:
    """Factorises the covariance of every position, tile by tile.

    Args:
        moments: of at least 1 image, whose covariance is epsilon I where it is alone.
        epsilon: added to the diagonal (equation 1).
        strategy: a name in ``strategy_names()``.
        storage: a name in ``STORAGE_DTYPES``.
        half_products: a name in ``HALF_PRODUCTS``.
        consume: free the moments on the way; they cannot be used again.
        on_positions: told after each tile how many positions it had.

    Raises:
        PadimBenchError: no image, or an unknown name.
        StrategyInvalidError: the factorisation is wrong or impossible.
    """
    if moments.n < 1:
        raise PadimBenchError("no training images: a Gaussian needs at least 1")
    if storage not in STORAGE_DTYPES:
        raise PadimBenchError(f"unknown dtype {storage!r}: choose one of {', '.join(STORAGE_DTYPES)}")
    if half_products not in HALF_PRODUCTS:
        raise PadimBenchError(f"unknown half_products {half_products!r}: choose one of {', '.join(HALF_PRODUCTS)}")
    d, total, device = moments.embedding.n_features, moments.embedding.n_positions, moments.device
    stored = STORAGE_DTYPES[storage]
    native = half_products != "widened" and multiplies(stored, device)
    chosen = get_strategy(strategy, moments.n, d, native=native)
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
        computed_in=_name(dtype),
        half_products=half_products,
    )
    sampled = range(0, total, max(1, total // _RESIDUAL_SAMPLES))
    asked = [working]
    if stored in HALF_DTYPES and chosen.native and half_products != "widened":
        asked.append(stored)
    residuals: dict[torch.dtype, list[float]] = {one: [] for one in asked}

    def fit(group: Group) -> None:
        for positions, mean, chunk in moments.read(group, epsilon, dtype):
            fit_tile(positions, mean, chunk)

    def fit_tile(positions: slice, mean: Tensor, chunk: PositionChunk) -> None:
        result.mean[positions] = mean
        for key, value in chosen.fit(chunk).items():
            result.state[key][positions] = _stored(value, result.state[key].dtype)
        for position in sampled[-(-positions.start // sampled.step) : -(-positions.stop // sampled.step)]:
            probes = _probes(chunk, position - positions.start, position, working)
            for applied_in, found in residuals.items():
                found.append(_residual(result, probes, position, applied_in))
        on_positions(positions.stop - positions.start)

    with torch.no_grad():
        for_each(fit, moments.groups(consume=consume), parallel=not (chosen.all_threads or device.type == "cuda"))
    result.residual, *of_native = (max(found) for found in residuals.values())
    result.native_residual = of_native[0] if of_native else None
    if chosen.exact and not result.residual <= _RESIDUAL_LIMIT:
        raise StrategyInvalidError(
            f"{chosen.name} in {storage} is wrong here: squared distances are off by up to "
            f"{result.residual:.3g} relative to float64: use another strategy or dtype"
        )
    return result


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A state's tensor in its storage dtype. Raises StrategyInvalidError for what would become infinite in it."""
    if (
        dtype == torch.float16
        and value.numel()
        and (largest := float(value.abs().max())) > (most := torch.finfo(dtype).max)
    ):
        raise StrategyInvalidError(
            f"the state has numbers of up to {largest:.3g}, more than {most:.0f}, the largest number of float16: use "
            "bfloat16 or float32 storage, or a larger epsilon"
        )
    return value.to(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _probes(chunk: PositionChunk, index: int, seed: int, working: torch.dtype) -> tuple[Tensor, Tensor]:
    """Differences from the mean (1, D, 8) at one position of a chunk, and their exact squared distances (1, 8).

    Half of them are isotropic, half are drawn from the Gaussian itself, as real data is.
    """
    here = slice(index, index + 1)
    one = PositionChunk(
        chunk.n,
        chunk.epsilon,
        None if chunk.centred is None else chunk.centred[here].double(),
        None if chunk.scatter is None else chunk.scatter[here].double(),
    )
    factor = one.cholesky()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, factor.shape[1], 8, generator=generator, dtype=torch.float64).to(factor.device)
    delta = torch.cat([noise[:, :, :4], factor @ noise[:, :, 4:]], dim=2).to(working)
    return delta, torch.linalg.solve_triangular(factor, delta.double(), upper=False).square().sum(dim=1)


def _residual(fitted: PatchGaussians, probes: tuple[Tensor, Tensor], position: int, applied_in: torch.dtype) -> float:
    """Largest relative error of squared distances at one position, its state and the probes in ``applied_in``."""
    delta, exact = probes
    tile = {k: t[position : position + 1].to(applied_in) for k, t in fitted.state.items()}
    found = fitted.strategy.apply(tile, delta.to(applied_in), fitted.epsilon)
    error = ((found.double() - exact) / exact).abs().max()
    return float(error) if torch.isfinite(error) else float("inf")
