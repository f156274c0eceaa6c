"""The one description of a model: all that decides its numbers beside the values of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from padim_bench.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True)
class PaDiMConfig:
    """What ``PaDiM``'s keywords say, and what pages want runs of.

    Attributes:
        backbone: timm architecture, with its tag where the weights are to have one.
        layers: "paper", a named reading, or timm module names, in order.
        n_features: dimensions kept (section III-A); None for all.
        reduction: a name in ``REDUCTIONS``.
        seed: of a reduction that draws.
        fusion: "concatenate" (the paper's), or "sum" for the sum of the maps of one model per layer.
        strategy: how the inverse covariance is held; a name in ``STRATEGIES``, or "auto".
        storage: dtype of the strategy's state.
        compute_dtype: of means, covariances and factorisations.
        backbone_dtype: of the backbone's convolutions.
        protocol: images, maps and epsilon.
    """

    backbone: str = "resnet18.tv_in1k"
    layers: str | tuple[str, ...] = "paper"
    n_features: int | None = 100
    reduction: str = "random"
    seed: int = 0
    fusion: str = "concatenate"
    strategy: str = "cholesky"
    storage: str = "float32"
    compute_dtype: str = "float64"
    backbone_dtype: str = "float32"
    protocol: Protocol = PROTOCOLS["paper"]
