"""``padim-bench gallery``: pages of test images with anybody's heat maps, those that are wrong first."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim_bench.cli.given_maps import add_given_maps, given_maps
from padim_bench.cli.options import add_json, add_layout
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, positive

if TYPE_CHECKING:
    from padim_bench.gallery.folder import Summary

ABOUT = """Writes a page for each category with its test images, the contours of their masks and their heat maps, those
first that are wrong at the threshold of the image score that maximises F1 over these very images, and an index of all.
Maps lie as DIR/<category>/test/<defect>/<image>.tiff (or .tif, .npy), as run --save-maps writes them. An image's score
is its map's maximum unless --scores gives it. Pages need no network; a folder of galleries is added to, and no other
folder that holds anything is touched."""


def add_to(commands: Commands) -> None:
    """Adds ``gallery`` to the commands."""
    parser = commands.add_parser("gallery", help="pages of test images with anybody's heat maps", description=ABOUT)
    add_given_maps(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or one of galleries")
    parser.add_argument(
        "--title", default="", metavar="NAME", help="what made the maps, for the pages; default: nothing"
    )
    parser.add_argument(
        "--bits", type=positive, metavar="N", help="used of 16-bit images' values, as 12 of a camera's; default 16"
    )
    add_layout(parser, single=True)
    parser.add_argument("--threads", type=positive, default=1, help="files read at a time for the split's digest")
    add_json(parser)
    parser.set_defaults(command=draw_pages)


def draw_pages(arguments: argparse.Namespace, output: Output) -> None:
    """Draws every category's page and the index, and says where they are."""
    from padim_bench.gallery.folder import PAGE, check_gallery, indexed, open_gallery

    check_gallery(arguments.out)
    categories, scores = given_maps(arguments)

    import numpy as np

    from padim_bench.data.loading import sample_name
    from padim_bench.data.notes import Notes
    from padim_bench.gallery.drawing import Scored, draw, warnings_of
    from padim_bench.machine.progress import Progress
    from padim_bench.maps.files import category_folder
    from padim_bench.maps.scoring import MEMORY_LIMIT, STORED, score_maps
    from padim_bench.protocols import get_protocol

    protocol = STORED if arguments.protocol is None else get_protocol(arguments.protocol)
    if arguments.bits is not None:
        protocol = protocol.vary(bits=arguments.bits)
    notes, drawn = Notes(), []
    steps = sum(len(category.test) for category in categories)
    with indexed(arguments.out), Progress(steps, stage="drawing") as progress:
        for category in categories:
            progress.stage(category.name, "metrics")
            found = score_maps(
                arguments.maps,
                category,
                protocol=protocol,
                resize=arguments.resize,
                scores=scores,
                memory_limit=arguments.memory_limit or MEMORY_LIMIT,
                threads=arguments.threads,
            )
            progress.stage(category.name, "pictures")
            scored = Scored(
                category,
                arguments.maps,
                np.array([found.scores[sample_name(category, one)] for one in category.test], dtype=np.float32),
                found.metrics,
                protocol,
                "the maximum of its map" if scores is None else "given with the maps",
                arguments.title,
                warnings=warnings_of(category),
            )
            open_gallery(arguments.out)  # once the first category's maps are known to be sound
            base = category_folder(arguments.out, category)
            drawn.append((base, draw(scored, base, notes=notes, on_image=progress.advance)))
    for line in notes.lines(bits=protocol.images.bits):
        say(f"padim-bench: note: {line}")
    index = arguments.out / PAGE
    output.document(
        {
            "out": arguments.out.as_posix(),
            "index": index.as_posix(),
            "categories": [described(base, one) for base, one in drawn],
        }
    )
    for base, one in drawn:
        output.text(f"{one.category}: {wrong_line(one)}: {(base / PAGE).as_posix()}")
    output.text(f"all: {index.as_posix()}")


def described(base: Path, one: Summary) -> dict[str, Any]:
    """What ``--json`` says of a page."""
    return {
        "category": one.category,
        "page": (base / "index.html").as_posix(),
        "n_images": one.n_images,
        "n_anomalous": one.n_anomalous,
        "threshold": one.threshold,
        "missed": one.missed,
        "false_alarms": one.false_alarms,
        "metrics": one.metrics,
    }


def wrong_line(one: Summary) -> str:
    """How many images are wrong, or why none is."""
    if one.threshold is None:
        return f"{one.n_images} images of one class, which no threshold is right or wrong for"
    alarms = f"{one.false_alarms} false alarm{'' if one.false_alarms == 1 else 's'}"
    return (
        f"{one.n_images} images, {one.missed} missed, {alarms}, at the score {one.threshold:.4g}, "
        "which maximises F1 over them"
    )
