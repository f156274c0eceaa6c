"""``padim-bench score-maps``: every metric of anybody's anomaly maps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from padim_bench.cli.given_maps import add_given_maps, given_maps
from padim_bench.cli.options import add_json, add_layout
from padim_bench.cli.output import Output
from padim_bench.cli.parsing import Commands, positive
from padim_bench.machine.console import printable

if TYPE_CHECKING:
    from padim_bench.maps.scoring import MapScores

ABOUT = """Scores anomaly maps of any method, as DIR/<category>/test/<defect>/<image>.tiff (or .tif, .npy): every
metric, with 95 % intervals over test images, those of image AUROC, pixel AUROC and PRO. An image's score is its map's
maximum unless --scores gives it. A map has its mask's size, else it is refused, or resized where --resize says so.
Exit code 2 where maps are missing, of no test image, of another size, with NaN or unreadable."""


def add_to(commands: Commands) -> None:
    """Adds ``score-maps`` to the commands."""
    parser = commands.add_parser("score-maps", help="all metrics of anybody's anomaly maps", description=ABOUT)
    add_given_maps(parser)
    add_layout(parser, single=True)
    parser.add_argument("--threads", type=positive, default=1, help="files read at a time for the split's digest")
    add_json(parser)
    parser.set_defaults(command=score)


def score(arguments: argparse.Namespace, output: Output) -> None:
    """Prints every metric of every category, and their means."""
    categories, scores = given_maps(arguments)

    from padim_bench.maps.scoring import MEMORY_LIMIT, score_maps

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
