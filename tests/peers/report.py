"""One machine's results.json, and from it alone peers.md and peers.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.machine.features import features_line
from padim_bench.machine.files import write_text
from padim_bench.machine.reading import why
from padim_bench.records.files import to_json
from padim_bench.records.sealed import OtherSchemaError, read_sealed, write_sealed
from padim_bench.report.page import NONE, Grid, markdown_page
from tests.peers.rows import HALF

SCHEMA = 1
# What a fit at d = 100 is made of; to compare with, since no floor is computed from them.
BATCHED = {
    "covariances_flops_per_s": "batched covariances of 209 images and 100 dimensions in float32",
    "cholesky_flops_per_s": "batched Cholesky factors of them",
}
TRIAL = " (small sizes: a trial, not a measurement)"
COMPARABLE = {"right", "differs"}  # verdicts on a baseline that ratios may be of
APPLIED = {"native": "multiplied as it is stored", "widened": "widened to float32 and multiplied"}
Result = Mapping[str, Any]


def read(folder: Path) -> dict[str, Any]:
    """Earlier results; empty where there are none. Raises PadimBenchError for what is not such a file."""
    path = folder / "results.json"
    try:
        found = read_sealed(path, SCHEMA)
        to_markdown(found), to_csv(found)  # whatever is missing, a page misses it
    except FileNotFoundError:
        return {"schema": SCHEMA, "rates": {}, "rows": {}}
    except OtherSchemaError as error:
        raise PadimBenchError(
            f"{path} has schema {error.args[0]}, this version writes {SCHEMA}: use another --results folder"
        ) from error
    except Exception as error:  # whichever a page stumbles over
        raise not_readable(path, error) from error
    return found


def not_readable(path: Path, error: Exception) -> PadimBenchError:
    return PadimBenchError(f"{path} is not readable ({why(error)}): delete it, and all is measured again")


def write(folder: Path, results: Result) -> None:
    write_sealed(folder / "results.json", to_json(results))
    write_pages(folder, results)


def write_pages(folder: Path, results: Result) -> None:
    write_text(folder / "peers.md", to_markdown(results))
    write_text(folder / "peers.csv", to_csv(results))


def ratio(row: Result, side: Result, unit: str) -> float | None:
    """How many times the baseline's seconds or bytes are ours; None where there is nothing to divide."""
    base = next(s for s in row["sides"] if s["name"] == row["baseline"])
    ours, theirs = side[f"median_{unit}"], base[f"median_{unit}"]
    return theirs / ours if ours and theirs and side is not base else None


def judged(row: Result) -> Iterator[tuple[Result, str, float | None]]:
    """Each target of a row, the best of ours that is right, and its ratio if the baseline is not wrong."""
    base = next(s for s in row["sides"] if s["name"] == row["baseline"])
    for target in row["targets"]:
        reached = [
            (r, s["name"])
            for s in row["sides"]
            if base["status"] in COMPARABLE
            and not s["peer"]
            and s["status"] == "right"
            and (not target["ours"] or s["name"] == target["ours"])
            and (not target.get("storages") or s["options"].get("storage") in target["storages"])
            if (r := ratio(row, s, target["measure"])) is not None
        ]
        best, name = max(reached, default=(None, NONE))
        yield target, name, best


def floor_seconds(side: Result, rates: Result) -> float | None:
    """The least time by this machine's measured rates: the slower of moving the bytes and of the arithmetic.

    Of half precision at the rate of float32, to which it can be widened, or at its own where that is higher.
    """
    work, measured = side["least_work"], rates.get(str(side["threads"]))
    if not work or not measured or measured.get("status") != "ok":
        return None
    dtypes = ("float32", work["dtype"]) if work["dtype"] in HALF else (work["dtype"],)
    rate = max(measured[key] for key in (f"{dtype}_flops_per_s" for dtype in dtypes) if key in measured)
    return max(work["flops"] / rate, work["bytes"] / measured["read_bytes_per_s"])


def to_markdown(results: Result) -> str:
    rows = list(results["rows"].values())
    quick = TRIAL if any(r["provenance"]["quick"] for r in rows) else ""
    parts = [markdown_page(f"Beside other implementations{quick}", [("", _targets(rows))], _provenance(results))]
    parts += [_row_page(row, results["rates"]) for row in rows]
    return "\n".join(parts)


def _targets(rows: list[Result]) -> Grid:
    lines = []
    for row in rows:
        for target, name, best in judged(row):
            verdict = "not measured" if best is None else "yes" if best >= target["at_least"] else "no"
            lines.append([target["what"], name, times(best), f"{target['at_least']:g}x", verdict])
    return Grid(["Work", "by", "ratio", "target", "reached"], lines)


def _provenance(results: Result) -> list[str]:
    rows = results["rows"].values()
    facts = [
        "Ratio: the baseline's median over the contender's. Verdicts: right or wrong by the difference from float64 "
        "references; a whole run, which has none, differs from ours (in a metric by more than 0.01) or not; raised, "
        "did not return, timeout and killed as found. "
        "Ours must be as exact as the core promises. No target is reached by a wrong result, or against one; a whole "
        "run of a peer that differs is still a baseline.",
        "MB: peak resident memory while running, less what was there with the inputs (whole runs: the peak itself); "
        "each figure from a process of its own.",
        "Floor: the slower of reading the bytes and of the arithmetic, at the rates of reading and of products below; "
        "over floor: the median over it.",
        "Contenders that take turns run twice in each, and the second is timed: OpenMP's threads, left spinning or "
        "asleep by the one before, count for nobody.",
    ]
    for threads, rates in sorted(results["rates"].items()):
        if rates.get("status") == "ok":
            facts.append(
                f"Measured on {threads} thread{'s' * (threads != '1')}: "
                f"read {rates['read_bytes_per_s'] / 1e9:.1f} GB/s, "
                f"products {rates['float32_flops_per_s'] / 1e9:.0f} GFLOP/s in float32 and "
                f"{rates['float64_flops_per_s'] / 1e9:.0f} in float64"
                + "".join(
                    f", {rates[key] / 1e9:.0f} in {dtype}" for dtype in HALF if (key := f"{dtype}_flops_per_s") in rates
                )
                + "".join(f"; {what} {rates[key] / 1e9:.0f}" for key, what in BATCHED.items() if key in rates)
                + "."
            )
    for about in dict.fromkeys(_about(row["provenance"]) for row in rows):
        facts.append(about)
    loads = [v for row in rows for v in (row["load_average"]["before"][0], row["load_average"]["after"][0])]
    if loads:
        first, last = (pick(row["finished"] for row in rows) for pick in (min, max))
        facts.append(f"Measured {first} to {last}; load average {min(loads):.2f} to {max(loads):.2f}.")
    return facts


def _about(provenance: Result) -> str:
    where = provenance["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in (where["versions"] | provenance["peers"]).items())
    commit = (where["commit"] or "unknown")[:12] + (" (changed since)" if where["dirty"] else "")
    machine = f"{where['cpu']}, {where['cpu_count']} cores, {where['os']}, Python {where['python']}"
    return f"{machine}; commit {commit}; {versions}."


def _features(row: Result) -> list[str]:
    """What the machine of a row has; nothing of rows from before that was kept."""
    where = row["provenance"]["environment"]
    return [features_line(where)] if "instructions" in where else []


def _row_page(row: Result, rates: Result) -> str:
    header = [
        "Contender",
        "verdict",
        "s (median)",
        "s (min)",
        "time ratio",
        "MB",
        "memory ratio",
        "max. rel. diff.",
        "max. abs. diff.",
    ]
    floors = {s["name"]: floor_seconds(s, rates) for s in row["sides"]}
    if any(floors.values()):
        header += ["floor s", "over floor"]
    lines = []
    for side in row["sides"]:
        apart = side["difference"] or {}
        lines.append(
            [
                f"{side['name']}{' (baseline)' if side['name'] == row['baseline'] else ''}",
                side["status"],
                _seconds(side["median_s"]),
                _seconds(side["min_s"]),
                times(ratio(row, side, "s")),
                _megabytes(side["median_bytes"]),
                times(ratio(row, side, "bytes")),
                _small(apart.get("max_rel")),
                _small(apart.get("max_abs")),
                *(_over_floor(side, floors[side["name"]]) if any(floors.values()) else []),
            ]
        )
    size = ", ".join(f"{k} {v}" for k, v in row["size"].items())
    threads = sorted({s["threads"] for s in row["sides"]})
    notes = [f"Size: {size}. Threads: {' and '.join(map(str, threads))}. Samples: {_samples(row)}.", *row["notes"]]
    notes += [
        f"Machine: {where['cpu']}; {line}." for where in [row["provenance"]["environment"]] for line in _features(row)
    ]
    for side in row["sides"]:
        notes += [f"{side['name']}: {side['note']}."] if side["note"] else []
        notes += [f"{side['name']}: {side['status']}: {side['message']}"] if side["message"] else []
        if applied := (side["difference"] or {}).get("applied"):
            notes.append(f"{side['name']}: the state is {' and '.join(APPLIED[how] for how in applied)}.")
        if values := (side["difference"] or {}).get("values"):
            notes.append(f"{side['name']}: " + ", ".join(f"{k} {_value(v)}" for k, v in values.items()) + ".")
    return markdown_page(f"{row['name']}: {row['work']}", [("", Grid(header, lines))], notes).replace("# ", "## ", 1)


def _over_floor(side: Result, floor: float | None) -> list[str]:
    return [_seconds(floor), times(side["median_s"] / floor if floor and side["median_s"] else None)]


def _samples(row: Result) -> str:
    counts = sorted({len(s["samples_s"]) for s in row["sides"] if s["samples_s"]})
    how = {"fresh": "a new process each", "alternate": "in turns in one process", "process": "a new process each"}
    return f"{' to '.join(map(str, counts)) or 'none'}, {how[row['mode']]}"


def to_csv(results: Result) -> str:
    """One line per contender of a row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("row", "work", "size", "contender", "peer", "threads", "status", "median_s", "min_s", "samples"),
            *("ratio_s", "bytes", "ratio_bytes", "max_rel", "max_abs", "floor_s", "finished", "commit", "quick"),
            *("machine", "features"),
        ]
    )
    for row in results["rows"].values():
        for side in row["sides"]:
            apart, about = side["difference"] or {}, row["provenance"]
            writer.writerow(
                [
                    *(row["name"], row["work"], " ".join(f"{k}={v}" for k, v in row["size"].items()), side["name"]),
                    *(side["peer"], side["threads"], side["status"], _full(side["median_s"]), _full(side["min_s"])),
                    *(len(side["samples_s"]), _full(ratio(row, side, "s")), _full(side["median_bytes"])),
                    *(_full(ratio(row, side, "bytes")), _full(apart.get("max_rel")), _full(apart.get("max_abs"))),
                    *(_full(floor_seconds(side, results["rates"])), row["finished"]),
                    *((about["environment"]["commit"] or "")[:12], about["quick"]),
                    *(about["environment"]["cpu"], "".join(_features(row))),
                ]
            )
    return out.getvalue()


def _full(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _megabytes(value: float | None) -> str:
    return NONE if value is None else f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.1f}"


def times(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}x" if value < 100 else f"{value:.0f}x"


def _small(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}" if value else "0"


def _value(value: float | None) -> str:
    return NONE if value is None else f"{value:.9f}" if value > 1e-3 else f"{value:.2e}"
