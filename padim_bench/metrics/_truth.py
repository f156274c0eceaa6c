"""Ground truth as bool: what is neither normal nor anomalous is refused, not counted as anomalous."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    """Where a mask, of any shape, is not 0. Raises ValueError for NaN, negative values and what is no number."""
    return _not_zero(mask, "mask")


def as_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Labels of 0 (normal) and 1 (anomalous), or 255 as masks have it. Raises ValueError for any others.

    A convention of -1 and 1, or classes 0, 1 and 2, would otherwise be read as something else than was meant.
    """
    found, given = _not_zero(labels, "labels"), np.asarray(labels)
    if given.dtype != bool and found.any():
        anomalous = given[found]
        if anomalous.flat[0] not in {1, 255} or (anomalous != anomalous.flat[0]).any():
            other = anomalous[(anomalous != 1) if anomalous.flat[0] != 255 else (anomalous != 255)].flat[0]
            raise ValueError(f"labels must be 0 (normal) or 1 (anomalous), but there is {other}")
    return found


def _not_zero(truth: ArrayLike, what: str) -> NDArray[np.bool_]:
    given: NDArray[Any] = np.asarray(truth)
    if given.dtype == bool:
        return given
    if given.dtype.kind not in "uif":
        raise ValueError(f"{what} of {given.dtype}: give 0 where normal and 1 where anomalous")
    if given.dtype.kind == "f" and np.isnan(given).any():
        raise ValueError(f"{what} with NaN: give 0 where normal and 1 where anomalous")
    if given.dtype.kind != "u" and (given < 0).any():
        raise ValueError(f"{what} below 0, as {given.min()}: give 0 where normal and 1 where anomalous")
    return np.asarray(given != 0)
