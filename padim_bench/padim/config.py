"""The one description of a model: all that decides its numbers beside the values of its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from padim_bench.padim.paper import short_name
from padim_bench.padim.reduction import REDUCTIONS, WHOLE
from padim_bench.protocols import PROTOCOLS, STORED_STRICTLY, Protocol

HALF_PRODUCTS = ("auto", "native", "widened")
PADIM = "padim"  # the method that is not a baseline


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
        half_products: how a state in half precision is applied where its strategy allows both: "native", multiplied
            as it lies, "widened" to float32 first, or "auto", whichever this machine does faster.
        protocol: images, maps and epsilon.
        method: PADIM, or the name of a baseline on the same feature maps, in whose normal form all that only PaDiM has
            is as by default, and the strategy is called as the baseline.
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
    half_products: str = "auto"
    protocol: Protocol = PROTOCOLS["paper"]
    method: str = PADIM

    __pydantic_config__: ClassVar = STORED_STRICTLY

    @property
    def name(self) -> str:
        """As the paper writes it: R18-Rd100, WR50-Rd550, or the architecture with its dimensions; spade-R18."""
        short = short_name(self.backbone.partition(".")[0])
        if self.method != PADIM:
            return f"{self.method}-{short}"
        if self.fusion == "sum":
            return f"{short}-sum"
        if len(self.layers) == 1:
            short += f"-{self.layers[0]}"
        return short if self.n_features is None else f"{short}-{REDUCTIONS[self.reduction].label}{self.n_features}"

    def normalised(self, n_channels: int) -> PaDiMConfig:
        """The same model in one spelling: all channels are all, however chosen; what draws nothing has seed 0."""
        if self.method != PADIM:
            return PaDiMConfig(
                backbone=self.backbone,
                layers=self.layers,
                n_features=None,
                reduction=WHOLE,
                strategy=self.method,
                backbone_dtype=self.backbone_dtype,
                protocol=self.protocol,
                method=self.method,
            )
        reduction = REDUCTIONS[self.reduction]
        if reduction.keeps_all or (self.n_features in {None, n_channels} and not reduction.projects):
            return replace(self, n_features=None, reduction=WHOLE, seed=0)
        return self if reduction.drawn else replace(self, seed=0)
