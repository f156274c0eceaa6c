"""The pages of the paper's tables: cells laid out beside the paper's, the caption, and the line for a screen."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from padim_bench.data.datasets import DATASETS
from padim_bench.metrics.summary import METRICS
from padim_bench.report.page import NONE, Grid, Page, Section, Source, number
from padim_bench.report.spec import Claim, Printed, TableMetric
from padim_bench.report.tables import GROUPS, Cell, Table


def table_page(table: Table) -> Page:
    return Page(
        table.spec.name,
        table.heading,
        layout(table),
        caption(table),
        to_csv(table),
        absent=tuple(table.missing),
        table=table,
    )


def signed(cell: Cell | None) -> str:
    """The difference; an asterisk marks one outside the tolerance."""
    if cell is None or cell.difference is None:
        return NONE
    value = round(cell.difference, 2) + 0.0  # no -0.00
    return f"{value:+.2f}{'*' if cell.verdict == 'outside' else ''}"


def layout(table: Table) -> list[Section]:
    """The grids of a table's page, each with its heading."""
    sections = _by_category(table) if table.spec.layout == "categories" else _by_model(table)
    return [*sections, *_spread(table), *_as_printed(table)]


def _groups(table: Table) -> list[str]:
    """Groups that have a number: textures and objects mean nothing to other datasets."""
    found = {c.row for c in table.cells if c.values} | {row for _, row, _ in table.spec.paper if table.comparable}
    return [group for group in GROUPS if group in found or group == "all"]


def _value(table: Table, cell: Cell | None) -> str:
    """Ours, with the standard deviation over replicates, and the interval over test images where it is asked for."""
    if cell is None or cell.ours is None:
        return NONE
    value = number(cell.ours) if cell.sd is None else f"{cell.ours:.2f} \N{PLUS-MINUS SIGN} {cell.sd:.2f}"
    if not table.intervals or cell.interval is None:
        return value
    return f"{value} [{cell.interval[0]:.2f}, {cell.interval[1]:.2f}]"


def _source(table: Table, cell: Cell | None) -> Source | None:
    if cell is None or cell.ours is None:
        return None
    metric = METRICS[cell.metric]
    counted = f"{GROUPS[cell.row].lower()}, mean of {cell.present} of {cell.full}" if cell.row in GROUPS else cell.row
    return Source(
        (cell.row, cell.model, cell.metric),
        f"{cell.model}, {metric.title}, {counted if table.spec.dataset else cell.row}",
        metric.unit,
        cell.values,
        cell.records,
        cell.interval,
        cell.paper,
        cell.verdict,
    )


def _by_category(table: Table) -> list[Section]:
    sections = []
    for metric in table.spec.metrics:
        columns = [m for m in table.spec.models if m.title in table.models]
        header = ["Category"]
        for model in columns:
            compared = any(table.printed(model, metric, row) for row in (*table.categories, *GROUPS))
            names = ("paper", "ours", "diff.") if compared else ("ours",)
            header += [f"{model.title}: {name}" for name in names]
        rows: list[list[str]] = []
        sources: dict[tuple[int, int], Source] = {}
        for row in (*table.categories, *_groups(table)):
            cells = [table.cell(model.title, metric.key, row) for model in columns]
            if row in GROUPS and not any(c and c.present for c in cells):
                continue
            line = [row if row in table.categories else _mean_title(row, cells)]
            for model, cell in zip(columns, cells, strict=True):
                if compared := any(table.printed(model, metric, r) for r in (*table.categories, *GROUPS)):
                    paper = cell.paper if cell else None
                    line.append(number(paper, 1 if row in table.categories else 2))
                if source := _source(table, cell):
                    sources[len(rows), len(line)] = source
                line += [_value(table, cell)]
                if compared:
                    line.append(signed(cell))
            rows.append(line)
        if columns:
            sections.append((_section(metric), Grid(header, rows, frozenset({len(table.categories)}), sources)))
    return sections


def _section(metric: TableMetric) -> str:
    return f"{metric.title}: {metric.heading}" if metric.heading else metric.title


def _mean_title(group: str, cells: Sequence[Cell | None]) -> str:
    counts = sorted({f"{c.present} of {c.full}" for c in cells if c})
    return f"{GROUPS[group]}, mean of {' / '.join(counts)}" if counts else GROUPS[group]


def _by_model(table: Table) -> list[Section]:
    """One grid per metric: the paper's three means, ours, and where both are of the same categories the difference."""
    sections = []
    groups = _groups(table)
    for metric in table.spec.metrics:
        models = [m for m in table.spec.models if m.title in table.models or m.title in table.missing]
        cells = {(m.title, g): table.cell(m.title, metric.key, g) for m in models for g in groups}
        printed = {(m.title, g): table.printed(m, metric, g) for m in models for g in groups}
        header, line_makers = ["Model"], []
        for group in groups:
            column = [printed[m.title, group] for m in models]
            counts = sorted({f"{c.present} of {c.full}" for m in models if (c := cells[m.title, group]) and c.values})
            if any(column):
                header.append(f"{GROUPS[group]}: paper")
                line_makers.append(("printed", group))
            if any(p and p.recomputed is not None for p in column):
                header.append(f"{GROUPS[group]}: paper recomputed")
                line_makers.append(("recomputed", group))
            if not counts:
                continue
            header.append(f"{GROUPS[group]}: ours ({' / '.join(counts)})" if table.spec.dataset else "ours")
            line_makers.append(("ours", group))
            if any(c and c.difference is not None for m in models if (c := cells[m.title, group])):
                header.append("diff.")
                line_makers.append(("difference", group))
        shown = [c for c in table.categories if any(table.cell(m.title, metric.key, c) for m in models)]
        rows: list[list[str]] = []
        sources: dict[tuple[int, int], Source] = {}
        for model in models:
            line = [model.title]
            for what, group in line_makers:
                cell, one = cells[model.title, group], printed[model.title, group]
                if what == "ours" and (source := _source(table, cell)):
                    sources[len(rows), len(line)] = source
                line.append(
                    number(one.value if one else None, 1) if what == "printed"
                    else number(one.recomputed if one else None) if what == "recomputed"
                    else _value(table, cell) if what == "ours"
                    else signed(cell)
                )  # fmt: skip
            for category in shown:
                cell = table.cell(model.title, metric.key, category)
                if source := _source(table, cell):
                    sources[len(rows), len(line)] = source
                line.append(_value(table, cell))
            rows.append(line)
        sections.append((_section(metric), Grid(header + [f"{c}: ours" for c in shown], rows, sources=sources)))
    return sections


def _spread(table: Table) -> list[Section]:
    """Standard deviation and standard error over replicates, where there are some."""
    replicated = [c for c in table.cells if c.sd is not None]
    if not replicated:
        return []
    rows_ = [*table.categories, *_groups(table)]
    body = []
    for model in dict.fromkeys(c.model for c in replicated):
        for metric in table.spec.metrics:
            cells = [table.cell(model, metric.key, row) for row in rows_]
            if any(c and c.sd is not None for c in cells):
                shown = [NONE if c is None or c.sd is None else f"{c.sd:.3f} ({c.sem:.3f})" for c in cells]
                counts = max(len(c.values) for c in cells if c)
                body.append([f"{model}, {metric.title}, {counts}", *shown])
    header = ["Model, metric, replicates", *table.categories, *(f"{GROUPS[g]} mean" for g in _groups(table))]
    return [("Standard deviation (standard error of the mean) over replicates, in points", Grid(header, body))]


def _as_printed(table: Table) -> list[Section]:
    """The paper's other methods, and ours' means, as printed: copied, not run."""
    spec = table.spec
    if not table.comparable or not spec.paper:
        return []
    sections = []
    for metric in [m for m in spec.metrics if not m.beside]:
        methods = list(dict.fromkeys(m for m, _, key in spec.paper if key == metric.key))
        if spec.layout == "models":
            methods = [m for m in methods if m in spec.competitors]
        rows_ = list(dict.fromkeys(r for m, r, key in spec.paper if key == metric.key and m in methods))
        if not methods:
            continue
        values = {(m, r): spec.paper.get((m, r, metric.key)) for m in methods for r in rows_}
        columns, body_rows = (methods, rows_) if spec.layout == "categories" else (rows_, methods)

        def at(row: str, column: str, values: dict[tuple[str, str], Printed | None] = values) -> Printed | None:
            return values[(column, row) if spec.layout == "categories" else (row, column)]

        contradicted = [c for c in columns if any(p and p.recomputed is not None for r in body_rows if (p := at(r, c)))]
        header = ["Category" if spec.layout == "categories" else "Method"]
        for column in columns:
            name = GROUPS.get(column, column)
            header += [name, f"{name} recomputed"] if column in contradicted else [name]
        body = []
        for row in body_rows:
            line = [GROUPS.get(row, row)]
            for column in columns:
                one = at(row, column)
                line.append(number(one.value if one else None, 1))
                if column in contradicted:
                    line.append(number(one.recomputed if one else None))
            body.append(line)
        sections.append((f"{metric.title} as printed in the paper; copied, not run here", Grid(header, body)))
    return sections


def caption(table: Table) -> list[str]:
    """All that a reader needs to judge the numbers, one fact a line."""
    spec = table.spec
    full = max((c.full for c in table.cells if c.row == "all"), default=0)
    members = DATASETS[spec.dataset].members
    units = dict.fromkeys(METRICS[m.key].unit for m in spec.metrics)
    told = "Percent" if list(units) == ["%"] else "; ".join(f"{m.title} in {METRICS[m.key].unit}" for m in spec.metrics)
    lines = [f"{told}. Dataset {table.dataset}, {len(table.categories)} of {full} {members}."] if full else []
    if any(c.paper is not None for c in table.cells):
        tolerances = ", ".join(f"{m.title} {m.tolerance:g}" for m in spec.metrics)
        by_category = any(c.printed for c in table.cells if c.row in table.categories)
        lines.append(
            f"Paper: arXiv:2011.08785{'; means are recomputed over the same categories' if by_category else ''}. "
            f"Tolerance in points: {tolerances}. Cells within: {counts_within(table) or 'none'}; * those outside."
        )
    elif table.comparable and full:
        lines.append(
            f"Paper: arXiv:2011.08785, which prints means over all {members} only: with some of them no difference is "
            "drawn."
        )
    for (method, row, metric), printed in spec.paper.items() if table.comparable else ():
        if printed.note:
            title = next(m.title for m in spec.metrics if m.printed == metric)
            lines.append(
                f"{method}, {GROUPS.get(row, row).lower()}, {title}: printed {printed.value:g}, recomputed "
                f"{number(printed.recomputed)}: {printed.note}."
            )
    lines += [
        f"{m.title} is held to the paper's {METRICS[m.beside].title}: {m.heading}. The PRO report has the evidence; "
        "the paper cites MVTec's definition, which PRO is by."
        for m in spec.metrics
        if m.beside and table.comparable and full
    ]
    if table.intervals and any(c.interval for c in table.cells):
        lines.append(
            "Brackets: 95 % interval over test images, of the value as it stands: 200 resamples, stratified by label, "
            "the same for every run of a split. It is no spread over replicates, which \N{PLUS-MINUS SIGN} is."
        )
    lines += [_judged(table, claim) for claim in spec.claims]
    lines += [f"{note[0].upper()}{note[1:]}." for note in spec.notes]
    lines += [f"{title}: {text}." for title, text in table.models.items()]
    lines += [f"{title}: not run: {why}." for title, why in table.missing.items()]
    lines += [f"{fact[0].upper()}{fact[1:]}." for fact in table.facts]
    return [line for line in lines if line]


def judged_cells(table: Table) -> list[Cell]:
    """Those of ours that the paper has a number for: of categories, or of means where it prints no others."""
    judged = [c for c in table.cells if c.verdict]
    return [c for c in judged if c.row in table.categories] or judged


def counts_within(table: Table) -> str:
    """Of each metric, how many cells are within the tolerance of the paper's; "" where none can be compared."""
    judged = judged_cells(table)
    by_metric = [(m.title, [c.verdict for c in judged if c.metric == m.key]) for m in table.spec.metrics]
    return ", ".join(f"{title} {found.count('within')} of {len(found)}" for title, found in by_metric if found)


def summary(table: Table, reasons: Mapping[str, str]) -> str:
    """A line for a screen: what no reader may miss, how many cells are within the tolerance, and what is missing.

    ``reasons`` are better known for some missing models than the table's own.
    """
    parts = [f"[{warning.upper()}]" for warning in table.warnings]
    by_category = any(c.printed for c in table.cells if c.row in table.categories)
    if counts := counts_within(table):
        parts.append(f"cells within tolerance of the paper's: {counts}")
    elif by_category or not any(c.printed for c in table.cells):
        parts.append("no cell to compare with the paper's")
    else:
        parts.append("no difference drawn: the paper prints means over all categories alone")
    lines = [" ".join(parts)]
    rows = table.categories if by_category else ()
    plain = {m.key for m in table.spec.metrics if not m.beside}
    if empty := sum(
        c.printed is not None and not c.verdict and c.row in rows for c in table.cells if c.metric in plain
    ):
        lines.append(f"{empty} of the paper's without one of ours of the same")
    by_reason: dict[str, list[str]] = {}
    for title, why in table.missing.items():
        by_reason.setdefault(reasons.get(title, why), []).append(title)
    lines += [f"{', '.join(titles)} not run ({why})" for why, titles in by_reason.items()]
    return "; ".join(lines)


def _judged(table: Table, claim: Claim) -> str:
    """Whether a claim of the paper's text holds of our means; said with the gap, not just yes or no."""
    cells = [table.cell(model, claim.metric, "all") for model in (claim.better, *claim.worse)]
    found = [(c, c.ours) for c in cells if c is not None and c.ours is not None]
    if len(found) < len(cells) or len({c.present for c, _ in found}) > 1:
        return ""
    (better, ours), *others = found
    sign = 1 if METRICS[claim.metric].larger_is_better else -1
    gap = sign * ours - max(sign * value for _, value in others)
    holds = "holds" if gap > 0 else "does not hold"
    title = next(m.title for m in table.spec.metrics if m.key == claim.metric)
    return f"Claim: {claim.text}: {holds} here ({title}, {better.present} of {better.full}: {gap:+.2f} points)."


def to_csv(table: Table) -> str:
    """One line per cell: easy to filter, with its provenance; then the paper's other methods, as printed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("table", "title", "dataset", "model", "metric", "row", "paper", "paper_printed", "paper_recomputed"),
            *("ours", "sd", "sem", "replicates", "low", "high", "difference", "categories", "of", "verdict"),
            *("provenance", "records"),
        ]
    )

    def shown(*values: float | None, digits: int = 2) -> list[str]:
        return [number(v, digits) if v is not None else "" for v in values]

    start = [table.spec.name, table.heading, table.dataset]
    for c in table.cells:
        printed = (c.printed.value, c.printed.recomputed) if c.printed else (None, None)
        provenance = "; ".join((table.models[c.model], *table.facts))
        writer.writerow(
            [
                *(*start, c.model, c.metric, c.row, *shown(c.paper, *printed, c.ours), *shown(c.sd, c.sem, digits=4)),
                *(
                    len(c.values),
                    *shown(*(c.interval or (None, None)), c.difference),
                    c.present,
                    c.full,
                    c.verdict,
                    provenance,
                ),
                " ".join(i[:12] for i in c.records),
            ]
        )
    if table.comparable:
        stood_for = {m.paper_method for m in table.spec.models if m.title in table.models}
        for (method, row, metric), p in table.spec.paper.items():
            if method not in stood_for:
                values = [*shown(p.value), *shown(p.value), *shown(p.recomputed), *[""] * 10]
                writer.writerow([*start, method, metric, row, *values, "as printed in the paper; not run here", ""])
    return out.getvalue()
