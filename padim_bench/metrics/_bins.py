"""Bins of scores for histograms in bounded memory, the same for any score without a range in advance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SHIFT = 12
BINS = 1 << (32 - _SHIFT)


def score_bins(scores: NDArray[np.generic]) -> NDArray[np.uint32]:
    """Index in [0, BINS) of each score, same shape: the leading bits of its float32 representation.

    Monotone in the score, infinities included; a bin is at most 1/2048 of its score wide. NaN is for the
    caller to refuse.
    """
    # Adding 0 turns -0.0, a tie with 0.0 that has other bits, into 0.0.
    bits = (np.ascontiguousarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32)
    # All bits of a negative score are flipped, of others the sign alone.
    flipped = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    return (bits ^ flipped) >> np.uint32(_SHIFT)
