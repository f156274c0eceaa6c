"""One run: everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from padim_bench.protocols import Protocol


@dataclass(frozen=True)
class RunConfig:
    """A frozen description of one run. With the digests of its data and weights it names the record.

    Attributes:
        dataset, category: what is trained on and tested.
        backbone: timm architecture.
        weights: label of the weights (a tag, a file name with digest, or untrained).
        layers: timm module names, in order.
        reduction: "random" or "none".
        n_features: channels kept; None for all.
        seed: of the random reduction; 0 where nothing is drawn.
        strategy, dtype: how the inverse covariance is held.
        compute_dtype: of means, covariances and factorisations.
        protocol: images, maps and epsilon.
        device, threads: where it ran; batched LU depends on the threads.
        batch_size: images at a time.
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
    batch_size: int = 32
    reduction: str = "random"

    @property
    def model_name(self) -> str:
        """As the paper writes it: R18-Rd100, WR50-Rd550, or the architecture with its dimensions."""
        short = {"resnet18": "R18", "wide_resnet50_2": "WR50"}.get(self.backbone, self.backbone)
        return short if self.n_features is None else f"{short}-Rd{self.n_features}"

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
    """The same run in one spelling: all channels are "none", whatever the seed was."""
    if config.n_features is None or config.n_features == n_channels:
        return replace(config, n_features=None, reduction="none", seed=0)
    return config
