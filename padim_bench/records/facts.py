"""What records of runs and of costs say alike: of which category, with whose weights, and where it happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import AfterValidator

from padim_bench.data.datasets import official_split
from padim_bench.padim.digests import weights_identity
from padim_bench.records.values import AtLeastOne, Count, Digest, Number, Text

if TYPE_CHECKING:
    from padim_bench.data.samples import Category
    from padim_bench.records.config import RunConfig


def _names_versions(versions: dict[str, str]) -> dict[str, str]:
    for name in ("padim-bench", "torch", "timm"):
        if not versions.get(name):
            raise ValueError(f"no version of {name}")
    return versions


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where it happened, as ``machine.environment`` tells it.

    Attributes:
        instructions: for half precision and int8, which the processor has; None where the system did not tell.
        native_half: the half precisions that torch multiplied natively there; None where that is not known.
    """

    os: str | None = None
    cpu: str
    cpu_count: AtLeastOne | None = None
    cpu_capability: str | None = None
    instructions: list[str] | None = None
    native_half: list[str] | None = None
    threads: AtLeastOne | None = None
    openmp: dict[str, str]
    blas: str | None = None
    python: str | None = None
    versions: Annotated[dict[str, str], AfterValidator(_names_versions)]
    commit: str | None
    dirty: bool | None
    gpu: str | None = None
    cuda: str | None = None
    tf32: bool | None = None

    @property
    def processor(self) -> str:
        """What computed: the GPU where there was one, else the CPU."""
        return self.gpu or self.cpu


@dataclass(frozen=True, kw_only=True)
class WeightsUsed:
    """Whose weights, as ``Weights.to_dict`` tells them.

    Attributes:
        sha256: of the file; for untrained weights of their seed's name.
        tensors_sha256: of the tensors, whatever file they lie in.
        resampled: names of those that were resampled for the images' size.
    """

    arch: Text
    label: Text
    sha256: Digest
    tensors_sha256: Digest
    trained: bool
    mean: tuple[Number, Number, Number]
    std: tuple[Number, Number, Number]
    tag: str | None
    seed: Count | None
    note: str
    resampled: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What decides numbers, and so is part of ids; see ``digests.weights_identity``."""
        return weights_identity(self.tensors_sha256, self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class DatasetUsed:
    """The category, or the scene, that a run or a measurement is of.

    Attributes:
        name: of the dataset.
        kind: "texture", "object", "scene", or what a folder is.
        split_digest: of all images and masks, and which are for training.
        official_split: whether it is the published one; None where none is known.
        resolution: at which pixels are compared.
    """

    name: str
    category: str
    kind: str
    split_digest: Digest
    n_train: AtLeastOne
    n_test: Count
    has_masks: bool
    official_split: bool | None
    resolution: str


def used(category: Category, split_digest: str, config: RunConfig) -> dict[str, Any]:
    """The members of :class:`DatasetUsed`, of a category of images."""
    return {
        "name": category.dataset,
        "category": category.name,
        "kind": category.kind,
        "split_digest": split_digest,
        "n_train": len(category.train),
        "n_test": len(category.test),
        "has_masks": category.has_masks,
        "official_split": official_split(category),
        "resolution": config.protocol.resolution,
    }


def machine_name(record: Recorded) -> str:
    """GPU or processor, and threads: what tells machines apart in tables."""
    n = record.config.execution.threads
    return f"{record.environment.processor}, {n} thread{'s' if n > 1 else ''}"


class Recorded(Protocol):
    """What all records have: of runs, of costs, of growth."""

    @property
    def key(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def dataset(self) -> DatasetUsed: ...
    @property
    def weights(self) -> WeightsUsed: ...
    @property
    def environment(self) -> Environment: ...
