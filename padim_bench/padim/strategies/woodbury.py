"""The low-rank form: with n images the sample covariance has rank n - 1 at most (Woodbury identity).

Sigma = U diag(l) U^T + epsilon I, with r = min(n - 1, d) eigenpairs, so exactly

    Sigma^(-1/2) = (I - V^T V) / sqrt(epsilon),   rows of V: sqrt(1 - sqrt(epsilon / (epsilon + l_i))) u_i.

Only V, r rows of d, is stored. The squared distance |delta - V^T V delta|^2 / epsilon is a sum of
squares: never negative, and without the cancellation of |delta|^2 - |V delta|^2, the usual form, which
loses a factor of the condition number instead of its square root.
"""

from __future__ import annotations

import torch
from torch import Tensor

from padim_bench.padim.strategies.base import PositionChunk, State, Strategy


def fit(chunk: PositionChunk) -> State:
    if (rows := image_rows(chunk)) is not None:
        eigenvalues, vectors = torch.linalg.eigh(torch.bmm(rows, rows.mT))
        # rows^T w = sqrt(l) u; the scale below is divided by sqrt(l) in the same step.
        basis = torch.bmm(vectors.mT, rows)
    else:
        eigenvalues, basis = principal_rows(chunk)
    root = (1 + eigenvalues.clamp(min=0) / chunk.epsilon).sqrt()
    # (1 - 1 / root) / l with l = epsilon (root - 1) (root + 1): no 0 / 0 for directions without variance.
    scale = (1 / (chunk.epsilon * root * (root + 1))).sqrt()
    rows = (basis * scale.unsqueeze(2)).contiguous()
    return {"rows": rows}


def image_rows(chunk: PositionChunk) -> Tensor | None:
    """n - 1 rows of D whose Gram sum is Sigma - epsilon I; None if the images are not at hand or outnumber D.

    n centred rows have that sum too; a Householder reflection takes the row of their mean, which is 0, away.
    """
    n, centred = chunk.n, chunk.centred
    if centred is None or n - 1 > centred.shape[2]:
        return None
    if n == 1:  # nothing is left of its mean but the mean
        return centred[:, 1:]
    mirror = torch.full((n, 1), n**-0.5, dtype=centred.dtype, device=centred.device)
    mirror[0] += 1
    mirror /= mirror.norm()
    along = torch.matmul(mirror.mT, centred) * (-2 / (n - 1) ** 0.5)
    return torch.add(mirror[1:] * along, centred[:, 1:], alpha=1 / (n - 1) ** 0.5)


def principal_rows(chunk: PositionChunk) -> tuple[Tensor, Tensor]:
    """Eigenvalues (P, r) of Sigma - epsilon I, r = min(n - 1, D), and r rows with its Gram sum."""
    sigma = chunk.covariance(lower=True)
    sigma.diagonal(dim1=1, dim2=2).sub_(chunk.epsilon)
    eigenvalues, vectors = torch.linalg.eigh(sigma)
    rank = min(chunk.n - 1, sigma.shape[1])  # eigh sorts ascending; the rest is rounding
    first = sigma.shape[1] - rank
    eigenvalues = eigenvalues[:, first:]
    return eigenvalues, vectors[:, :, first:].mT * eigenvalues.clamp(min=0).sqrt().unsqueeze(2)


def apply(state: State, delta: Tensor, epsilon: float) -> Tensor:
    rows, images = state["rows"], delta.mT
    rest = torch.baddbmm(images, torch.bmm(images, rows.mT), rows, alpha=-1)
    return rest.square_().sum(dim=2).div_(epsilon)


STRATEGY = Strategy(
    name="woodbury",
    summary="min(n - 1, d) rows of the low-rank form; exact; smallest when n < d / 2; never negative",
    exact=True,
    fit=fit,
    apply=apply,
    shapes=lambda n, d: {"rows": (min(n - 1, d), d)},
    products=True,
)
