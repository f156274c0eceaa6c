"""Which machine made each row, said on pages whose records are of several."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from padim_bench.records.facts import Recorded, machine_name
from padim_bench.report.page import NONE, Grid, Page, csv_text

MACHINE, AND = "Machine", " and "


def by_machine(page: Page) -> Page:
    """The page with a last column, in grids and CSV, that names each row's machine; as it is where all is of one."""
    made_of: tuple[Recorded, ...] = (*page.records, *page.measured)
    named = {record.key: machine_name(record) for record in made_of}
    if len(set(named.values())) < 2:
        return page
    finding = page.finding and (page.finding[0], _with_machines(page.finding[1], named))
    sections = [(title, _with_machines(grid, named)) for title, grid in page.sections]
    # Measurements of several machines may share their ids, and their CSV names the hardware as it is.
    short = {record.id[:12]: machine_name(record) for record in page.records}
    return replace(page, sections=sections, csv=_csv_with_machines(page.csv, short), finding=finding)


def _with_machines(grid: Grid, named: Mapping[str, str]) -> Grid:
    """A grid of whose rows none is known to be of any record stays as it is, and one whose cells name them already."""
    told = [_of_row(grid, i, named) for i in range(len(grid.rows))]
    if all(any(machines in cell for cell in row) for row, machines in zip(grid.rows, told, strict=True)):
        return grid
    rows = [[*row, machines or NONE] for row, machines in zip(grid.rows, told, strict=True)]
    return replace(grid, header=[*grid.header, MACHINE], rows=rows)


def _of_row(grid: Grid, i: int, named: Mapping[str, str]) -> str:
    """Its machine, or several; where numbers of the row differ in theirs, each with its columns, but for means."""
    if whole := _machines(grid.of_rows.get(i, ()), named):
        return whole
    by_machines: dict[str, list[str]] = {}
    for (row, column), source in sorted(grid.sources.items(), key=lambda item: item[0]):
        if row == i:
            title = re.sub(r"(: ours)?( \(\d+ of \d+\))?$", "", grid.header[column])
            by_machines.setdefault(_machines(source.records, named), []).append(title)
    alone = {machines: columns for machines, columns in by_machines.items() if AND not in machines}
    if len(by_machines) < 2 or not alone:
        return AND.join(by_machines)
    of_several = {one for machines in by_machines for one in machines.split(AND)} - alone.keys()
    told = alone if not of_several else by_machines
    return "; ".join(f"{machines}: {', '.join(columns)}" for machines, columns in told.items())


def _machines(records: Iterable[str], named: Mapping[str, str]) -> str:
    return AND.join(dict.fromkeys(named[one] for one in records if one in named))


def _csv_with_machines(text: str, short: Mapping[str, str]) -> str:
    """Of lines that name their runs by the first digits of their ids, in the last column."""
    header, *lines = csv.reader(io.StringIO(text))
    if not short or header[-1] not in {"record", "records"}:
        return text
    return csv_text([*header, "machine"], [[*line, _machines(line[-1].split(), short)] for line in lines])
