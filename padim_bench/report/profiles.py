"""Profiles: what each configuration costs and what it gives, as tables and as a Pareto front."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from padim_bench.metrics.summary import METRICS, headline
from padim_bench.report.page import NONE, Grid, Page
from padim_bench.report.tables import Record, title_warnings
from padim_bench.report.timing import coverage, figure3, machine

NAME = "profiles"
FIT_STAGES = ("read", "decode", "resize", "backbone", "embed", "moments", "factorise", "total")
SCORE_STAGES = ("backbone", "embed", "distance", "map", "total")
PERCENTILES = ("p50", "p90", "p99")
PEAKS = {False: "resident memory, interpreter and libraries included", True: "allocated there"}
MEASURED = ("ok", "lossy")  # statuses with numbers


def profiles_page(records: Sequence[Record]) -> Page:
    """The tables.

    Args:
        records: of ``costs.profile.profile``, in the order of the rows, those of one machine together. Those that
            are void or failed have a row with the reason and no number.
    """
    shout = "".join(f" [{w.upper()}]" for w in title_warnings(records))
    sections = [("What each configuration gives and costs", _summary_grid(records))]
    if valid := [(i, r) for i, r in numbered(records) if r["status"] in MEASURED]:
        sections += [
            ("Training by stage, in s", _fit_grid(valid)),
            ("Latency by stage at batch 1, in ms: 50th / 90th / 99th percentile", _latency_grid(valid)),
            ("Throughput by stage, in ms per image (mean)", _throughput_grid(valid)),
            ("Memory, in MB", _memory_grid(valid)),
        ]
    return Page(NAME, f"Profiles: accuracy, latency, memory{shout}", sections, _captions(records), _csv(records))


def numbered(records: Sequence[Record]) -> list[tuple[int, Record]]:
    """Records with the numbers that tables and figure call them by."""
    return list(enumerate(records, start=1))


def measures(record: Record, key: str) -> tuple[float, float, float]:
    """What the front is drawn over: accuracy in percent, latency in ms, peak memory in MB (a GPU's on a GPU).

    All are as printed: rounding of float32 and a few kB are no advantage. A peak that was not measured is infinite.
    """
    peak = peak_bytes(record)
    megabytes = math.inf if peak is None else float(figure3(peak, 1e-6))
    return (
        round(METRICS[key].shown(record["metrics"][key]), 2),
        float(figure3(latency(record)["total"]["p50"], 1e3)),
        megabytes,
    )


def peak_bytes(record: Record) -> int | None:
    """Peak memory, a GPU's on a GPU; None where the system does not tell."""
    memory = record["memory"]
    peak: int | None = memory.get("peak_cuda_bytes", memory["peak_rss_bytes"])
    return peak


def latency(record: Record) -> Record:
    """Seconds per image by stage and percentile at batch 1."""
    return next(one["per_image_s"] for one in record["scoring"] if one["batch_size"] == 1)


def accuracy_key(records: Sequence[Record]) -> str | None:
    """PRO where there are masks, else image AUROC; None if neither is defined."""
    for key in ("pro", "image_auroc"):
        if all(r["metrics"][key] is not None for r in records if r["status"] in MEASURED):
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


def machines(records: Sequence[Record]) -> dict[str, list[tuple[int, Record]]]:
    """Numbered records by what may be compared: one category on one machine, with one number of threads."""
    groups: dict[str, list[tuple[int, Record]]] = {}
    for i, r in numbered(records):
        where = r["environment"].get("gpu") or r["environment"]["cpu"]
        threads = f"{r['config']['threads']} thread{'s' if r['config']['threads'] > 1 else ''}"
        groups.setdefault(f"{r['dataset']['category']} on {where}, {threads}", []).append((i, r))
    return groups


def best(records: Sequence[Record]) -> dict[int, Record]:
    """The measured records that none of the same machine dominates in accuracy, latency and memory, by number."""
    found: dict[int, Record] = {}
    for group in machines(records).values():
        valid = [(i, r) for i, r in group if r["status"] in MEASURED]
        if (key := accuracy_key([r for _, r in group])) is not None:
            points = [measures(r, key) for _, r in valid]
            kept = pareto_front([(-accuracy, *costs) for accuracy, *costs in points])
            found |= {i: r for (i, r), keep in zip(valid, kept, strict=True) if keep}
    return found


def model_title(record: Record) -> str:
    return f"{record['model_name']}{'' if record['weights']['trained'] else ' (untrained)'}"


def _strategy(record: Record) -> str:
    asked, used = record["config"]["strategy"], record.get("strategy_used")
    return asked if used in {None, asked} else f"{asked} ({used})"


def _named(number: int, record: Record) -> list[str]:
    return [str(number), model_title(record), _strategy(record), record["config"]["dtype"]]


NAMED = ["#", "Model", "Strategy", "Storage"]


def _batch_sizes(records: Sequence[Record]) -> list[int]:
    """Those larger than 1."""
    sizes = {one["batch_size"] for r in records if r["status"] in MEASURED for one in r["scoring"]}
    return sorted(sizes - {1})


def _scoring(record: Record, size: int) -> Record | None:
    return next((one for one in record["scoring"] if one["batch_size"] == size), None)


def _summary_grid(records: Sequence[Record]) -> Grid:
    sizes, front = _batch_sizes(records), best(records)
    header = [*NAMED, *(f"{m.title}, {m.unit}" for m in headline().values()), "Latency, ms"]
    header += [*(f"Images/s at {n}" for n in sizes), "Fit, s", "Peak, MB", "State, MB", "Max. error", "Median error"]
    of_machine = {i: name for name, group in machines(records).items() for i, _ in group}
    several = len(machines(records)) > 1
    header += ["Front", *(["Measured over"] if several else []), "Status"]
    rows = []
    for i, r in numbered(records):
        if r["status"] not in MEASURED:
            place = [of_machine[i]] if several else []
            blank = [NONE] * (len(header) - len(NAMED) - len(place) - 1)
            rows.append([*_named(i, r), *blank, *place, r["status"].upper()])
            continue
        found = {m: r["metrics"].get(m.name) for m in headline().values()}
        metrics = [NONE if value is None else f"{m.shown(value):.2f}" for m, value in found.items()]
        rates = [NONE if (one := _scoring(r, n)) is None else figure3(one["images_per_s"]) for n in sizes]
        costs = [figure3(r["fit_s"]["total"]), _peak(r), figure3(r["state_bytes"], 1e-6)]
        off = [r["accuracy"][k] for k in ("largest_error", "median_error")]
        errors = [NONE if error is None else f"{error:.1e}" for error in off]
        ends = ["yes" if i in front else "", *([of_machine[i]] if several else []), r["status"]]
        rows.append([*_named(i, r), *metrics, figure3(latency(r)["total"]["p50"], 1e3), *rates, *costs, *errors, *ends])
    return Grid(header, rows, _rules(records))


def _rules(records: Sequence[Record]) -> frozenset[int]:
    """Between models."""
    titles = [model_title(r) for r in records]
    return frozenset(i for i in range(1, len(titles)) if titles[i] != titles[i - 1])


def _peak(record: Record) -> str:
    return figure3(peak_bytes(record), 1e-6)


def _fit_grid(valid: Sequence[tuple[int, Record]]) -> Grid:
    header = [*NAMED, *(stage.capitalize() for stage in FIT_STAGES)]
    rows = [[*_named(i, r), *(figure3(r["fit_s"][stage]) for stage in FIT_STAGES)] for i, r in valid]
    return Grid(header, rows, _rules([r for _, r in valid]))


def _latency_grid(valid: Sequence[tuple[int, Record]]) -> Grid:
    header = [*NAMED, *(stage.capitalize() for stage in SCORE_STAGES)]
    rows = [
        [
            *_named(i, r),
            *(" / ".join(figure3(latency(r)[stage][p], 1e3) for p in PERCENTILES) for stage in SCORE_STAGES),
        ]
        for i, r in valid
    ]
    return Grid(header, rows, _rules([r for _, r in valid]))


def _throughput_grid(valid: Sequence[tuple[int, Record]]) -> Grid:
    header = [*NAMED, "Batch", *(stage.capitalize() for stage in SCORE_STAGES), "Images/s"]
    rows: list[list[str]] = []
    rules: set[int] = set()
    for i, r in valid:
        rules.add(len(rows))
        for one in r["scoring"]:
            means = [figure3(one["per_image_s"][stage]["mean"], 1e3) for stage in SCORE_STAGES]
            rows.append([*_named(i, r), str(one["batch_size"]), *means, figure3(one["images_per_s"])])
    return Grid(header, rows, frozenset(rules - {0}))


def _memory_grid(valid: Sequence[tuple[int, Record]]) -> Grid:
    gpu = any("peak_cuda_bytes" in r["memory"] for _, r in valid)
    header = [*NAMED, "After imports", "After backbone", "After fit", "After scoring"]
    header += [*(["CUDA peak"] if gpu else []), "State", "File"]
    rows = []
    for i, r in valid:
        sizes = list(r["memory"]["peaks"].values())
        sizes += [*([r["memory"].get("peak_cuda_bytes")] if gpu else []), r["state_bytes"], r["file_bytes"]]
        rows.append([*_named(i, r), *(figure3(size, 1e-6) for size in sizes)])
    return Grid(header, rows, _rules([r for _, r in valid]))


def _captions(records: Sequence[Record]) -> list[str]:
    valid = [r for r in records if r["status"] in MEASURED]
    checked = [r for r in records if "accuracy" in r]
    key = accuracy_key(records)
    lines = [f"{coverage(records)} A fresh process for each configuration; each was measured once."]
    if checked:
        gates = {r["config"]["dtype"]: r["accuracy"]["gate"] for r in checked}
        lines.append(
            "Error: relative, of the squared distances of all test images at "
            f"{_distinct(r['accuracy']['n_positions'] for r in checked)} spread positions, against "
            f"{checked[0]['accuracy']['reference']}. Void: the largest is over what the storage allows "
            f"({', '.join(f'{dtype} {gate:g}' for dtype, gate in gates.items())}), and nothing is timed. Lossy: an "
            "approximation by design, whatever its error."
        )
    if valid:
        on = {"peak_cuda_bytes" in r["memory"] for r in valid}
        gpu = True in on
        to_gpu = "Backbone: copying to the GPU included. " if gpu else ""
        stored = "; ".join(dict.fromkeys(", ".join(r["dataset"]["image_sizes"]) for r in valid))
        lines += [
            f"Latency: median of one image at a time, from prepared pixels to map and score, over "
            f"{_distinct(r['config']['n_images'] for r in valid)} images after "
            f"{_distinct(r['n_warmup'] for r in valid)} that are not timed. "
            "Images/s: the same in batches. MB are 10^6 bytes; peak: "
            f"{'; on a GPU '.join(PEAKS[of] for of in sorted(on))}, of training "
            "and of scoring the test set in batches of "
            f"{_distinct(r['memory']['scored_in_batches_of'] for r in valid)}. State: inverse covariances and means; "
            "file: as PaDiM.save writes it, without the backbone.",
            "Stages. Read: bytes of the files, which lie in the system's cache, on one thread, as decode and resize; "
            f"images as stored: {stored}. {to_gpu}Embed: selection of channels. Moments: checks, gathering, mean and "
            "centring; factorise: covariance, factorisation, storing and a check of some 64 positions; their common "
            "wall-clock time is divided by the threads' seconds. Distance: gathering included. Map: upsampling, "
            "smoothing, score.",
        ]
    if key is not None and valid:
        lines.append(
            f"Front: no other configuration of the same machine is at least as good in {METRICS[key].title} (to "
            "0.01 points), latency and peak, as printed, and better in one. Timings of one run on a machine with other "
            "load decide close calls by chance."
        )
    for i, r in numbered(records):
        if r["status"] not in MEASURED:
            what = f"{i}, {model_title(r)} {_strategy(r)} {r['config']['dtype']}"
            lines.append(f"{what}: {r['status']}: {r['reason']}.")
    lines += dict.fromkeys(f"{r['model_name']}: weights {r['weights']['label']}." for r in records)
    protocols = dict.fromkeys((r["config"]["protocol"]["name"], r["config"]["seed"]) for r in records)
    lines.append(f"Protocol and seed of the channels: {'; '.join(f'{p}, {s}' for p, s in protocols)}.")
    lines += dict.fromkeys(f"Measured with {machine(r)}; OpenMP: {_openmp(r)}." for r in records)
    loads = [load[0] for r in records if "load_average" in r for load in r["load_average"].values() if load]
    if loads:
        lines.append(f"Load average before and after each, over one minute: {min(loads):.1f} to {max(loads):.1f}.")
    return lines


def _openmp(record: Record) -> str:
    found = record["environment"]["openmp"]
    return ", ".join(f"{k}={v}" for k, v in found.items()) or "no variable set"


def _distinct(values: Iterator[Any]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values))


def _csv(records: Sequence[Record]) -> str:
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
        start = [i, r["dataset"]["name"], r["dataset"]["category"], r["model_name"], r["weights"]["label"]]
        start += [r["config"]["strategy"], r.get("strategy_used") or "", r["config"]["dtype"], r["status"]]
        start.append(str(i in front).lower())
        provenance = f"protocol {r['config']['protocol']['name']}, seed {r['config']['seed']}; OpenMP: {_openmp(r)}"
        ends = [machine(r), provenance, r["id"][:12]]
        if r["status"] not in MEASURED:
            writer.writerow([*start, "reason", "", "", r["reason"], "", *ends])
            continue
        for quantity, size, statistic, value, unit in _numbers(r):
            writer.writerow([*start, quantity, size, statistic, value, unit, *ends])
    return out.getvalue()


def _numbers(r: Record) -> Iterator[tuple[str, str, str, str, str]]:
    """Quantity, batch size, statistic, value and unit."""
    for key in headline():
        if r["metrics"].get(key) is not None:
            yield f"metric: {key}", "", "", f"{r['metrics'][key]:.6f}", ""
    for key in ("largest_error", "median_error"):
        yield "relative error of the squared distance", "", key.partition("_")[0], f"{r['accuracy'][key]:.3e}", ""
    for stage, seconds in r["fit_s"].items():
        yield f"fit: {stage}", "", "sum", f"{seconds:.6f}", "s"
    for one in r["scoring"]:
        size = str(one["batch_size"])
        yield "throughput", size, "mean", f"{one['images_per_s']:.4f}", "images/s"
        for stage, times in one["per_image_s"].items():
            for statistic, seconds in times.items():
                yield f"scoring per image: {stage}", size, statistic, f"{seconds:.6f}", "s"
    for moment, peak in r["memory"]["peaks"].items():
        yield f"peak resident memory: {moment}", "", "max", "" if peak is None else str(peak), "B"
    if "peak_cuda_bytes" in r["memory"]:
        yield "peak CUDA memory", "", "max", str(r["memory"]["peak_cuda_bytes"]), "B"
    yield "state", "", "", str(r["state_bytes"]), "B"
    yield "file", "", "", str(r["file_bytes"]), "B"
    for when, load in r["load_average"].items():
        if load:
            yield "load average over 1 minute", "", when, f"{load[0]:.2f}", ""
