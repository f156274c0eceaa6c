"""``padim-bench tables``: makes every page, figure, the index and the report from records alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from padim_bench.cli.options import add_pages, add_protocol, run_protocol
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, positive

ABOUT = """Makes every page, figure, the index and report.html, which is all of it as one page, from the records,
measurements and profiles of results folders, in seconds, without images, weights or torch. Several folders are merged:
records that may not stand in one table are refused."""


def add_to(commands: Commands) -> None:
    """Adds ``tables`` to the commands."""
    parser = commands.add_parser(
        "tables", help="pages, figures and index from records alone: no images, no weights", description=ABOUT
    )
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help="table1 to table8, seeds, gaps, pro, ...; default: all"
    )
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[Path("results")], metavar="DIR", help="folders, merged"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where pages go; default: the first of the folders, and there a folder of its own for another size",
    )
    parser.add_argument("--dataset", help="whose records, where there are several; default: mvtec-ad")
    add_protocol(parser)
    parser.add_argument(
        "--seeds", type=positive, default=0, metavar="N", help="seeds 0 to N - 1; default: those that hold most runs"
    )
    add_pages(parser)
    parser.set_defaults(command=make_tables)


def make_tables(arguments: argparse.Namespace, output: Output) -> None:
    """Makes the pages asked for, and prints a line for each."""
    from padim_bench.reproduction.kinds import Choice
    from padim_bench.reproduction.pages import folder_of, tables

    protocol = run_protocol(arguments)
    out = arguments.out or folder_of(arguments.results[0], protocol)
    choice = Choice(protocol, arguments.seeds, intervals=arguments.intervals)
    done = tables(arguments.results, out, choice, names=arguments.tables, dataset=arguments.dataset, on_message=say)
    if arguments.print:
        output.pages(done.pages)
    for line in done.summary():
        output.text(line)
