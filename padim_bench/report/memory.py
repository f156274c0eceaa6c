"""Table VIII: bytes of a model, as printed, by the paper's arithmetic, as stored, and as a process needs them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from padim_bench.records.costs import AnalyticRow, CostRecord, MeasuredCost, StoredRow
from padim_bench.report.costs import coverage, figure3, machine, warned
from padim_bench.report.page import NONE, Grid, Page


def memory_page(
    spec: Mapping[str, Any],
    analytic: Sequence[AnalyticRow],
    states: Sequence[StoredRow],
    by_category: Sequence[StoredRow],
    costs: Sequence[CostRecord],
    *,
    by_images: Sequence[StoredRow] = (),
) -> Page:
    """The table.

    Args:
        spec: from :func:`load_measured_spec`.
        analytic: from ``costs.sizes.analytic_figures``.
        states: from ``costs.sizes.stored_states``, of one number of images.
        by_category: the same, of each category's number of images, on one grid.
        costs: of its models, in the order of the rows. Those without numbers have a line with the reason.
        by_images: what models and other methods store, at several numbers of images.
    """
    peaks = [c for c in costs if isinstance(c, MeasuredCost)]
    sections = [("Printed and computed, in GB", _printed_grid(spec, analytic))]
    if states:
        n = ", ".join(dict.fromkeys(str(r.n_train) for r in states))
        sections.append((f"Stored by strategy, in GB, n = {n} training images", _stored_grid(states)))
    if by_category:
        first = by_category[0]
        title = f"Stored by {first.model} with strategy {first.strategy}, {first.dataset}, in GB"
        sections.append((title, _category_grid(by_category)))
    if by_images:
        title = f"Stored by number of training images, {by_images[0].dataset}, in GB"
        sections.append((title, _images_grid(by_images)))
    if peaks:
        sections.append(("Peak resident memory of a process that trains and scores, in GB", _peaks_grid(peaks)))
    heading = warned(f"Table {spec['number']}: {spec['title']}", peaks)
    captions = _captions(spec, analytic, peaks)
    captions += [
        f"{c.model_title} {c.config.model.strategy}, {c.dataset.category}, {_pixels(c)}: {c.status}: {c.reason}."
        for c in costs
        if c.reason is not None
    ]
    text = _csv(spec, analytic, states, by_category, by_images, peaks)
    return Page(spec["name"], heading, sections, captions, text, measured=tuple(peaks))


def matches(value: float, printed: str) -> bool:
    """Whether a figure rounds to the printed one, at the decimals that are printed."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def _printed(spec: Mapping[str, Any], model: str, dataset: str) -> str | None:
    found = (r["value"] for r in spec["paper"] if (r["model"], r["dataset"]) == (model, dataset))
    return next(found, None)


def _rules(analytic: Sequence[AnalyticRow]) -> dict[str, str]:
    """Titles with units, by key, in order."""
    return {r.rule: f"{r.rule_title}, {r.unit}" for r in analytic}


def _printed_grid(spec: Mapping[str, Any], analytic: Sequence[AnalyticRow]) -> Grid:
    rules = _rules(analytic)
    header = ["Model", "Dataset", "Positions", "Paper, GB", *rules.values(), "Fits"]
    computed = {r.model for r in analytic}
    ours = [m["title"] for m in spec.get("rivals", ()) if m["title"] in computed]
    ours += [m["title"] for m in spec["models"]]
    rows = [
        [r["model"], r["dataset"], NONE, r["value"], *[NONE] * (len(rules) + 1)]
        for r in spec["paper"]
        if r["model"] not in ours
    ]
    rule = len(rows)
    for model in ours:
        for dataset in spec["datasets"]:
            figures = {r.rule: r for r in analytic if (r.model, r.dataset) == (model, dataset["title"])}
            printed = _printed(spec, model, dataset["title"])
            fits = [rules[k] for k, r in figures.items() if printed is not None and matches(r.value, printed)]
            side = dataset["grid"]
            values = [figure3(figures[k].value) if k in figures else NONE for k in rules]
            rows.append(
                [model, dataset["title"], f"{side} x {side}", printed or NONE, *values, "; ".join(fits) or NONE]
            )
    return Grid(header, rows, frozenset({rule} if rule else ()))


def _stored_grid(states: Sequence[StoredRow]) -> Grid:
    columns = list(dict.fromkeys((r.model, r.dataset, r.grid) for r in states))
    sizes = {(r.strategy, r.dtype, r.model, r.dataset): r for r in states}
    header = ["Strategy", "Storage", *[f"{model}, {dataset} ({g} x {g})" for model, dataset, g in columns]]
    rows = []
    for strategy, dtype in dict.fromkeys((r.strategy, r.dtype) for r in states):
        line = [strategy, dtype]
        for model, dataset, _ in columns:
            row = sizes.get((strategy, dtype, model, dataset))
            chosen = f" ({row.strategy_used})" if row and row.strategy_used != strategy else ""
            line.append(NONE if row is None else f"{figure3(row.bytes, 1e-9)}{chosen}")
        rows.append(line)
    return Grid(header, rows, frozenset(i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]))


def _category_grid(by_category: Sequence[StoredRow]) -> Grid:
    dtypes = list(dict.fromkeys(r.dtype for r in by_category))
    header = ["Category", "Training images", "Chosen", *dtypes]
    rows = []
    for category in dict.fromkeys(r.category for r in by_category):
        mine = {r.dtype: r for r in by_category if r.category == category}
        first = next(iter(mine.values()))
        sizes = [figure3(mine[t].bytes, 1e-9) if t in mine else NONE for t in dtypes]
        chosen = ", ".join(dict.fromkeys(mine[t].strategy_used for t in dtypes if t in mine))
        rows.append([category, str(first.n_train), chosen, *sizes])
    rule = len(rows)
    counts = {r.category: r.n_train for r in by_category}
    means = [_mean([r.bytes for r in by_category if r.dtype == t]) for t in dtypes]
    rows.append(["Mean", figure3(_mean(list(counts.values()))), NONE, *[figure3(m, 1e-9) for m in means]])
    return Grid(header, rows, frozenset({rule}))


def _images_grid(by_images: Sequence[StoredRow]) -> Grid:
    counts = sorted({r.n_train for r in by_images})
    sizes = {(r.model, r.strategy, r.dtype, r.n_train): r.bytes for r in by_images}
    kinds = dict.fromkeys((r.model, r.strategy, r.dtype) for r in by_images)
    rows = [[*kind, *[figure3(sizes.get((*kind, n)), 1e-9) for n in counts]] for kind in kinds]
    return Grid(["Model", "Strategy", "Storage", *[f"n = {n}" for n in counts]], rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _peaks_grid(peaks: Sequence[MeasuredCost]) -> Grid:
    header = ["Model", "Category", "Strategy", "Storage", "Images", "Pixels", "State", "After imports"]
    header += ["After backbone", "After fit", "After scoring"]
    rows = [
        [
            r.model_title,
            r.dataset.category,
            r.strategy_title,
            r.config.model.storage,
            str(r.dataset.n_train),
            _pixels(r),
            *[figure3(v, 1e-9) for v in (r.state_bytes, *vars(r.memory.peaks).values())],
        ]
        for r in peaks
    ]
    return Grid(header, rows, of_rows={i: (r.key,) for i, r in enumerate(peaks)})


def _pixels(cost: CostRecord) -> str:
    """Size of the images that the backbone sees."""
    side = cost.config.protocol.size
    return f"{side} x {side}"


def _captions(spec: Mapping[str, Any], analytic: Sequence[AnalyticRow], peaks: Sequence[MeasuredCost]) -> list[str]:
    counts, cells = dict.fromkeys(_rules(analytic), 0), dict.fromkeys(_rules(analytic), 0)
    for r in analytic:
        printed = _printed(spec, r.model, r.dataset)
        if printed is not None:
            cells[r.rule] += 1
            counts[r.rule] += matches(r.value, printed)
    rules = {key: title for key, title in _rules(analytic).items() if cells[key]}
    fits = "; ".join(f"{title}: {counts[key]} of {cells[key]}" for key, title in rules.items())
    most = max(cells.values(), default=0)
    verdict = "One rule gives all" if most in counts.values() else "No single rule gives all"
    lines = [
        "GB are 10^9 bytes and GiB 2^30. The paper's figures are computed, not measured: parameters of the CNN and of "
        "the Gaussians in float32 (arXiv:2011.08785, section V-D).",
        "Gaussians: a mean and a dense inverse covariance at every position. Full CNN: all parameters, classifier "
        f"included. Printed figures that a rule gives, at the precision they have: {fits}. {verdict} {most} of PaDiM.",
        *_features_captions(spec, analytic),
        "Stored: inverse covariances and means as the strategy keeps them, without the backbone. Means are float32, or "
        "float64 with float64 storage. The bytes of woodbury depend on the number of training images, and so may the "
        "choice of auto.",
    ]
    if peaks:
        meant = {"224 x 224": "224 x 224 as for MVTec AD", "256 x 256": "256 x 256 as for STC"}
        pixels = ", ".join(meant.get(size, size) for size in dict.fromkeys(map(_pixels, peaks)))
        lines += [
            f"Peaks. {coverage(peaks)} A fresh process each; largest resident memory up to then, "
            f"the interpreter and its libraries included; pixels: {pixels}; trained on all images in batches of "
            f"{', '.join(dict.fromkeys(str(r.config.execution.batch_size) for r in peaks))}, scored all test images in "
            f"batches of {', '.join(dict.fromkeys(str(r.memory.scored_in_batches_of) for r in peaks))}.",
            *dict.fromkeys(f"{r.model_name}: weights {r.weights.label}." for r in peaks),
            *dict.fromkeys(f"Measured with {machine(r)}." for r in peaks),
        ]
    return lines


def _features_captions(spec: Mapping[str, Any], analytic: Sequence[AnalyticRow]) -> list[str]:
    """How a rival's figures are computed, and how many images those are that the arithmetic does not give."""
    rows = [(r, r.n_train) for r in analytic if r.n_train is not None]
    if not rows:
        return []
    counts = ", ".join(dict.fromkeys(f"{n} of {r.dataset}" for r, n in rows))
    lines = [
        "Training features: what a nearest-neighbour method keeps, float32 numbers of three layers' feature maps of "
        f"all training images, {counts} (the mean of its categories, and of all frames of its scenes)."
    ]
    for r, n in rows:
        printed = _printed(spec, r.model, r.dataset)
        if printed is not None and not matches(r.value, printed):
            images = float(printed) / r.value * n
            lines.append(
                f"{r.model} on {r.dataset}: the printed {printed} GB are features of {images:.0f} images, "
                f"{100 * images / n:.0f} % of them; which were left out is not stated."
            )
    return lines


def _csv(
    spec: Mapping[str, Any],
    analytic: Sequence[AnalyticRow],
    states: Sequence[StoredRow],
    by_category: Sequence[StoredRow],
    by_images: Sequence[StoredRow],
    peaks: Sequence[MeasuredCost],
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
        printed = _printed(spec, row.model, row.dataset)
        fits = "" if printed is None else str(matches(row.value, printed)).lower()
        found = {"part": "computed", "quantity": row.rule, "value": row.bytes, "unit": "B", "fits_printed": fits}
        writer.writerow(table | vars(row) | found)
    for part, rows in (("stored", states), ("stored by category", by_category), ("stored by images", by_images)):
        for stored in rows:
            found = {"part": part, "quantity": "state and means", "value": stored.bytes, "unit": "B"}
            writer.writerow(table | vars(stored) | found)
    for peak in peaks:
        model = peak.config.model
        place = {
            "part": "peak",
            "model": peak.model_name,
            "dataset": peak.dataset.name,
            "category": peak.dataset.category,
            "n_train": peak.dataset.n_train,
            "strategy": model.strategy,
            "strategy_used": peak.strategy_used,
            "dtype": model.storage,
            "protocol": model.protocol.name,
            "unit": "B",
            "provenance": f"weights {peak.weights.label}; {machine(peak)}",
            "record": peak.id[:12],
        }
        for quantity, value in ({"state and means": peak.state_bytes} | vars(peak.memory.peaks)).items():
            writer.writerow(table | place | {"quantity": quantity, "value": value})
    return out.getvalue()
