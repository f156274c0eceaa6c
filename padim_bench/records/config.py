"""One run: everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

from padim_bench.data.drawn import Drawn
from padim_bench.errors import PadimBenchError
from padim_bench.machine.reading import in_one_line
from padim_bench.padim.config import HALF_PRODUCTS, PaDiMConfig
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.protocols import STORED_STRICTLY, Protocol
from padim_bench.records.canonical import chosen

FUSIONS = ("concatenate", "sum")


@dataclass(frozen=True)
class Wanted:
    """A run over any category, with whatever weights its architecture has.

    Attributes:
        model: what is run.
        extras: further measurements in the record, such as "pro_variants".
        trained: which of the training images it learns from; None for all of them.
    """

    model: PaDiMConfig
    extras: tuple[str, ...] = ()
    trained: Drawn | None = None

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
        trained: which of the training images it learns from; None for all of them.
    """

    dataset: str
    category: str
    model: PaDiMConfig
    weights: str = ""
    execution: Execution = Execution()
    extras: tuple[str, ...] = ()
    every: int = 1
    trained: Drawn | None = None

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

    def run_id(self, split_digest: str, weights_identity: str, **more: Any) -> str:
        """Hex digest of the canonical JSON of the configuration and of its inputs' digests.

        Of the configuration it has what is not as by default, so that an option that is added later changes no id;
        the weights are in it by their ``identity``, whatever their label. ``more`` are further members, such as a
        measurement's "kind".
        """
        named = {"config": chosen(replace(self, weights="")), "split": split_digest, "weights": weights_identity}
        canonical = json.dumps(named | more, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_config(stored: Any) -> RunConfig:
    """The configuration that a record holds; a member that it lacks is as it is by default.

    Raises ValueError, naming the member, for one that no run can have had.
    """
    from pydantic import ValidationError

    try:
        config: RunConfig = _adapter().validate_json(json.dumps(stored), strict=True)
    except ValidationError as error:
        raise ValueError(in_one_line(error, "config")) from None
    except PadimBenchError as error:
        raise ValueError(f"config.model.protocol: {error}") from None
    model, execution = config.model, config.execution
    for name, least, value in (
        ("execution.threads", 1, execution.threads),
        ("execution.batch_size", 1, execution.batch_size),
        ("every", 1, config.every),
        ("model.seed", 0, model.seed),
        ("model.n_features", 1, model.n_features),
    ):
        if value is not None and value < least:
            raise ValueError(f"config.{name}: {value} is less than {least}")
    if config.trained is not None and (problem := config.trained.problem()):
        raise ValueError(f"config.trained.{problem}")
    for name, choices in _CHOICES.items():
        if getattr(model, name) not in choices:
            raise ValueError(f"config.model.{name}: {getattr(model, name)!r} is none of {', '.join(choices)}")
    if not model.layers or isinstance(model.layers, str):
        raise ValueError("config.model.layers: not a list of names")
    return config


# Storage and computation, as costs and reports tell them apart.
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_CHOICES: dict[str, Collection[str]] = {
    "reduction": REDUCTIONS,
    "fusion": FUSIONS,
    "storage": _DTYPES,
    "compute_dtype": _DTYPES,
    "backbone_dtype": _DTYPES,
    "half_products": HALF_PRODUCTS,
}


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)
