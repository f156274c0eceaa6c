"""``padim-bench score-maps``: every metric of anybody's anomaly maps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from padim_bench.cli.options import DATA_VARIABLE, add_json, add_layout, data_root, open_categories
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, names, positive, size_in_bytes
from padim_bench.errors import PadimBenchError
from padim_bench.machine.console import printable

if TYPE_CHECKING:
    from padim_bench.data.samples import Category
    from padim_bench.maps.scoring import MapScores

ABOUT = """Scores anomaly maps of any method, as DIR/<category>/test/<defect>/<image>.tiff (or .tif, .npy): every
metric, with 95 % intervals over test images, those of image AUROC, pixel AUROC and PRO. An image's score is its map's
maximum unless --scores gives it. A map has its mask's size, else it is refused, or resized where --resize says so.
Exit code 2 where maps are missing, of no test image, of another size, with NaN or unreadable."""


def add_to(commands: Commands) -> None:
    """Adds ``score-maps`` to the commands."""
    from padim_bench.protocols import MapInterpolation

    parser = commands.add_parser("score-maps", help="all metrics of anybody's anomaly maps", description=ABOUT)
    parser.add_argument("--maps", type=Path, required=True, metavar="DIR", help="TIFF or npy, one of each test image")
    parser.add_argument("--data", type=Path, help=f"dataset root, default ${DATA_VARIABLE}")
    parser.add_argument("--categories", type=names, help="as bottle,screw; default: all that have maps")
    parser.add_argument(
        "--protocol", help="whose masks the maps were made for, as of run --maps-at protocol; default: masks as stored"
    )
    parser.add_argument(
        "--resize",
        choices=get_args(MapInterpolation),
        help="resize maps of another size to their masks, without antialiasing",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="image scores: columns image (its path below --data) and score, as run --save-maps writes them",
    )
    parser.add_argument(
        "--memory-limit",
        type=size_in_bytes,
        metavar="SIZE",
        help="of maps and masks, as 500MB or 2GiB (the default); past it pixel metrics come from histograms, with "
        "error bounds and without intervals",
    )
    add_layout(parser, single=True)
    parser.add_argument("--threads", type=positive, default=1, help="files read at a time for the split's digest")
    add_json(parser)
    parser.set_defaults(command=score)


def score(arguments: argparse.Namespace, output: Output) -> None:
    """Prints every metric of every category, and their means."""
    root = data_root(arguments)
    if root is None:
        raise PadimBenchError(f"no dataset: give --data DIR or set {DATA_VARIABLE}")
    categories, others = _with_maps(arguments, root)

    from padim_bench.maps.scoring import MEMORY_LIMIT, check_scores, read_scores, score_maps

    scores = None
    if arguments.scores is not None:
        scores = read_scores(arguments.scores)
        check_scores(scores, categories, others)
    found = [
        score_maps(
            arguments.maps,
            category,
            protocol=arguments.protocol,
            resize=arguments.resize,
            scores=scores,
            memory_limit=arguments.memory_limit or MEMORY_LIMIT,
            threads=arguments.threads,
        )
        for category in categories
    ]
    output.document(
        {
            "maps": arguments.maps.as_posix(),
            "protocol": arguments.protocol,
            "resize": arguments.resize,
            "image_scores": "the maps' maxima" if scores is None else "given",
            "categories": [_described(one) for one in found],
            "mean": _means(found),
        }
    )
    for line in text_lines(found):
        output.text(line)


def _with_maps(arguments: argparse.Namespace, root: Path) -> tuple[list[Category], list[str]]:
    """The categories to score, and the names of the dataset's others."""
    from padim_bench.data.datasets import DATASETS
    from padim_bench.data.listing import is_folder, spelled, subfolders
    from padim_bench.maps.files import category_folder

    if not is_folder(arguments.maps):
        raise PadimBenchError(f"no such folder of maps: {arguments.maps}: give the one above the categories")
    every = open_categories(root, arguments)
    if arguments.categories is not None or DATASETS[arguments.dataset].single:
        return every, [spelled(p.name) for p in subfolders(root) if spelled(p.name) not in {c.name for c in every}]
    found = [c for c in every if is_folder(category_folder(arguments.maps, c))]
    known = {c.name for c in every}
    if unknown := [path for path in subfolders(arguments.maps) if spelled(path.name) not in known]:
        raise PadimBenchError(
            f"{unknown[0]} is no category of {root}: move it away, or name those to score with --categories"
        )
    if not found:
        raise PadimBenchError(
            f"{arguments.maps} has no maps of {root}: they lie as <category>/test/<defect>/<image>.tiff or .npy"
        )
    others = [c.name for c in every if c not in found]
    if others:
        say(f"no maps of {', '.join(others)}: not scored")
    return found, others


def _described(one: MapScores) -> dict[str, Any]:
    return {
        "category": one.category,
        "n_images": one.n_images,
        "n_anomalous": one.n_anomalous,
        "split_sha256": one.split_digest,
        "metrics": {name: _defined(value) for name, value in one.metrics.items()},
        "intervals": {name: list(ends) for name, ends in one.intervals.items()},
        "error_bounds": one.error_bounds,
    }


def _defined(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - NaN


def _means(found: Sequence[MapScores]) -> dict[str, float | None]:
    """Over the categories, of each metric that all of them have."""
    return {name: _defined(sum(one.metrics[name] for one in found) / len(found)) for name in found[0].metrics}


def text_lines(found: Sequence[MapScores]) -> list[str]:
    """A line of every category's metrics, and below it their intervals; the mean at the end."""
    from padim_bench.metrics.summary import METRICS

    wide = max(8, *(len(printable(one.category)) for one in found))
    cell = 14
    titles = "".join(f"{m.short or m.title:>{cell}}" for m in METRICS.values())
    lines = ["in percent; in brackets 95 % intervals over test images", f"{'category':{wide}}{titles}"]

    def values(name: str, metrics: dict[str, float | None]) -> str:
        told = ("-" if (v := metrics[m.name]) is None else f"{m.shown(v):.2f}" for m in METRICS.values())
        return f"{printable(name):{wide}}" + "".join(f"{one:>{cell}}" for one in told)

    for one in found:
        lines.append(values(one.category, {name: _defined(value) for name, value in one.metrics.items()}))
        ends = {n: f"[{METRICS[n].shown(a):.1f}, {METRICS[n].shown(b):.1f}]" for n, (a, b) in one.intervals.items()}
        if ends:
            lines.append(" " * wide + "".join(f"{ends.get(name, ''):>{cell}}" for name in METRICS))
        if one.error_bounds:
            told = ", ".join(f"{METRICS[n].title} within {b:.1e}" for n, b in one.error_bounds.items())
            lines.append(f"  too many pixels to hold, from histograms: {told}")
    if len(found) > 1:
        lines.append(values("mean", _means(found)))
    return lines
