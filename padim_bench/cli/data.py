"""``padim-bench data``: gets, checks or draws a dataset."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from padim_bench.cli.options import DATA_VARIABLE, add_json, add_layout
from padim_bench.cli.output import Output
from padim_bench.cli.parsing import Commands, Parser, seed
from padim_bench.errors import PadimBenchError

DOWNLOADS = Path("datasets")


def add_to(commands: Commands) -> None:
    """Adds ``data`` and its three actions to the commands."""
    parser = commands.add_parser("data", help="get, check or draw a dataset")
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    for add in (_add_download, _add_verify, _add_demo):
        add(actions)


def _add_download(actions: Commands) -> None:
    parser = actions.add_parser("download", help="fetch, check and unpack; resumable")
    parser.add_argument("name", help="mvtec-ad")
    parser.add_argument("--root", type=Path, help=f"where it goes; default ${DATA_VARIABLE}, else {DOWNLOADS}/NAME")
    parser.add_argument("--archive", type=Path, help="a file fetched by hand, instead of the network")
    parser.add_argument("--url", help="another link to the same file")
    parser.set_defaults(command=download_dataset)


def download_dataset(arguments: argparse.Namespace, output: Output) -> None:
    """Fetches a dataset, or unpacks the archive given, and says where it is."""
    from padim_bench.data.download import SOURCES, download

    if arguments.name in SOURCES:
        output.text(f"Licence of {arguments.name}: {SOURCES[arguments.name].licence}")
    root = arguments.root or Path(os.environ.get(DATA_VARIABLE) or DOWNLOADS / arguments.name)
    root = download(arguments.name, root, url=arguments.url, archive=arguments.archive)
    output.text(f"{arguments.name} is in {root}: use it with --data {root} or {DATA_VARIABLE}={root}")


def _add_verify(actions: Commands) -> None:
    parser = actions.add_parser("verify", help="read every file of a dataset, and say all that run would say")
    parser.add_argument("--root", "--data", dest="root", type=Path, default=None, help=f"default: ${DATA_VARIABLE}")
    add_layout(parser, single=True)
    add_json(parser)
    parser.set_defaults(command=verify_dataset)


def verify_dataset(arguments: argparse.Namespace, output: Output) -> None:
    """Prints a verdict on every category. Raises PadimBenchError if any has problems."""
    from padim_bench.data.datasets import DATASETS
    from padim_bench.data.verify import verify

    root = arguments.root or os.environ.get(DATA_VARIABLE)
    if not root:
        raise PadimBenchError(f"no dataset: give --root DIR or set {DATA_VARIABLE}")
    known = DATASETS[arguments.dataset]
    report = verify(
        Path(root),
        layout="folder" if known.single else "mvtec",
        dataset=known.name if known.recorded else None,
        normal=arguments.normal,
    )
    output.document(report.to_dict())
    is_mvtec = bool(known.counts) or any(c.present and c.expected for c in report.categories)
    for category in (c for c in report.categories if c.present or is_mvtec):
        n = len(category.problems)
        state = "ok" if category.ok else f"{n} problem{'' if n == 1 else 's'}"
        state += "" if not category.present or category.found.masks else " (no masks: image level only)"
        output.text(f"{category.name:12} {state if category.present else 'absent'}")
        for problem in category.problems:
            output.text(f"  {problem}")
        for note in category.notes:
            output.text(f"  note: {note}")
    if not report.ok:
        bad = [c.name for c in report.categories if not c.ok]
        raise PadimBenchError(f"{root}: problems in {', '.join(bad)}: mend them, or fetch those categories again")


def _add_demo(actions: Commands) -> None:
    parser = actions.add_parser("demo", help="draw the demo dataset")
    parser.add_argument("--root", type=Path, default=DOWNLOADS / "demo")
    parser.add_argument("--seed", type=seed, default=0)
    parser.set_defaults(command=draw_demo)


def draw_demo(arguments: argparse.Namespace, output: Output) -> None:
    """Draws the demo dataset, and says where it is."""
    from padim_bench.demo.images import make_demo

    root = make_demo(arguments.root, seed=arguments.seed)
    output.text(f"demo dataset is in {root}: use it with --data {root}")
