"""Dimensionality reduction of patch embeddings (section III-A and V-A).

The paper's is a random selection of channels, compared with PCA in its Table II. Two alternatives of
later work and of ours ask whether the lottery can be had without its spread.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError
from padim_bench.padim.embedding import PatchEmbedding, check_draw, draw_channels, require_finite

REDUCTIONS = {
    "random": "channels drawn without replacement (the paper's)",
    "none": "all channels",
    "stratified": "channels drawn at random, from each layer in proportion to its channels",
    "semi-orthogonal": "projection onto random orthonormal directions (Kim et al., arXiv:2105.14737)",
    "pca": "projection onto the principal components of all training embeddings, positions pooled, not whitened",
}


def check_reduction(reduction: str, n_channels: int, n_features: int | None, seed: int) -> None:
    """Raises PadimBenchError for an unknown name, a seed below 0, or ``n_features`` outside 1..n_channels."""
    if reduction not in REDUCTIONS:
        raise PadimBenchError(f"unknown reduction {reduction!r}: choose one of {', '.join(REDUCTIONS)}")
    check_draw(n_channels, n_features, seed)


def reduced_embedding(
    layer_channels: tuple[int, ...],
    layer_grids: tuple[tuple[int, int], ...],
    reduction: str = "random",
    n_features: int | None = None,
    seed: int = 0,
    components: Tensor | None = None,
) -> PatchEmbedding:
    """The patch embedding of a reduction.

    Args:
        layer_channels: channels of each layer.
        layer_grids: (h, w) of each layer.
        reduction: a name in ``REDUCTIONS``.
        n_features: D; None for as many as there are channels.
        seed: of the draw.
        components: for "pca" the (C, C) result of :func:`principal_components`; its first D rows are used.

    Raises:
        PadimBenchError: as :func:`check_reduction` does.
    """
    total = sum(layer_channels)
    check_reduction(reduction, total, n_features, seed)
    everything = tuple(range(total))
    if reduction == "pca":
        assert components is not None
        return PatchEmbedding(layer_channels, layer_grids, everything, components[: n_features or total])
    if reduction == "semi-orthogonal":
        directions = draw_directions(total, n_features or total, seed)
        return PatchEmbedding(layer_channels, layer_grids, everything, directions)
    if reduction == "stratified" and n_features is not None:
        return PatchEmbedding(layer_channels, layer_grids, draw_stratified(layer_channels, n_features, seed))
    kept = None if reduction == "none" else n_features
    return PatchEmbedding(layer_channels, layer_grids, draw_channels(total, kept, seed))


def draw_stratified(layer_channels: Sequence[int], n_features: int, seed: int) -> tuple[int, ...]:
    """Channels drawn from each layer in proportion to its size, whole numbers by largest remainder.

    For R18 at 100: 14, 29 and 57 of 64, 128 and 256. Indices are into the concatenation of all layers.

    Raises PadimBenchError as :func:`draw_channels` does.
    """
    total = sum(layer_channels)
    check_draw(total, n_features, seed)
    shares = [n_features * n // total for n in layer_channels]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(n_features * layer_channels[i] % total), i))
    for i in by_remainder[: n_features - sum(shares)]:
        shares[i] += 1
    draw, kept, first = random.Random(seed), [], 0
    for n, share in zip(layer_channels, shares, strict=True):
        kept += draw.sample(range(first, first + n), share)
        first += n
    return tuple(kept)


def draw_directions(n_channels: int, n_features: int, seed: int) -> Tensor:
    """(n_features, n_channels) float32 with orthonormal rows, uniform over all such (Haar).

    The QR factor of a Gaussian matrix, its signs fixed by a positive diagonal of R (Mezzadri 2007).
    """
    gaussian = np.random.default_rng(seed).standard_normal((n_channels, n_features))
    q, r = np.linalg.qr(gaussian)
    return torch.from_numpy(np.ascontiguousarray((q * np.sign(np.diag(r))).T, dtype=np.float32))


class ChannelMoments:
    """Mean and scatter of all channels over images and positions, in float64, updated batch by batch.

    One pass over the training embeddings, in memory that does not grow with them.
    """

    def __init__(self, embedding: PatchEmbedding) -> None:
        d = embedding.n_features
        self.embedding = embedding
        self.n = 0
        self._images = 0
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)

    def update(self, selected: Sequence[Tensor], positions_at_a_time: int = 256) -> None:
        """Adds a batch of features as ``PatchEmbedding.select`` gives them.

        Raises PadimBenchError if a feature is NaN or infinite.
        """
        require_finite(selected, self._images)
        self._images += selected[0].shape[1]
        for start in range(0, self.embedding.n_positions, positions_at_a_time):
            stop = min(start + positions_at_a_time, self.embedding.n_positions)
            x = self.embedding.gather(selected, slice(start, stop)).flatten(0, 1).double()
            mean = x.mean(dim=0)
            x -= mean
            gap, n, m = mean - self.mean.to(mean), self.n, len(x)
            # Chan, Golub and LeVeque's pairwise update, as everywhere here: never E[xx'] - mm'.
            self.scatter += (x.T @ x + torch.outer(gap, gap) * (n * m / (n + m))).cpu()
            self.mean += (gap * (m / (n + m))).cpu()
            self.n += m


def principal_components(moments: ChannelMoments) -> tuple[Tensor, Tensor]:
    """Directions of the largest variance of the training embeddings, positions pooled.

    The mean is not subtracted and nothing is scaled: each position's Gaussian has its own mean, and its
    covariance its own scale, to which epsilon is added.

    Returns:
        (C, C) float32 orthonormal rows, variance descending, each row's largest entry positive; and the
        (C,) float64 variances.
    """
    variances, vectors = torch.linalg.eigh(moments.scatter / max(moments.n - 1, 1))
    rows = vectors.T.flip(0)
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return (rows * largest.sign()).float().contiguous(), variances.flip(0).clamp(min=0)
