"""What a spec's TOML must hold, layout by layout: checked when it is read, so that no page meets less, or what it
would pass over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from padim_bench.data.datasets import DATASETS
from padim_bench.machine.reading import in_one_line
from padim_bench.metrics.summary import METRICS
from padim_bench.padim.reduction import REDUCTIONS

_STRICT = with_config(ConfigDict(extra="forbid", strict=True))
_Count = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=0)]
_Names = Annotated[list[str], Field(min_length=1)]


@_STRICT
class Metric(TypedDict):
    key: str


@_STRICT
class JudgedMetric(TypedDict):
    key: str
    tolerance: Annotated[float, Field(ge=0)]
    beside: NotRequired[str]
    heading: NotRequired[str]


@_STRICT
class Claim(TypedDict):
    text: str
    metric: str
    better: str
    worse: _Names


@_STRICT
class RowModel(TypedDict):
    """A model of a table of cells: what describes it, as ``PaDiMConfig`` has it, and what the paper calls it."""

    title: str
    arch: str
    tag: str
    paper_method: NotRequired[str]
    stand_in_for: NotRequired[str]
    layers: NotRequired[str | list[str]]
    n_features: NotRequired[_Count]
    reduction: NotRequired[str]
    seed: NotRequired[_Seed]
    fusion: NotRequired[Literal["concatenate", "sum"]]
    strategy: NotRequired[str]
    storage: NotRequired[str]
    method: NotRequired[str]


@_STRICT
class DrawnModel(TypedDict):
    title: str
    reduction: str
    n_features: NotRequired[_Count]


@_STRICT
class ComparedModel(TypedDict):
    title: str
    paper_method: str
    arch: str
    tag: str
    n_features: _Count
    reproductions: list[str]


@_STRICT
class MeasuredModel(TypedDict):
    title: str
    arch: str
    tag: str
    n_features: _Count
    seed: _Seed
    strategies: _Names


Walk = TypedDict("Walk", {"from": str, "to": str})  # "from" is a word of Python's
Walk.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]


@_STRICT
class Changed(TypedDict):
    """A choice of the protocol changed alone, by its name in ``protocols.CHOICES``; "none" for no crop."""

    title: str
    resize: NotRequired[int]
    crop: NotRequired[int | Literal["none"]]
    image_interpolation: NotRequired[str]
    mask_interpolation: NotRequired[str]
    map_interpolation: NotRequired[str]
    sigma: NotRequired[float]
    border: NotRequired[str]
    score_from: NotRequired[str]
    epsilon: NotRequired[float]
    compare_at: NotRequired[str]


@_STRICT
class Reproduction(TypedDict):
    id: str
    title: str
    source: str


@_STRICT
class StoredDataset(TypedDict):
    title: str
    grid: _Count
    protocol: str
    n_train: _Count


@_STRICT
class Cells(TypedDict):
    name: str
    number: str
    title: str
    layout: Literal["categories", "models"]
    paper_csv: str
    metrics: Annotated[list[JudgedMetric], Field(min_length=1)]
    models: Annotated[list[RowModel], Field(min_length=1)]
    dataset: NotRequired[str]
    seeds: NotRequired[_Count]
    versions: NotRequired[_Count]
    notes: NotRequired[list[str]]
    claims: NotRequired[list[Claim]]


@_STRICT
class Seeds(TypedDict):
    name: str
    title: str
    layout: Literal["seeds"]
    seeds: _Count
    arch: str
    tag: str
    strategy: str
    reference: str
    paper_csv: str
    paper_method: str
    metrics: Annotated[list[Metric], Field(min_length=1)]
    models: Annotated[list[DrawnModel], Field(min_length=1)]


@_STRICT
class Gaps(TypedDict):
    name: str
    title: str
    layout: Literal["gaps"]
    strategy: str
    seed: _Seed
    paper_csv: str
    reproductions_csv: str
    presets: _Names
    metrics: Annotated[list[Metric], Field(min_length=1)]
    models: Annotated[list[ComparedModel], Field(min_length=1)]
    walks: list[Walk]
    choices: list[Changed]
    reproductions: list[Reproduction]


@_STRICT
class Pro(TypedDict):
    name: str
    title: str
    layout: Literal["pro"]
    strategy: str
    seeds: _Count
    beside: str
    walk: _Names
    rival: str
    paper_csv: str
    reproductions_csv: str
    models: Annotated[list[ComparedModel], Field(min_length=1)]
    reproductions: list[Reproduction]


@_STRICT
class Shots(TypedDict):
    name: str
    title: str
    layout: Literal["shots"]
    seed: _Seed
    images: Annotated[list[_Count], Field(min_length=1)]
    draws: _Count
    resamples: _Count
    channel_seeds: _Count
    enough: Annotated[float, Field(ge=0)]
    few_shot_csv: str
    metrics: Annotated[list[Metric], Field(min_length=1)]
    models: Annotated[list[RowModel], Field(min_length=1)]
    reproductions: list[Reproduction]


@_STRICT
class Strategies(TypedDict):
    name: str
    title: str
    layout: Literal["strategies"]
    arch: str
    tag: str
    n_features: _Count
    seed: _Seed
    dtypes: _Names


@_STRICT
class Effort(TypedDict):
    name: str
    title: str
    layout: Literal["effort"]


@_STRICT
class Timing(TypedDict):
    name: str
    number: str
    title: str
    layout: Literal["timing"]
    paper_csv: str
    n_images: _Count
    models: Annotated[list[MeasuredModel], Field(min_length=1)]
    rivals: NotRequired[list[RowModel]]


@_STRICT
class Memory(TypedDict):
    name: str
    number: str
    title: str
    layout: Literal["memory"]
    paper_csv: str
    n_images: _Count
    growth: Annotated[list[_Count], Field(min_length=1)]
    dtypes: _Names
    datasets: Annotated[list[StoredDataset], Field(min_length=1)]
    models: Annotated[list[MeasuredModel], Field(min_length=1)]
    rivals: NotRequired[list[RowModel]]


LAYOUTS: Mapping[str, Any] = {
    "categories": Cells,
    "models": Cells,
    "seeds": Seeds,
    "gaps": Gaps,
    "pro": Pro,
    "shots": Shots,
    "strategies": Strategies,
    "effort": Effort,
    "timing": Timing,
    "memory": Memory,
}


def check_spec(raw: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the member, for what no page is made of."""
    layout = raw.get("layout")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r} is none of {', '.join(LAYOUTS)}")
    try:
        _adapter(layout).validate_python(raw, strict=True)
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None
    for one in raw.get("metrics", ()):
        _check_known("metric", one["key"], METRICS)
        _check_known("metric", one.get("beside", one["key"]), METRICS)
    for one in (*raw.get("models", ()), *raw.get("rivals", ())):
        _check_known("reduction", one.get("reduction", "random"), REDUCTIONS)
    if "dataset" in raw:
        _check_known("dataset", raw["dataset"], DATASETS)


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r} is none of {', '.join(known)}")


@cache
def _adapter(layout: str) -> TypeAdapter[Any]:
    return TypeAdapter(LAYOUTS[layout])
