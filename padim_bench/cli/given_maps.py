"""Anybody's maps as options: where they lie, of which images they are, and what an image's score is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from padim_bench.cli.options import DATA_VARIABLE, data_root, open_categories
from padim_bench.cli.output import say
from padim_bench.cli.parsing import names, size_in_bytes
from padim_bench.errors import PadimBenchError

if TYPE_CHECKING:
    from padim_bench.data.samples import Category


def add_given_maps(parser: argparse.ArgumentParser) -> None:
    """The options; ``add_layout`` says what --data is."""
    from padim_bench.protocols import MapInterpolation

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


def given_maps(arguments: argparse.Namespace) -> tuple[list[Category], dict[str, float] | None]:
    """The categories that have maps, or are asked for, and image scores by name where they are given.

    Raises PadimBenchError for folders that are not there, maps of no category, and scores of no test image.
    """
    root = data_root(arguments)
    if root is None:
        raise PadimBenchError(f"no dataset: give --data DIR or set {DATA_VARIABLE}")
    categories, others = _with_maps(arguments, root)
    if arguments.scores is None:
        return categories, None

    from padim_bench.maps.scoring import check_scores, read_scores

    scores = read_scores(arguments.scores)
    check_scores(scores, categories, others)
    return categories, scores


def _with_maps(arguments: argparse.Namespace, root: Path) -> tuple[list[Category], list[str]]:
    """Those categories, and the names of the dataset's others."""
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
            f"{unknown[0]} is no category of {root}: move it away, or name those that are meant with --categories"
        )
    if not found:
        raise PadimBenchError(
            f"{arguments.maps} has no maps of {root}: they lie as <category>/test/<defect>/<image>.tiff or .npy"
        )
    others = [c.name for c in every if c not in found]
    if others:
        say(f"no maps of {', '.join(others)}: left out")
    return found, others
