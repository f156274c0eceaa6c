"""Figures, each a function from numbers to a matplotlib Figure; deterministic, so that files can be compared."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from padim_bench.machine.console import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by most who see colours differently.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = "osD^v<>"


def render(figure: Figure) -> dict[str, bytes]:
    """The figure as SVG and PNG, the same bytes for the same figure and library versions."""
    import matplotlib

    files = {}
    with matplotlib.rc_context({"svg.hashsalt": "padim-bench", "svg.fonttype": "path"}):
        for kind in ("svg", "png"):
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
            files[kind] = out.getvalue()
    return files


def plain(text: str) -> str:
    """``text`` as it is: matplotlib would read dollars as mathematics, and no font has control characters."""
    return printable(text, keep="\n").replace("$", r"\$")


def spread_figure(
    frame: pd.DataFrame,
    metrics: Mapping[str, str],
    drawn: Sequence[str],
    reference: str | None,
    printed: Mapping[tuple[str, str], float],
    title: str,
    *,
    paper: str = "paper (R18-Rd100)",
) -> Figure:
    """Every seed's value, per category and method, beside what draws nothing and what the paper prints.

    Args:
        frame: a line per value, with columns method, category, metric and value.
        metrics: key and title of each panel.
        drawn: methods that have seeds, in order.
        reference: the method that has none; a line. None where all have seeds.
        printed: the paper's value by (category, metric); a cross.
        title: stands above, with what no reader may miss.
        paper: what the crosses are called.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    categories = list(dict.fromkeys(frame.category))
    shown = [m for m in metrics if not frame[(frame.metric == m)].empty]
    figure = Figure(figsize=(max(7.5, 2.2 + 1.9 * len(categories)), 1.1 + 2.5 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    width = 0.8 / max(len(drawn), 1)
    for axis, metric in zip(axes, shown, strict=True):
        for i, category in enumerate(categories):
            here = frame[(frame.metric == metric) & (frame.category == category)]
            for j, method in enumerate(drawn):
                values = here[here.method == method].value.to_numpy()
                x = i - 0.4 + (j + 0.5) * width
                if not len(values):
                    continue
                axis.plot([x] * len(values), values, _MARKERS[j % 7], color=COLOURS[j % 7], ms=3.5, alpha=0.55, mew=0)
                axis.plot([x - width / 3, x + width / 3], [values.mean()] * 2, color=COLOURS[j % 7], lw=2)
            for value in here[here.method == reference].value:
                axis.plot([i - 0.42, i + 0.42], [value, value], color="0.25", lw=1, ls="--")
            if (category, metric) in printed and not here.empty:
                axis.plot([i - 0.46], [printed[category, metric]], "x", color="black", ms=7, mew=1.8)
        axis.set_ylabel(f"{metrics[metric]} (%)")
        axis.set_xticks(range(len(categories)), [printable(plain(c)) for c in categories])
        axis.set_xlim(-0.55, len(categories) - 0.45)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], marker=_MARKERS[j % 7], color=COLOURS[j % 7], lw=2, ms=4, label=method)
        for j, method in enumerate(drawn)
    ]
    if reference is not None:
        handles.append(Line2D([], [], color="0.25", lw=1, ls="--", label=reference))
    if printed:
        handles.append(Line2D([], [], marker="x", color="black", lw=0, ms=7, mew=1.8, label=paper))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=8)
    figure.suptitle(plain(title), fontsize=10)
    return figure


@dataclass(frozen=True)
class Curve:
    """Values over numbers of images; thin and grey without a title. ``bars`` are half lengths, in the values' unit."""

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    bars: tuple[float, ...] = ()
    printed: bool = False


def shots_figure(panels: Mapping[str, Sequence[Curve]], title: str, *, thin: str) -> Figure:
    """Curves over the number of training images on a log axis, a panel for each metric.

    Args:
        panels: curves by the metric's title; the rightmost values are those of all images.
        title: stands above, with what no reader may miss.
        thin: what curves without a title are called.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(1.2 + 3.9 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    titles = list(dict.fromkeys(c.title for curves in panels.values() for c in curves if c.title))
    printed = {c.title for curves in panels.values() for c in curves if c.printed}
    for axis, (metric, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            if not curve.title:
                axis.plot(curve.x, curve.y, color="0.75", lw=0.8)
                continue
            i = titles.index(curve.title)
            line = ":" if curve.printed else "-"
            look = {"color": COLOURS[i % 7], "marker": _MARKERS[i % 7], "ls": line, "ms": 4, "lw": 1.6, "capsize": 2}
            axis.errorbar(curve.x, curve.y, yerr=curve.bars, **look)
        right = max(x for curve in curves for x in curve.x)
        ticks = [x for x in (1, 2, 4, 8, 16, 32, 100) if x < right / 1.4]
        axis.set_xscale("log")
        axis.set_xticks([*ticks, right], [*map(str, ticks), "all"])
        axis.minorticks_off()
        axis.set_xlabel("normal images learned from")
        axis.set_ylabel(f"{metric} (%)")
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=COLOURS[i % 7], marker=_MARKERS[i % 7], ls=":" if one in printed else "-", ms=4, label=one)
        for i, one in enumerate(titles)
    ]
    if any(not curve.title for curves in panels.values() for curve in curves):
        handles.append(Line2D([], [], color="0.75", lw=0.8, label=thin))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=8)
    figure.suptitle(plain(title), fontsize=10)
    return figure
