"""Tables as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_bench.report.tables import GROUPS, Cell, Table

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Grid:
    """What a table looks like: a header row, body rows, and the rows before which a rule stands."""

    header: list[str]
    rows: list[list[str]]
    rules: frozenset[int] = frozenset()


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def signed(cell: Cell | None) -> str:
    """The difference; an asterisk marks one outside the tolerance."""
    if cell is None or cell.difference is None:
        return NONE
    value = round(cell.difference, 2) + 0.0  # no -0.00
    return f"{value:+.2f}{'*' if cell.verdict == 'outside' else ''}"


def layout(table: Table) -> Grid:
    return _by_category(table) if table.spec.layout == "categories" else _by_model(table)


def _has_paper(table: Table, model: str, metric: str) -> bool:
    return any(c.printed is not None for c in table.cells if (c.model, c.metric) == (model, metric))


def _by_category(table: Table) -> Grid:
    columns = [(m, q) for m in table.models for q in table.spec.metrics]
    header = ["Category"]
    for model, metric in columns:
        name = f"{model} {metric.title}" if len(table.models) > 1 else metric.title
        header += [f"{name}: paper", "ours", "diff."] if _has_paper(table, model, metric.key) else [f"{name}: ours"]
    rows = []
    for row in (*table.categories, *GROUPS):
        cells = [table.cell(model, metric.key, row) for model, metric in columns]
        line = [row if row in table.categories else _mean_title(row, cells)]
        for (model, metric), cell in zip(columns, cells, strict=True):
            ours = number(cell.ours if cell else None)
            if _has_paper(table, model, metric.key):
                paper = cell.paper if cell else None
                digits = 1 if row in table.categories else 2
                line += [number(paper, digits), ours, signed(cell)]
            else:
                line.append(ours)
        rows.append(line)
    rules = {len(table.categories)}
    if any(_has_paper(table, m, q.key) for m, q in columns):
        rules.add(len(rows))
        for group, title in GROUPS.items():
            line = [f"Paper's {title.lower()}, as printed"]
            for model, metric in columns:
                cell = table.cell(model, metric.key, group)
                if _has_paper(table, model, metric.key):
                    line += [number(cell.printed if cell else None, 1), NONE, NONE]
                else:
                    line.append(NONE)
            rows.append(line)
    return Grid(header, rows, frozenset(rules))


def _mean_title(group: str, cells: Sequence[Cell | None]) -> str:
    counts = sorted({f"{c.present} of {c.full}" for c in cells if c})
    return f"{GROUPS[group]}, mean of {' / '.join(counts)}"


def _by_model(table: Table) -> Grid:
    header = ["Model"]
    for metric in table.spec.metrics:
        for title in GROUPS.values():
            header += [f"{metric.title}, {title.lower()}: paper", "ours", "diff."]
        header += [f"{category}: ours" for category in table.categories]
    rows = []
    for model in table.spec.models:
        if model.title not in table.models and model.title not in table.missing:
            continue
        line = [model.title]
        for metric in table.spec.metrics:
            for group in GROUPS:
                cell = table.cell(model.title, metric.key, group)
                printed = cell.printed if cell else table.spec.paper.get((model.paper_method, group, metric.key))
                ours = number(cell.ours) if cell and cell.ours is not None else NONE
                if cell and cell.ours is not None and cell.present < cell.full:
                    ours += f" ({cell.present} of {cell.full})"
                line += [number(printed if table.dataset == "mvtec-ad" else None, 1), ours, signed(cell)]
            for category in table.categories:
                cell = table.cell(model.title, metric.key, category)
                line.append(number(cell.ours if cell else None))
        rows.append(line)
    return Grid(header, rows)


def caption(table: Table) -> list[str]:
    """All that a reader needs to judge the numbers, one fact a line."""
    coverage = f"{len(table.categories)}"
    full = max((c.full for c in table.cells if c.row == "all"), default=0)
    lines = [f"Percent. Dataset {table.dataset}, {coverage} of {full} categories."]
    if any(c.paper is not None for c in table.cells):
        tolerances = ", ".join(f"{m.title} {m.tolerance:g}" for m in table.spec.metrics)
        judged = [c for c in table.cells if c.verdict and c.row in table.categories]
        within = sum(c.verdict == "within" for c in judged)
        lines.append(
            "Paper: arXiv:2011.08785; means are recomputed over the same categories. "
            f"Tolerance in points: {tolerances}; {within} of {len(judged)} categories' cells within, * those outside."
        )
    elif table.dataset == "mvtec-ad":
        lines.append("Paper: arXiv:2011.08785, which prints means over all 15 categories only: no difference is drawn.")
    lines += [f"{title}: {text}." for title, text in table.models.items()]
    lines += [f"{title}: not run: {why}." for title, why in table.missing.items()]
    lines += [f"{fact[0].upper()}{fact[1:]}." for fact in table.facts]
    return lines


def to_markdown(table: Table) -> str:
    return markdown_page(table.heading, layout(table), caption(table))


def markdown_page(heading: str, grid: Grid, captions: Sequence[str]) -> str:
    lines = [f"# {heading}", "", "| " + " | ".join(grid.header) + " |"]
    lines.append("|" + "|".join([":---", *["---:"] * (len(grid.header) - 1)]) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
    lines += ["", *[f"- {line}" for line in captions]]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """One line per cell: easy to filter, with its provenance."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "table",
            "title",
            "dataset",
            "model",
            "metric",
            "row",
            "paper",
            "paper_printed",
            "ours",
            "difference",
            "categories",
            "of",
            "verdict",
            "provenance",
            "records",
        ]
    )
    for c in table.cells:
        values = [number(v) if v is not None else "" for v in (c.paper, c.printed, c.ours, c.difference)]
        provenance = "; ".join((table.models[c.model], *table.facts))
        place = [table.spec.name, table.heading, table.dataset, c.model, c.metric, c.row]
        writer.writerow(
            [*place, *values, c.present, c.full, c.verdict, provenance, " ".join(i[:12] for i in c.records)]
        )
    return out.getvalue()


_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
     "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", NONE: "--", "*": r"$^*$"}
)  # fmt: skip


def to_latex(table: Table) -> str:
    return latex_table(table.spec.name, table.heading, layout(table), caption(table))


def latex_table(name: str, heading: str, grid: Grid, captions: Sequence[str]) -> str:
    """A table* environment; needs \\usepackage{booktabs}."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(_latex(c) for c in cells) + r" \\"

    body = []
    for i, row in enumerate(grid.rows):
        if i in grid.rules:
            body.append(r"  \midrule")
        body.append(line(row))
    text = _latex(" ".join([f"{heading}.", *captions]))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}",
            r"  \centering\small",
            rf"  \caption{{{text}}}",
            rf"  \label{{tab:padim-{name}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"  \toprule",
            line(grid.header),
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"  \end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _latex(text: str) -> str:
    signed_ = text.startswith(("+", "-")) and text[1:2].isdigit()
    escaped = text.translate(_LATEX)
    return f"${escaped[0]}${escaped[1:]}" if signed_ else escaped


def index_page(results: Path) -> str:
    """README of a results folder: every table in it with its first fact, and how to read the rest."""
    lines = ["# Results", "", "Generated by `padim-bench reproduce` from the records in `records/`; do not edit.", ""]
    for path in sorted((results / "tables").glob("*.md")):
        text = path.read_text(encoding="utf-8").splitlines()
        heading = text[0].removeprefix("# ")
        fact = next((line.removeprefix("- ") for line in text if line.startswith("- ")), "")
        links = ", ".join(f"[{kind}](tables/{path.stem}.{end})" for kind, end in (("CSV", "csv"), ("LaTeX", "tex")))
        lines.append(f"- [{heading}](tables/{path.name}) ({links}). {fact}")
    lines += [
        "",
        "Each file in `records/` is one run: configuration, metrics, score of every test image, timings, memory, "
        "residual, environment, and digests of images and weights. Records are never edited.",
    ]
    return "\n".join(lines) + "\n"
