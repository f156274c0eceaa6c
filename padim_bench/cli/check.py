"""``padim-bench check``: whether the records of a results folder could join the published ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from padim_bench.cli.options import add_json
from padim_bench.cli.output import Output
from padim_bench.cli.parsing import Commands
from padim_bench.errors import PadimBenchError

ABOUT = """Says of every record, measurement and profile of a results folder whether it could join the published ones:
whole and of this schema, with the id of its configuration, of a clean commit and a version that is known, over the
published split (of six categories of MVTec AD its digest is known, of the other nine its numbers of images), within the
limits of accuracy, with the metrics of its own scores, of the same splits and weights as the others, of no run that is
published already, and with no path or address in it. A line each; exit code 2 where one may not."""


def add_to(commands: Commands) -> None:
    """Adds ``check`` to the commands."""
    parser = commands.add_parser("check", help="whether records could join the published ones", description=ABOUT)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a results folder")
    parser.add_argument(
        "--published", type=Path, metavar="DIR", help="the published results, whose splits and weights must be shared"
    )
    parser.add_argument("--quiet", action="store_true", help="no line for what may join")
    add_json(parser)
    parser.set_defaults(command=check)


def check(arguments: argparse.Namespace, output: Output) -> None:
    """Prints a line for every file. Raises PadimBenchError where one may not join."""
    from padim_bench.records.joining import check_folder

    found = check_folder(arguments.folder, arguments.published)
    for one in found:
        if not (one.sound and arguments.quiet):
            ok = f"ok ({'; '.join(one.notes)})" if one.notes else "ok"
            output.text(f"{one.name}: {'; '.join(one.problems) or ok}")
    lacking = [one for one in found if not one.sound]
    output.document(
        {
            "folder": arguments.folder.as_posix(),
            "files": [
                {"name": one.name, "ok": one.sound, "problems": list(one.problems), "notes": list(one.notes)}
                for one in found
            ],
        }
    )
    if lacking:
        raise PadimBenchError(
            f"{len(lacking)} of {len(found)} files may not join, as said above: mend what is named, and run those again"
        )
    output.text("the only file may join" if len(found) == 1 else f"all {len(found)} files may join")
