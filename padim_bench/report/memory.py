"""Table VIII: bytes of a model, as printed, by the paper's arithmetic, as stored, and as a process needs them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from padim_bench.report.page import NONE, Grid, Page
from padim_bench.report.tables import Record, title_warnings
from padim_bench.report.timing import coverage, figure3, load_measured_spec, machine

Row = Mapping[str, Any]


def load_memory_spec() -> dict[str, Any]:
    return load_measured_spec("table8")


def memory_page(
    spec: Mapping[str, Any],
    analytic: Sequence[Row],
    states: Sequence[Row],
    by_category: Sequence[Row],
    peaks: Sequence[Record],
) -> Page:
    """The table.

    Args:
        spec: from :func:`load_memory_spec`.
        analytic: from ``costs.memory.analytic_figures``.
        states: from ``costs.memory.stored_states``, of one number of images.
        by_category: the same, of each category's number of images, on one grid.
        peaks: records of ``costs.memory.measure_peak``.
    """
    sections = [("Printed and computed, in GB", _printed_grid(spec, analytic))]
    if states:
        n = ", ".join(dict.fromkeys(str(r["n_train"]) for r in states))
        sections.append((f"Stored by strategy, in GB, n = {n} training images", _stored_grid(states)))
    if by_category:
        model, dataset = by_category[0]["model"], by_category[0]["dataset"]
        title = f"Stored by {model} with strategy {by_category[0]['strategy']}, {dataset}, in GB"
        sections.append((title, _category_grid(by_category)))
    if peaks:
        sections.append(("Peak resident memory of a process that trains and scores, in GB", _peaks_grid(peaks)))
    heading = f"Table {spec['number']}: {spec['title']}" + "".join(f" [{w.upper()}]" for w in title_warnings(peaks))
    captions = _captions(spec, analytic, peaks)
    return Page(spec["name"], heading, sections, captions, _csv(spec, analytic, states, by_category, peaks))


def matches(value: float, printed: str) -> bool:
    """Whether a figure rounds to the printed one, at the decimals that are printed."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def _printed(spec: Mapping[str, Any], model: str, dataset: str) -> str | None:
    found = (r["value"] for r in spec["paper"] if (r["model"], r["dataset"]) == (model, dataset))
    return next(found, None)


def _rules(analytic: Sequence[Row]) -> dict[str, str]:
    """Titles with units, by key, in order."""
    return {r["rule"]: f"{r['rule_title']}, {r['unit']}" for r in analytic}


def _printed_grid(spec: Mapping[str, Any], analytic: Sequence[Row]) -> Grid:
    rules = _rules(analytic)
    header = ["Model", "Dataset", "Positions", "Paper, GB", *rules.values(), "Fits"]
    ours = [m["title"] for m in spec["models"]]
    rows = [
        [r["model"], r["dataset"], NONE, r["value"], *[NONE] * (len(rules) + 1)]
        for r in spec["paper"]
        if r["model"] not in ours
    ]
    rule = len(rows)
    for model in ours:
        for dataset in spec["datasets"]:
            figures = {r["rule"]: r for r in analytic if (r["model"], r["dataset"]) == (model, dataset["title"])}
            printed = _printed(spec, model, dataset["title"])
            fits = [rules[k] for k, r in figures.items() if printed is not None and matches(r["value"], printed)]
            side = dataset["grid"]
            values = [figure3(figures[k]["value"]) if k in figures else NONE for k in rules]
            rows.append(
                [model, dataset["title"], f"{side} x {side}", printed or NONE, *values, "; ".join(fits) or NONE]
            )
    return Grid(header, rows, frozenset({rule} if rule else ()))


def _stored_grid(states: Sequence[Row]) -> Grid:
    columns = list(dict.fromkeys((r["model"], r["dataset"], r["grid"]) for r in states))
    sizes = {(r["strategy"], r["dtype"], r["model"], r["dataset"]): r for r in states}
    header = ["Strategy", "Storage", *[f"{model}, {dataset} ({g} x {g})" for model, dataset, g in columns]]
    rows = []
    for strategy, dtype in dict.fromkeys((r["strategy"], r["dtype"]) for r in states):
        line = [strategy, dtype]
        for model, dataset, _ in columns:
            row = sizes.get((strategy, dtype, model, dataset))
            chosen = f" ({row['strategy_used']})" if row and row["strategy_used"] != strategy else ""
            line.append(NONE if row is None else f"{figure3(row['bytes'], 1e-9)}{chosen}")
        rows.append(line)
    return Grid(header, rows, frozenset(i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]))


def _category_grid(by_category: Sequence[Row]) -> Grid:
    dtypes = list(dict.fromkeys(r["dtype"] for r in by_category))
    header = ["Category", "Training images", "Chosen", *dtypes]
    rows = []
    for category in dict.fromkeys(r["category"] for r in by_category):
        mine = {r["dtype"]: r for r in by_category if r["category"] == category}
        first = next(iter(mine.values()))
        sizes = [figure3(mine[t]["bytes"], 1e-9) if t in mine else NONE for t in dtypes]
        rows.append([category, str(first["n_train"]), first["strategy_used"], *sizes])
    rule = len(rows)
    counts = {r["category"]: r["n_train"] for r in by_category}
    means = [_mean([r["bytes"] for r in by_category if r["dtype"] == t]) for t in dtypes]
    rows.append(["Mean", figure3(_mean(list(counts.values()))), NONE, *[figure3(m, 1e-9) for m in means]])
    return Grid(header, rows, frozenset({rule}))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _peaks_grid(peaks: Sequence[Record]) -> Grid:
    header = [
        "Model",
        "Category",
        "Strategy",
        "Storage",
        "Images",
        "Pixels",
        "State",
        "After imports",
        "After backbone",
        "At the end",
    ]
    rows = []
    for r in peaks:
        config, used = r["config"], r["strategy_used"]
        rows.append(
            [
                r["model_name"] + ("" if r["weights"]["trained"] else " (untrained)"),
                r["dataset"]["category"],
                config["strategy"] if config["strategy"] == used else f"{config['strategy']} ({used})",
                config["dtype"],
                str(r["n_train"]),
                _pixels(config["protocol"]),
                *[figure3(v, 1e-9) for v in (r["state_bytes"], *r["peaks"].values())],
            ]
        )
    return Grid(header, rows)


def _pixels(protocol: Mapping[str, Any]) -> str:
    """Size of the images that the backbone sees."""
    side = protocol["crop"] or protocol["resize"]
    return f"{side} x {side}"


def _captions(spec: Mapping[str, Any], analytic: Sequence[Row], peaks: Sequence[Record]) -> list[str]:
    rules, counts = _rules(analytic), dict.fromkeys(_rules(analytic), 0)
    cells = 0
    for model, dataset in dict.fromkeys((r["model"], r["dataset"]) for r in analytic):
        printed = _printed(spec, model, dataset)
        if printed is None:
            continue
        cells += 1
        for r in analytic:
            if (r["model"], r["dataset"]) == (model, dataset):
                counts[r["rule"]] += matches(r["value"], printed)
    fits = "; ".join(f"{title}: {counts[key]} of {cells}" for key, title in rules.items())
    verdict = "One rule gives all" if cells in counts.values() else "No single rule gives all"
    lines = [
        "GB are 10^9 bytes and GiB 2^30. The paper's figures are computed, not measured: parameters of the CNN and of "
        "the Gaussians in float32 (arXiv:2011.08785, section V-D).",
        "Gaussians: a mean and a dense inverse covariance at every position. Full CNN: all parameters, classifier "
        f"included. Printed figures that a rule gives, at the precision they have: {fits}. {verdict} {cells}.",
        "Stored: inverse covariances and means as the strategy keeps them, without the backbone. Means are float32, or "
        "float64 with float64 storage. The bytes of woodbury depend on the number of training images, and so may the "
        "choice of auto.",
    ]
    if peaks:
        lines += [
            f"Peaks. {coverage(peaks)} A fresh process each; largest resident memory up to then, "
            "the interpreter and its libraries included; pixels: 224 x 224 as for MVTec AD, 256 x 256 as for STC; "
            "at the end: after training on all images and scoring "
            f"{', '.join(dict.fromkeys(str(r['config']['n_scored']) for r in peaks))} test images in batches of up to "
            f"{', '.join(dict.fromkeys(str(r['config']['batch_size']) for r in peaks))}.",
            *dict.fromkeys(f"{r['model_name']}: weights {r['weights']['label']}." for r in peaks),
            *dict.fromkeys(f"Measured with {machine(r)}." for r in peaks),
        ]
    return lines


def _csv(
    spec: Mapping[str, Any],
    analytic: Sequence[Row],
    states: Sequence[Row],
    by_category: Sequence[Row],
    peaks: Sequence[Record],
) -> str:
    """One line per number: the paper's in its GB, everything else in bytes."""
    out = io.StringIO()
    columns = ["table", "part", "model", "dataset", "category", "grid", "n_train", "strategy", "strategy_used", "dtype"]
    columns += ["protocol"]
    columns += ["quantity", "value", "unit", "fits_printed", "provenance", "record"]
    writer = csv.DictWriter(out, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    table = {"table": spec["name"]}
    for row in spec["paper"]:
        writer.writerow(table | dict(row) | {"part": "printed", "provenance": "arXiv:2011.08785"})
    for row in analytic:
        printed = _printed(spec, row["model"], row["dataset"])
        fits = "" if printed is None else str(matches(row["value"], printed)).lower()
        found = {"part": "computed", "quantity": row["rule"], "value": row["bytes"], "unit": "B", "fits_printed": fits}
        writer.writerow(table | dict(row) | found)
    for part, rows in (("stored", states), ("stored by category", by_category)):
        for row in rows:
            found = {"part": part, "quantity": "state and means", "value": row["bytes"], "unit": "B"}
            writer.writerow(table | dict(row) | found)
    for row in peaks:
        config = row["config"]
        place = {
            "part": "peak",
            "model": row["model_name"],
            "dataset": row["dataset"]["name"],
            "category": config["category"],
            "n_train": row["n_train"],
            "strategy": config["strategy"],
            "strategy_used": row["strategy_used"],
            "dtype": config["dtype"],
            "protocol": config["protocol"]["name"],
            "unit": "B",
            "provenance": f"weights {row['weights']['label']}; {machine(row)}",
            "record": row["id"][:12],
        }
        for quantity, value in ({"state and means": row["state_bytes"]} | row["peaks"]).items():
            writer.writerow(table | place | {"quantity": quantity, "value": value})
    return out.getvalue()
