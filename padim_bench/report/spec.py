"""Specs of the paper's tables: one TOML file each under ``reproduce/``, and the printed numbers as CSV."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from padim_bench.data.datasets import PAPER_DATASET
from padim_bench.errors import PadimBenchError
from padim_bench.metrics.summary import METRICS
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.report.shapes import check_spec

REPORTS = ("seeds", "gaps", "pro", "shots")
STRATEGIES_TABLE = "strategies"  # made only when named
EFFORT = "effort"  # made of whatever runs are on record


@dataclass(frozen=True)
class TableMetric:
    """A metric of a table, a name in ``METRICS``; ``tolerance`` in points, as shown, decides the verdict.

    ``beside`` is the paper's metric that it is held to where that is another, and ``heading`` what the table then
    says of it.
    """

    key: str
    tolerance: float
    beside: str = ""
    heading: str = ""

    @property
    def title(self) -> str:
        return METRICS[self.key].title

    @property
    def printed(self) -> str:
        """The paper's metric that it is held to."""
        return self.beside or self.key


@dataclass(frozen=True)
class Claim:
    """ "``better`` is above ``worse``", as the paper's text has it of a metric's mean; of several, above the best."""

    text: str
    metric: str
    better: str
    worse: tuple[str, ...]


@dataclass(frozen=True)
class TableModel:
    """A model of a table and its name in the paper's CSV ("" where the paper has no such row).

    ``model`` is a description; with ``--seeds N``, or ``seeds`` in the spec, seeds 0 to N - 1 take the place of its
    own, and the protocol asked for that of its own.
    """

    title: str
    model: PaDiMConfig
    tag: str
    paper_method: str = ""
    stand_in_for: str = ""

    @property
    def drawn(self) -> bool:
        """Whether seeds make a difference."""
        return self.model.n_features is not None and REDUCTIONS[self.model.reduction].drawn


@dataclass(frozen=True)
class Printed:
    """A value of the paper, in percent; where it contradicts the paper's other values, what those give, and why."""

    value: float
    recomputed: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Few:
    """What somebody printed, in percent, as a mean over all categories, and its spread where that is printed too."""

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class TableSpec:
    """One table of the paper, or one of ours.

    Attributes:
        name: file name and command-line name.
        number: the paper's Roman number; "" for a table of ours.
        title: what it shows.
        layout: "categories" (one row each) or "models" (one row each).
        metrics, models: what it holds.
        paper: printed values by (method, row, metric).
        dataset: the one that the printed values are of.
        seeds: how many channel seeds by default; 0 for each model's own.
        versions: how many versions of Rd-MVTec AD; 0 for the images as they are.
        notes: lines of the caption.
        claims: what the paper says of these rows, to be checked on ours.
    """

    name: str
    number: str
    title: str
    layout: str
    metrics: tuple[TableMetric, ...]
    models: tuple[TableModel, ...]
    paper: dict[tuple[str, str, str], Printed]
    dataset: str = PAPER_DATASET
    seeds: int = 0
    versions: int = 0
    notes: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def competitors(self) -> list[str]:
        """Methods of the paper's table that no model here stands for."""
        ours = {m.paper_method for m in self.models}
        return list(dict.fromkeys(method for method, _, _ in self.paper if method not in ours))


def specs_folder() -> Path:
    """``reproduce/``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_reproduce"
    return installed if installed.is_dir() else package.parent / "reproduce"


def table_names() -> list[str]:
    """The paper's tables that have a spec, in order."""
    return sorted(path.stem for path in specs_folder().glob("table*.toml"))


def report_names() -> list[str]:
    """All that ``reproduce`` makes when nothing is named: the paper's tables and the reports of ours."""
    return [*table_names(), *REPORTS]


def load_toml(name: str) -> dict[str, Any]:
    """A spec as it stands. Raises PadimBenchError for a name without one, or a file that is not as it must be."""
    path = specs_folder() / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in specs_folder().glob("*.toml"))
        raise PadimBenchError(f"unknown table {name!r}: choose from {', '.join(known)}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        check_spec(raw)
        return raw
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise invalid_spec(path, error) from error


def metric_titles(spec: Mapping[str, Any]) -> dict[str, str]:
    """The metrics of a spec by name, and what they are called."""
    return {m["key"]: METRICS[m["key"]].title for m in spec["metrics"]}


def load_spec(name: str) -> TableSpec:
    """Raises PadimBenchError for a table without a spec, or a spec that is not as it must be."""
    raw, path = load_toml(name), specs_folder() / f"{name}.toml"
    try:
        return TableSpec(
            name=raw["name"],
            number=raw["number"],
            title=raw["title"],
            layout=raw["layout"],
            metrics=tuple(TableMetric(**m) for m in raw["metrics"]),
            models=tuple(map(_table_model, raw["models"])),
            paper=read_paper(path.parent / raw["paper_csv"]),
            dataset=raw.get("dataset", PAPER_DATASET),
            seeds=raw.get("seeds", 0),
            versions=raw.get("versions", 0),
            notes=tuple(raw.get("notes", ())),
            claims=tuple(Claim(**c | {"worse": tuple(c["worse"])}) for c in raw.get("claims", ())),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise invalid_spec(path, error) from error


def described(model: Mapping[str, Any]) -> PaDiMConfig:
    """What of a spec's entry, checked already, describes a model; other members are passed over."""
    members = {"backbone" if name == "arch" else name: value for name, value in model.items() if name in _OF_A_MODEL}
    if isinstance(layers := members.get("layers"), list):
        members["layers"] = tuple(layers)
    return PaDiMConfig(**{"strategy": "auto", "n_features": None} | members)


_OF_A_MODEL = {"arch", *(field.name for field in fields(PaDiMConfig))} - {"backbone", "protocol"}


def _table_model(model: Mapping[str, Any]) -> TableModel:
    others = {name: value for name, value in model.items() if name not in _OF_A_MODEL}
    return TableModel(model=described(model), **others)


def read_paper(path: Path) -> dict[tuple[str, str, str], Printed]:
    """Printed values by (method, row, metric)."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (r["method"], r["row"], r["metric"]): Printed(
                float(r["value"]), float(r["recomputed"]) if r["recomputed"] else None, r["note"]
            )
            for r in csv.DictReader(file)
        }


def read_reproductions(path: Path) -> dict[tuple[str, str, str], float]:
    """What others printed of their reproductions, by (id, row, metric)."""
    with path.open(encoding="utf-8", newline="") as file:
        return {(r["id"], r["row"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}


def read_few_shot(path: Path) -> dict[tuple[str, str], dict[int | None, Few]]:
    """What others printed of PaDiM on few normal images, by (id, metric), then by their number; None for all."""
    found: dict[tuple[str, str], dict[int | None, Few]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for r in csv.DictReader(file):
            n = None if r["images"] == "all" else int(r["images"])
            spread = float(r["spread"]) if r["spread"] else None
            found.setdefault((r["id"], r["metric"]), {})[n] = Few(float(r["value"]), spread)
    return found


def invalid_spec(path: Path, error: Exception) -> PadimBenchError:
    return PadimBenchError(f"spec {path} is not valid ({error}): restore it from the repository")
