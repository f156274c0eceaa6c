"""What all pages of time and bytes say alike: specs, digits, coverage, machines, warnings."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.records.costs import Measurement
from padim_bench.report.page import NONE
from padim_bench.report.spec import invalid_spec, load_toml, specs_folder
from padim_bench.report.tables import dataset_warnings, title_warnings


def load_measured_spec(name: str) -> dict[str, Any]:
    """The spec of Table VII or VIII ("table7", "table8"); its ``paper`` is the rows of the CSV it names."""
    folder = specs_folder()
    spec = load_toml(name)
    try:
        with (folder / spec["paper_csv"]).open(encoding="utf-8", newline="") as file:
            spec["paper"] = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise invalid_spec(folder / f"{name}.toml", error) from error
    return spec


def warned(heading: str, records: Sequence[Measurement], *, of_data_alone: bool = False) -> str:
    """A heading with what no reader may miss of the records."""
    found = dataset_warnings(records) if of_data_alone else title_warnings(records)
    return heading + "".join(f" [{warning.upper()}]" for warning in found)


def figure3(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits, without an exponent; a dash for None."""
    if value is None:
        return NONE
    value *= scale
    if value == 0:
        return "0"
    digits = 2 - _exponent(value)
    return f"{value:.{max(digits, 0)}f}" if digits >= 0 else f"{round(value, digits):.0f}"


def _exponent(value: float) -> int:
    """Of the value rounded to three digits, so that 9.996 is 10.0."""
    return int(f"{abs(value):.2e}".partition("e")[2])


def coverage(records: Sequence[Measurement]) -> str:
    """Which categories of which dataset were measured."""
    if not records:
        return "Nothing was measured."
    by_dataset: dict[str, dict[str, None]] = {}
    for r in records:
        by_dataset.setdefault(r.dataset.name, {})[r.dataset.category] = None
    told = "; ".join(f"{', '.join(found)} of {name}{_of_all(name, len(found))}" for name, found in by_dataset.items())
    return f"Measured on {told}."


def _of_all(name: str, n: int) -> str:
    """How many of all categories, where that matters to a reader of the paper."""
    known = DATASETS[PAPER_DATASET]
    return f" ({n} of {known.full('all')} {known.members})" if name == known.name else ""


def machine(record: Measurement) -> str:
    """Hardware and software, with what of it was used."""
    found, threads = record.environment, record.config.execution.threads
    code = f" at commit {found.commit[:12]}{' with changes' if found.dirty else ''}" if found.commit else ""
    return (
        f"{found.gpu or found.cpu}, {threads} {'thread' if threads == 1 else 'threads'}"
        f"{f' of {found.cpu}' if found.gpu else ''}; torch {found.versions['torch']}, "
        f"timm {found.versions['timm']}; padim-bench {found.versions['padim-bench']}{code}"
    )
