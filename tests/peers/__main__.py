"""The command line: measures row after row, keeping each as soon as it is measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from tests.peers import report
from tests.peers.rows import STRATEGIES, THREADS, Row, all_rows

LIBRARIES = ("anomalib", "scikit-learn", "lightning", "torchmetrics")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        _run(_parser().parse_args(arguments))
    except PadimBenchError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: rows measured so far are kept; run again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results/peers"),
        help="folder with a folder for each machine (%(default)s)",
    )
    parser.add_argument("--machine", help="name of this machine's folder, else made of its processor and cores")
    parser.add_argument("--only", type=_names, help="rows by name or the beginning of it, as fit,distance-d550")
    parser.add_argument("--strategies", type=_names, default=list(STRATEGIES), help="of ours")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--pages", action="store_true", help="make all machines' pages again and measure nothing")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _run(asked: argparse.Namespace) -> None:
    from padim_bench.padim.strategies import strategy_names

    if unknown := [s for s in asked.strategies if s not in strategy_names()] or (
        [] if asked.strategies else ["nothing"]
    ):
        raise PadimBenchError(f"--strategies {unknown[0]}: choose from {', '.join(strategy_names())}")
    rows = all_rows(asked.strategies, quick=asked.quick)
    if asked.only is not None:
        if unknown := [o for o in asked.only if not any(row.name.startswith(o) for row in rows)] or (
            [] if asked.only else ["nothing"]
        ):
            raise PadimBenchError(f"no row {unknown[0]!r}: rows are {', '.join(row.name for row in rows)}")
        rows = [row for row in rows if any(row.name.startswith(o) for o in asked.only)]
    if asked.list:
        for row in rows:
            print(f"{row.name:22} {row.work}")
        return
    from padim_bench.machine.environment import environment
    from padim_bench.machine.features import features_line, mkl_kernel
    from tests.peers import machines
    from tests.peers.measure import better, measure, rates

    if asked.pages:
        machines.write_pages(asked.results)
        return
    peers = _installed(rows)
    folder = machines.folder_of(asked.results, environment(), asked.machine)
    check_writable(folder)
    results = report.read(folder)
    machines.read_all(asked.results)  # what is not readable there is told now
    machines.check_same(folder, results, environment())
    if any(row["provenance"]["quick"] != asked.quick for row in results["rows"].values()):
        raise PadimBenchError(f"{folder} holds rows of the other sizes: use another --results folder")

    todo = [row for row in rows if asked.again or not _measured(row, results["rows"].get(row.name))]
    for row in rows:  # what is to be reached is no part of what was measured
        if row.name in results["rows"]:
            results["rows"][row.name]["targets"] = [vars(target) for target in row.targets]
    with Progress(None, stage="rates of this machine"):
        for threads in THREADS if todo else ():
            earlier = results["rates"].get(str(threads))
            results["rates"][str(threads)] = better(earlier, rates(threads, quick=asked.quick))
    for i, row in enumerate(todo, 1):
        _say(f"[{i}/{len(todo)}] {row.name}: {row.work}")
        about = {"environment": environment() | {"mkl": mkl_kernel()}, "peers": peers, "quick": asked.quick}
        about["environment"].pop("threads")  # each contender's own
        _say(f"  {about['environment']['cpu']}; {features_line(about['environment'])}")
        with Progress(None, stage=f"[{i}/{len(todo)}] {row.name}"):
            results["rows"][row.name] = {**measure(row, _say), "provenance": about}
        _in_order(results, asked)
        report.write(folder, results)
    report.write(folder, results)
    machines.write_pages(asked.results)
    print(f"results in {folder.as_posix()}: results.json, peers.md, peers.csv")
    print(f"beside other machines' in {(asked.results / 'peers.md').as_posix()}")


def _measured(row: Row, found: dict[str, Any] | None) -> bool:
    """Whether a row is there with all its contenders and what it needs. Failures of a contender are results."""
    if found is None:
        return False
    statuses = {side["name"]: side["status"] for side in found["sides"]}
    return "not measured" not in statuses.values() and all(c.name in statuses for c in row.contenders)


def _in_order(results: dict[str, Any], asked: argparse.Namespace) -> None:
    """Rows as they are listed, in whatever order they were measured."""
    order = {row.name: i for i, row in enumerate(all_rows(asked.strategies, quick=asked.quick))}
    results["rows"] = dict(sorted(results["rows"].items(), key=lambda item: order.get(item[0], len(order))))


def _installed(rows: Sequence[Row]) -> dict[str, str]:
    """Versions of the peers. Raises PadimBenchError if one that these rows need is missing."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            if needing := [row.name for row in rows if any(c.library == library for c in row.contenders)]:
                raise PadimBenchError(
                    f"{library} is not installed, which {needing[0]} needs: use 'tox -e peers', or "
                    "pip install 'padim-bench[peers]'"
                ) from None
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
