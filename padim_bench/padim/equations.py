"""PaDiM's equations 1 and 2 as the paper prints them, in float64: what everything faster is held to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]


def gaussian(x: ArrayLike, epsilon: float) -> tuple[Array, Array]:
    """Equation 1 (section III-B): mean (D,) and covariance (D, D) of training embeddings (N, D) at one position.

    Sigma = 1 / (N - 1) * sum over k of (x_k - mu)(x_k - mu)^T + epsilon I

    Of one image, of which the paper does not speak, the sum is 0, and Sigma is taken to be epsilon I.
    """
    x = np.asarray(x, dtype=np.float64)
    mu = x.mean(axis=0)
    return mu, (x - mu).T @ (x - mu) / max(len(x) - 1, 1) + epsilon * np.eye(x.shape[1])


def mahalanobis(x: ArrayLike, mu: Array, sigma: Array) -> Array:
    """Equation 2 (section III-C): distances (B,) of embeddings (B, D) at that position.

    M(x) = sqrt((x - mu)^T Sigma^-1 (x - mu))
    """
    delta = np.asarray(x, dtype=np.float64) - mu
    squared: Array = np.sum(delta * cho_solve(cho_factor(sigma), delta.T).T, axis=1)
    return np.sqrt(squared)


def distances(train: ArrayLike, images: ArrayLike, epsilon: float) -> Array:
    """Both at every position: distances (B, P) of embeddings (B, D, P) from the Gaussians of (N, D, P)."""
    positions = zip(np.moveaxis(np.asarray(train), 2, 0), np.moveaxis(np.asarray(images), 2, 0), strict=True)
    return np.stack([mahalanobis(y, *gaussian(x, epsilon)) for x, y in positions], axis=1)
