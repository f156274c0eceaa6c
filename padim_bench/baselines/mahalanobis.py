"""MahalanobisAD (Rippel, Mertens and Merhof, arXiv:2005.14140): one Gaussian to each level of a network.

Features of each level are averaged over all positions, which leaves one vector x_l per image and level. To those of the
normal images a Gaussian is fitted whose covariance is shrunk as Ledoit and Wolf do (their section III-B),

    Sigma_l = (1 - rho) S_l + rho (tr S_l / p) I,    S_l = 1/n sum (x_l - mu_l)(x_l - mu_l)^T,

and the score of an image is the sum over levels of the Mahalanobis distances (their section III-C),

    s(x) = sum_l sqrt((x_l - mu_l)^T Sigma_l^-1 (x_l - mu_l)).

It says nothing of pixels. The published network is EfficientNet-B4 with its nine levels: stem, seven stages, head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from padim_bench.baselines.base import Baseline
from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.padim.embedding import PatchEmbedding, require_finite


def ledoit_wolf(centred: Tensor) -> Tensor:
    """The shrunk covariance (p, p) of centred rows (n, p): Ledoit and Wolf 2004, as scikit-learn computes it.

    rho is the mean squared error of S's entries, which the rows tell, over S's squared distance from its target,
    and at most 1.
    """
    n, p = centred.shape
    covariance = centred.T @ centred / n
    mean_variance = covariance.trace() / p
    distance = covariance.square().sum() - p * mean_variance**2
    error = (centred.square().sum(dim=1).square().sum() / n - covariance.square().sum()) / n
    rho = float(torch.minimum(error, distance) / distance) if distance > 0 else 0.0
    covariance *= 1 - rho
    covariance.diagonal().add_(rho * mean_variance)
    return covariance


class MahalanobisAD:
    """A Gaussian for each layer of ``embedding``, in float64."""

    computed_in = "float64"

    def __init__(self, embedding: PatchEmbedding) -> None:
        self._pooled: list[list[Tensor]] = [[] for _ in embedding.layer_channels]
        self._means: list[Tensor] = []
        self._factors: list[Tensor] = []
        self.embedding = embedding
        self.clamped = 0

    def update(self, selected: Sequence[Tensor]) -> None:
        """See :class:`~padim_bench.baselines.base.Learner`."""
        require_finite(selected, sum(map(len, self._pooled[0])))
        for held, layer in zip(self._pooled, selected, strict=True):
            held.append(pooled(layer))

    def fit(self) -> None:
        """See :class:`~padim_bench.baselines.base.Learner`."""
        for held in self._pooled if not self._factors else ():
            rows = torch.cat(held)
            if len(rows) < 2:
                raise PadimBenchError("MahalanobisAD fits a covariance: it needs at least 2 training images")
            self._means.append(rows.mean(dim=0))
            factor, info = torch.linalg.cholesky_ex(ledoit_wolf(rows - self._means[-1]))
            if info:
                raise StrategyInvalidError("the covariance of a level is not positive definite: its features are alike")
            self._factors.append(factor)
        self._pooled = []

    def score(self, selected: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
        """See :class:`~padim_bench.baselines.base.Learner`; there is no map."""
        total = torch.zeros(selected[0].shape[1], dtype=torch.float64, device=selected[0].device)
        for layer, mean, factor in zip(selected, self._means, self._factors, strict=True):
            whitened = torch.linalg.solve_triangular(factor, (pooled(layer) - mean).T, upper=False)
            total += whitened.square().sum(dim=0).sqrt()
        return None, total.float()

    @property
    def state_bytes(self) -> int:
        """Of means and Cholesky factors."""
        return sum(t.nbytes for t in (*self._means, *self._factors))


def pooled(layer: Tensor) -> Tensor:
    """The mean over all cells (B, C), float64, of feature maps (cells, B, C)."""
    return layer.mean(dim=0, dtype=torch.float64)


def _state_bytes(embedding: PatchEmbedding, _n: int) -> int:
    return sum(8 * c * (c + 1) for c in embedding.layer_channels)


BASELINES = (
    Baseline(
        "mahalanobis",
        "MahalanobisAD: a Gaussian to each level's averaged features, shrunk as Ledoit and Wolf do; images alone "
        "(arXiv:2005.14140)",
        has_maps=False,
        make=MahalanobisAD,
        state_bytes=_state_bytes,
    ),
)
