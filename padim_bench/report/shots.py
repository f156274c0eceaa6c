"""The report on few normal images: how many are enough, and whether the images or the channels weigh more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.records.runs import RunRecord
from padim_bench.report.figures import Curve, render, shots_figure
from padim_bench.report.page import NONE, Grid, Page, Section, Source, csv_text, mean_sd, number
from padim_bench.report.spec import Few, metric_titles, read_few_shot, specs_folder
from padim_bench.report.tables import shared_facts, title_warnings
from padim_bench.report.values import mean_interval, shown_values

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

ALL, DRAWN, BOOTSTRAP, CHANNELS = "all", "drawn", "bootstrap", "channels"
_ALL_CATEGORIES = len(DATASETS[PAPER_DATASET].kinds)  # which published means are over
# Of a model's runs, by what was drawn.
Parts = Mapping[str, Sequence[RunRecord]]


def shots_page(spec: Mapping[str, Any], runs: Mapping[str, Parts], missing: Mapping[str, str]) -> Page:
    """The report.

    Args:
        spec: ``reproduce/shots.toml``.
        runs: per model title, the records of all images ("all"), of few of them ("drawn"), of as many with replacement
            ("bootstrap"), and of other channels with all images ("channels"); the last two may be empty.
        missing: per model title that did not run, why.
    """
    metrics = metric_titles(spec)
    runs = {title: _of_drawn(parts) for title, parts in runs.items()}
    frame = values_by_part(runs, metrics)
    records = list({r.id: r for parts in runs.values() for of_part in parts.values() for r in of_part}.values())
    real = all(r.dataset.name == PAPER_DATASET for r in records)
    few = read_few_shot(specs_folder() / spec["few_shot_csv"]) if real else {}
    models = [_Model(title, frame[frame.title == title].dropna(subset="value")) for title in runs]
    sections: list[Section] = []
    notes: list[str] = []
    for model in models:
        sections += [(f"{model.title}: {text}", _by_number(model, metric)) for metric, text in metrics.items()]
    sections.append(_enough(models, metrics, spec["enough"]))
    notes += [line for m in models for line in _enough_said(m, metrics, spec["enough"])]
    for model in models:
        spread = spreads(model.frame)
        if not spread.empty:
            sections.append(_spread_grid(model.title, spread, metrics))
            notes += _spread_said(model, spread, metrics)
    named = {r["id"]: r["title"] for r in spec["reproductions"]}
    published = {
        metric: {title: few[one, metric] for one, title in named.items() if (one, metric) in few} for metric in metrics
    }
    sections += [
        (f"{text}: means beside published ones of PaDiM", _beside(models, metric, published[metric]))
        for metric, text in metrics.items()
        if published[metric]
    ]
    captions = [
        _coverage(records),
        f"Percent. Of each number of images {_numbers(frame[frame.part == DRAWN].draw.nunique(), 'draw')}: mean ± "
        "standard deviation over them. A draw of few images is part of the draw of more with its number, and draws of "
        "most of the images are much alike: their spread is that within one training set. Of all images there is one "
        "run.",
        "With 1 image there is no covariance: epsilon I alone takes its place, and distances are Euclidean.",
        *_left_out(models, metrics),
        *_invalid(runs),
        *notes,
        *_beside_said(records, published),
        *[f"{title}: not run: {why}." for title, why in missing.items()],
        *[f"{r['title']}: {r['source']}." for r in spec["reproductions"] if real],
        *[f"{fact[0].upper()}{fact[1:]}." for fact in shared_facts(records, frame)],
    ]
    warned = title_warnings(records)
    shout = "".join(f" [{w.upper()}]" for w in warned)

    def figure() -> Mapping[str, bytes]:
        lines = "".join(f"\n[{w.upper()}]" for w in warned)
        curves = {metric: _curves(models, metric, published[metric]) for metric in metrics}
        title = f"How many normal images are enough? Means over categories, bars over draws of the images{lines}"
        thin = f"each category, {models[0].title}"
        return render(shots_figure({metrics[m]: cs for m, cs in curves.items() if cs}, title, thin=thin))

    return Page(
        spec["name"],
        f"Few images: {spec['title']}{shout}",
        sections,
        captions,
        _csv(frame, few, named),
        absent=tuple(missing),
        figures={} if frame.value.isna().all() else {spec["name"]: figure},
        records=tuple(records),
    )


def _of_drawn(parts: Parts) -> Parts:
    """Only the categories that have runs of few images."""
    there = {r.dataset.category for r in parts[DRAWN]}
    return {part: [r for r in of_part if r.dataset.category in there] for part, of_part in parts.items()}


def values_by_part(runs: Mapping[str, Parts], metrics: Mapping[str, str]) -> pd.DataFrame:
    """The values of all runs as pages show them, with columns title and part."""
    import pandas as pd

    frames = [
        shown_values({title: of_part}, metrics).assign(part=part)
        for title, parts in runs.items()
        for part, of_part in parts.items()
    ]
    return pd.concat([f for f in frames if not f.empty], ignore_index=True)


class _Model:
    """A model's values, and the categories that its means are over."""

    def __init__(self, title: str, frame: pd.DataFrame) -> None:
        self.title, self.frame = title, frame
        self.categories = list(dict.fromkeys(frame.category))
        self.numbers = sorted({int(n) for n in frame[frame.part == DRAWN].n_trained})
        self._values: dict[tuple[str, str, int | None], list[float]] = {}
        self._runs: dict[tuple[str, str, int | None], list[str]] = {}
        self._drawn: dict[tuple[str, str, int | None], list[NDArray[np.float64] | None]] = {}
        for part in (ALL, DRAWN):
            mine = frame[frame.part == part].sort_values("draw", kind="stable")
            of_each = zip(mine.metric, mine.category, mine.n_trained, strict=True)
            of_runs = zip(mine.value, mine.record, mine.resampled, strict=True)
            for (metric, category, n), (value, record, resampled) in zip(of_each, of_runs, strict=True):
                place = metric, category, None if part == ALL else int(n)
                self._values.setdefault(place, []).append(float(value))
                self._runs.setdefault(place, []).append(record)
                self._drawn.setdefault(place, []).append(resampled)

    def of(self, metric: str, category: str, n: int | None) -> list[float]:
        """Over draws of ``n`` images, None for all of them."""
        return self._values.get((metric, category, n), [])

    def source(self, metric: str, category: str, n: int | None) -> Source | None:
        """What stands behind the mean over draws."""
        place = metric, category, n
        if not (values := self.of(*place)):
            return None
        return Source((), "", "%", tuple(values), tuple(self._runs[place]), mean_interval([self._drawn[place]]))

    def mean_source(self, metric: str, n: int | None) -> Source | None:
        """The same of the mean over categories."""
        places = [(metric, c, n) for c in self.shared(metric)]
        if not (values := self.mean(metric, n)):
            return None
        records = tuple(r for place in places for r in self._runs[place])
        return Source((), "", "%", tuple(values), records, mean_interval(self._drawn[place] for place in places))

    def shared(self, metric: str) -> list[str]:
        """Categories that have all images, and as many draws of each number as any has."""
        most = {n: max(len(self.of(metric, c, n)) for c in self.categories) for n in (*self.numbers, None)}
        return [c for c in self.categories if all(len(self.of(metric, c, n)) == k for n, k in most.items())]

    def mean(self, metric: str, n: int | None) -> list[float]:
        """Over those categories, draw by draw."""
        columns = [self.of(metric, c, n) for c in self.shared(metric)]
        return [fmean(of_draw) for of_draw in zip(*columns, strict=True)]


def _by_number(model: _Model, metric: str) -> Grid:
    """A line for each category, and one for the mean."""
    numbers: list[int | None] = [*model.numbers, None]
    of_all = model.frame[model.frame.part == ALL]
    n_train = dict(zip(of_all.category, of_all.n_trained, strict=True))
    categories = [c for c in model.categories if any(model.of(metric, c, n) for n in numbers)]
    rows = [
        [f"{c} ({n_train[c]})" if c in n_train else c, *(mean_sd(model.of(metric, c, n)) for n in numbers)]
        for c in categories
    ]
    behind = [[model.source(metric, c, n) for n in numbers] for c in categories]
    shared = model.shared(metric)
    if len(shared) > 1:
        rows.append([f"mean of {len(shared)}", *(mean_sd(model.mean(metric, n)) for n in numbers)])
        behind.append([model.mean_source(metric, n) for n in numbers])
    rules = frozenset({len(rows) - 1} if len(shared) > 1 else ())
    sources = {(i, j): one for i, row in enumerate(behind) for j, one in enumerate(row, start=1) if one is not None}
    return Grid(["Category (images)", *map(str, model.numbers), "all"], rows, rules, sources)


def enough(curve: Mapping[int, float], of_all: float, within: float) -> int | None:
    """The least number of images from which on every larger number is no more than ``within`` below all; or None."""
    found = None
    for n in sorted(curve, reverse=True):
        if curve[n] < of_all - within - 1e-9:
            break
        found = n
    return found


def _enough_of(model: _Model, metric: str, category: str | None, within: float) -> str:
    def at(n: int | None) -> list[float]:
        return model.mean(metric, n) if category is None else model.of(metric, category, n)

    whole = at(None)
    if not whole or not any(map(at, model.numbers)):
        return NONE
    curve = {n: fmean(values) for n in model.numbers if (values := at(n))}
    found = enough(curve, whole[0], within)
    return f"more than {max(curve)}" if found is None else str(found)


def _enough(models: Sequence[_Model], metrics: Mapping[str, str], within: float) -> Section:
    categories = list(dict.fromkeys(c for model in models for c in model.categories))
    header = ["Category", *(f"{model.title}: {text}" for model in models for text in metrics.values())]
    rows: list[list[str]] = [
        [c or "mean", *(_enough_of(model, metric, c, within) for model in models for metric in metrics)]
        for c in [*categories, *([None] if len(categories) > 1 else [])]
    ]
    title = f"Least number of images from which on the mean over draws is within {_points(within)} of all images"
    rules = frozenset({len(rows) - 1} if len(categories) > 1 else ())
    return title, Grid(header, rows, rules)


def _enough_said(model: _Model, metrics: Mapping[str, str], within: float) -> list[str]:
    """What the first and the sufficient number of images lack, of the mean over categories."""
    lines = []
    for metric, text in metrics.items():
        whole, first = model.mean(metric, None), model.mean(metric, model.numbers[0])
        if not whole or not first:
            continue
        found = _enough_of(model, metric, None, within)
        least = f"from {found} images on" if found.isdigit() else f"with {found} images only"
        lines.append(
            f"{model.title}, {text}: the mean is within {_points(within)} of all images' {whole[0]:.2f} {least}; "
            f"{_numbers(model.numbers[0], 'image')}: {fmean(first) - whole[0]:+.2f}."
        )
    return lines


def spreads(frame: pd.DataFrame) -> pd.DataFrame:
    """Standard deviations over training images and over channels, by metric and category, where there are both.

    Args:
        frame: of one model, with the columns part, metric, category, draw, seed and value.

    Returns:
        Columns metric, category, images and channels (standard deviations), n_images and n_channels (of how many
        values), and shift (the mean over resamples less the value of all images, each once).
    """
    import pandas as pd

    lines = []
    for (metric, category), mine in frame.groupby(["metric", "category"], sort=False):
        resampled, channels, whole = (mine[mine.part == part].value for part in (BOOTSTRAP, CHANNELS, ALL))
        if len(resampled) > 1 and len(channels) > 1:
            shift = resampled.mean() - whole.mean()
            counts = len(resampled), len(channels)
            lines.append((metric, category, resampled.std(ddof=1), channels.std(ddof=1), *counts, shift))
    return pd.DataFrame(lines, columns=["metric", "category", "images", "channels", "n_images", "n_channels", "shift"])


def _spread_grid(title: str, spread: pd.DataFrame, metrics: Mapping[str, str]) -> Section:
    header = ["Category"]
    for text in (metrics[m] for m in metrics if m in set(spread.metric)):
        header += [f"{text}: images", "channels", "ratio"]
    rows = []
    for category in dict.fromkeys(spread.category):
        row = [category]
        for metric in (m for m in metrics if m in set(spread.metric)):
            here = spread[(spread.metric == metric) & (spread.category == category)]
            row += _ratio(*here[["images", "channels"]].iloc[0]) if len(here) else [NONE] * 3
        rows.append(row)
    row = ["root mean square"]
    for metric in (m for m in metrics if m in set(spread.metric)):
        of_metric = spread[spread.metric == metric]
        row += _ratio(*(_rms(of_metric[part].tolist()) for part in ("images", CHANNELS)))
    rows.append(row)
    section = f"{title}: standard deviation over training images (resampled, all at once) and over channels, in points"
    return section, Grid(header, rows, frozenset({len(rows) - 1}))


def _ratio(images: float, channels: float) -> list[str]:
    return [number(images), number(channels), number(images / channels) if channels else NONE]


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(fmean(v * v for v in values))


def chance(n: int, m: int) -> tuple[float, float]:
    """Where the ratio of standard deviations of n and of m normal values of one spread lies, 19 times in 20."""
    from scipy.special import fdtri

    return math.sqrt(fdtri(n - 1, m - 1, 0.025)), math.sqrt(fdtri(n - 1, m - 1, 0.975))


def _spread_said(model: _Model, spread: pd.DataFrame, metrics: Mapping[str, str]) -> list[str]:
    """Which spread is larger, where, and where by more than so few values give by chance."""
    n, m = int(spread.n_images.max()), int(spread.n_channels.max())
    low, high = chance(n, m)
    lines = [
        f"{model.title}, spread over training images: standard deviation over {n} resamples of all training images, "
        f"with replacement, channels as they are; over channels: over {m} seeds, with all images. So many normal "
        f"values of one spread give a ratio between {low:.2f} and {high:.2f} 19 times in 20. A resample has about 63 % "
        "of the images, some of them several times: its mean may be off that of all, its spread is what is compared."
    ]
    for metric, text in metrics.items():
        mine = spread[spread.metric == metric]
        if mine.empty:
            continue
        ratio = mine.images / mine.channels
        images, channels = (_rms(mine[part].tolist()) for part in ("images", CHANNELS))
        sure = [list(mine.category[ratio > high]), list(mine.category[ratio < low])]
        larger = "over training images" if images > channels else "over channels"
        lines.append(
            f"{model.title}, {text}: the spread is larger {larger}, {images:.2f} points of images to "
            f"{channels:.2f} of channels (root mean squares over categories); that of images is the larger "
            f"in {int((ratio > 1).sum())} of {len(mine)} categories. By more than chance that of images in "
            f"{_listed(sure[0])}, that of channels in {_listed(sure[1])}. Resamples lie {mine['shift'].mean():+.2f} "
            "points off all images on average."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _beside(models: Sequence[_Model], metric: str, published: Mapping[str, Mapping[int | None, Few]]) -> Grid:
    """Means over categories by number of images, and how far each is from its own of all images."""
    numbers = sorted({n for m in models for n in m.numbers} | {n for c in published.values() for n in c if n})
    header = ["Images", *(f"{m.title} ({len(m.shared(metric))} categories)" for m in models), *published]
    rows = []
    for n in [*numbers, None]:
        row = ["all" if n is None else str(n)]
        for model in models:
            values = model.mean(metric, n) if n is None or n in model.numbers else []
            row.append(_with_gap(mean_sd(values), fmean(values) if values else None, model.mean(metric, None), n))
        for column in published.values():
            one, whole = column.get(n), column.get(None)
            told = NONE if one is None else number(one.value, 1)
            told += "" if one is None or one.spread is None else f" ± {one.spread:g}"
            row.append(_with_gap(told, one.value if one else None, [whole.value] if whole else [], n))
        rows.append(row)
    found = {
        (i, j): model.mean_source(metric, n)
        for i, n in enumerate([*numbers, None])
        for j, model in enumerate(models, start=1)
        if n is None or n in model.numbers
    }
    return Grid(header, rows, sources={where: one for where, one in found.items() if one is not None})


def _with_gap(told: str, value: float | None, whole: Sequence[float], n: int | None) -> str:
    """A value with its distance from that of all images."""
    return told if value is None or n is None or not whole else f"{told} ({value - whole[0]:+.1f})"


def _beside_said(records: Sequence[RunRecord], published: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not any(published.values()):
        return []
    n = len({r.dataset.category for r in records})
    return [
        f"Published means are over {_ALL_CATEGORIES} categories, ours over at most {n}: what compares is how far each "
        "lies below its own of all images, in brackets; and those were made with other networks, preprocessing or "
        "definitions of PRO."
    ]


def _left_out(models: Sequence[_Model], metrics: Mapping[str, str]) -> list[str]:
    """Categories that have fewer images than some number, or runs without numbers."""
    lines = []
    for model in models:
        absent = {
            c: [n for n in model.numbers if all(not model.of(metric, c, n) for metric in metrics)]
            for c in model.categories
        }
        if told := [f"{c} of {', '.join(map(str, ns))}" for c, ns in absent.items() if ns]:
            lines.append(
                f"{model.title}: no draw, where there are no more images for training or no run is on record: "
                f"{'; '.join(told)}. Means are over the categories that have every number."
            )
    return lines


def _invalid(runs: Mapping[str, Parts]) -> list[str]:
    """Runs that gave no numbers, those of each model in a line."""
    lines = []
    for title, parts in runs.items():
        found = []
        for record in (r for of_part in parts.values() for r in of_part if not r.valid):
            drawn, where = record.config.trained, record.dataset.category
            if drawn is None:
                found.append(f"{where}, seed {record.config.model.seed}")
            else:
                how = (
                    "resample" if drawn.replaced else f"{_numbers(drawn.count(record.dataset.n_train), 'image')}, draw"
                )
                found.append(f"{where}, {how} {drawn.draw}")
        if found:
            lines.append(f"{title}: INVALID and left out: {'; '.join(dict.fromkeys(found))}.")
    return lines


def _coverage(records: Sequence[RunRecord]) -> str:
    dataset = records[0].dataset.name
    n, known = len({r.dataset.category for r in records}), DATASETS.get(dataset)
    of = f" of {len(known.kinds)}" if known and known.kinds else ""
    return f"Dataset {dataset}, {n}{of} categories."


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


def _numbers(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _curves(models: Sequence[_Model], metric: str, published: Mapping[str, Mapping[int | None, Few]]) -> list[Curve]:
    """Ours by model, and by category of the first; then what is printed."""
    curves = []
    for i, model in enumerate(models):
        numbers: list[int | None] = [*model.numbers, None]
        n_all = model.frame[model.frame.part == ALL].n_trained
        right = float(n_all.median()) if len(n_all) else 2.0 * max(model.numbers)

        def place(n: int | None, right: float = right) -> float:
            return right if n is None else float(n)

        for category in model.categories if i == 0 else ():
            found = {place(n): fmean(v) for n in numbers if (v := model.of(metric, category, n))}
            curves.append(Curve("", tuple(found), tuple(found.values())))
        means = {n: v for n in numbers if (v := model.mean(metric, n))}
        sds = tuple(stdev(v) if len(v) > 1 else 0.0 for v in means.values())
        xs, ys = tuple(map(place, means)), tuple(map(fmean, means.values()))
        name = f"{model.title}, ours ({len(model.categories)} categories)"
        curves.append(Curve(name, xs, ys, sds))
    right = max((x for curve in curves for x in curve.x), default=1.0)
    for title, column in published.items():
        xs = tuple(right if n is None else float(n) for n in column)
        bars = tuple(one.spread or 0.0 for one in column.values())
        values = tuple(one.value for one in column.values())
        curves.append(Curve(f"{title} ({_ALL_CATEGORIES} categories)", xs, values, bars, printed=True))
    return curves


def _csv(frame: pd.DataFrame, few: Mapping[tuple[str, str], Mapping[int | None, Few]], named: Mapping[str, str]) -> str:
    """Every value of every run, then what is printed."""
    header = ["model", "part", "metric", "category", "images", "draw", "seed", "value", "record"]
    ours = frame.dropna(subset="value").assign(
        model=lambda f: f.title, images=lambda f: f.n_trained, record=lambda f: f.record.str[:12]
    )
    lines = [list(map(str, line)) for line in ours.assign(value=ours.value.map("{:.4f}".format))[header].to_numpy()]
    lines += [
        [named[one], "published", metric, "all", "all" if n is None else str(n), "", "", f"{value.value:.4f}", ""]
        for (one, metric), column in few.items()
        if one in named
        for n, value in column.items()
    ]
    return csv_text(header, lines)
