"""How far a result is from the reference, and whether that is still right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def difference(found: ArrayLike, exact: ArrayLike, *, gate: float, relative: bool = True) -> dict[str, Any]:
    """Largest absolute and relative differences; right if the one that counts is within ``gate`` everywhere."""
    found, exact = np.asarray(found, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    if found.shape != exact.shape:  # which would broadcast
        raise ValueError(f"result of shape {found.shape} for a reference of {exact.shape}")
    apart = np.abs(found - exact)
    share = apart / np.maximum(np.abs(exact), np.finfo(float).tiny)
    judged = share if relative else apart
    return {
        "max_abs": float(apart.max()),
        "max_rel": float(share.max()),
        "gate": gate,
        "gate_on": "relative" if relative else "absolute",
        "right": bool((judged <= gate).all()),  # NaN is not
    }
