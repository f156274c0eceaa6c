"""Directions that embeddings are projected onto: drawn at random, or the principal components of training features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from padim_bench.padim.embedding import PatchEmbedding, require_finite


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
