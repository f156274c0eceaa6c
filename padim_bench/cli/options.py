"""Options that several commands share: each is described once, beside what becomes of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from padim_bench.cli.parsing import (
    add_option,
    crop,
    features,
    names,
    positive,
    real,
    seeds,
    side,
    size_in_bytes,
    some_names,
)
from padim_bench.errors import PadimBenchError
from padim_bench.machine.console import can_start

if TYPE_CHECKING:
    from padim_bench.data.samples import Category
    from padim_bench.protocols import Protocol
    from padim_bench.runs.plan import Settings

DATA_VARIABLE = "PADIM_BENCH_DATA"


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of all that runs models."""
    parser.add_argument("--data", type=Path, help=f"dataset root, default ${DATA_VARIABLE}")
    parser.add_argument(
        "--categories",
        type=names,
        help="as bottle,screw; a comma in a name is written \\,; default: all present",
    )
    parser.add_argument("--weights", help=".safetensors file, directory of them, random or random:SEED")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for records and tables")
    add_protocol(parser)
    add_machine(parser)
    add_json(parser)


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Which protocol, at which size."""
    parser.add_argument("--protocol", default="paper", help="see 'padim-bench list protocols'")
    parser.add_argument(
        "--resize",
        type=side,
        metavar="N",
        help="side in pixels that images are resized to, instead of the protocol's; without --crop the part of the "
        "image that is seen stays: paper's 256, crop 224, becomes 512, crop 448",
    )
    parser.add_argument(
        "--crop",
        type=crop,
        metavar="N|none",
        help="side of the centre crop after resizing, at most --resize or the protocol's; none for the whole image",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where torch computes."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=positive, default=None, help="default: torch's")


def add_json(parser: argparse.ArgumentParser) -> None:
    """For programs that read what a command prints."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def add_recorded(parser: argparse.ArgumentParser) -> None:
    """Options of what leaves records of runs."""
    add_shared(parser)
    parser.add_argument(
        "--compare-at", choices=["protocol", "masks"], help="compare pixels at the protocol's size or at the masks' own"
    )
    add_reading(parser)
    parser.add_argument(
        "--executor",
        default="serial",
        help="serial, processes:N or dask:ADDRESS[?wait=SECONDS], to wait so long for a missing worker; default 600",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How images become features, and how much memory that may take."""
    parser.add_argument(
        "--bits", type=positive, metavar="N", help="used of 16-bit images' values, as 12 of a camera's; default 16"
    )
    parser.add_argument("--batch-size", type=positive, help="images at a time; default 8, on a GPU 32")
    parser.add_argument(
        "--backbone-dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the backbone; bfloat16 takes half the time where the processor has it, and its error is recorded",
    )
    parser.add_argument(
        "--memory-limit",
        type=size_in_bytes,
        metavar="SIZE",
        help="of what grows with the number of images, as 500MB or 2GiB (the default), for each process; past it "
        "images are decoded batch by batch and features folded into running moments, as a line then says",
    )


def add_layout(parser: argparse.ArgumentParser, *, single: bool = False) -> None:
    """What --data is, and how its folders are called; ``single`` allows those that are one category."""
    from padim_bench.data.datasets import DATASETS

    parser.add_argument(
        "--dataset",
        choices=[d.name for d in DATASETS.values() if d.opener and (single or not d.single)],
        default="mvtec",
        help="layout of --data; mvtec-ad says that it is MVTec AD, though not with its numbers of images",
    )
    add_normal(parser)


def add_normal(parser: argparse.ArgumentParser) -> None:
    """How the folders of normal images are called."""
    parser.add_argument(
        "--normal",
        type=names,
        default=[],
        metavar="NAME[,NAME]",
        help="folders in train and test whose images are normal, in any case; default good",
    )


def add_models(parser: argparse.ArgumentParser, strategies: Sequence[str], *, single: bool = False) -> None:
    """Which models: every combination of what is named, or a ``single`` one.

    ``strategies`` are those taken where none is named.
    """
    several, numbers = ("NAME", "N") if single else ("NAME[,NAME]", "N[,N]")
    add_option(
        parser,
        *("--backbone", "--backbones"),
        type=some_names,
        required=True,
        metavar=several,
        help=f"timm name{'' if single else 's'}, as resnet18.tv_in1k",
    )
    parser.add_argument("--n-features", type=features, default=[100], metavar=f"{numbers}|all", help="channels kept")
    parser.add_argument("--seed", type=seeds, default=[0], metavar=numbers, help="of the channels")
    add_option(
        parser,
        *("--strategy", "--strategies"),
        type=names,
        default=list(strategies),
        metavar=several,
        help=f"see 'padim-bench list strategies'; default {','.join(strategies)}",
    )
    add_option(
        parser,
        *("--storage", "--dtype", "--dtypes"),
        type=names,
        default=["float32"],
        metavar=several,
        help="dtype in which the state is held; default float32",
    )
    parser.add_argument(
        "--half-products",
        choices=("auto", "native", "widened"),
        default="auto",
        help="state in float16 or bfloat16: multiplied as it lies, widened to float32 first, or whichever is faster "
        "here (auto, the default); native only where it is accurate enough",
    )


def add_details(parser: argparse.ArgumentParser, *, single: bool = False) -> None:
    """More of the models that :func:`add_models` names: how they are made."""
    parser.add_argument(
        "--layers",
        help="paper (the default), levels, from-zero, from-one, all (the default of other methods), or timm modules "
        "joined by +",
    )
    parser.add_argument(
        "--compute-dtype", choices=["float32", "float64"], default="float64", help="of the factorisation"
    )
    several = "NAME" if single else "NAME[,NAME]"
    parser.add_argument("--reduction", type=names, default=["random"], metavar=several, help="of dimensions")
    parser.add_argument("--epsilon", type=real, help="on the covariance's diagonal, instead of the protocol's")
    parser.add_argument("--sigma", type=real, help="of the smoothing, instead of the protocol's")


def check_models(arguments: argparse.Namespace) -> None:
    """Raises PadimBenchError for a strategy, a storage dtype or a reduction that there is not."""
    from padim_bench.padim.reduction import REDUCTIONS
    from padim_bench.padim.strategies import STORAGE_DTYPES, strategy_names

    check_choices("--strategy", arguments.strategy, strategy_names())
    check_choices("--storage", arguments.storage, tuple(STORAGE_DTYPES))
    check_choices("--reduction", getattr(arguments, "reduction", ["random"]), tuple(REDUCTIONS))


def check_one_model(arguments: argparse.Namespace) -> None:
    """As :func:`check_models`; raises PadimBenchError too where several models are named."""
    check_models(arguments)
    for name in ("backbone", "n_features", "seed", "strategy", "storage", "reduction"):
        if len(getattr(arguments, name)) != 1:
            raise PadimBenchError(f"--{name.replace('_', '-')}: one model is made at a time: give one value")


def add_pages(parser: argparse.ArgumentParser) -> None:
    """Options of what writes pages."""
    parser.add_argument("--print", action="store_true", help="the pages too, in Markdown, not only a summary")
    parser.add_argument(
        "--intervals",
        action="store_true",
        help="95 %% intervals over test images in Tables I to VI",
    )


def run_settings(arguments: argparse.Namespace) -> Settings:
    """What all runs of the command share. Raises PadimBenchError for what this machine has not."""
    from padim_bench.padim.backbones import CPU_BATCH_SIZE
    from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT
    from padim_bench.records.config import Execution
    from padim_bench.runs.plan import Settings

    check_device(arguments.device)
    threads = thread_count(arguments)
    usual = CPU_BATCH_SIZE if arguments.device == "cpu" else 32
    execution = Execution(arguments.device, threads, getattr(arguments, "batch_size", None) or usual)
    return Settings(execution, getattr(arguments, "memory_limit", None) or DEFAULT_MEMORY_LIMIT)


def run_protocol(arguments: argparse.Namespace) -> Protocol:
    """The protocol asked for, with the choices that have options. Raises PadimBenchError for what it has not."""
    from padim_bench.protocols import get_protocol

    given = {field: getattr(arguments, field, None) for field in ("epsilon", "sigma", "compare_at", "bits")}
    protocol = get_protocol(arguments.protocol).sized(arguments.resize, arguments.crop)
    return protocol.vary(**{k: v for k, v in given.items() if v is not None})


def thread_count(arguments: argparse.Namespace) -> int:
    """Those asked for, or torch's own number, which OMP_NUM_THREADS sets. Refuses what this machine cannot give."""
    import torch

    n = arguments.threads or torch.get_num_threads()
    check_threads(n, f"--threads {n}" if arguments.threads else f"{n} threads (OMP_NUM_THREADS)")
    return n


def check_threads(n: int, given: str) -> None:
    """Raises PadimBenchError, with who has ``given`` the number, for more threads than this machine can give."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if n > most:
        raise PadimBenchError(f"{given}: at most {most} on this machine of {os.cpu_count()} processors: lower it")
    if (started := can_start(n)) < n:  # OpenMP would end the process with a line of its own
        raise PadimBenchError(f"{given}: the system gives this process no more than {started}: lower it")


def check_device(device: str) -> None:
    """Raises PadimBenchError unless torch can use ``device``."""
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise PadimBenchError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0][:120]}): try --device cpu"
        ) from error


def data_root(arguments: argparse.Namespace) -> Path | None:
    """The dataset's folder: ``--data``, else the environment's, else None."""
    if arguments.data is not None:
        return Path(arguments.data)
    return Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None


def open_categories(root: Path, arguments: argparse.Namespace) -> list[Category]:
    """The categories of ``root`` that are asked for. Raises PadimBenchError for names it has not, and bad folders."""
    from padim_bench.data.datasets import DATASETS

    dataset, wanted = DATASETS[arguments.dataset], arguments.categories
    if dataset.single:
        if arguments.categories is not None:
            raise PadimBenchError("--categories: a folder dataset has no categories; leave the option out")
        if arguments.normal:
            raise PadimBenchError(
                "--normal: in a folder dataset the normal images lie in normal/; leave the option out"
            )
        return dataset.open(root)
    if wanted is not None and not wanted:
        raise PadimBenchError("--categories names none: write them as bottle,screw")
    if paths := [name for name in wanted or () if name == ".." or Path(name).name != name]:
        raise PadimBenchError(f"--categories {paths[0]}: name folders directly in {root}, as bottle,screw")
    return dataset.open(root, None if wanted is None else list(dict.fromkeys(wanted)), arguments.normal)


def check_choices(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises PadimBenchError for the first name given to ``option`` that is not known, or if none is given."""
    if unknown := [name for name in given if name not in known] or ([] if given else ["nothing"]):
        raise PadimBenchError(f"{option} {unknown[0]}: choose from {', '.join(known)}")
