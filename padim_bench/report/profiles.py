"""Profiles: what each configuration costs and what it gives, as tables and as a Pareto front."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from padim_bench.metrics.summary import METRICS, headline
from padim_bench.records.costs import FIT_STAGES, PERCENTILES, SCORE_STAGES, CostRecord, MeasuredCost, Scoring
from padim_bench.report.costs import coverage, figure3, machine, warned
from padim_bench.report.page import NONE, Grid, Page

NAME = "profiles"
PEAKS = {False: "resident memory, interpreter and libraries included", True: "allocated there"}
# What may stand on one front, its title, and the numbers of its records on the page.
Groups = dict[str, list[tuple[int, CostRecord]]]


def profiles_page(records: Sequence[CostRecord]) -> Page:
    """The tables.

    Args:
        records: in the order of the rows, those of one machine together. Those that are void or failed have a row with
            the reason and no number.
    """
    sections = [("What each configuration gives and costs", _summary_grid(records))]
    if valid := measured(numbered(records)):
        sections += [
            ("Training by stage, in s", _fit_grid(valid)),
            ("Latency by stage at batch 1, in ms: 50th / 90th / 99th percentile", _latency_grid(valid)),
            ("Throughput by stage, in ms per image (mean)", _throughput_grid(valid)),
            ("Memory, in MB", _memory_grid(valid)),
        ]
    heading = warned("Profiles: accuracy, latency, memory", records)
    return Page(NAME, heading, sections, _captions(records), _csv(records), measured=tuple(records))


def numbered(records: Sequence[CostRecord]) -> list[tuple[int, CostRecord]]:
    """Records with the numbers that tables and figure call them by."""
    return list(enumerate(records, start=1))


def measured(records: Sequence[tuple[int, CostRecord]]) -> list[tuple[int, MeasuredCost]]:
    """Those that have numbers, with what they are called."""
    return [(i, r) for i, r in records if isinstance(r, MeasuredCost)]


def measures(record: MeasuredCost, key: str) -> tuple[float, float, float]:
    """What the front is drawn over: accuracy in percent, latency in ms, peak memory in MB (a GPU's on a GPU).

    All are as printed: rounding of float32 and a few kB are no advantage. A peak that was not measured is infinite.
    """
    value, peak = record.metrics[key], record.memory.peak_bytes
    assert value is not None, "accuracy_key names a metric that all have"
    return (
        round(METRICS[key].shown(value), 2),
        float(figure3(record.latency_s.total.p50, 1e3)),
        math.inf if peak is None else float(figure3(peak, 1e-6)),
    )


def accuracy_key(records: Sequence[CostRecord]) -> str | None:
    """PRO where there are masks, else image AUROC; None if neither is defined."""
    for key in ("pro", "image_auroc"):
        if all(r.metrics[key] is not None for r in records if isinstance(r, MeasuredCost)):
            return key
    return None


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other dominates, all coordinates to be small; equal points do not dominate each other.

    One point dominates another if it is nowhere larger and somewhere smaller.
    """
    front: list[tuple[float, ...]] = []
    for point in sorted({tuple(p) for p in points}):  # whatever dominates a point comes before it
        if not any(all(a <= b for a, b in zip(other, point, strict=True)) for other in front):
            front.append(point)
    return [tuple(point) in front for point in points]


def comparable(records: Sequence[CostRecord]) -> Groups:
    """Numbered records by what may be compared, under a title.

    That is one category on one machine, with one number of threads, under one protocol; and trained networks apart from
    untrained ones, whose accuracy means nothing.
    """
    groups: Groups = {}
    several = len({r.dataset.name for r in records}) > 1
    for i, r in numbered(records):
        where, threads, protocol = r.environment.gpu or r.environment.cpu, r.config.execution.threads, r.config.protocol
        place = f"{r.dataset.category} of {r.dataset.name}" if several else r.dataset.category
        title = f"{place} on {where}, {threads} thread{'s' if threads > 1 else ''}"
        title += "" if protocol.name == "paper" else f", protocol {protocol.title}"
        groups.setdefault(title + ("" if r.weights.trained else ", untrained"), []).append((i, r))
    return groups


def best(records: Sequence[CostRecord]) -> dict[int, MeasuredCost]:
    """The measured records that none comparable dominates in accuracy, latency and memory, by number."""
    found: dict[int, MeasuredCost] = {}
    for group in comparable(records).values():
        valid = measured(group)
        if (key := accuracy_key([r for _, r in group])) is not None:
            points = [measures(r, key) for _, r in valid]
            kept = pareto_front([(-accuracy, *costs) for accuracy, *costs in points])
            found |= {i: r for (i, r), keep in zip(valid, kept, strict=True) if keep}
    return found


def _named(number: int, record: CostRecord) -> list[str]:
    return [str(number), record.model_title, record.strategy_title, record.config.model.storage]


NAMED = ["#", "Model", "Strategy", "Storage"]


def _batch_sizes(records: Sequence[CostRecord]) -> list[int]:
    """Those larger than 1."""
    return sorted({one.batch_size for _, r in measured(numbered(records)) for one in r.scoring} - {1})


def _scoring(record: MeasuredCost, size: int) -> Scoring | None:
    return next((one for one in record.scoring if one.batch_size == size), None)


def _summary_grid(records: Sequence[CostRecord]) -> Grid:
    sizes, front, groups = _batch_sizes(records), best(records), comparable(records)
    header = [*NAMED, *(f"{m.title}, {m.unit}" for m in headline().values()), "Latency, ms"]
    header += [*(f"Images/s at {n}" for n in sizes), "Fit, s", "Peak, MB", "State, MB", "Max. error", "Median error"]
    of_group = {i: name for name, group in groups.items() for i, _ in group}
    several = len(groups) > 1
    header += ["Front", *(["Measured over"] if several else []), "Status"]
    rows = []
    for i, r in numbered(records):
        if not isinstance(r, MeasuredCost):
            place = [of_group[i]] if several else []
            blank = [NONE] * (len(header) - len(NAMED) - len(place) - 1)
            rows.append([*_named(i, r), *blank, *place, r.status.upper()])
            continue
        found = {m: r.metrics.get(m.name) for m in headline().values()}
        metrics = [NONE if value is None else f"{m.shown(value):.2f}" for m, value in found.items()]
        rates = [NONE if (one := _scoring(r, n)) is None else figure3(one.images_per_s) for n in sizes]
        costs = [figure3(r.fit_s.total), figure3(r.memory.peak_bytes, 1e-6), figure3(r.state_bytes, 1e-6)]
        off = (r.accuracy.largest_error, r.accuracy.median_error)
        errors = [NONE if error is None else f"{error:.1e}" for error in off]
        ends = ["yes" if i in front else "", *([of_group[i]] if several else []), r.status]
        rows.append([*_named(i, r), *metrics, figure3(r.latency_s.total.p50, 1e3), *rates, *costs, *errors, *ends])
    return Grid(header, rows, _rules(records), of_rows=_ids(numbered(records)))


def _ids(records: Sequence[tuple[int, CostRecord]]) -> dict[int, tuple[str, ...]]:
    return {row: (r.key,) for row, (_, r) in enumerate(records)}


def _rules(records: Sequence[CostRecord]) -> frozenset[int]:
    """Between models."""
    titles = [r.model_title for r in records]
    return frozenset(i for i in range(1, len(titles)) if titles[i] != titles[i - 1])


def _fit_grid(valid: Sequence[tuple[int, MeasuredCost]]) -> Grid:
    stages = (*FIT_STAGES, "total")
    header = [*NAMED, *(stage.capitalize() for stage in stages)]
    rows = [[*_named(i, r), *(figure3(vars(r.fit_s)[stage]) for stage in stages)] for i, r in valid]
    return Grid(header, rows, _rules([r for _, r in valid]), of_rows=_ids(valid))


def _latency_grid(valid: Sequence[tuple[int, MeasuredCost]]) -> Grid:
    header = [*NAMED, *(stage.capitalize() for stage in SCORE_STAGES), "Total", "Read", "Total from file"]
    rows = []
    for i, r in valid:
        stages = [*(vars(r.latency_s)[stage] for stage in (*SCORE_STAGES, "total")), *vars(r.from_file_s).values()]
        told = (" / ".join(figure3(vars(times)[f"p{p}"], 1e3) for p in PERCENTILES) for times in stages)
        rows.append([*_named(i, r), *told])
    return Grid(header, rows, _rules([r for _, r in valid]), of_rows=_ids(valid))


def _throughput_grid(valid: Sequence[tuple[int, MeasuredCost]]) -> Grid:
    stages = (*SCORE_STAGES, "total")
    header = [*NAMED, "Batch", *(stage.capitalize() for stage in stages), "Images/s"]
    rows: list[list[str]] = []
    rules: set[int] = set()
    for i, r in valid:
        rules.add(len(rows))
        for one in r.scoring:
            means = [figure3(vars(one.per_image_s)[stage].mean, 1e3) for stage in stages]
            rows.append([*_named(i, r), str(one.batch_size), *means, figure3(one.images_per_s)])
    of_rows = _ids([one for one in valid for _ in one[1].scoring])
    return Grid(header, rows, frozenset(rules - {0}), of_rows=of_rows)


def _memory_grid(valid: Sequence[tuple[int, MeasuredCost]]) -> Grid:
    gpu = any(r.memory.peak_cuda_bytes is not None for _, r in valid)
    header = [*NAMED, "After imports", "After backbone", "After fit", "After scoring"]
    header += [*(["CUDA peak"] if gpu else []), "State", "File"]
    rows = []
    for i, r in valid:
        sizes = [*vars(r.memory.peaks).values(), *([r.memory.peak_cuda_bytes] if gpu else [])]
        rows.append([*_named(i, r), *(figure3(size, 1e-6) for size in (*sizes, r.state_bytes, r.file_bytes))])
    return Grid(header, rows, _rules([r for _, r in valid]), of_rows=_ids(valid))


def _captions(records: Sequence[CostRecord]) -> list[str]:
    valid = [r for _, r in measured(numbered(records))]
    checked = [(r.config.model.storage, r.accuracy) for r in records if r.accuracy is not None]
    key = accuracy_key(records)
    lines = [f"{coverage(records)} A fresh process for each configuration; each was measured once."]
    if checked:
        gates = {storage: accuracy.gate for storage, accuracy in checked}
        lines.append(
            "Error: relative, of the squared distances of all test images at "
            f"{_distinct(accuracy.n_positions for _, accuracy in checked)} spread positions, against "
            f"{checked[0][1].reference}. Void: the largest is over what the storage allows "
            f"({', '.join(f'{storage} {gate:g}' for storage, gate in gates.items())}), and nothing is timed. Lossy: an "
            "approximation by design, whatever its error."
        )
    if valid:
        on = {r.memory.peak_cuda_bytes is not None for r in valid}
        to_gpu = "Backbone: copying to the GPU included. " if True in on else ""
        stored = "; ".join(dict.fromkeys(", ".join(r.dataset.image_sizes) for r in valid))
        lines += [
            f"Latency: median of one image at a time, from prepared pixels to map and score, over "
            f"{_distinct(r.asked.n_images for r in valid)} images after "
            f"{_distinct(r.n_warmup for r in valid)} that are not timed; total from file: reading, decoding and "
            "resizing of the same images (read) included. Images/s: the same, from pixels, in batches. MB are 10^6 "
            f"bytes; peak: {'; on a GPU '.join(PEAKS[of] for of in sorted(on))}, of training "
            "and of scoring the test set in batches of "
            f"{_distinct(r.memory.scored_in_batches_of for r in valid)}. State: inverse covariances and means; "
            "file: as PaDiM.save writes it, without the backbone.",
            "Stages. Read: bytes of the files, which lie in the system's cache, on one thread, as decode and resize; "
            f"images as stored: {stored}. {to_gpu}Embed: selection of channels. Moments: checks, gathering, mean and "
            "centring; factorise: covariance, factorisation, storing and a check of some 64 positions; their common "
            "wall-clock time is divided by the threads' seconds. Distance: gathering included. Map: upsampling, "
            "smoothing, score.",
        ]
    if key is not None and valid:
        apart = {r.weights.trained for r in valid} == {True, False}
        lines.append(
            "Front: no other configuration of the same machine and protocol is at least as good in "
            f"{METRICS[key].title} (to 0.01 points), latency and peak, as printed, and better in one. "
            f"{'Untrained networks, whose accuracy means nothing, are left to themselves. ' if apart else ''}"
            "Timings of one run on a machine with other load decide close calls by chance."
        )
    for i, r in numbered(records):
        if not isinstance(r, MeasuredCost):
            what = f"{i}, {r.model_title} {r.strategy_title} {r.config.model.storage}"
            lines.append(f"{what}: {r.status}: {r.reason}.")
    lines += dict.fromkeys(f"{r.model_name}: weights {r.weights.label}." for r in records)
    protocols = dict.fromkeys((r.config.protocol.title, r.config.model.seed) for r in records)
    lines.append(f"Protocol and seed of the channels: {'; '.join(f'{p}, {s}' for p, s in protocols)}.")
    lines += dict.fromkeys(f"Measured with {machine(r)}; OpenMP: {_openmp(r)}." for r in records)
    loads = [load[0] for r in records if r.load_average for load in vars(r.load_average).values() if load]
    if loads:
        lines.append(f"Load average before and after each, over one minute: {min(loads):.1f} to {max(loads):.1f}.")
    return lines


def _openmp(record: CostRecord) -> str:
    return ", ".join(f"{k}={v}" for k, v in record.environment.openmp.items()) or "no variable set"


def _distinct(values: Iterator[Any]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values))


def _csv(records: Sequence[CostRecord]) -> str:
    """One line per number, in seconds, bytes, images per second, or as fractions; void rows have none.

    A line's provenance is its record's own: that of the whole page on each of thousands of lines is megabytes.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["row", "dataset", "category", "model", "weights", "strategy", "strategy_used", "dtype", "status"]
    header += ["front", "quantity", "batch_size", "statistic", "value", "unit", "hardware", "provenance", "record"]
    writer.writerow(header)
    front = best(records)
    for i, r in numbered(records):
        model = r.config.model
        start = [i, r.dataset.name, r.dataset.category, r.model_name, r.weights.label]
        start += [model.strategy, r.strategy_used or "", model.storage, r.status, str(i in front).lower()]
        provenance = f"protocol {model.protocol.title}, seed {model.seed}; OpenMP: {_openmp(r)}"
        ends = [machine(r), provenance, r.id[:12]]
        if not isinstance(r, MeasuredCost):
            writer.writerow([*start, "reason", "", "", r.reason, "", *ends])
            continue
        for quantity, size, statistic, value, unit in _numbers(r):
            writer.writerow([*start, quantity, size, statistic, value, unit, *ends])
    return out.getvalue()


def _numbers(r: MeasuredCost) -> Iterator[tuple[str, str, str, str, str]]:
    """Quantity, batch size, statistic, value and unit."""
    for key in headline():
        if (metric := r.metrics.get(key)) is not None:
            yield f"metric: {key}", "", "", f"{metric:.6f}", ""
    for statistic, error in (("largest", r.accuracy.largest_error), ("median", r.accuracy.median_error)):
        if error is not None:
            yield "relative error of the squared distance", "", statistic, f"{error:.3e}", ""
    for stage, seconds in vars(r.fit_s).items():
        yield f"fit: {stage}", "", "sum", f"{seconds:.6f}", "s"
    for one in r.scoring:
        yield "throughput", str(one.batch_size), "mean", f"{one.images_per_s:.4f}", "images/s"
    timed = [("scoring per image", one.batch_size, one.per_image_s) for one in r.scoring]
    for what, size, stages in (*timed, ("scoring from file", 1, r.from_file_s)):
        for stage, times in vars(stages).items():
            for statistic, seconds in vars(times).items():
                yield f"{what}: {stage}", str(size), statistic, f"{seconds:.6f}", "s"
    for moment, peak in vars(r.memory.peaks).items():
        yield f"peak resident memory: {moment}", "", "max", "" if peak is None else str(peak), "B"
    if r.memory.peak_cuda_bytes is not None:
        yield "peak CUDA memory", "", "max", str(r.memory.peak_cuda_bytes), "B"
    yield "state", "", "", str(r.state_bytes), "B"
    yield "file", "", "", str(r.file_bytes), "B"
    for when, load in vars(r.load_average).items():
        if load:
            yield "load average over 1 minute", "", when, f"{load[0]:.2f}", ""
