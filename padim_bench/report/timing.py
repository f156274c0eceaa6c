"""Table VII: seconds of inference and training by stage, beside the paper's, and a figure of their growth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from padim_bench.padim.config import PADIM
from padim_bench.records.costs import (
    OK,
    CostRecord,
    FitTimes,
    GrowthPoint,
    GrowthRecord,
    MeasuredCost,
    Measurement,
    Percentiles,
)
from padim_bench.records.facts import machine_name
from padim_bench.report.costs import coverage, figure3, machine, warned
from padim_bench.report.figures import plain, render
from padim_bench.report.page import NONE, Grid, Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INFERENCE, TRAINING = "inference per image", "training per MVTec AD class"
TRAINING_STC = "training per STC scene"
INFERENCE_STAGES = ("read", "backbone", "embed", "distance", "map")
TRAINING_STAGES = ("read", "backbone", "fit")


def inference_s(cost: MeasuredCost) -> dict[str, Percentiles]:
    """Seconds of one image at a time by stage, from its file to its score."""
    stages = vars(cost.latency_s) | {"read": cost.from_file_s.read}
    return {stage: stages[stage] for stage in INFERENCE_STAGES} | {"total": cost.from_file_s.total}


def training_s(times: FitTimes) -> dict[str, float]:
    """Seconds of training in the paper's few steps: all before the backbone, the backbone, all after it."""
    return {
        "read": times.read + times.decode + times.resize,
        "backbone": times.backbone,
        "fit": times.embed + times.moments + times.factorise,
        "total": times.total,
    }


def timing_page(spec: Mapping[str, Any], costs: Sequence[CostRecord], growth: Sequence[GrowthRecord]) -> Page:
    """The table.

    Args:
        spec: from :func:`load_measured_spec`.
        costs, growth: of its models, in the order of the rows. Those without numbers have a line with the reason.
    """
    measured = [c for c in costs if isinstance(c, MeasuredCost)]
    grown = [g for g in growth if g.status == OK]
    sections = [
        ("Inference, one image at a time", _inference_grid(spec, measured, grown)),
        ("Training on one category", _training_grid(spec, measured)),
        ("Inference per image, in ms, by number of training images", _growth_grid(grown)),
    ]
    heading = warned(f"Table {spec['number']}: {spec['title']}", [*measured, *grown])
    captions = _captions(spec, measured, grown)
    captions += [f"{_named(r)}: {r.status}: {r.reason}." for r in (*costs, *growth) if r.reason is not None]
    own = [g for g in grown if not _rival(g)]
    figures = {f"{spec['name']}-growth": lambda: render(growth_figure(own))} if own else {}
    if own and len(own) < len(grown):
        figures[f"{spec['name']}-rivals"] = lambda: render(rivals_figure(grown))
    text = _csv(spec, measured, grown, " ".join(captions))
    return Page(spec["name"], heading, sections, captions, text, figures=figures, measured=(*measured, *grown))


def growth_figure(records: Sequence[GrowthRecord]) -> Figure:
    """Median inference time per image against the number of training images: a panel per model, a line per strategy.

    Needs matplotlib; nothing of pyplot is touched. Save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(r.model_title for r in records))
    figure = Figure(figsize=(4.2 * max(len(models), 1), 3.6), layout="constrained")
    if drawn := warned("", records, of_data_alone=True).strip():
        figure.suptitle(plain(drawn), fontsize=10)  # untrained weights are named by panel
    several = len(set(map(machine_name, records))) > 1
    panels = figure.subplots(1, max(len(models), 1), squeeze=False)[0]
    for model, axes in zip(models, panels, strict=False):
        counts: set[int] = set()
        for record in (r for r in records if r.model_title == model):
            for line, (strategy, points) in enumerate(_series(record).items()):
                n = [p.n_train for p in points]
                counts.update(n)
                label = f"{record.dataset.category}, {strategy}{f', {machine_name(record)}' if several else ''}"
                axes.plot(n, [1e3 * p.total_s.p50 for p in points], ("o-", "s--")[line % 2], label=label)
        axes.set_title(model)
        axes.set_xscale("log")
        ticks = _apart(sorted(counts))
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.set_xticks([], minor=True)
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("training images (log scale)")
        axes.set_ylabel("inference per image, ms (median)")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    return figure


def rivals_figure(records: Sequence[GrowthRecord]) -> Figure:
    """Time and memory against the number of training images: a column per network, PaDiM's line beside its rivals'.

    Of PaDiM the strategy whose state does not depend on that number, where there is one. Both axes are logarithmic.
    """
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(r.config.model.backbone for r in records if _rival(r)))
    figure = Figure(figsize=(4.2 * len(networks), 6.4), layout="constrained")
    if drawn := warned("", records, of_data_alone=True).strip():
        figure.suptitle(plain(drawn), fontsize=10)
    several = len(set(map(machine_name, records))) > 1
    panels = figure.subplots(2, len(networks), squeeze=False)
    for column, network in enumerate(networks):
        mine = [r for r in records if r.config.model.backbone == network]
        counts = sorted({p.n_train for r in mine for p in r.points})
        for line, record in enumerate(mine):
            series = _series(record)
            strategy, points = list(series.items())[-1]
            label = f"{record.model_title}, {record.dataset.category}{'' if _rival(record) else f', {strategy}'}"
            label += f", {machine_name(record)}" if several else ""
            n = [p.n_train for p in points]
            marks = ("o-", "s--", "^:")[line % 3]
            panels[0, column].plot(n, [1e3 * p.total_s.p50 for p in points], marks, label=label)
            panels[1, column].plot(n, [1e-6 * p.state_bytes for p in points], marks, label=label)
        for axes, quantity in zip(panels[:, column], ("inference per image, ms (median)", "state, MB"), strict=True):
            axes.set_xscale("log")
            axes.set_yscale("log")
            ticks = _apart(counts)
            axes.set_xticks(ticks, [str(n) for n in ticks])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("training images")
            axes.set_ylabel(quantity)
            axes.grid(visible=True, alpha=0.3)
            axes.legend(fontsize="small")
    return figure


def _rival(record: Measurement) -> bool:
    return record.config.model.method != PADIM


def _apart(counts: Sequence[int]) -> list[int]:
    """The counts whose labels do not run into the next larger one on a log axis."""
    kept: list[int] = []
    for n in reversed(counts):
        if not kept or kept[-1] >= 1.25 * n:
            kept.append(n)
    return kept[::-1]


def _named(record: Measurement) -> str:
    what = "growth of " if isinstance(record, GrowthRecord) else ""
    return f"{what}{record.model_title} {record.config.model.strategy}, {record.dataset.category}"


def _printed(spec: Mapping[str, Any], model: str, quantity: str) -> str:
    rows = (r["value"] for r in spec["paper"] if (r["model"], r["quantity"]) == (model, quantity))
    return next(rows, NONE)


def _rows_of(
    spec: Mapping[str, Any], records: Sequence[MeasuredCost], quantity: str
) -> list[tuple[str, MeasuredCost | None]]:
    """What the paper prints of models that we do not run, then each record, or the model that has none."""
    ours = [m["title"] for m in spec["models"]]
    others = dict.fromkeys(r["model"] for r in spec["paper"] if r["quantity"] == quantity and r["model"] not in ours)
    rows: list[tuple[str, MeasuredCost | None]] = [(model, None) for model in others]
    for model in ours:
        mine = [r for r in records if r.model_name == model]
        rows += [(model, r) for r in mine] or [(model, None)]
    return rows + [(r.model_name, r) for r in records if r.model_name not in ours]


def _inference_grid(spec: Mapping[str, Any], records: Sequence[MeasuredCost], grown: Sequence[GrowthRecord]) -> Grid:
    """Of a rival, whose growth alone is measured, the whole at its largest number of training images."""
    header = ["Model", "Category", "Strategy", "Paper, s", "Ours: median, s", "90th perc., s"]
    header += [f"{stage.capitalize()}, ms" for stage in INFERENCE_STAGES]
    rows = []
    places = {(m["arch"], m["method"]): m["title"] for m in spec.get("rivals", ())}
    rivals = [
        (places.get((r.config.model.backbone, r.config.model.method), r.model_name), r) for r in grown if _rival(r)
    ]
    titles = {title for title, _ in rivals}
    of_rows: list[Measurement | None] = []
    for model, record in _rows_of(spec, records, INFERENCE):
        printed = _printed(spec, model, INFERENCE)
        if model in titles:
            continue
        of_rows.append(record)
        if record is None:
            rows.append([model, NONE, NONE, printed, *[NONE] * (len(header) - 4)])
            continue
        times = inference_s(record)
        rows.append(
            [
                record.model_title,
                record.dataset.category,
                record.strategy_title,
                printed,
                figure3(times["total"].p50),
                figure3(times["total"].p90),
                *[figure3(times[stage].p50, 1e3) for stage in INFERENCE_STAGES],
            ]
        )
    for title, rival in rivals:
        of_rows.append(rival)
        whole = max(rival.points, key=lambda p: p.n_train).total_s
        rows.append(
            [
                title if rival.weights.trained else f"{title} (untrained)",
                rival.dataset.category,
                rival.config.model.method,
                _printed(spec, title, INFERENCE),
                figure3(whole.p50),
                figure3(whole.p90),
                *[NONE] * len(INFERENCE_STAGES),
            ]
        )
    return Grid(header, rows, _rule(rows), of_rows=_ids(of_rows))


def _training_grid(spec: Mapping[str, Any], records: Sequence[MeasuredCost]) -> Grid:
    header = ["Model", "Category", "Strategy", "Images", "Paper, s", "Ours, s"]
    header += [f"{stage.capitalize()}, s" for stage in TRAINING_STAGES]
    rows = []
    found = _rows_of(spec, records, TRAINING)
    for model, record in found:
        printed = _printed(spec, model, TRAINING)
        if record is None:
            rows.append([model, NONE, NONE, NONE, printed, *[NONE] * (len(header) - 5)])
            continue
        times = training_s(record.fit_s)
        rows.append(
            [
                record.model_title,
                record.dataset.category,
                record.strategy_title,
                str(record.dataset.n_train),
                printed,
                figure3(times["total"]),
                *[figure3(times[stage]) for stage in TRAINING_STAGES],
            ]
        )
    return Grid(header, rows, _rule(rows), of_rows=_ids(r for _, r in found))


def _ids(records: Iterable[Measurement | None]) -> dict[int, tuple[str, ...]]:
    """Of the rows that are measured."""
    return {i: (r.key,) for i, r in enumerate(records) if r is not None}


def _rule(rows: Sequence[Sequence[str]]) -> frozenset[int]:
    """Before the first row that is measured."""
    first = next((i for i, row in enumerate(rows) if row[1] != NONE), 0)
    return frozenset({first} if first else ())


def _series(record: GrowthRecord) -> dict[str, list[GrowthPoint]]:
    """Growth points by the strategy asked for, ascending in number of images."""
    series: dict[str, list[GrowthPoint]] = {}
    for point in sorted(record.points, key=lambda p: p.n_train):
        series.setdefault(point.strategy, []).append(point)
    return series


def _growth_grid(records: Sequence[GrowthRecord]) -> Grid:
    """The last column of counts is each category's whole training set."""
    counts = sorted({p.n_train for r in records for p in r.points if p.n_train < r.dataset.n_train})
    header = ["Model", "Category", "Strategy", *[f"n = {n}" for n in counts], "all n"]
    header += ["Last / first", "of distance and map", "State, MB"]
    rows, of_rows = [], list[GrowthRecord]()
    for record in records:
        n_train = record.dataset.n_train
        for strategy, points in _series(record).items():
            times = {p.n_train: p.total_s.p50 for p in points}
            of_rows.append(record)
            sizes = list(dict.fromkeys(figure3(p.state_bytes, 1e-6) for p in (points[0], points[-1])))
            rows.append(
                [
                    record.model_title,
                    record.dataset.category,
                    _labelled(strategy, points),
                    *[figure3(times.get(n), 1e3) if n < n_train else NONE for n in counts],
                    f"{figure3(times[n_train], 1e3)} ({n_train})",
                    figure3(_growth([p.total_s for p in points])),
                    figure3(_growth([p.distance_map_s for p in points])),
                    " to ".join(sizes),
                ]
            )
    return Grid(header, rows, of_rows=_ids(of_rows))


def _growth(times: Sequence[Percentiles]) -> float | None:
    """Median at the largest number of images over that at the smallest."""
    return times[-1].p50 / times[0].p50 if len(times) > 1 else None


def _labelled(strategy: str, points: Sequence[GrowthPoint]) -> str:
    used = list(dict.fromkeys(p.strategy_used for p in points))
    return strategy if used == [strategy] else f"{strategy} ({', then '.join(used)})"


def _captions(spec: Mapping[str, Any], costs: Sequence[MeasuredCost], growth: Sequence[GrowthRecord]) -> list[str]:
    hardware: dict[str, list[str]] = {}
    for row in spec["paper"]:
        kind = "inference" if row["quantity"] == INFERENCE else f"training of {row['model']}"
        hardware.setdefault(row["hardware"], []).append(kind)
    printed = "; ".join(f"{where}, for {', '.join(dict.fromkeys(kinds))}" for where, kinds in hardware.items())
    stc = "; ".join(f"{r['model']} {r['value']} s" for r in spec["paper"] if r["quantity"] == TRAINING_STC)
    lines = [
        coverage([*costs, *growth]),
        "Different machines: the paper's seconds and ours stand side by side, and no difference or verdict is drawn.",
        "Paper: arXiv:2011.08785, means over all 15 categories of MVTec AD; what its times include is not stated. "
        f"Training per scene of STC, not in the table: {stc}. The VAE's training is printed as 2h40.",
        f"Paper's hardware: {printed}.",
    ]
    lines += [f"Ours, a fresh process each: {fact}." for fact in dict.fromkeys(map(machine, (*costs, *growth)))]
    lines += [
        "Read: read, decode, resize and crop, by one thread, files in the system's cache. Backbone: up to the last "
        "layer in use. Embed: selection of channels. Distance: Mahalanobis distances, gathering included. Map: "
        "upsampling, smoothing, maximum. Fit: selection, means, covariances, factorisation. Totals are medians of each "
        "image's sum, so stages need not add up to them.",
        "Growth: medians of the whole inference, with the model refitted on the first n training images; all n are "
        "timed in turns on every image, from the same features. Last / first: from the smallest n to the largest, of "
        "the whole and of distance and map alone, the stages that n can change. State: bytes of inverse covariances "
        "and means, likewise. A dash: left out, so that all models of a row fit in memory together.",
    ]
    if any(map(_rival, growth)):
        lines.append(
            "Methods other than PaDiM: growth alone is measured, whose largest number of images is their row of "
            "inference. Distance: their search among the training images; state: all that it needs of these."
        )
    lines += [f"{_facts(r)}; {r.asked.n_images} images timed after {r.n_warmup} not counted." for r in costs]
    lines += [f"Growth of {_facts(r)}; {r.n_timed} images timed after {r.n_warmup} not counted." for r in growth]
    return list(dict.fromkeys(lines))


def _facts(record: Measurement) -> str:
    """Whose weights, what of the features, which images."""
    model, weights = record.config.model, record.weights
    channels = "all channels"
    if model.n_features is not None:
        channels = f"{model.n_features} {model.reduction} channels, seed {model.seed}"
    return (
        f"{record.model_title}, {record.dataset.category}: weights {weights.label}"
        f"{f' ({weights.note})' if weights.note else ''}; {channels}; {model.storage}; "
        f"images as stored: {', '.join(record.dataset.image_sizes)}"
    )


def _csv(
    spec: Mapping[str, Any], costs: Sequence[MeasuredCost], growth: Sequence[GrowthRecord], provenance: str
) -> str:
    """One line per number, ours and the paper's, all in seconds or bytes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["table", "source", "dataset", "category", "model", "weights", "strategy", "strategy_used", "quantity"]
    header += ["statistic", "n_train", "value", "unit", "hardware", "provenance", "record"]
    writer.writerow(header)
    for row in spec["paper"]:
        place = [spec["name"], "paper", "", "", row["model"], "", "", "", row["quantity"], "mean", ""]
        writer.writerow([*place, row["value"], row["unit"], row["hardware"], "arXiv:2011.08785", ""])

    def where(r: Measurement) -> list[str]:
        return [spec["name"], "ours", r.dataset.name, r.dataset.category, r.model_name, r.weights.label]

    def ends(r: Measurement) -> list[str]:
        return [machine(r), provenance, r.id[:12]]

    for cost in costs:
        asked, n = [cost.config.model.strategy, cost.strategy_used], cost.dataset.n_train
        for stage, times in inference_s(cost).items():
            for statistic, value in _statistics(times):
                place = [*asked, f"inference: {stage}", statistic, n]
                writer.writerow([*where(cost), *place, _digits(value), "s", *ends(cost)])
        for stage, value in training_s(cost.fit_s).items():
            writer.writerow([*where(cost), *asked, f"training: {stage}", "sum", n, _digits(value), "s", *ends(cost)])
    for record in growth:
        for point in record.points:
            used = [point.strategy, point.strategy_used]
            for name, times in (("total", point.total_s), ("distance_map", point.distance_map_s)):
                for statistic, value in _statistics(times):
                    place = [*used, f"growth: {name}", statistic, point.n_train]
                    writer.writerow([*where(record), *place, _digits(value), "s", *ends(record)])
            size = [point.n_train, point.state_bytes, "B"]
            writer.writerow([*where(record), *used, "growth: state", "", *size, *ends(record)])
    return out.getvalue()


def _statistics(times: Percentiles) -> list[tuple[str, float]]:
    return [("median", times.p50), ("p90", times.p90)]


def _digits(seconds: float) -> str:
    return f"{seconds:.6f}"
