"""Methods that the paper compares PaDiM with, on the same feature maps, in one registry.

To add one, write a module with its ``BASELINES`` and name it in ``_MODULES``: it is then listed, run, recorded and
tabled.
"""

from __future__ import annotations

from padim_bench.baselines import mahalanobis, spade
from padim_bench.baselines.base import Baseline, Learner

_MODULES = (spade, mahalanobis)

BASELINES: dict[str, Baseline] = {b.name: b for m in _MODULES for b in m.BASELINES}

__all__ = ["BASELINES", "Baseline", "Learner"]
