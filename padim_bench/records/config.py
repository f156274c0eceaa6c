"""One run: everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

from padim_bench.errors import PadimBenchError
from padim_bench.machine.reading import in_one_line
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.protocols import STORED_STRICTLY, Protocol

FUSIONS = ("concatenate", "sum")


@dataclass(frozen=True)
class Wanted:
    """A run over any category, with whatever weights its architecture has.

    Attributes:
        model: what is run.
        extras: further measurements in the record, such as "pro_variants".
    """

    model: PaDiMConfig
    extras: tuple[str, ...] = ()

    def vary(self, **changes: Any) -> Wanted:
        """The same with some of the model's choices changed."""
        return replace(self, model=replace(self.model, **changes))


@dataclass(frozen=True)
class Execution:
    """Where and how a model runs.

    Attributes:
        device: of torch.
        threads: of torch; batched LU depends on them.
        batch_size: images at a time.
    """

    device: str = "cpu"
    threads: int = 1
    batch_size: int = 8

    __pydantic_config__: ClassVar = STORED_STRICTLY


@dataclass(frozen=True)
class RunConfig:
    """A frozen description of one run. With the digests of its data and weights it names the record.

    Attributes:
        dataset, category: what is trained on and tested.
        model: its ``backbone`` an architecture without tag, its ``layers`` timm module names.
        weights: label of the weights (a tag, a file name with digest, or untrained).
        execution: where it ran.
        extras: further measurements in the record, such as "pro_variants".
        every: of a video's frames, the first and then every so many.
    """

    dataset: str
    category: str
    model: PaDiMConfig
    weights: str
    execution: Execution = Execution()
    extras: tuple[str, ...] = ()
    every: int = 1

    __pydantic_config__: ClassVar = STORED_STRICTLY

    @property
    def model_name(self) -> str:
        """As the paper writes it: R18-Rd100, WR50-Rd550, or the architecture with its dimensions."""
        return self.model.name

    @property
    def protocol(self) -> Protocol:
        """The model's."""
        return self.model.protocol

    @property
    def layers(self) -> tuple[str, ...]:
        """timm module names, in order."""
        assert isinstance(self.model.layers, tuple), "a run's layers are resolved"
        return self.model.layers

    def to_dict(self) -> dict[str, Any]:
        """All choices by name."""
        return {
            "dataset": self.dataset,
            "category": self.category,
            "backbone": self.model.backbone,
            "weights": self.weights,
            "layers": self.layers,
            "n_features": self.model.n_features,
            "seed": self.model.seed,
            "strategy": self.model.strategy,
            "dtype": self.model.storage,
            "protocol": self.protocol.to_dict(),
            "compute_dtype": self.model.compute_dtype,
            **vars(self.execution),
            "reduction": self.model.reduction,
            "fusion": self.model.fusion,
            "extras": self.extras,
            "every": self.every,
            "backbone_dtype": self.model.backbone_dtype,
        }

    def identity(self) -> dict[str, Any]:
        """What of it is part of an id."""
        protocol = {name: value for name, value in self.protocol.to_dict().items() if name != "source"}  # prose
        return self.to_dict() | {"protocol": protocol}

    def run_id(self, split_digest: str, weights_sha256: str, **more: Any) -> str:
        """Hex digest of the canonical JSON of the configuration and of its inputs' digests.

        ``more`` are further members: a measurement's "kind", and its "config" with what else was chosen.
        """
        named = {"config": self.identity(), "split": split_digest, "weights": weights_sha256} | more
        canonical = json.dumps(named, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


_MODEL = {field.name: field.name for field in fields(PaDiMConfig)} | {"storage": "dtype"}
_FIELDS = frozenset((*_MODEL.values(), *(f.name for f in (*fields(Execution), *fields(RunConfig))))) - {
    "model",
    "execution",
}


def _nested(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``stored`` is a configuration, member by member as the classes have them."""
    own = {key: value for key, value in stored.items() if key in _FIELDS}
    model = {name: own.pop(key) for name, key in _MODEL.items() if key in own}
    if isinstance(model.get("protocol"), dict):
        model["protocol"] = Protocol.from_dict(model["protocol"])
    execution = {f.name: own.pop(f.name) for f in fields(Execution) if f.name in own}
    return own | {"model": model, "execution": execution}


def read_config(stored: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a record's "config", and what else was chosen for a measurement.

    Options that came after the record was written are put into ``stored``, with what they were then by default.
    Raises ValueError, naming the member, for one that no run can have had.
    """
    from pydantic import ValidationError

    try:
        config: RunConfig = _adapter().validate_json(json.dumps(_nested(stored)), strict=True)
    except ValidationError as error:
        raise ValueError(f"config.{in_one_line(error)}") from None
    except PadimBenchError as error:
        raise ValueError(f"config.protocol: {error}") from None
    model, execution = config.model, config.execution
    for name, least, value in (
        ("threads", 1, execution.threads),
        ("batch_size", 1, execution.batch_size),
        ("every", 1, config.every),
        ("seed", 0, model.seed),
        ("n_features", 1, model.n_features),
    ):
        if value is not None and value < least:
            raise ValueError(f"config.{name}: {value} is less than {least}")
    for name, choices in _CHOICES.items():
        if getattr(model, name) not in choices:
            raise ValueError(f"config.{_MODEL[name]}: {getattr(model, name)!r} is none of {', '.join(choices)}")
    if not model.layers or isinstance(model.layers, str):
        raise ValueError("config.layers: there are none")
    for fields_, complete in (
        (stored, config.to_dict()),
        (stored.setdefault("protocol", {}), config.protocol.to_dict()),
    ):
        for name in complete.keys() - fields_.keys():
            fields_[name] = list(complete[name]) if isinstance(complete[name], tuple) else complete[name]
    return config, {key: value for key, value in stored.items() if key not in _FIELDS}


# Storage and computation, as costs and reports tell them apart.
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_CHOICES: dict[str, Collection[str]] = {
    "reduction": REDUCTIONS,
    "fusion": FUSIONS,
    "storage": _DTYPES,
    "compute_dtype": _DTYPES,
    "backbone_dtype": _DTYPES,
}


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)
