"""Paired differences of runs over the same test images, with intervals: what one choice changes beside another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from padim_bench.metrics.resampling import ends

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """One mean less another, in the unit of tables (points).

    Attributes:
        first, second: the two.
        low, high: ends of the 95 % interval over test images of ``first`` less ``second``.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.first - self.second

    @property
    def told(self) -> bool:
        """Whether the interval leaves 0 out: whether these test images tell the two apart."""
        return self.low > 0 or self.high < 0

    def shown(self, digits: int = 3) -> str:
        """ "0.000 [-0.001, 0.001]"."""
        value, low, high = (round(one, digits) + 0.0 for one in (self.value, self.low, self.high))  # no -0.000
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def paired(first: pd.DataFrame, second: pd.DataFrame, categories: Sequence[str]) -> dict[str, Difference] | None:
    """The difference in every category, and as "mean" that of the means over them.

    A resample draws the same images for both sides, so that what an image adds to both cancels; categories are
    resampled apart. Replicates of a side, such as seeds, are averaged first.

    Args:
        first, second: lines of ``shown_values`` of one metric, one for each replicate and category.
        categories: which; both sides have all of them, over the same splits.

    Returns:
        None where a run of either side lacks the metric or its resampled values.
    """
    sides = [_by_category(one, categories) for one in (first, second)]
    if not categories or any(side is None for side in sides):
        return None
    (values, drawn), (other_values, other_drawn) = (side for side in sides if side is not None)
    found = {c: _difference(values[i], other_values[i], drawn[i] - other_drawn[i]) for i, c in enumerate(categories)}
    mean = _difference(values.mean(), other_values.mean(), (drawn - other_drawn).mean(axis=0))
    return found | {"mean": mean}


def _by_category(
    lines: pd.DataFrame, categories: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Means over replicates: values (categories,), and resampled ones (categories, n)."""
    values, drawn = [], []
    for category in categories:
        mine = lines[lines.category == category]
        if mine.empty or mine.value.isna().any() or any(one is None for one in mine.resampled):
            return None
        values.append(float(mine.value.mean()))
        drawn.append(np.mean(list(mine.resampled), axis=0))
    return np.array(values), np.array(drawn)


def _difference(first: float, second: float, drawn: NDArray[np.float64]) -> Difference:
    return Difference(float(first), float(second), *ends(drawn))
