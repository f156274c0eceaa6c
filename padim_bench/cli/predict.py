"""``padim-bench predict``: scores and heat maps of images of one's own, by a model that ``fit`` kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim_bench.cli.options import add_json, add_machine, check_device, thread_count
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, positive, real
from padim_bench.errors import PadimBenchError

if TYPE_CHECKING:
    from padim_bench.padim.model import PaDiM
    from padim_bench.using.predicting import Prediction

ABOUT = """Scores images, given as files or as folders that are searched below, and writes a row of scores.csv and a
heat map over the image (PNG) for each into --out, in the layout of the folders. The threshold needs no test set: it is
a quantile of the scores that the model's own training images got from Gaussians fitted without them. Running it again
writes over the files of the time before, and nothing writes over others. Files that cannot be read are named, skipped
and counted; the exit code is then 2."""
_SHOWN = 20  # images; of more the CSV alone tells


def add_to(commands: Commands) -> None:
    """Adds ``predict`` to the commands."""
    parser = commands.add_parser("predict", help="score images with a model that fit kept", description=ABOUT)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a file that fit or PaDiM.save wrote")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE|DIR", help="folders are searched below")
    parser.add_argument("--weights", help="of its backbone: .safetensors file or directory of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for scores.csv and heat maps")
    parser.add_argument(
        "--quantile", type=real, default=0.99, help="of the training images' scores, as threshold; default 0.99"
    )
    parser.add_argument(
        "--maps", action="store_true", help="anomaly maps too, float32 TIFF at the size that the model sees"
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="images at a time; default 8")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(command=predict_images)


def predict_images(arguments: argparse.Namespace, output: Output) -> None:
    """Predicts, and says what is over the threshold. Raises PadimBenchError at the end if files could not be read."""
    from padim_bench.data.notes import Notes
    from padim_bench.using.finding import SCORES, find_images

    if not 0 <= arguments.quantile <= 1:
        raise PadimBenchError(f"--quantile {arguments.quantile:g}: choose 0 to 1, as 0.99")
    if arguments.model.is_dir() or not arguments.model.exists():
        raise PadimBenchError(f"no model {arguments.model}: give a file that 'padim-bench fit' wrote with --save")
    found, lines = find_images(arguments.images, arguments.out)
    for line in lines:
        say(f"padim-bench: note: {line}")
    check_device(arguments.device)
    threads = thread_count(arguments)

    from padim_bench.machine.memory import resident_memory
    from padim_bench.machine.progress import Progress
    from padim_bench.machine.torch_settings import torch_threads
    from padim_bench.padim.footprint import Need, at_worst, check_fits, statement
    from padim_bench.padim.model import PaDiM
    from padim_bench.using.predicting import MENDS, need_of, predict

    here, state = resident_memory(), arguments.model.stat().st_size
    check_fits(Need(arguments.model.as_posix(), {"state": state}, MENDS), device=arguments.device)
    notes, done = Notes(), list[Any]()
    with torch_threads(threads), Progress(len(found), stage="predicting") as progress:
        model = PaDiM.load(arguments.model, weights=arguments.weights, device=arguments.device)
        need = need_of(model, arguments.model.as_posix(), arguments.batch_size, threads)
        check_fits(need, device=arguments.device)
        # While a model is read its file lies in memory too, as far as there is room.
        most = at_worst(need.what, {"state": state, "its file": state}, {"state": state, **need.parts})
        say(statement(most, device=arguments.device, here=here))
        threshold = None if model.training_scores is None else model.threshold(arguments.quantile)
        try:
            for one in predict(
                model,
                found,
                arguments.out,
                threshold=threshold,
                maps=arguments.maps,
                batch_size=arguments.batch_size,
                threads=threads,
                notes=notes,
            ):
                done.append(one)
                progress.advance()
                if one.problem:
                    say(f"padim-bench: skipped: {one.problem}")
        except KeyboardInterrupt:
            say(f"padim-bench: {len(done)} of {len(found)} images are done, and kept in {arguments.out.as_posix()}")
            raise
    for line in notes.lines(bits=model.config.protocol.images.bits, fitted=True):
        say(f"padim-bench: note: {line}")
    about = threshold_line(model, arguments.quantile)
    for text in text_lines(done, about):
        output.text(text)
    output.text(f"scores: {(arguments.out / SCORES).as_posix()}; a heat map each beside it")
    output.document(
        {
            "model": arguments.model.as_posix(),
            "threshold": None if model.training_scores is None or threshold is None else {
                "value": threshold,
                "quantile": arguments.quantile,
                "n_images": len(model.training_scores.scores),
                "folds": model.training_scores.folds,
            },
            "out": arguments.out.as_posix(),
            "images": [
                {
                    "image": one.image.as_posix(),
                    "score": one.score,
                    "over_threshold": one.over,
                    "heat_map": one.heat_map or None,
                    "problem": one.problem or None,
                }
                for one in done
            ],
        }
    )  # fmt: skip
    if failed := sum(bool(one.problem) for one in done):
        raise PadimBenchError(
            f"{failed} of {len(done)} images could not be read, as said above; all others are done: mend or remove them"
        )


def threshold_line(model: PaDiM, quantile: float) -> str:
    """What the threshold is and rests on, or that there is none."""
    kept = model.training_scores
    if kept is None:
        return "no threshold: the model keeps no scores of its training images: fit it with 'padim-bench fit' for one"
    n, value = len(kept.scores), kept.quantile(quantile)
    over = sum(score > value for score in kept.scores)
    return (
        f"threshold {value:.4g}: the {quantile:g} quantile of the scores of {n} training images, each scored without "
        f"its fold ({kept.folds} folds); {over} of them {'is' if over == 1 else 'are'} over it"
    )


def text_lines(done: Sequence[Prediction], about: str) -> list[str]:
    """The predictions as people read them."""
    lines, scored = [about], [one for one in done if one.score is not None]
    if len(done) <= _SHOWN:
        for one in scored:
            mark = "" if one.over is None else "  over" if one.over else "  under"
            lines.append(f"{one.score:10.4g}{mark:7} {one.image.as_posix()}")
    if all(one.over is None for one in scored):
        return [*lines, f"{len(scored)} images scored"]
    return [*lines, f"{sum(bool(one.over) for one in scored)} of {len(scored)} images are over the threshold"]
