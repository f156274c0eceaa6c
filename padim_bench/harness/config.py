"""One run: everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from padim_bench.protocols import Protocol

SHORT_REDUCTION = {"random": "Rd", "stratified": "St", "semi-orthogonal": "SO", "pca": "PCA", "none": ""}
FUSIONS = ("concatenate", "sum")


@dataclass(frozen=True)
class RunConfig:
    """A frozen description of one run. With the digests of its data and weights it names the record.

    Attributes:
        dataset, category: what is trained on and tested.
        backbone: timm architecture.
        weights: label of the weights (a tag, a file name with digest, or untrained).
        layers: timm module names, in order.
        reduction: a name in ``padim.reduction.REDUCTIONS``.
        n_features: dimensions kept; None for all.
        seed: of a random reduction; 0 where nothing is drawn.
        fusion: "concatenate" (the paper's), or "sum" for the sum of the maps of one model per layer.
        strategy, dtype: how the inverse covariance is held.
        compute_dtype: of means, covariances and factorisations; a strategy that needs no more takes float32,
            which the record says.
        backbone_dtype: of the backbone's convolutions.
        protocol: images, maps and epsilon.
        device, threads: where it ran; batched LU depends on the threads.
        batch_size: images at a time.
        extras: further measurements in the record, such as "pro_variants".
        every: of a video's frames, the first and then every so many.
    """

    dataset: str
    category: str
    backbone: str
    weights: str
    layers: tuple[str, ...]
    n_features: int | None
    seed: int
    strategy: str
    dtype: str
    protocol: Protocol
    compute_dtype: str = "float64"
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 8
    reduction: str = "random"
    fusion: str = "concatenate"
    extras: tuple[str, ...] = ()
    every: int = 1
    backbone_dtype: str = "float32"

    @property
    def model_name(self) -> str:
        """As the paper writes it: R18-Rd100, WR50-Rd550, or the architecture with its dimensions."""
        short = {"resnet18": "R18", "wide_resnet50_2": "WR50"}.get(self.backbone, self.backbone)
        if self.fusion == "sum":
            return f"{short}-sum"
        if len(self.layers) == 1:
            short += f"-{self.layers[0]}"
        return short if self.n_features is None else f"{short}-{SHORT_REDUCTION[self.reduction]}{self.n_features}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def run_id(self, split_digest: str, weights_sha256: str) -> str:
        """Hex digest of the canonical JSON of the configuration and of its inputs' digests."""
        config = self.to_dict()
        del config["protocol"]["source"]  # prose
        named = {"config": config, "split": split_digest, "weights": weights_sha256}
        canonical = json.dumps(named, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def normalised(config: RunConfig, n_channels: int) -> RunConfig:
    """The same run in one spelling: all channels are "none", whatever the seed was; PCA draws nothing."""
    whole = config.n_features in {None, n_channels}
    if config.reduction == "none" or (whole and config.reduction in {"random", "stratified"}):
        return replace(config, n_features=None, reduction="none", seed=0)
    return replace(config, seed=0) if config.reduction == "pca" else config
