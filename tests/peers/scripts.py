"""PaDiM as popular scripts do it: NumPy and SciPy, one position at a time. A contender, and no reference.

Equation 1 is ``np.cov`` at every position. Equation 2 is ``scipy``'s Mahalanobis distance, with the
covariance inverted anew for every position of every image. Maps are resized by PIL and smoothed by SciPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis

Gaussians = tuple[NDArray[np.floating], NDArray[np.floating]]


def fit(embeddings: NDArray[np.floating], epsilon: float) -> Gaussians:
    """Means (d, P) and covariances (P, d, d) of embeddings (n, d, h, w)."""
    n, d = embeddings.shape[:2]
    vectors = embeddings.reshape(n, d, -1)
    covariances = np.empty((vectors.shape[2], d, d), dtype=embeddings.dtype)
    for i in range(vectors.shape[2]):
        covariances[i] = np.cov(vectors[:, :, i], rowvar=False) + epsilon * np.identity(d)
    return vectors.mean(axis=0), covariances


def distances(embeddings: NDArray[np.floating], gaussians: Gaussians) -> NDArray[np.float64]:
    """Mahalanobis distances (B, h, w) of embeddings (B, d, h, w)."""
    mean, covariances = gaussians
    vectors = embeddings.reshape(*embeddings.shape[:2], -1)
    found = np.empty((len(vectors), vectors.shape[2]))
    for b, image in enumerate(vectors):
        for i, covariance in enumerate(covariances):
            found[b, i] = mahalanobis(image[:, i], mean[:, i], np.linalg.inv(covariance))
    return found.reshape(len(embeddings), *embeddings.shape[2:])


def maps(distances: NDArray[np.floating], size: int, sigma: float) -> NDArray[np.float32]:
    """Maps (B, size, size): bilinear, then a Gaussian filter."""
    resized = (
        Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR) for image in distances
    )
    return np.stack([gaussian_filter(np.asarray(image), sigma) for image in resized])
