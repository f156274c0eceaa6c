"""The figure of the profiles: accuracy, latency and memory, two at a time, with what nothing else beats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from padim_bench.metrics.summary import METRICS
from padim_bench.records.costs import LOSSY, CostRecord, MeasuredCost
from padim_bench.report.costs import warned
from padim_bench.report.figures import COLOURS, plain
from padim_bench.report.profiles import (
    accuracy_key,
    best,
    comparable,
    measured,
    measures,
    numbered,
    pareto_front,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX<>"
# How full a marker is tells the storage.
_FILLS = {"float32": "full", "float16": "none", "bfloat16": "left", "float64": "bottom"}
# Where a number may stand beside its point, in points of type, the best place first.
_PLACES = [(7, 7), (-7, 7), (7, -8), (-7, -8), (0, 12), (0, -13), (14, 0), (-14, 0), (14, 14), (-14, 14), (14, -15),
           (-14, -15), (0, 22), (0, -23), (26, 0), (-26, 0), (26, 14), (-26, 14), (26, -15), (-26, -15)]  # fmt: skip
_Box = tuple[float, float, float, float]


def pareto_figures(records: Sequence[CostRecord]) -> dict[str, Figure]:
    """By file name, the figure of each group that may be compared: "pareto", of several one named after each.

    Of several, those of less than three configurations are left out, since the front of two tells nothing.
    """
    groups = comparable(records)
    drawn = {
        name: figure
        for name, group in groups.items()
        if (len(groups) == 1 or len(measured(group)) > 2) and (figure := pareto_figure(records, group)) is not None
    }
    return {
        "pareto" if len(groups) == 1 else f"pareto-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}": figure
        for name, figure in drawn.items()
    }


def pareto_figure(
    records: Sequence[CostRecord], group: Sequence[tuple[int, CostRecord]] | None = None
) -> Figure | None:
    """Three panels: accuracy against latency, accuracy against memory, latency against memory.

    The first alone where a peak of memory was not measured.

    A line joins those that no other configuration beats in the panel's two measures. Those that none
    beats in all three at once are ringed, and have the number of their row in the table.

    Args:
        records: as for ``report.profiles.profiles_page``.
        group: those to draw, that may be compared, with their numbers; None for all, which then may.

    Returns:
        None if no configuration has numbers to draw.
    """
    from matplotlib.figure import Figure

    group = numbered(records) if group is None else group
    key = accuracy_key([r for _, r in group])
    drawn = measured(group)
    if key is None or not drawn:
        return None
    points = {i: measures(r, key) for i, r in drawn}
    ringed = [i for i in best(records) if i in points]
    models = list(dict.fromkeys(r.model_title for r in records))  # marks are the same in all figures of a page
    strategies = list(dict.fromkeys(r.config.model.strategy for r in records))
    gpu = drawn[0][1].memory.peak_cuda_bytes is not None
    titles = (
        f"{METRICS[key].title}, {METRICS[key].unit}",
        "latency at batch 1, ms",
        f"peak {'CUDA' if gpu else 'resident'} memory, MB",
    )

    finite = all(math.isfinite(value) for p in points.values() for value in p)
    pairs = ((1, 0), (2, 0), (2, 1)) if finite else ((1, 0),)
    figure = Figure(figsize=(13.5 if finite else 6.0, 5.4), layout="constrained")
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (x, y) in zip(panels, pairs, strict=True):
        _front(axes, [(p[x], p[y]) for p in points.values()], larger_is_better=y == 0)
        for i, r in drawn:
            axes.plot(
                [points[i][x]],
                [points[i][y]],
                _MARKERS[strategies.index(r.config.model.strategy) % len(_MARKERS)],
                color=COLOURS[models.index(r.model_title) % len(COLOURS)],
                fillstyle=_FILLS[r.config.model.storage],
                markerfacecoloralt="white",
                ms=7,
                mew=1.2,
            )
        for i in ringed:
            axes.plot([points[i][x]], [points[i][y]], "o", ms=13, mfc="none", mec="black", mew=0.9)
        for name, value in (("x", x), ("y", y)):
            if value > 0:
                _log_scale(axes, name, [p[value] for p in points.values()])
            else:
                axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(titles[x])
        axes.set_ylabel(titles[y])
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.13)
    _legend(figure, drawn, models, strategies)
    (where,) = comparable([r for _, r in drawn])
    title = warned(f"Profiles over {drawn[0][1].dataset.name}: {where}", [r for _, r in drawn])
    figure.suptitle(plain(title), fontsize=11)
    figure.draw_without_rendering()  # the layout is settled now, and numbers are placed in it
    for axes, (x, y) in zip(panels, pairs, strict=True):
        _number(axes, {i: (p[x], p[y]) for i, p in points.items()}, ringed)
    return figure


def _front(axes: Axes, points: Sequence[tuple[float, float]], *, larger_is_better: bool) -> None:
    """A staircase through the points that none beats in two measures; the first is to be small."""
    sign = -1 if larger_is_better else 1
    kept = pareto_front([(a, sign * b) for a, b in points])
    front = sorted({p for p, keep in zip(points, kept, strict=True) if keep})
    axes.step([a for a, _ in front], [b for _, b in front], where="post", color="0.45", lw=1.2, zorder=1)


def _log_scale(axes: Axes, name: str, values: Sequence[float]) -> None:
    """A log axis for costs, with plain numbers at ticks that do not crowd."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    ratio = max(values) / min(values)
    steps = (1.0, 2.0, 5.0) if ratio > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=steps) if ratio > 2 else MaxNLocator(nbins=5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _legend(
    figure: Figure, drawn: Sequence[tuple[int, MeasuredCost]], models: Sequence[str], strategies: Sequence[str]
) -> None:
    """Colour is the model, shape the strategy, fill the storage."""
    from matplotlib.lines import Line2D

    lossy = {r.config.model.strategy for _, r in drawn if r.status == LOSSY}
    dtypes = list(dict.fromkeys(r.config.model.storage for _, r in drawn))

    def mark(marker: str, colour: str, fill: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=colour, fillstyle=fill, markerfacecoloralt="white",  # type: ignore[arg-type]
                      lw=0, ms=7, mew=1.2, label=label)  # fmt: skip

    here = {r.model_title for _, r in drawn}  # of the page's, which the marks are of
    handles = [mark("o", COLOURS[i % len(COLOURS)], "full", model) for i, model in enumerate(models) if model in here]
    handles += [
        mark(_MARKERS[i % len(_MARKERS)], "0.35", "full", f"{name} (lossy)" if name in lossy else name)
        for i, name in enumerate(strategies)
        if name in {r.config.model.strategy for _, r in drawn}
    ]
    handles += [mark("o", "0.35", _FILLS[dtype], dtype) for dtype in dtypes]
    handles.append(Line2D([], [], color="0.45", lw=1.2, label="best of the two measures"))
    ring = "best of all three: row of the table"
    handles.append(Line2D([], [], marker="o", lw=0, ms=11, mfc="none", mec="black", mew=0.9, label=ring))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)), frameon=False, fontsize=8)


def _number(axes: Axes, points: dict[int, tuple[float, float]], ringed: Sequence[int]) -> None:
    """Numbers beside the ringed points, where none covers a point or another; with a line to those that are far."""
    scale = axes.figure.dpi / 72
    at = {i: axes.transData.transform(p) for i, p in points.items()}
    taken: list[_Box] = [(x - 7 * scale, y - 7 * scale, x + 7 * scale, y + 7 * scale) for x, y in at.values()]
    low, high = axes.bbox.min, axes.bbox.max
    for i in sorted(ringed, key=lambda i: (points[i], i)):
        half = ((3 * len(str(i)) + 1) * scale, 5 * scale)

        def box(place: tuple[float, float], i: int = i, half: tuple[float, float] = half) -> _Box:
            x, y = at[i][0] + place[0] * scale, at[i][1] + place[1] * scale
            return x - half[0], y - half[1], x + half[0], y + half[1]

        def clash(place: tuple[float, float]) -> int:
            a = box(place)
            outside = a[0] < low[0] or a[1] < low[1] or a[2] > high[0] or a[3] > high[1]
            return 3 * outside + sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in taken)

        place = min(_PLACES, key=clash)
        taken.append(box(place))
        far = max(abs(place[0]), abs(place[1])) > 15
        axes.annotate(
            str(i),
            points[i],
            xytext=place,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkA": 4, "shrinkB": 6} if far else None,
        )
