"""A table of every strategy in the registry: bytes, accuracy and metrics, one row per storage dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from padim_bench.metrics.summary import headline
from padim_bench.records.runs import OK, RunRecord
from padim_bench.report.differences import Difference, paired
from padim_bench.report.page import NONE, Grid, Page
from padim_bench.report.tables import shared_facts, title_warnings
from padim_bench.report.values import shown_values

if TYPE_CHECKING:
    import pandas as pd

# What the others are compared with: exact, and in the widest storage.
REFERENCE = ("cholesky", "float64")


def strategies_frame(values: pd.DataFrame) -> pd.DataFrame:
    """One row per strategy and storage, in percent, points and MB; NaN where a run was invalid.

    Args:
        values: as pages show them, of one model.

    Returns:
        Columns state_mb and residual (the largest over categories), ``difference``, the largest change of any metric of
        any category from ``REFERENCE``, in points, and the mean of each metric.
    """
    of_reference = (values.strategy == REFERENCE[0]) & (values.storage == REFERENCE[1])
    reference = values[of_reference].set_index(["category", "metric"]).value.rename("reference")
    lines = values.join(reference, on=["category", "metric"])
    lines["difference"] = (lines.value - lines.reference).abs()
    lines["state_mb"] = lines.state_bytes / 1e6
    lines["valid"] = lines.status == OK
    grouped = lines.groupby(["strategy", "storage"], sort=False)
    means = lines.groupby(["strategy", "storage", "metric"], sort=False).value.agg(fmean).unstack("metric")
    frame = grouped[["state_mb", "residual", "difference"]].max().join(means[list(headline())])
    # A mean over the categories that happened to be right would flatter a strategy that is sometimes wrong.
    frame.loc[~grouped.valid.all()] = float("nan")
    return frame.reset_index()


def strategies_page(spec: dict[str, Any], records: Sequence[RunRecord]) -> Page:
    """The table."""
    values = shown_values({spec["title"]: records}, headline())
    frame = strategies_frame(values).rename(columns={"storage": "dtype"})
    shout = "".join(f" [{w.upper()}]" for w in title_warnings(records))
    categories = list(dict.fromkeys(r.dataset.category for r in records))
    captions = [
        f"Means over {', '.join(categories)}, in percent; PRO and pixel AUROC over those with masks. State: bytes of "
        "the inverse covariances and means of a category. Residual: largest relative error of squared distances vs. "
        f"float64 on sampled positions. Diff.: largest change of any metric of any category from {REFERENCE[0]} in "
        f"{REFERENCE[1]}, in points. INVALID: the guard found the inverse wrong in some category.",
        f"Weights {records[0].weights.label}; seed {records[0].config.model.seed}.",
        *[f"{fact}." for fact in shared_facts(records, values)],
    ]
    frame["provenance"] = " ".join(captions[1:])
    frame["records"] = " ".join(r.id[:12] for r in records)
    styles = {"state_mb": ".1f", "residual": ".1e", "difference": ".3f", **dict.fromkeys(headline(), ".3f")}
    header = ["Strategy", "Storage", "State MB", "Residual", "Diff.", *(metric.title for metric in headline().values())]
    rows, of_rows = list[list[str]](), dict[int, tuple[str, ...]]()
    ids = {which: tuple(dict.fromkeys(lines.record)) for which, lines in values.groupby(["strategy", "storage"])}
    for row in frame.to_dict("records"):
        of_rows[len(rows)] = ids[row["strategy"], row["dtype"]]
        if math.isnan(row["state_mb"]):
            rows.append([row["strategy"], row["dtype"], "INVALID", *[NONE] * (len(header) - 3)])
        else:
            numbers = [NONE if math.isnan(row[key]) else format(row[key], style) for key, style in styles.items()]
            rows.append([row["strategy"], row["dtype"], *numbers])
    starts = frozenset(i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0])
    sections, heading = [("", Grid(header, rows, starts, of_rows=of_rows))], f"{spec['title']}{shout}"
    if pairs := differences(values):
        columns = ["Strategy", "Storage", *(metric.title for metric in headline().values())]
        lines = [[*which, *(_differs(found.get(name)) for name in headline())] for which, found in pairs.items()]
        title = f"Differs from {REFERENCE[0]} in {REFERENCE[1]} by, in points: means over categories [95 % interval]"
        of_both = {i: (*ids[which], *ids[REFERENCE]) for i, which in enumerate(pairs)}
        sections = [("State and metrics", sections[0][1]), (title, Grid(columns, lines, of_rows=of_both))]
        captions.append(
            "Intervals are of paired differences over test images: both strategies on the same 200 resamples of each "
            "category."
        )
    text = frame.to_csv(index=False, lineterminator="\n")
    return Page(spec["name"], heading, sections, captions, text, records=tuple(records))


def differences(values: pd.DataFrame) -> dict[tuple[str, str], dict[str, Difference]]:
    """By strategy and storage and then by metric, how the mean over categories differs from ``REFERENCE``'s.

    Of strategies that are valid in every category, and of metrics that all runs of both have resampled.
    """
    found: dict[tuple[str, str], dict[str, Difference]] = {}
    for metric in headline():
        lines = values[values.metric == metric]
        if not any(one is not None for one in lines.resampled):
            continue
        groups = dict(list(lines.groupby(["strategy", "storage"], sort=False)))
        reference = groups[REFERENCE]
        categories = [c for c, value in zip(reference.category, reference.value, strict=True) if not math.isnan(value)]
        for (strategy, storage), mine in groups.items():
            if (strategy, storage) != REFERENCE and (pairs := paired(mine, reference, categories)) is not None:
                found.setdefault((str(strategy), str(storage)), {})[metric] = pairs["mean"]
    return found


def _differs(one: Difference | None) -> str:
    return NONE if one is None else one.shown()
