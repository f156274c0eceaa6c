"""``padim-bench run``: fits and scores categories with the options given."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim_bench.cli.options import (
    DATA_VARIABLE,
    add_details,
    add_layout,
    add_models,
    add_recorded,
    check_choices,
    check_models,
    data_root,
    open_categories,
    run_protocol,
    run_settings,
)
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, names, seeds, train_images
from padim_bench.errors import PadimBenchError
from padim_bench.machine.console import printable

if TYPE_CHECKING:
    from padim_bench.data.drawn import Drawn
    from padim_bench.maps.saving import SaveMaps
    from padim_bench.protocols import Protocol
    from padim_bench.runs.runner import Outcome


def add_to(commands: Commands) -> None:
    """Adds ``run`` to the commands."""
    parser = commands.add_parser("run", help="fit and score categories with the options given")
    add_recorded(parser)
    add_layout(parser, single=True)
    add_models(parser, ["cholesky"])
    add_details(parser)
    parser.add_argument(
        "--method", type=names, default=["padim"], metavar="NAME[,NAME]", help="see 'padim-bench list methods'"
    )
    parser.add_argument(
        "--fusion", choices=["concatenate", "sum"], default="concatenate", help="of layers, or their maps"
    )
    parser.add_argument(
        "--train-images",
        type=train_images,
        default=["all"],
        metavar="N[,N]|all|bootstrap",
        help="learn from N of the training images, or from as many as there are, drawn with replacement; default all",
    )
    parser.add_argument(
        "--train-draw",
        type=seeds,
        metavar="N[,N]",
        help="of the training images, default 0; a draw of few is part of the draw of more with its number",
    )
    parser.add_argument(
        "--save-maps",
        type=Path,
        metavar="DIR",
        help="write the anomaly map of every test image there, float32 TIFF as DIR/<category>/test/<defect>/"
        "<image>.tiff, and <category>/scores.csv; of one model at a time; what is on record is run again for it",
    )
    parser.add_argument(
        "--maps-at",
        choices=["image", "protocol"],
        help="size of the maps: the images' as stored (the default), where what the protocol crops off has the map's "
        "minimum, or the protocol's",
    )
    parser.add_argument(
        "--save-masks",
        type=Path,
        metavar="DIR",
        help="with --save-maps: ground truth at the maps' size, normal where the protocol crops, as "
        "DIR/<category>/ground_truth/<defect>/<image>_mask.png, which others' evaluation of cropped maps needs",
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="DIR",
        help="write pages of the test images there, wrong ones first, with masks and heat maps: of each model "
        "DIR/<model>/<category>/index.html; what is on record is run again for it",
    )
    parser.set_defaults(command=run_models)


def run_models(arguments: argparse.Namespace, output: Output) -> None:
    """Runs every combination of the options over every category, and prints one line each."""
    root = data_root(arguments)
    if root is None:
        raise PadimBenchError(f"no dataset: give --data DIR or set {DATA_VARIABLE} ('padim-bench data demo' draws one)")
    categories = open_categories(root, arguments)
    protocol = run_protocol(arguments)
    settings = replace(run_settings(arguments), maps=_saved_maps(arguments), gallery=arguments.gallery)

    from padim_bench.padim.config import PADIM, PaDiMConfig
    from padim_bench.padim.weights import resolve_weights
    from padim_bench.records.config import Wanted
    from padim_bench.runs.executors import open_executor
    from padim_bench.runs.methods import method_names
    from padim_bench.runs.plan import plan
    from padim_bench.runs.runner import run

    check_models(arguments)
    check_choices("--method", arguments.method, method_names())
    _check_meant(arguments)
    weights = [resolve_weights(name, arguments.weights) for name in arguments.backbone]
    models = [
        (
            Wanted(
                PaDiMConfig(
                    one.arch,
                    arguments.layers or ("paper" if method == PADIM else "all"),
                    n,
                    reduction,
                    seed,
                    arguments.fusion,
                    strategy,
                    storage,
                    arguments.compute_dtype,
                    arguments.backbone_dtype,
                    arguments.half_products,
                    protocol,
                    method,
                ),
                trained=drawn,
            ),
            one,
        )
        for one, method, n, seed, strategy, storage, reduction, drawn in product(
            weights,
            arguments.method,
            arguments.n_features,
            arguments.seed,
            arguments.strategy,
            arguments.storage,
            arguments.reduction,
            drawn_images(arguments),
        )
    ]
    with open_executor(arguments.executor, on_message=say) as executor:
        units = plan(categories, models, settings, results=arguments.results, on_message=say)
        with _gallery(arguments.gallery):
            outcomes = run(units, arguments.results, executor=executor, on_message=say)
    if settings.maps is not None and (line := border_note(settings.maps, protocol)):
        say(line)
    output.document({"runs": [run_summary(o) for o in outcomes]})
    _print_runs(outcomes, settings.maps, output)
    if arguments.gallery is not None:
        output.text(f"gallery: {(arguments.gallery / 'index.html').as_posix()}")


@contextmanager
def _gallery(folder: Path | None) -> Iterator[None]:
    """The runs that draw into a folder of galleries, or into none."""
    if folder is None:
        yield
        return
    from padim_bench.gallery.folder import indexed, open_gallery

    open_gallery(folder)
    with indexed(folder):
        yield


def drawn_images(arguments: argparse.Namespace) -> list[Drawn | None]:
    """Which training images are learned from, None for all. Raises PadimBenchError for draws of nothing."""
    from padim_bench.data.drawn import Drawn

    chosen: dict[Drawn | None, None] = {}
    for n in arguments.train_images:
        for draw in arguments.train_draw or [0]:
            drawn = Drawn(None, draw, replaced=True) if n == "bootstrap" else Drawn(n, draw)
            chosen[None if n == "all" else drawn] = None
    if arguments.train_draw and set(chosen) == {None}:
        raise PadimBenchError("--train-draw: all training images are no draw: give --train-images N or bootstrap too")
    return list(chosen)


def _check_meant(arguments: argparse.Namespace) -> None:
    """Raises PadimBenchError for an option that none of the methods asked for has."""
    if "padim" in arguments.method:
        return
    usual = {"n_features": [100], "seed": [0], "strategy": ["cholesky"], "storage": ["float32"],
             "half_products": "auto", "compute_dtype": "float64", "reduction": ["random"], "fusion": "concatenate",
             "epsilon": None}  # fmt: skip
    if odd := [name for name, value in usual.items() if getattr(arguments, name) != value]:
        method = ", ".join(arguments.method)
        raise PadimBenchError(f"--{odd[0].replace('_', '-')}: a choice of padim alone, not of {method}: leave it out")


def run_summary(outcome: Outcome) -> dict[str, Any]:
    """What ``--json`` says of a run."""
    record = outcome.record
    stored = record.to_dict()
    return {
        "category": record.dataset.category,
        "status": record.status,
        "reason": record.reason,
        "resumed": outcome.resumed,
        "config": stored["config"],
        "weights": stored["weights"],
        "metrics": stored["metrics"],
        "extra": stored["extra"],
        "strategy_used": record.strategy_used,
        "applied": record.applied,
        "timings_s": record.timings_s,
        "memory_bytes": record.memory.peak_rss_bytes,
        "state_bytes": record.state_bytes,
        "residual": record.residual,
        "record": outcome.path.as_posix(),
    }


def _print_runs(outcomes: Sequence[Outcome], maps: SaveMaps | None, output: Output) -> None:
    from padim_bench.metrics.summary import METRICS, headline

    columns = {m.name: f"{m.short or m.title:>7}" for m in headline().values()}
    weights = ", ".join(dict.fromkeys(o.record.weights.label for o in outcomes))
    protocol = outcomes[0].config.protocol.title
    output.text(f"weights: {weights}; protocol: {protocol}; in percent")
    wide = max(8, *(len(printable(o.config.category)) for o in outcomes))
    output.text(
        f"{'category':{wide}} {'model':22} {'strategy':12} {'storage':8} {' '.join(columns.values())} "
        f"{'fit s':>7} {'state MB':>9} {'residual':>9}"
    )
    for outcome in outcomes:
        record, config, model = outcome.record, outcome.config, outcome.config.model
        name = config.model_name if config.trained is None else f"{config.model_name} {config.trained.label}"
        start = f"{printable(config.category):{wide}} {name:22} {model.strategy:12} {model.storage:8}"
        if not record.valid:
            output.text(f"{start} INVALID (no numbers): see the record")
            continue
        found = {name: record.value(name) for name in columns}
        values = "".join(
            f" {'-' if v is None else f'{METRICS[name].shown(v):.2f}':>{len(columns[name])}}"
            for name, v in found.items()
        )
        output.text(
            f"{start}{values} {record.timings_s['fit']:7.2f} {(record.state_bytes or 0) / 1e6:9.1f} "
            f"{'-' if record.residual is None else format(record.residual, '.1e'):>9}"
        )
    output.text(f"records: {outcomes[0].path.parent.as_posix()}")
    if maps is not None:
        scored = f"; for score-maps: --protocol {outcomes[0].config.protocol.name}" if maps.at == "protocol" else ""
        output.text(f"maps: {' and masks: '.join(folder.as_posix() for folder in maps.folders)}{scored}")


def _saved_maps(arguments: argparse.Namespace) -> SaveMaps | None:
    """Where maps go. Raises PadimBenchError for options that need --save-maps."""
    from padim_bench.maps.saving import SaveMaps

    if arguments.save_maps is None:
        for option, given in (("--maps-at", arguments.maps_at), ("--save-masks", arguments.save_masks)):
            if given is not None:
                raise PadimBenchError(f"{option} is of maps that are saved: give --save-maps DIR too")
        return None
    return SaveMaps(arguments.save_maps, arguments.maps_at or "image", arguments.save_masks)


def border_note(maps: SaveMaps, protocol: Protocol) -> str:
    """What a user should know of maps of a protocol that crops; nothing for others."""
    if protocol.images.crop in {None, protocol.images.resize}:
        return ""
    where = "" if maps.masks is None else f" in {maps.masks.as_posix()}"
    masks = f"the masks{where} that go with them" if where else "masks that go with them (--save-masks DIR)"
    kind = (
        "are of whole images, with their own minimum where the protocol crops and nothing was scored"
        if maps.at == "image"
        else f"are of the {protocol.size}x{protocol.size} pixels under the protocol's crop"
    )
    return f"padim-bench: note: maps {kind}: MVTec's evaluation needs {masks}"
