"""Table VII: seconds of inference and training by stage, beside the paper's, and a figure of their growth."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.report.figures import plain, render
from padim_bench.report.page import NONE, Grid, Page
from padim_bench.report.spec import load_toml, specs_folder
from padim_bench.report.tables import Record, dataset_warnings, title_warnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INFERENCE, TRAINING = "inference per image", "training per MVTec AD class"
TRAINING_STC = "training per STC scene"
INFERENCE_STAGES = {"read": "Read", "backbone": "Backbone", "distance": "Distance", "map": "Map"}
TRAINING_STAGES = {"read": "Read", "backbone": "Backbone", "fit": "Fit"}


def load_measured_spec(name: str) -> dict[str, Any]:
    """The spec of Table VII or VIII ("table7", "table8"); its ``paper`` is the rows of the CSV it names."""
    folder = specs_folder()
    spec = load_toml(name)
    with (folder / spec["paper_csv"]).open(encoding="utf-8", newline="") as file:
        spec["paper"] = list(csv.DictReader(file))
    return spec


def load_timing_spec() -> dict[str, Any]:
    return load_measured_spec("table7")


def timing_page(spec: Mapping[str, Any], records: Sequence[Record]) -> Page:
    """The table.

    Args:
        spec: from :func:`load_timing_spec`.
        records: of ``costs.timing.measure_timing``, in the order of the rows.
    """
    records = sorted(records, key=lambda r: _place(spec, r))
    sections = [
        ("Inference, one image at a time", _inference_grid(spec, records)),
        ("Training on one category", _training_grid(spec, records)),
        ("Inference per image, in ms, by number of training images", _growth_grid(records)),
    ]
    heading = f"Table {spec['number']}: {spec['title']}" + "".join(f" [{w.upper()}]" for w in title_warnings(records))
    captions = _captions(spec, records)
    figures = {f"{spec['name']}-growth": lambda: render(growth_figure(records))} if records else {}
    return Page(spec["name"], heading, sections, captions, _csv(spec, records, " ".join(captions)), figures=figures)


def figure3(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits, without an exponent; a dash for None."""
    if value is None:
        return NONE
    value *= scale
    if value == 0:
        return "0"
    digits = 2 - _exponent(value)
    return f"{value:.{max(digits, 0)}f}" if digits >= 0 else f"{round(value, digits):.0f}"


def _exponent(value: float) -> int:
    """Of the value rounded to three digits, so that 9.996 is 10.0."""
    return int(f"{abs(value):.2e}".partition("e")[2])


def growth_figure(records: Sequence[Record]) -> Figure:
    """Median inference time per image against the number of training images: a panel per model, a line per strategy.

    Needs matplotlib; nothing of pyplot is touched. Save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(_model(r) for r in records))
    figure = Figure(figsize=(4.2 * max(len(models), 1), 3.6), layout="constrained")
    if drawn := dataset_warnings(records):
        figure.suptitle(plain(f"[{drawn[0].upper()}]"), fontsize=10)  # untrained weights are named by panel
    panels = figure.subplots(1, max(len(models), 1), squeeze=False)[0]
    for model, axes in zip(models, panels, strict=False):
        counts: set[int] = set()
        for record in (r for r in records if _model(r) == model):
            for line, (strategy, points) in enumerate(_series(record).items()):
                n = [p["n_train"] for p in points]
                counts.update(n)
                label = f"{record['dataset']['category']}, {strategy}"
                milliseconds = [1e3 * p["total_s"]["median"] for p in points]
                axes.plot(n, milliseconds, ("o-", "s--")[line % 2], label=label)
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


def _apart(counts: Sequence[int]) -> list[int]:
    """The counts whose labels do not run into the next larger one on a log axis."""
    kept: list[int] = []
    for n in reversed(counts):
        if not kept or kept[-1] >= 1.25 * n:
            kept.append(n)
    return kept[::-1]


def _place(spec: Mapping[str, Any], record: Record) -> tuple[int, str]:
    titles = [m["title"] for m in spec["models"]]
    name = record["model_name"]
    return titles.index(name) if name in titles else len(titles), name


def _model(record: Record) -> str:
    return f"{record['model_name']}{'' if record['weights']['trained'] else ' (untrained)'}"


def _strategy(record: Record) -> str:
    asked, used = record["config"]["strategy"], record["strategy_used"]
    return asked if asked == used else f"{asked} ({used})"


def _printed(spec: Mapping[str, Any], model: str, quantity: str) -> str:
    rows = (r["value"] for r in spec["paper"] if (r["model"], r["quantity"]) == (model, quantity))
    return next(rows, NONE)


def _rows_of(spec: Mapping[str, Any], records: Sequence[Record], quantity: str) -> list[tuple[str, Record | None]]:
    """What the paper prints of models that we do not run, then each record, or the model that has none."""
    ours = [m["title"] for m in spec["models"]]
    others = dict.fromkeys(r["model"] for r in spec["paper"] if r["quantity"] == quantity and r["model"] not in ours)
    rows: list[tuple[str, Record | None]] = [(model, None) for model in others]
    for model in ours:
        mine = [r for r in records if r["model_name"] == model]
        rows += [(model, r) for r in mine] or [(model, None)]
    return rows + [(r["model_name"], r) for r in records if r["model_name"] not in ours]


def _inference_grid(spec: Mapping[str, Any], records: Sequence[Record]) -> Grid:
    header = ["Model", "Category", "Strategy", "Paper, s", "Ours: median, s", "90th perc., s"]
    header += [f"{title}, ms" for title in INFERENCE_STAGES.values()]
    rows = []
    for model, record in _rows_of(spec, records, INFERENCE):
        printed = _printed(spec, model, INFERENCE)
        if record is None:
            rows.append([model, NONE, NONE, printed, *[NONE] * (len(header) - 4)])
            continue
        times = record["inference_s"]
        rows.append(
            [
                _model(record),
                record["dataset"]["category"],
                _strategy(record),
                printed,
                figure3(times["total"]["median"]),
                figure3(times["total"]["p90"]),
                *[figure3(times[stage]["median"], 1e3) for stage in INFERENCE_STAGES],
            ]
        )
    return Grid(header, rows, _rule(rows))


def _training_grid(spec: Mapping[str, Any], records: Sequence[Record]) -> Grid:
    header = ["Model", "Category", "Strategy", "Images", "Paper, s", "Ours, s"]
    header += [f"{title}, s" for title in TRAINING_STAGES.values()]
    rows = []
    for model, record in _rows_of(spec, records, TRAINING):
        printed = _printed(spec, model, TRAINING)
        if record is None:
            rows.append([model, NONE, NONE, NONE, printed, *[NONE] * (len(header) - 5)])
            continue
        times, dataset = record["training_s"], record["dataset"]
        rows.append(
            [
                _model(record),
                dataset["category"],
                _strategy(record),
                str(dataset["n_train"]),
                printed,
                figure3(times["total"]),
                *[figure3(times[stage]) for stage in TRAINING_STAGES],
            ]
        )
    return Grid(header, rows, _rule(rows))


def _rule(rows: Sequence[Sequence[str]]) -> frozenset[int]:
    """Before the first row that is measured."""
    first = next((i for i, row in enumerate(rows) if row[1] != NONE), 0)
    return frozenset({first} if first else ())


def _series(record: Record) -> dict[str, list[Record]]:
    """Growth points by the strategy asked for, ascending in number of images."""
    series: dict[str, list[Record]] = {}
    for point in sorted(record["growth"], key=lambda p: p["n_train"]):
        series.setdefault(point["strategy"], []).append(point)
    return series


def _growth_grid(records: Sequence[Record]) -> Grid:
    """The last column of counts is each category's whole training set."""
    counts = sorted({p["n_train"] for r in records for p in r["growth"] if p["n_train"] < r["dataset"]["n_train"]})
    header = ["Model", "Category", "Strategy", *[f"n = {n}" for n in counts], "all n"]
    header += ["Last / first", "of distance and map", "State, MB"]
    rows = []
    for record in records:
        n_train = record["dataset"]["n_train"]
        for strategy, points in _series(record).items():
            times = {p["n_train"]: p["total_s"]["median"] for p in points}
            sizes = list(dict.fromkeys(figure3(p["state_bytes"], 1e-6) for p in (points[0], points[-1])))
            rows.append(
                [
                    _model(record),
                    record["dataset"]["category"],
                    _labelled(strategy, points),
                    *[figure3(times.get(n), 1e3) if n < n_train else NONE for n in counts],
                    f"{figure3(times[n_train], 1e3)} ({n_train})",
                    *[figure3(_growth(points, key)) for key in ("total_s", "distance_map_s")],
                    " to ".join(sizes),
                ]
            )
    return Grid(header, rows)


def _growth(points: Sequence[Record], key: str) -> float | None:
    """Median at the largest number of images over that at the smallest."""
    medians = [float(p[key]["median"]) for p in points]
    return medians[-1] / medians[0] if len(medians) > 1 else None


def _labelled(strategy: str, points: Sequence[Record]) -> str:
    used = list(dict.fromkeys(p["strategy_used"] for p in points))
    return strategy if used == [strategy] else f"{strategy} ({', then '.join(used)})"


def _captions(spec: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    hardware: dict[str, list[str]] = {}
    for row in spec["paper"]:
        kind = "inference" if row["quantity"] == INFERENCE else f"training of {row['model']}"
        hardware.setdefault(row["hardware"], []).append(kind)
    printed = "; ".join(f"{where}, for {', '.join(dict.fromkeys(kinds))}" for where, kinds in hardware.items())
    stc = "; ".join(f"{r['model']} {r['value']} s" for r in spec["paper"] if r["quantity"] == TRAINING_STC)
    lines = [
        coverage(records),
        "Different machines: the paper's seconds and ours stand side by side, and no difference or verdict is drawn.",
        "Paper: arXiv:2011.08785, means over all 15 categories of MVTec AD; what its times include is not stated. "
        f"Training per scene of STC, not in the table: {stc}. The VAE's training is printed as 2h40.",
        f"Paper's hardware: {printed}.",
    ]
    lines += [f"Ours: {fact}." for fact in _machines(records)]
    lines += [
        "Read: read, decode, resize and crop, by one thread, files in the system's cache. Backbone: up to the last "
        "layer in use. Distance: selection of channels and Mahalanobis distances. Map: upsampling, smoothing, maximum. "
        "Fit: selection, means, covariances, factorisation. Totals are medians of each image's sum, so stages need "
        "not add up to them.",
        "Growth: medians of the whole inference, with the model refitted on the first n training images; all n are "
        "timed in turns on every image, from the same features. Last / first: from the smallest n to the largest, of "
        "the whole and of distance and map alone, the stages that n can change. State: bytes of inverse covariances "
        "and means, likewise. A dash: left out, so that all models of a row fit in memory together.",
    ]
    lines += [
        f"{_model(r)}, {r['dataset']['category']}: weights {r['weights']['label']}"
        f"{f' ({note})' if (note := r['weights']['note']) else ''}; {_dimensions(r)}; {r['config']['dtype']}; "
        f"{r['n_timed']} images timed after {r['n_warmup']} not counted; "
        f"images as stored: {', '.join(r['dataset']['image_sizes'])}."
        for r in records
    ]
    return lines


def _dimensions(record: Record) -> str:
    config = record["config"]
    if config["n_features"] is None:
        return "all channels"
    return f"{config['n_features']} {config['reduction']} channels, seed {config['seed']}"


def coverage(records: Sequence[Record]) -> str:
    """Which categories of which dataset were measured."""
    if not records:
        return "Nothing was measured."
    by_dataset: dict[str, dict[str, None]] = {}
    for r in records:
        by_dataset.setdefault(r["dataset"]["name"], {})[r["dataset"]["category"]] = None
    told = "; ".join(f"{', '.join(found)} of {name}{_of_all(name, len(found))}" for name, found in by_dataset.items())
    return f"Measured on {told}."


def _of_all(name: str, n: int) -> str:
    """How many of all categories, where that matters to a reader of the paper."""
    known = DATASETS[PAPER_DATASET]
    return f" ({n} of {known.full('all')} {known.members})" if name == known.name else ""


def _machines(records: Sequence[Record]) -> list[str]:
    """Hardware and software of the records, each combination once."""
    return list(dict.fromkeys(machine(r) for r in records))


def machine(record: Record) -> str:
    found = record["environment"]
    commit = found["commit"]
    code = f" at commit {commit[:12]}{' with changes' if found['dirty'] else ''}" if commit else ""
    threads = record["config"]["threads"]
    return (
        f"{found.get('gpu') or found['cpu']}, {threads} {'thread' if threads == 1 else 'threads'}"
        f"{' of ' + found['cpu'] if 'gpu' in found else ''}; torch {found['versions']['torch']}, "
        f"timm {found['versions']['timm']}; padim-bench {found['versions']['padim-bench']}{code}"
    )


def _csv(spec: Mapping[str, Any], records: Sequence[Record], provenance: str) -> str:
    """One line per number, ours and the paper's, all in seconds or bytes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["table", "source", "dataset", "category", "model", "weights", "strategy", "strategy_used", "quantity"]
    header += ["statistic", "n_train", "value", "unit", "hardware", "provenance", "record"]
    writer.writerow(header)
    for row in spec["paper"]:
        place = [spec["name"], "paper", "", "", row["model"], "", "", "", row["quantity"], "mean", ""]
        writer.writerow([*place, row["value"], row["unit"], row["hardware"], "arXiv:2011.08785", ""])
    for r in records:
        where = [spec["name"], "ours", r["dataset"]["name"], r["dataset"]["category"], r["model_name"]]
        where.append(r["weights"]["label"])
        ends = [machine(r), provenance, r["id"][:12]]
        asked, n = [r["config"]["strategy"], r["strategy_used"]], r["dataset"]["n_train"]
        for stage, times in r["inference_s"].items():
            for statistic, value in times.items():
                writer.writerow([*where, *asked, f"inference: {stage}", statistic, n, _digits(value), "s", *ends])
        for stage, value in r["training_s"].items():
            writer.writerow([*where, *asked, f"training: {stage}", "sum", n, _digits(value), "s", *ends])
        for point in r["growth"]:
            used = [point["strategy"], point["strategy_used"]]
            for key in ("total_s", "distance_map_s"):
                for statistic, value in point[key].items():
                    name = f"growth: {key.removesuffix('_s')}"
                    writer.writerow([*where, *used, name, statistic, point["n_train"], _digits(value), "s", *ends])
            size = [point["n_train"], point["state_bytes"], "B"]
            writer.writerow([*where, *used, "growth: state", "", *size, *ends])
    return out.getvalue()


def _digits(seconds: float) -> str:
    return f"{seconds:.6f}"
