"""Specs of the paper's tables: one TOML file each under ``reproduce/``, and the printed numbers as CSV."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError


@dataclass(frozen=True)
class TableMetric:
    """A metric of a table; ``tolerance`` in percentage points decides the verdict."""

    key: str
    title: str
    tolerance: float


@dataclass(frozen=True)
class TableModel:
    """A model of a table and its name in the paper's CSV ("" where the paper has no such row)."""

    title: str
    arch: str
    tag: str
    strategy: str
    n_features: int | None = None
    seed: int = 0
    paper_method: str = ""
    layers: str = "paper"
    stand_in_for: str = ""


@dataclass(frozen=True)
class TableSpec:
    """One table of the paper.

    Attributes:
        name: file name and command-line name.
        number: the paper's Roman number.
        title: what it shows.
        layout: "categories" (one row each) or "models" (one row each, columns texture/object/all).
        metrics, models: its columns and rows.
        paper: printed values in percent by (method, row, metric).
    """

    name: str
    number: str
    title: str
    layout: str
    metrics: tuple[TableMetric, ...]
    models: tuple[TableModel, ...]
    paper: dict[tuple[str, str, str], float]


def specs_folder() -> Path:
    """``reproduce/``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_reproduce"
    return installed if installed.is_dir() else package.parent / "reproduce"


def table_names() -> list[str]:
    return sorted(path.stem for path in specs_folder().glob("table*.toml"))


def load_spec(name: str) -> TableSpec:
    """Raises PadimBenchError for a table without a spec, or a spec that is not as it must be."""
    path = specs_folder() / f"{name}.toml"
    if not path.is_file():
        raise PadimBenchError(f"unknown table {name!r}: choose from {', '.join((*table_names(), 'strategies'))}")
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return TableSpec(
            name=raw["name"],
            number=raw["number"],
            title=raw["title"],
            layout=raw["layout"],
            metrics=tuple(TableMetric(**m) for m in raw["metrics"]),
            models=tuple(TableModel(**m) for m in raw["models"]),
            paper=_read_paper(path.parent / raw["paper_csv"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise PadimBenchError(f"spec {path} is not valid ({error}): restore it from the repository") from error


def _read_paper(path: Path) -> dict[tuple[str, str, str], float]:
    with path.open(encoding="utf-8", newline="") as file:
        return {(r["method"], r["row"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}
