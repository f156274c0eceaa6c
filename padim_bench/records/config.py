"""One run: everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

from padim_bench.errors import PadimBenchError
from padim_bench.machine.reading import in_one_line
from padim_bench.padim.paper import short_name
from padim_bench.padim.reduction import REDUCTIONS, WHOLE
from padim_bench.protocols import STORED_STRICTLY, Protocol

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

    __pydantic_config__: ClassVar = STORED_STRICTLY

    @property
    def model_name(self) -> str:
        """As the paper writes it: R18-Rd100, WR50-Rd550, or the architecture with its dimensions."""
        short = short_name(self.backbone)
        if self.fusion == "sum":
            return f"{short}-sum"
        if len(self.layers) == 1:
            short += f"-{self.layers[0]}"
        return short if self.n_features is None else f"{short}-{REDUCTIONS[self.reduction].label}{self.n_features}"

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"protocol": self.protocol.to_dict()}

    def identity(self) -> dict[str, Any]:
        """What of it is part of an id."""
        protocol = {name: value for name, value in self.protocol.to_dict().items() if name != "source"}  # prose
        return vars(self) | {"protocol": protocol}

    def run_id(self, split_digest: str, weights_sha256: str, **more: Any) -> str:
        """Hex digest of the canonical JSON of the configuration and of its inputs' digests.

        ``more`` are further members: a measurement's "kind", and its "config" with what else was chosen.
        """
        named = {"config": self.identity(), "split": split_digest, "weights": weights_sha256} | more
        canonical = json.dumps(named, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_config(stored: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a record's "config", and what else was chosen for a measurement.

    Options that came after the record was written are put into ``stored``, with what they were then by default.
    Raises ValueError, naming the member, for one that no run can have had.
    """
    from pydantic import ValidationError

    own = {key: value for key, value in stored.items() if key in _FIELDS}
    try:
        config: RunConfig = _adapter().validate_json(json.dumps(own), strict=True)
    except ValidationError as error:
        raise ValueError(f"config.{in_one_line(error)}") from None
    except PadimBenchError as error:
        raise ValueError(f"config.protocol: {error}") from None
    for name, least in (("threads", 1), ("batch_size", 1), ("every", 1), ("seed", 0), ("n_features", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"config.{name}: {value} is less than {least}")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"config.{name}: {getattr(config, name)!r} is none of {', '.join(choices)}")
    if not config.layers:
        raise ValueError("config.layers: there are none")
    for fields_, complete in ((stored, config.to_dict()), (stored["protocol"], config.protocol.to_dict())):
        for name in complete.keys() - fields_.keys():
            fields_[name] = list(complete[name]) if isinstance(complete[name], tuple) else complete[name]
    return config, {key: value for key, value in stored.items() if key not in _FIELDS}


_FIELDS = frozenset(field.name for field in fields(RunConfig))
# Storage and computation, as costs and reports tell them apart.
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_CHOICES: dict[str, Collection[str]] = {
    "reduction": REDUCTIONS,
    "fusion": FUSIONS,
    "dtype": _DTYPES,
    "compute_dtype": _DTYPES,
    "backbone_dtype": _DTYPES,
}


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)


def normalised(config: RunConfig, n_channels: int) -> RunConfig:
    """The same run in one spelling: all channels are all, however they were chosen; what draws nothing has seed 0."""
    reduction = REDUCTIONS[config.reduction]
    if reduction.keeps_all or (config.n_features in {None, n_channels} and not reduction.projects):
        return replace(config, n_features=None, reduction=WHOLE, seed=0)
    return config if reduction.drawn else replace(config, seed=0)
