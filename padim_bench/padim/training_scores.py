"""Scores of the training images by models that did not see them, and the threshold that they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from padim_bench.errors import PadimBenchError


@dataclass(frozen=True)
class TrainingScores:
    """What a model keeps of its own training images.

    Attributes:
        folds: image i was in fold ``i % folds``.
        scores: of each training image, in order, by Gaussians fitted without its fold.
    """

    folds: int
    scores: tuple[float, ...]

    def quantile(self, quantile: float) -> float:
        """The score that this share of the images stays under. Raises PadimBenchError outside 0..1."""
        if not 0 <= quantile <= 1:
            raise PadimBenchError(f"quantile is {quantile}: choose 0 to 1, as 0.99")
        return float(np.quantile(np.asarray(self.scores), quantile))
