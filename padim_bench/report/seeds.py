"""The seeds report: the spread of each category's numbers over random channels and directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from padim_bench.data.datasets import PAPER_DATASET
from padim_bench.records.runs import RunRecord
from padim_bench.report.figures import render, spread_figure
from padim_bench.report.page import NONE, Grid, Page, Source, number
from padim_bench.report.spec import metric_titles, read_paper, specs_folder
from padim_bench.report.tables import invalid_seeds, shared_facts, title_warnings
from padim_bench.report.values import mean_interval, shown_values

if TYPE_CHECKING:
    import pandas as pd


def paper_values(spec: Mapping[str, Any], frame: pd.DataFrame, dataset: str) -> dict[tuple[str, str], float]:
    """The paper's printed value by (category, metric), where it has one."""
    if dataset != PAPER_DATASET:
        return {}
    paper = read_paper(specs_folder() / spec["paper_csv"])
    present = set(frame.category)
    return {
        (row, metric): p.value
        for (method, row, metric), p in paper.items()
        if method == spec["paper_method"] and row in present
    }


def seeds_page(spec: Mapping[str, Any], runs: Mapping[str, Sequence[RunRecord]]) -> Page:
    """The report; its CSV has every value.

    Args:
        spec: ``reproduce/seeds.toml``.
        runs: per method, the records of all its seeds and categories.
    """
    metrics = metric_titles(spec)
    values = shown_values(runs, metrics)
    frame = values.dropna(subset="value").rename(columns={"title": "method"})
    records = [r for of_method in runs.values() for r in of_method]
    printed = paper_values(spec, frame, records[0].dataset.name)
    drawn = [m["title"] for m in spec["models"] if m["title"] != spec["reference"] and m["title"] in runs]
    n_seeds = int(frame[frame.method.isin(drawn)].seed.nunique())
    categories = list(dict.fromkeys(frame.category))
    sections = []
    for metric, title in metrics.items():
        header = ["Category"]
        if printed and any(m == metric for _, m in printed):
            header.append("paper")
        header += [spec["reference"], *drawn]
        rows: list[list[str]] = []
        sources: dict[tuple[int, int], Source] = {}
        for category in categories:
            here = frame[(frame.metric == metric) & (frame.category == category)]
            if here.empty:
                continue
            line = [category]
            if "paper" in header:
                line.append(number(printed.get((category, metric)), 1))
            reference = here[here.method == spec["reference"]].value
            line.append(number(float(reference.iloc[0])) if len(reference) else NONE)
            line += [_spread([float(v) for v in here[here.method == method].value]) for method in drawn]
            for i, method in enumerate([spec["reference"], *drawn], len(line) - 1 - len(drawn)):
                lines = here[here.method == method]
                if len(lines):
                    sources[len(rows), i] = Source(
                        (category, method, metric),
                        f"{method}, {title}, {category}",
                        "%",
                        tuple(map(float, lines.value)),
                        tuple(lines.record),
                        mean_interval([lines.resampled.to_list()]),
                        printed.get((category, metric)) if method == spec["models"][0]["title"] else None,
                    )
            rows.append(line)
        if rows:
            sections.append((title, Grid(header, rows, sources=sources)))
    captions = [
        f"Percent, over {n_seeds} seed{'s' if n_seeds > 1 else ''}: mean ± standard deviation (smallest to largest). "
        f"Dataset {records[0].dataset.name}.",
        f"{spec['reference']} draws nothing.",
        *(["Paper: its R18-Rd100 of Table III; it publishes no spread by category."] if printed else []),
        *_widest(frame, metrics, drawn),
        *invalid_seeds(runs),
        "Stratified: channels drawn from each layer in proportion to its size. Semi-orthogonal: projection onto random "
        "orthonormal directions of all channels.",
        *[f"{fact[0].upper()}{fact[1:]}." for fact in shared_facts(records, values)],
    ]
    shout = "".join(f" [{w.upper()}]" for w in title_warnings(records))
    heading = f"Seeds: {spec['title']}{shout}"

    def figure() -> Mapping[str, bytes]:
        lines = "".join(f"\n[{w.upper()}]" for w in title_warnings(records))
        title = f"PaDiM, ResNet18: each point is one of {n_seeds} seeds, bars are means{lines}"
        return render(spread_figure(frame, metrics, drawn, spec["reference"], printed, title))

    figures = {} if frame.empty else {spec["name"]: figure}  # all runs invalid, which the page says
    lines = frame[["method", "category", "metric", "seed", "value", "record"]].assign(record=frame.record.str[:12])
    text = lines.to_csv(index=False, lineterminator="\n")
    return Page(spec["name"], heading, sections, captions, text, figures=figures, records=tuple(records))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean)
    sd = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.2f} ± {sd:.2f} ({min(values):.2f} to {max(values):.2f})"


def _widest(frame: pd.DataFrame, metrics: Mapping[str, str], drawn: Sequence[str]) -> list[str]:
    """For each metric, where a draw matters most."""
    lines = []
    for metric, title in metrics.items():
        groups = frame[(frame.metric == metric) & frame.method.isin(drawn)].groupby(["method", "category"], sort=False)
        ranges = (groups.value.max() - groups.value.min()).sort_values(ascending=False, kind="stable")
        if len(ranges):
            method, category = ranges.index[0]
            lines.append(f"Widest range in {title}: {category}, {method}: {ranges.iloc[0]:.2f} points.")
    return lines
