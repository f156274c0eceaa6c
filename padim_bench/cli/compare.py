"""``padim-bench compare``: two models, protocols or runs over the same test images, from records alone."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from padim_bench.cli.options import add_json
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands

if TYPE_CHECKING:
    from padim_bench.report.compare import Comparison

ABOUT = """Holds two configurations against each other over the test images that both have: their difference in every
category and over the mean, with 95 % intervals over test images, from records alone. A and B are ids of records (their
first digits), or name what was run: model, protocol, strategy, storage or weights, several joined by "/", as in
R18-Rd100/anomalib."""


def add_to(commands: Commands) -> None:
    """Adds ``compare`` to the commands."""
    parser = commands.add_parser(
        "compare", help="the paired difference of two configurations, with intervals, from records", description=ABOUT
    )
    parser.add_argument("first", metavar="A", help="such as R18-Rd100, R18-Rd100/anomalib, or a record's id")
    parser.add_argument("second", metavar="B", help="what A is compared with")
    parser.add_argument("--metric", default="pro", help="image_auroc, pixel_auroc, pro or pro_per_image; default: pro")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[Path("results")], metavar="DIR", help="folders, merged"
    )
    parser.add_argument("--dataset", help="whose records, where there are several; default: mvtec-ad")
    add_json(parser)
    parser.set_defaults(command=compare_runs)


def compare_runs(arguments: argparse.Namespace, output: Output) -> None:
    """Prints the difference in every category and over the mean."""
    from padim_bench.records.merged import of_one_dataset, read_evidence
    from padim_bench.report.compare import compare

    evidence, lines = read_evidence(arguments.results)
    for line in lines:
        say(line)
    records = of_one_dataset(evidence, arguments.dataset, merge=False).records
    found = compare(records, arguments.first, arguments.second, arguments.metric)
    for line in text_lines(found):
        output.text(line)
    output.document(
        {
            "metric": found.metric,
            "unit": _unit(found),
            "first": {"title": found.first.title, "records": [r.id for r in found.first.records]},
            "second": {"title": found.second.title, "records": [r.id for r in found.second.records]},
            "same_channels": found.shared_seeds,
            "differences": {name: asdict(one) | {"difference": one.value} for name, one in found.differences.items()},
        }
    )


def _unit(found: Comparison) -> str:
    from padim_bench.metrics.summary import METRICS

    return METRICS[found.metric].unit


def text_lines(found: Comparison) -> list[str]:
    """The comparison as people read it."""
    from padim_bench.metrics.summary import METRICS

    title = METRICS[found.metric].title
    named = {c: c for c in found.categories} | {"mean": f"mean of {len(found.categories)}"}
    wide = max(map(len, named.values()))
    lines = [
        f"A: {found.first.title}",
        f"B: {found.second.title}",
        f"{title}, {_unit(found)}; A - B in points, with its 95 % interval over test images",
        f"{'category':{wide}} {'A':>7} {'B':>7} {'A - B':>8}  interval",
    ]
    for name, told in named.items():
        one = found.differences[name]
        mark = "" if one.told else "  not told apart"
        low, high = (round(end, 2) + 0.0 for end in (one.low, one.high))
        lines.append(
            f"{told:{wide}} {one.first:7.2f} {one.second:7.2f} {round(one.value, 2) + 0.0:+8.2f}  "
            f"[{low:+.2f}, {high:+.2f}]{mark}"
        )
    if (drawn := sum(s.records[0].config.model.n_features is not None for s in (found.first, found.second))) > 0:
        apart = "; A's draws are not B's" if drawn == 2 and not found.shared_seeds else ""
        lines.append(f"the spread over draws of channels is in no interval here{apart}")
    return lines
