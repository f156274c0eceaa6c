"""``padim-bench fit``: fits a model to normal images and keeps it in a file, with scores of those very images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from padim_bench.cli.options import (
    DATA_VARIABLE,
    add_details,
    add_json,
    add_layout,
    add_machine,
    add_models,
    add_protocol,
    add_reading,
    check_one_model,
    data_root,
    open_categories,
    run_protocol,
    run_settings,
)
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, add_option, names, positive
from padim_bench.errors import PadimBenchError

if TYPE_CHECKING:
    from padim_bench.data.samples import Sample

ABOUT = """Fits a model to the training images of a category, or to all images below a folder (--images), and keeps it
in a file for 'padim-bench predict'. So that no test set is needed for a threshold, every training image is scored by
Gaussians that were fitted without its fold, and the file keeps these scores."""


def add_to(commands: Commands) -> None:
    """Adds ``fit`` to the commands."""
    parser = commands.add_parser("fit", help="fit a model to normal images and keep it in a file", description=ABOUT)
    parser.add_argument("--data", type=Path, help=f"dataset root, default ${DATA_VARIABLE}")
    parser.add_argument("--images", type=Path, metavar="DIR", help="normal images, searched below; instead of --data")
    add_option(
        parser, "--category", "--categories", type=names, dest="categories", metavar="NAME", help="of --data, one"
    )
    add_layout(parser, single=True)
    add_models(parser, ["cholesky"], single=True)
    add_details(parser, single=True)
    parser.add_argument("--weights", help=".safetensors file, directory of them, random or random:SEED")
    add_protocol(parser)
    add_reading(parser)
    parser.add_argument(
        "--folds", type=positive, default=5, help="of the images' own scores; 1 for none, and no threshold; default 5"
    )
    add_machine(parser)
    add_json(parser)
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="as model.safetensors")
    parser.set_defaults(command=fit_model)


def fit_model(arguments: argparse.Namespace, output: Output) -> None:
    """Fits, scores left-out images, saves, and says what was made."""
    check_one_model(arguments)
    title, samples = _training_images(arguments)
    protocol = run_protocol(arguments)
    if arguments.folds > 1 and not arguments.folds <= len(samples):
        there = "is 1 training image" if len(samples) == 1 else f"are {len(samples)} training images"
        raise PadimBenchError(f"--folds {arguments.folds}: there {there}: give no more")
    _check_save(arguments.save)
    settings = run_settings(arguments)

    from padim_bench.machine.files import make_folder
    from padim_bench.machine.progress import Progress
    from padim_bench.machine.torch_settings import torch_threads
    from padim_bench.padim.footprint import check_fits, model_need, statement
    from padim_bench.padim.model import PaDiM
    from padim_bench.records.canonical import plain
    from padim_bench.using.fitting import TrainingImages

    with torch_threads(settings.execution.threads), Progress(len(samples), stage="reading images") as progress:
        layers = arguments.layers or "paper"
        model = PaDiM(
            arguments.backbone[0],
            n_features=arguments.n_features[0],
            seed=arguments.seed[0],
            strategy=arguments.strategy[0],
            storage=arguments.storage[0],
            compute_dtype=arguments.compute_dtype,
            layers=layers if "+" not in layers else layers.split("+"),
            weights=arguments.weights,
            protocol=protocol,
            device=arguments.device,
            backbone_dtype=arguments.backbone_dtype,
            memory_limit=settings.memory_limit,
            reduction=arguments.reduction[0],
            half_products=arguments.half_products,
        )
        execution = settings.execution
        need = model_need(
            f"{title}, {model.config.name} {model.config.strategy} {model.config.storage}",
            model.backbone,
            model.config,
            len(samples),
            limit=model.memory_limit,
            batch_size=execution.batch_size,
            folds=arguments.folds if arguments.folds > 1 else None,
            threads=execution.threads,
        )
        check_fits(need, device=arguments.device)
        say(statement(need, device=arguments.device))
        images = TrainingImages(samples, protocol, execution.batch_size, progress)
        model.fit(images, folds=arguments.folds if arguments.folds > 1 else None)
        progress.stage("saving")
        make_folder(arguments.save.parent)
        model.save(arguments.save)
    kept, gaussians = model.training_scores, model.gaussians
    output.text(
        f"{title}: {len(samples)} normal images; {model.config.name}, {gaussians.strategy.name} in "
        f"{model.config.storage}, backbone in {model.config.backbone_dtype}, weights {model.backbone.weights.label}, "
        f"protocol {protocol.title}"
    )
    if kept is None:
        output.text("no scores of left-out training images (--folds 1), so that predict will have no threshold")
    else:
        output.text(
            f"scores of the {len(kept.scores)} training images, each by Gaussians fitted without its fold "
            f"({kept.folds} folds): median {kept.quantile(0.5):.4g}, 0.99 quantile {kept.quantile(0.99):.4g}, "
            f"largest {max(kept.scores):.4g}"
        )
    output.text(f"model: {arguments.save.as_posix()} ({arguments.save.stat().st_size / 1e6:.1f} MB)")
    output.document(
        {
            "model": arguments.save.as_posix(),
            "n_images": len(samples),
            "name": model.config.name,
            "config": plain(model.config),
            "weights": model.backbone.weights.label,
            "protocol": protocol.name,
            "residual": gaussians.residual,
            "folds": None if kept is None else kept.folds,
            "training_scores": None if kept is None else list(kept.scores),
        }
    )


def _check_save(path: Path) -> None:
    """Raises PadimBenchError for a model's file that cannot be written, or has the place of anything but a model."""
    from padim_bench.data.listing import is_folder
    from padim_bench.machine.files import check_writable
    from padim_bench.padim.files import is_model

    if is_folder(path):
        raise PadimBenchError(f"--save {path} is a folder: name a file in it, as {path / 'model.safetensors'}")
    if os.path.lexists(path) and not is_model(path):
        raise PadimBenchError(f"--save {path} would overwrite that file, which is no model: choose another")
    check_writable(path.parent)


def _training_images(arguments: argparse.Namespace) -> tuple[str, tuple[Sample, ...]]:
    """What they are called, and the images. Raises PadimBenchError where that is not one category's."""
    if arguments.images is not None:
        if arguments.data is not None or arguments.categories is not None:
            raise PadimBenchError("--images and --data: give one of them, and --category with --data alone")
        from padim_bench.data.samples import Sample
        from padim_bench.using.finding import find_images

        found, notes = find_images([arguments.images])
        for note in notes:
            say(f"padim-bench: note: {note}")
        return str(arguments.images), tuple(Sample(one.image, 0, "good") for one in found)
    root = data_root(arguments)
    if root is None:
        raise PadimBenchError(f"no images: give --images DIR, or --data DIR or set {DATA_VARIABLE} ('padim-bench data "
                              "demo' draws a dataset)")  # fmt: skip
    categories = open_categories(root, arguments)
    if len(categories) != 1:
        raise PadimBenchError(
            f"a model is of one category: give --category, one of {', '.join(c.name for c in categories)}"
        )
    return categories[0].name, categories[0].train
