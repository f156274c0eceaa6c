"""``padim-bench reproduce``: makes the paper's tables again beside its numbers."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim_bench.cli.options import (
    add_layout,
    add_pages,
    add_recorded,
    data_root,
    open_categories,
    run_protocol,
    run_settings,
)
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, names, positive
from padim_bench.cli.run import run_summary
from padim_bench.errors import PadimBenchError

if TYPE_CHECKING:
    from padim_bench.data.samples import Category
    from padim_bench.data.stc import Scene
    from padim_bench.report.tables import Table

STC_VARIABLE = "PADIM_BENCH_STC"
# What the demo runs unless more is asked for: the whole path, in a few minutes.
DEMO_BACKBONES, DEMO_SEEDS = ("resnet18",), 2


def add_to(commands: Commands) -> None:
    """Adds ``reproduce`` to the commands."""
    parser = commands.add_parser("reproduce", help="regenerate the paper's tables beside its numbers")
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help="table1 to table8, seeds, gaps, pro, shots; none for all of these; or strategies, made only when named",
    )
    add_recorded(parser)
    add_layout(parser)
    parser.add_argument("--backbones", type=names, help="only these, as resnet18,wide_resnet50_2.tv_in1k")
    parser.add_argument(
        "--seeds", type=positive, default=0, metavar="N", help="channel seeds 0 to N - 1 in every table"
    )
    parser.add_argument("--stc", type=Path, help=f"root of ShanghaiTech Campus, default ${STC_VARIABLE}")
    parser.add_argument(
        "--stc-every", type=positive, default=1, metavar="N", help="of its clips, the first and then every Nth frame"
    )
    add_pages(parser)
    parser.set_defaults(command=reproduce_tables)


def reproduce_tables(arguments: argparse.Namespace, output: Output) -> None:
    """Makes the tables asked for, on the data given or else on the demo, and prints a summary."""
    from padim_bench.report.spec import STRATEGIES_TABLE, report_names

    wanted = list(dict.fromkeys(arguments.tables)) or report_names()
    known = [*report_names(), STRATEGIES_TABLE]
    if unknown := [name for name in wanted if name not in known]:
        raise PadimBenchError(f"unknown table {unknown[0]!r}: choose from {', '.join(known)}")
    root, results = data_root(arguments), arguments.results
    protocol, settings = run_protocol(arguments), run_settings(arguments)

    from padim_bench.reproduction.kinds import Choice
    from padim_bench.reproduction.pages import folder_of
    from padim_bench.reproduction.reproduce import REAL_THING, demo_categories, reproduce
    from padim_bench.runs.executors import open_executor

    scenes_alone = wanted == ["table4"] and _stc_root(arguments) is not None
    demo = root is None and not scenes_alone
    backbones, seeds = arguments.backbones, arguments.seeds
    categories: list[Category] = []
    if demo:
        results = results / "demo"
        say("no --data: running on the demo dataset, which is drawn, not photographed")
        categories = demo_categories(results, arguments.categories)
        if backbones is None:
            backbones = list(DEMO_BACKBONES)
            say(f"demo: {', '.join(backbones)} alone; --backbones names more (they take minutes each)")
        if seeds == 0:
            seeds = DEMO_SEEDS
            say(f"demo: {seeds} seeds; --seeds N for more")
    elif root is not None and not scenes_alone:
        categories = open_categories(root, arguments)
    scenes = _scenes(arguments, results if demo else None) if "table4" in wanted else []
    with open_executor(arguments.executor, on_message=say) as executor:
        done = reproduce(
            wanted,
            categories,
            results=results,
            choice=Choice(protocol, seeds, arguments.backbone_dtype, arguments.intervals),
            settings=settings,
            weights=arguments.weights,
            untrained_fallback=demo,
            backbones=backbones,
            brief=demo,
            scenes=scenes,
            stc_every=arguments.stc_every,
            executor=executor,
            on_message=say,
        )
    if arguments.print:
        output.pages(done.pages)
    for line in done.summary(wanted):
        output.text(line)
    output.text(f"{(folder_of(results, protocol) / 'README.md').as_posix()} links it all")
    if demo:
        output.text(REAL_THING)
    output.document(
        {
            "dataset": categories[0].dataset if categories else "stc",
            "tables": [
                {"name": page.name, "files": [p.as_posix() for p in done.files[page.name]]}
                | (_table_document(page.table) if page.table else {})
                for page in done.pages
            ],
            "runs": [run_summary(o) for o in done.outcomes],
        }
    )


def _stc_root(arguments: argparse.Namespace) -> Path | None:
    if arguments.stc is not None:
        return Path(arguments.stc)
    return Path(os.environ[STC_VARIABLE]) if os.environ.get(STC_VARIABLE) else None


def _scenes(arguments: argparse.Namespace, demo_results: Path | None) -> list[Scene]:
    """Scenes of ShanghaiTech Campus at hand; in the demo a drawn pair, as videos where PyAV is installed."""
    from importlib.util import find_spec

    from padim_bench.data.stc import list_scenes, stc
    from padim_bench.demo.scenes import make_demo_stc

    root = _stc_root(arguments)
    if root is None:
        if demo_results is None:
            return []
        video = find_spec("av") is not None
        root = make_demo_stc(demo_results / f"stc-{'video' if video else 'frames'}", video=video)
    return [stc(root, name) for name in list_scenes(root)]


def _table_document(table: Table) -> dict[str, Any]:
    """What ``--json`` says of a table."""
    return {
        "title": table.heading,
        "warnings": list(table.warnings),
        "missing": table.missing,
        "cells": [
            vars(c)
            | {"printed": vars(c.printed) if c.printed else None}
            | {"ours": c.ours, "sd": c.sd, "sem": c.sem, "difference": c.difference}
            for c in table.cells
        ],
    }
