"""A folder for each machine under one folder of results, and peers.md there, on which they stand side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.machine.features import features_line
from padim_bench.machine.files import write_text
from padim_bench.report.page import NONE, Grid, markdown, markdown_page
from tests.peers import report
from tests.peers.report import Result
from tests.peers.rows import all_rows

# Of a processor's name what tells nothing apart.
_NOISE = re.compile(r"\((?:R|TM)\)|\b(?:CPU|Processor)\b|@.*", re.IGNORECASE)
_FOLDER = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def title(where: Result) -> str:
    """A machine in words: its processor and how many cores, of an environment."""
    cpu = " ".join(_NOISE.sub(" ", where["cpu"]).split()) or "unknown processor"
    cores = where["cpu_count"]
    return f"{cpu}, {cores} core{'s' * (cores != 1)}" if cores else cpu


def folder_name(where: Result) -> str:
    """:func:`title` as a folder is named."""
    return "-".join(re.findall("[a-z0-9]+", title(where).lower())) or "unknown"


def folder_of(results: Path, where: Result, named: str | None) -> Path:
    """Where this machine's results lie: under the name asked for, else its own.

    Raises PadimBenchError for a name that is none, and for results that lie where the folders of machines should.
    """
    if named is not None and not _FOLDER.fullmatch(named):
        raise PadimBenchError(f"--machine {named!r}: use lower-case letters and digits with hyphens between them")
    folder = results / (named or folder_name(where))
    if (alone := results / "results.json").is_file():
        raise PadimBenchError(f"{alone} is of one machine: move it into a folder of its own, as {folder}")
    return folder


def check_same(folder: Path, results: Result, where: Result) -> None:
    """Raises PadimBenchError where rows are of another machine than ``where``, as far as both tell."""
    for row in results["rows"].values():
        there = row["provenance"]["environment"]
        if title(there) != title(where):
            other = title(there)
        elif None not in (one := there.get("instructions"), two := where.get("instructions")) and one != two:
            other = f"{title(there)} with {', '.join(one) or 'no fast half precision'}"
        else:
            continue
        raise PadimBenchError(f"{folder} holds rows of another machine ({other}): give this one a name with --machine")


def read_all(results: Path) -> dict[str, dict[str, Any]]:
    """Every machine's results, by folder. Raises PadimBenchError for what is not such a file."""
    found = {}
    for path in sorted(results.glob("*/results.json")):
        one = report.read(path.parent)
        try:
            if one["rows"]:
                to_markdown({path.parent.name: one})
                found[path.parent.name] = one
        except Exception as error:  # whichever a page stumbles over
            raise report.not_readable(path, error) from error
    return found


def write_pages(results: Path) -> None:
    """All pages again, from what lies there. Raises PadimBenchError where there is nothing, or cannot be written."""
    machines = read_all(results)
    if not machines:
        raise PadimBenchError(
            f"no results of any machine in {results}: measure some, or name their folder by --results"
        )
    for name, one in machines.items():
        report.write_pages(results / name, one)
    write_text(results / "peers.md", to_markdown(machines))


def to_markdown(machines: Mapping[str, Result]) -> str:
    """A row for each work, a column for each machine: the ratio, by which contender, and targets that it misses."""
    titles = _titles(machines)
    cells = {name: _cells(one) for name, one in machines.items()}
    asked: dict[str, set[float]] = {}
    for one in machines.values():
        for row in one["rows"].values():
            for target in row["targets"]:
                asked.setdefault(target["what"], set()).add(target["at_least"])
    order = {what: i for i, what in enumerate(dict.fromkeys(t.what for row in all_rows() for t in row.targets))}
    lines = []
    for what in sorted(asked, key=lambda what: order.get(what, len(order))):
        goals = sorted(asked[what])
        told = [_told(cells[name].get(what), goals) for name in machines]
        lines.append([what, " and ".join(f"{goal:g}x" for goal in goals), *told])
    quick = any(row["provenance"]["quick"] for one in machines.values() for row in one["rows"].values())
    page = markdown_page(
        f"Beside other implementations{report.TRIAL if quick else ''}",
        [("", Grid(["Work", "target", *titles.values()], lines))],
        [
            "Time or memory of the implementation that the work names (distances, embeddings and whole runs: anomalib) "
            "over ours, by which of ours, where both are right; and which targets that misses. Both sides ran in turns "
            "on the same machine, with as many threads as are said.",
            "All contenders, their memory, whether they are right, and the machine's limits, for each machine:",
        ],
    )
    return page + "".join(
        f"  - [{markdown(titles[name])}]({name}/peers.md): {markdown(_measured(one))}\n"
        for name, one in machines.items()
    )


def _titles(machines: Mapping[str, Result]) -> dict[str, str]:
    titles = {name: title(_where(one)) for name, one in machines.items()}
    told = list(titles.values())
    return {name: f"{text} ({name})" if told.count(text) > 1 else text for name, text in titles.items()}


def _where(results: Result) -> Result:
    """The environment of the row that was measured last."""
    last: Result = max(results["rows"].values(), key=lambda row: row["finished"])
    where: Result = last["provenance"]["environment"]
    return where


def _cells(results: Result) -> dict[str, tuple[float | None, str]]:
    """By work, the best ratio and whose it is; or None and why there is none."""
    found: dict[str, tuple[float | None, str]] = {}
    for row in results["rows"].values():
        base = next(side for side in row["sides"] if side["name"] == row["baseline"])
        why = (
            f"{base['name']}: {base['status']}" if base["status"] not in report.COMPARABLE else "none of ours is right"
        )
        for target, name, best in report.judged(row):
            found[target["what"]] = (best, name if best is not None else why)
    return found


def _told(cell: tuple[float | None, str] | None, goals: list[float]) -> str:
    if cell is None:
        return NONE
    best, name = cell
    if best is None:
        return name
    missed = [f"{goal:g}x" for goal in goals if best < goal]
    return f"{report.times(best)} by {name}" + (f"; below {' and '.join(missed)}" if missed else "")


def _measured(results: Result) -> str:
    where = _where(results)
    days = sorted({row["finished"][:10] for row in results["rows"].values()})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    features = f"{features_line(where)}; " if "instructions" in where else ""
    return f"{features}torch {where['versions'].get('torch', 'unknown')}; measured {when}."
