"""``padim-bench fit``: fits a model to normal images and keeps it in a file, with scores of those very images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from padim_bench.cli.options import (
    DATA_VARIABLE,
    add_json,
    add_layout,
    add_machine,
    add_protocol,
    check_device,
    data_root,
    open_categories,
    run_protocol,
    thread_count,
)
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, add_option, features, names, positive, real, seed, size_in_bytes
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
    parser.add_argument("--backbone", required=True, metavar="NAME", help="timm name, as resnet18.tv_in1k")
    parser.add_argument("--weights", help=".safetensors file, directory of them, random or random:SEED")
    parser.add_argument(
        "--layers", default="paper", help="paper, levels, from-zero, from-one, or timm modules joined by +"
    )
    parser.add_argument("--n-features", type=features, default=[100], metavar="N|all", help="channels kept")
    parser.add_argument("--reduction", default="random", metavar="NAME", help="of dimensions")
    parser.add_argument("--seed", type=seed, default=0, help="of the channels")
    parser.add_argument("--strategy", default="cholesky", help="see 'padim-bench list strategies'; default cholesky")
    parser.add_argument("--storage", default="float32", help="dtype in which the state is held; default float32")
    add_protocol(parser)
    parser.add_argument("--epsilon", type=real, help="on the covariance's diagonal, instead of the protocol's")
    parser.add_argument("--sigma", type=real, help="of the smoothing, instead of the protocol's")
    parser.add_argument("--bits", type=positive, metavar="N", help="used of 16-bit images' values; default 16")
    parser.add_argument(
        "--folds", type=positive, default=5, help="of the images' own scores; 1 for none, and no threshold; default 5"
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="images at a time; default 8")
    parser.add_argument(
        "--memory-limit", type=size_in_bytes, metavar="SIZE", help="of what grows with the number of images; 2GiB"
    )
    add_machine(parser)
    add_json(parser)
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="as model.safetensors")
    parser.set_defaults(command=fit_model)


def fit_model(arguments: argparse.Namespace, output: Output) -> None:
    """Fits, scores left-out images, saves, and says what was made."""
    if len(arguments.n_features) != 1:
        raise PadimBenchError("--n-features: a model has one number of channels: give one, or all")
    title, samples = _training_images(arguments)
    protocol = run_protocol(arguments)
    if arguments.folds > 1 and not arguments.folds <= len(samples):
        raise PadimBenchError(f"--folds {arguments.folds}: there are {len(samples)} training images: give no more")
    check_device(arguments.device)
    threads = thread_count(arguments)

    from padim_bench.machine.files import check_writable
    from padim_bench.machine.progress import Progress
    from padim_bench.machine.torch_settings import torch_threads
    from padim_bench.padim.footprint import check_fits, model_need, statement
    from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT, PaDiM
    from padim_bench.using.fitting import TrainingImages

    check_writable(arguments.save.parent)
    with torch_threads(threads), Progress(len(samples), stage="reading images") as progress:
        model = PaDiM(
            arguments.backbone,
            n_features=arguments.n_features[0],
            seed=arguments.seed,
            strategy=arguments.strategy,
            storage=arguments.storage,
            layers=arguments.layers if "+" not in arguments.layers else arguments.layers.split("+"),
            weights=arguments.weights,
            protocol=protocol,
            device=arguments.device,
            memory_limit=arguments.memory_limit or DEFAULT_MEMORY_LIMIT,
            reduction=arguments.reduction,
        )
        need = model_need(
            f"{title}, {model.config.name} {model.config.strategy} {model.config.storage}",
            model.backbone,
            model.config,
            len(samples),
            limit=model.memory_limit,
            batch_size=arguments.batch_size,
            folds=arguments.folds if arguments.folds > 1 else None,
            threads=threads,
        )
        check_fits(need, device=arguments.device)
        say(statement(need, device=arguments.device))
        images = TrainingImages(samples, protocol, arguments.batch_size, progress)
        model.fit(images, folds=arguments.folds if arguments.folds > 1 else None)
        progress.stage("saving")
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        model.save(arguments.save)
    kept, gaussians = model.training_scores, model.gaussians
    output.text(
        f"{title}: {len(samples)} normal images; {model.config.name}, {gaussians.strategy.name} in "
        f"{model.config.storage}, weights {model.backbone.weights.label}, protocol {protocol.title}"
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
            "weights": model.backbone.weights.label,
            "protocol": protocol.name,
            "residual": gaussians.residual,
            "folds": None if kept is None else kept.folds,
            "training_scores": None if kept is None else list(kept.scores),
        }
    )


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
