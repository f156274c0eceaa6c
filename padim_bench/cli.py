"""The command line: parse, call, print.

Exit codes: 0 done (a reader of our output may have gone), 1 our fault, 2 bad input, want of memory, or standard output
that could not be written (what was done is kept), 130 interrupted, 143 ended by SIGTERM (128 and its number, for any).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from padim_bench import __version__
from padim_bench.console import Signals, Streams, can_start, memory_problem, printable
from padim_bench.errors import DataWarning, PadimBenchError
from padim_bench.progress import Progress

if TYPE_CHECKING:
    from padim_bench.data.samples import Category
    from padim_bench.data.stc import Scene
    from padim_bench.harness.runner import Outcome, Settings
    from padim_bench.report.page import Page
    from padim_bench.report.tables import Table

DATA_VARIABLE = "PADIM_BENCH_DATA"
DOWNLOADS = Path("datasets")
STC_VARIABLE = "PADIM_BENCH_STC"
# More than any machine has threads, images, channels or time for; and what every generator takes for a seed.
LARGEST, LARGEST_SEED = 1_000_000, 2**63 - 1
TABLES = """Makes every page, figure and the index from the records, measurements and profiles of results folders, in
seconds, without images, weights or torch. Several folders are merged: records that may not stand in one table are
refused."""
# What the demo runs unless more is asked for: the whole path, in a few minutes.
DEMO_BACKBONES, DEMO_SEEDS = ("resnet18",), 2


class _Parser(argparse.ArgumentParser):
    """Bad input is one line on standard error, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        raise PadimBenchError(f"{message}: see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    with Streams() as streams, Signals() as signals:
        code = _exit_code(argv, streams, signals)
        with suppress(BrokenPipeError):  # of streams that are not the process's own
            sys.stdout.flush()
        if code == 0 and streams.lost is not None:
            why = streams.lost.strerror or streams.lost
            _say(f"padim-bench: error: cannot write to standard output: {why}: what was done is done, and kept")
            return 2
        return code


def _exit_code(argv: Sequence[str] | None, streams: Streams, signals: Signals) -> int:
    try:
        arguments = _parser().parse_args(argv)
        stage = " ".join([arguments.command_name, *getattr(arguments, "tables", ())])
        as_json = getattr(arguments, "json", False)
        with _notes_said(), _Output(streams, as_json=as_json) as output, Progress(None, stage=stage):
            arguments.command(arguments, output)
        return 0
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except PadimBenchError as error:
        _say(f"padim-bench: error: {error}")
        return 2
    except KeyboardInterrupt as error:
        return _interrupted(signals, str(error))
    except Exception as error:
        if signals.received is not None:  # an import that is interrupted may say that it failed
            return _interrupted(signals, "")
        if (line := memory_problem(error)) is not None:
            _say(f"padim-bench: error: {line}")
            return 2
        traceback.print_exc()
        _say("padim-bench: this is a fault of padim-bench itself; please report it with the lines above")
        return 1


def _interrupted(signals: Signals, done: str) -> int:
    """Says what is kept; the exit code is a shell's for a process that a signal ended."""
    by = signals.received
    what = "interrupted" if by in {None, signal.SIGINT} else f"ended by {by.name}"
    _say(f"padim-bench: {what}{': ' + done + '; the same command resumes' if done else ''}")
    return 128 + (by or signal.SIGINT)


class _Output:
    """Standard output. With ``--json`` it carries one document: all else that is printed goes to standard error.

    Native libraries write to the file descriptor itself (oneMKL does), so that is what is redirected.
    """

    def __init__(self, streams: Streams, *, as_json: bool) -> None:
        self.as_json = as_json
        self._streams = streams
        self._real: int | None = None

    def __enter__(self) -> _Output:
        if self.as_json:
            sys.stdout.flush()
            self._real = os.dup(1)
            os.dup2(2, 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._real is not None:
            sys.stdout.flush()
            os.dup2(self._real, 1)
            os.close(self._real)

    def document(self, value: dict[str, Any]) -> None:
        """JSON in UTF-8, whatever the locale; an undecodable byte of a path is an escape, as ``\\udcff``."""
        from padim_bench.harness.records import to_json

        if self._real is not None:
            self._streams.write_document((to_json(value) + "\n").encode("utf-8", "backslashreplace"), self._real)

    def text(self, text: str = "") -> None:
        """For people: nothing with ``--json``. Nothing in it is obeyed by a terminal."""
        if not self.as_json:
            print(printable(text, keep="\n"), flush=True)  # at once, also into a pipe


@contextmanager
def _notes_said() -> Iterator[None]:
    """What the data part warns of is a line for people, each said once; other warnings are left alone."""
    said: set[str] = set()
    other = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, DataWarning):
            other(message, category, *place, **more)
        elif str(message) not in said:
            said.add(str(message))
            _say(f"padim-bench: note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = show
        yield


def _say(message: str) -> None:
    """One line on standard error, where there is one."""
    with suppress(OSError):
        print(printable(" ".join(message.split("\n"))), file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    """The parts between commas; a comma after a backslash is part of a name."""
    parts = (part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text))
    return [part for part in parts if part]


def _whole(text: str, least: int, most: int) -> int:
    """A whole number in plain digits: int() would take 1_0, and digits of other scripts."""
    if not re.fullmatch(r"-?[0-9]+", text.strip()):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number")
    if len(text.strip()) > 20 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not between {least} and {most}")
    return int(text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)")


def _positive(text: str) -> int:
    return _whole(text, 1, LARGEST)


def _seed(text: str) -> int:
    return _whole(text, 0, LARGEST_SEED)


def _real(text: str) -> float:
    try:
        if not text.isascii() or "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number") from None


def _bytes(text: str) -> int:
    """A size as 1500000, 500MB or 2GiB."""
    units = {"": 1} | {f"{p}{b}": n for i, p in enumerate("kmgt", 1) for b, n in (("", 1000**i), ("b", 1000**i),
                                                                                 ("ib", 1024**i))}  # fmt: skip
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        value = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size as 500MB or 2GiB") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 byte or more")
    return value


def _features(text: str) -> list[int | None]:
    return [None if part == "all" else _positive(part) for part in _some(text)]


def _sizes(text: str) -> list[int]:
    return [_positive(part) for part in _some(text)]


def _seeds(text: str) -> list[int]:
    return [_seed(part) for part in _some(text)]


def _some(text: str) -> list[str]:
    if not (parts := _names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return parts


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="padim-bench", description="Benchmark and reproducibility suite for PaDiM (arXiv:2011.08785)."
    )
    parser.add_argument("--version", action="version", version=f"padim-bench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name", parser_class=_Parser)

    run = commands.add_parser("run", help="fit and score categories with the options given")
    _common(run)
    _layout(run, "folder")
    run.add_argument("--backbone", required=True, metavar="NAME", help="timm name, as resnet18.tv_in1k")
    run.add_argument(
        "--layers", default="paper", help="paper, levels, from-zero, from-one, or timm modules joined by +"
    )
    run.add_argument("--n-features", type=_features, default=[100], metavar="N[,N]|all", help="channels kept")
    run.add_argument("--seed", type=_seeds, default=[0], metavar="N[,N]")
    run.add_argument("--strategy", type=_names, default=["cholesky"], metavar="NAME[,NAME]")
    run.add_argument("--dtype", type=_names, default=["float32"], metavar="NAME[,NAME]", help="storage of the state")
    run.add_argument("--compute-dtype", choices=["float32", "float64"], default="float64", help="of the factorisation")
    run.add_argument("--reduction", type=_names, default=["random"], metavar="NAME[,NAME]", help="of dimensions")
    run.add_argument("--fusion", choices=["concatenate", "sum"], default="concatenate", help="of layers, or their maps")
    run.add_argument("--epsilon", type=_real, help="on the covariance's diagonal, instead of the protocol's")
    run.add_argument("--sigma", type=_real, help="of the smoothing, instead of the protocol's")
    run.set_defaults(command=_run)

    reproduce = commands.add_parser("reproduce", help="regenerate the paper's tables beside its numbers")
    reproduce.add_argument(
        "tables", nargs="*", metavar="TABLE", help="table1 to table8, seeds, gaps; none for all of these; strategies"
    )
    _common(reproduce)
    _layout(reproduce)
    reproduce.add_argument("--backbones", type=_names, help="only these, as resnet18,wide_resnet50_2.tv_in1k")
    reproduce.add_argument(
        "--seeds", type=_positive, default=0, metavar="N", help="channel seeds 0 to N - 1 in every table"
    )
    reproduce.add_argument("--stc", type=Path, help=f"root of ShanghaiTech Campus, default ${STC_VARIABLE}")
    reproduce.add_argument(
        "--stc-every", type=_positive, default=1, metavar="N", help="of its clips, the first and then every Nth frame"
    )
    _pages_asked(reproduce)
    reproduce.set_defaults(command=_reproduce)

    tables = commands.add_parser(
        "tables", help="pages, figures and index from records alone: no images, no weights", description=TABLES
    )
    tables.add_argument("tables", nargs="*", metavar="TABLE", help="see 'padim-bench list tables'; default: all")
    tables.add_argument(
        "--results", type=Path, nargs="+", default=[Path("results")], metavar="DIR", help="folders, merged"
    )
    tables.add_argument("--out", type=Path, help="where pages go; default: the first of the folders")
    tables.add_argument("--dataset", help="whose records, where there are several; default: mvtec-ad")
    tables.add_argument("--protocol", default="paper", help="of the runs; see 'padim-bench list protocols'")
    tables.add_argument(
        "--seeds", type=_positive, default=0, metavar="N", help="seeds 0 to N - 1; default: those that hold most runs"
    )
    _pages_asked(tables)
    tables.set_defaults(command=_tables)

    profile = commands.add_parser(
        "profile", help="time, memory and accuracy of configurations, each in its own process"
    )
    _shared(profile)
    _layout(profile)
    profile.add_argument("--backbones", type=_some, required=True, metavar="NAME[,NAME]", help="as resnet18.tv_in1k")
    profile.add_argument("--n-features", type=_features, default=[100], metavar="N[,N]|all", help="channels kept")
    profile.add_argument("--strategies", type=_some, default=["cholesky", "woodbury"], metavar="NAME[,NAME]")
    profile.add_argument("--dtypes", type=_some, default=["float32"], metavar="NAME[,NAME]", help="of the state")
    profile.add_argument(
        "--batch-sizes", type=_sizes, default=[1, 8, 32], metavar="N[,N]", help="images scored at a time; 1 always is"
    )
    profile.add_argument("--seed", type=_seed, default=0, help="of the channels")
    profile.add_argument("--n-images", type=_positive, default=100, metavar="N", help="timed at every batch size")
    _pages_asked(profile)
    profile.set_defaults(command=_profile)

    listing = commands.add_parser("list", help="what there is to choose from")
    listing.add_argument("what", choices=["backbones", "strategies", "protocols", "tables", "datasets"])
    listing.set_defaults(command=_list)

    doctor = commands.add_parser("doctor", help="versions, and whether this machine's linear algebra is right")
    doctor.add_argument("--threads", type=_positive, default=None)
    doctor.add_argument("--device", default="cpu")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)

    data = commands.add_parser("data", help="get, check or draw a dataset")
    actions = data.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    download = actions.add_parser("download", help="fetch, check and unpack; resumable")
    download.add_argument("name", help="mvtec-ad")
    download.add_argument("--root", type=Path, help=f"where it goes; default ${DATA_VARIABLE}, else {DOWNLOADS}/NAME")
    download.add_argument("--archive", type=Path, help="a file fetched by hand, instead of the network")
    download.add_argument("--url", help="another link to the same file")
    download.set_defaults(command=_download)
    verify = actions.add_parser("verify", help="read every file of a dataset, and say all that run would say")
    verify.add_argument("--root", "--data", dest="root", type=Path, default=None, help=f"default: ${DATA_VARIABLE}")
    _layout(verify, "folder")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(command=_verify)
    demo = actions.add_parser("demo", help="draw the demo dataset")
    demo.add_argument("--root", type=Path, default=DOWNLOADS / "demo")
    demo.add_argument("--seed", type=_seed, default=0)
    demo.set_defaults(command=_demo)
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    """Options of all that runs models."""
    parser.add_argument("--data", type=Path, help=f"dataset root, default ${DATA_VARIABLE}")
    parser.add_argument(
        "--categories",
        type=_names,
        help="as bottle,screw; a comma in a name is written \\,; default: all present",
    )
    parser.add_argument("--weights", help=".safetensors file, directory of them, random or random:SEED")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for records and tables")
    parser.add_argument("--protocol", default="paper", help="see 'padim-bench list protocols'")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=_positive, default=None, help="default: torch's")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _pages_asked(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--print", action="store_true", help="the pages too, in Markdown, not only a summary")


def _common(parser: argparse.ArgumentParser) -> None:
    """Options of what leaves records of runs."""
    _shared(parser)
    parser.add_argument(
        "--compare-at", choices=["protocol", "masks"], help="compare pixels at the protocol's size or at the masks' own"
    )
    parser.add_argument(
        "--bits", type=_positive, metavar="N", help="used of 16-bit images' values, as 12 of a camera's; default 16"
    )
    parser.add_argument("--batch-size", type=_positive, help="images at a time; default 8, on a GPU 32")
    parser.add_argument(
        "--backbone-dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the backbone; bfloat16 takes half the time where the processor has it, and its error is recorded",
    )
    parser.add_argument(
        "--memory-limit",
        type=_bytes,
        metavar="SIZE",
        help="of what grows with the number of images, as 500MB or 2GiB (the default), for each process; past it "
        "images are decoded batch by batch and features folded into running moments, as a line then says",
    )
    parser.add_argument(
        "--executor",
        default="serial",
        help="serial, processes:N or dask:ADDRESS[?wait=SECONDS], to wait so long for a missing worker; default 600",
    )


def _layout(parser: argparse.ArgumentParser, *more: str) -> None:
    """What --data is, and how its folders are called."""
    parser.add_argument(
        "--dataset",
        choices=["mvtec", "mvtec-ad", *more],
        default="mvtec",
        help="layout of --data; mvtec-ad says that it is MVTec AD, though not with its numbers of images",
    )
    parser.add_argument(
        "--normal",
        type=_names,
        default=[],
        metavar="NAME[,NAME]",
        help="folders in train and test whose images are normal, in any case; default good",
    )


def _settings(arguments: argparse.Namespace) -> Settings:

    from padim_bench.harness.runner import Settings
    from padim_bench.padim.backbones import CPU_BATCH_SIZE
    from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT
    from padim_bench.protocols import get_protocol

    given = {field: getattr(arguments, field, None) for field in ("epsilon", "sigma", "compare_at", "bits")}
    protocol = get_protocol(arguments.protocol).vary(**{k: v for k, v in given.items() if v is not None})
    _check_device(arguments.device)
    threads = _threads(arguments)
    usual = CPU_BATCH_SIZE if arguments.device == "cpu" else 32
    return Settings(
        protocol,
        arguments.device,
        threads,
        getattr(arguments, "batch_size", None) or usual,
        getattr(arguments, "memory_limit", None) or DEFAULT_MEMORY_LIMIT,
        backbone_dtype=getattr(arguments, "backbone_dtype", "float32"),
    )


def _threads(arguments: argparse.Namespace) -> int:
    """Those asked for, or torch's own number, which OMP_NUM_THREADS sets. Refuses what this machine cannot give."""
    import torch

    n = arguments.threads or torch.get_num_threads()
    given = f"--threads {n}" if arguments.threads else f"{n} threads (OMP_NUM_THREADS)"
    most = max(64, 4 * (os.cpu_count() or 1))
    if n > most:
        raise PadimBenchError(f"{given}: at most {most} on this machine of {os.cpu_count()} processors: lower it")
    if (started := can_start(n)) < n:  # OpenMP would end the process with a line of its own
        raise PadimBenchError(f"{given}: the system gives this process no more than {started}: lower it")
    return n


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise PadimBenchError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0][:120]}): try --device cpu"
        ) from error


def _data_root(arguments: argparse.Namespace) -> Path | None:
    if arguments.data is not None:
        return Path(arguments.data)
    return Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None


def _categories(root: Path, arguments: argparse.Namespace) -> list[Category]:
    from padim_bench.data.folder import folder
    from padim_bench.data.mvtec import list_categories, mvtec

    if getattr(arguments, "dataset", "mvtec") == "folder":
        if arguments.categories is not None:
            raise PadimBenchError("--categories: a folder dataset has no categories; leave the option out")
        if arguments.normal:
            raise PadimBenchError(
                "--normal: in a folder dataset the normal images lie in normal/; leave the option out"
            )
        return [folder(root)]
    normal, dataset = arguments.normal, "mvtec-ad" if arguments.dataset == "mvtec-ad" else None
    wanted = arguments.categories if arguments.categories is not None else list_categories(root, normal=normal)
    if not wanted:
        raise PadimBenchError("--categories names none: write them as bottle,screw")
    if paths := [name for name in wanted if name == ".." or Path(name).name != name]:
        raise PadimBenchError(f"--categories {paths[0]}: name folders directly in {root}, as bottle,screw")
    return [mvtec(root, name, dataset=dataset, normal=normal) for name in dict.fromkeys(wanted)]


def _run(arguments: argparse.Namespace, output: _Output) -> None:
    root = _data_root(arguments)
    if root is None:
        raise PadimBenchError(f"no dataset: give --data DIR or set {DATA_VARIABLE} ('padim-bench data demo' draws one)")
    categories = _categories(root, arguments)
    settings = _settings(arguments)

    from padim_bench.harness.executors import open_executor
    from padim_bench.harness.runner import ModelSpec, plan, run
    from padim_bench.padim.reduction import REDUCTIONS
    from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGY_NAMES
    from padim_bench.padim.weights import resolve_weights

    _check_choices("--strategy", arguments.strategy, STRATEGY_NAMES)
    _check_choices("--dtype", arguments.dtype, tuple(STORAGE_DTYPES))
    _check_choices("--reduction", arguments.reduction, tuple(REDUCTIONS))
    weights = resolve_weights(arguments.backbone, arguments.weights)
    models = [
        ModelSpec(
            weights, arguments.layers, n, seed, strategy, dtype, arguments.compute_dtype, reduction, arguments.fusion
        )
        for n, seed, strategy, dtype, reduction in product(
            arguments.n_features, arguments.seed, arguments.strategy, arguments.dtype, arguments.reduction
        )
    ]
    with open_executor(arguments.executor, on_message=_say) as executor:
        outcomes = run(plan(categories, models, settings), arguments.results, executor=executor, on_message=_say)
    output.document({"runs": [_summary(o) for o in outcomes]})
    _print_runs(outcomes, output)


def _check_choices(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known] or ([] if given else ["nothing"]):
        raise PadimBenchError(f"{option} {unknown[0]}: choose from {', '.join(known)}")


def _summary(outcome: Outcome) -> dict[str, Any]:
    record = outcome.record
    return {
        "category": record["dataset"]["category"],
        "status": record["status"],
        "reason": record["reason"],
        "resumed": outcome.resumed,
        "config": record["config"],
        "weights": record["weights"],
        "metrics": record["metrics"],
        "extra": record["extra"],
        "strategy_used": record["strategy_used"],
        "timings_s": record["timings_s"],
        "memory_bytes": record["memory"]["peak_rss_bytes"],
        "state_bytes": record["state_bytes"],
        "residual": record["residual"],
        "record": outcome.path.as_posix(),
    }


def _print_runs(outcomes: Sequence[Outcome], output: _Output) -> None:
    first = outcomes[0].record
    output.text(f"weights: {first['weights']['label']}; protocol: {first['config']['protocol']['name']}; in percent")
    wide = max(8, *(len(printable(o.config.category)) for o in outcomes))
    output.text(
        f"{'category':{wide}} {'model':22} {'strategy':12} {'dtype':8} {'im.AUROC':>8} {'px.AUROC':>8} {'PRO':>7} "
        f"{'fit s':>7} {'state MB':>9} {'residual':>9}"
    )
    for outcome in outcomes:
        record, config = outcome.record, outcome.config
        start = f"{printable(config.category):{wide}} {config.model_name:22} {config.strategy:12} {config.dtype:8}"
        if record["status"] != "ok":
            output.text(f"{start} INVALID (no numbers): see the record")
            continue
        shown = [record["metrics"][k] for k in ("image_auroc", "pixel_auroc", "pro")]
        values = "".join(
            f" {'-' if v is None else f'{100 * v:.2f}':>{w}}" for v, w in zip(shown, (8, 8, 7), strict=True)
        )
        output.text(
            f"{start}{values} {record['timings_s']['fit']:7.2f} {record['state_bytes'] / 1e6:9.1f} "
            f"{'-' if record['residual'] is None else format(record['residual'], '.1e'):>9}"
        )
    output.text(f"records: {outcomes[0].path.parent.as_posix()}")


def _reproduce(arguments: argparse.Namespace, output: _Output) -> None:
    from padim_bench.report.spec import STRATEGIES_TABLE, report_names

    wanted = list(dict.fromkeys(arguments.tables)) or report_names()
    known = [*report_names(), STRATEGIES_TABLE]
    if unknown := [name for name in wanted if name not in known]:
        raise PadimBenchError(f"unknown table {unknown[0]!r}: choose from {', '.join(known)}")
    root, results = _data_root(arguments), arguments.results
    settings = _settings(arguments)

    from padim_bench.harness.executors import open_executor
    from padim_bench.reproduction.reproduce import REAL_THING, demo_categories, reproduce

    scenes_alone = wanted == ["table4"] and _stc_root(arguments) is not None
    demo = root is None and not scenes_alone
    backbones, seeds = arguments.backbones, arguments.seeds
    categories: list[Category] = []
    if demo:
        results = results / "demo"
        _say("no --data: running on the demo dataset, which is drawn, not photographed")
        categories = demo_categories(results, arguments.categories)
        if backbones is None:
            backbones = list(DEMO_BACKBONES)
            _say(f"demo: {', '.join(backbones)} alone; --backbones names more (they take minutes each)")
        if seeds == 0:
            seeds = DEMO_SEEDS
            _say(f"demo: {seeds} seeds; --seeds N for more")
    elif root is not None and not scenes_alone:
        categories = _categories(root, arguments)
    scenes = _scenes(arguments, results if demo else None) if "table4" in wanted else []
    with open_executor(arguments.executor, on_message=_say) as executor:
        done = reproduce(
            wanted,
            categories,
            results=results,
            settings=settings,
            weights=arguments.weights,
            untrained_fallback=demo,
            backbones=backbones,
            seeds=seeds,
            brief=demo,
            scenes=scenes,
            stc_every=arguments.stc_every,
            executor=executor,
            on_message=_say,
        )
    _print_pages(done.pages, arguments, output)
    for line in done.summary(wanted):
        output.text(line)
    output.text(f"{(results / 'README.md').as_posix()} links it all")
    if demo:
        output.text(REAL_THING)
    output.document(
        {
            "dataset": categories[0].dataset if categories else "stc",
            "tables": [
                {"name": page.name, "files": [p.as_posix() for p in done.files[page.name]]}
                | (_table_document(page.table) if page.table else {})
                for page in done.pages
            ],
            "runs": [_summary(o) for o in done.outcomes],
        }
    )


def _tables(arguments: argparse.Namespace, output: _Output) -> None:
    from padim_bench.protocols import get_protocol
    from padim_bench.reproduction.kinds import Choice
    from padim_bench.reproduction.pages import tables

    out = arguments.out or arguments.results[0]
    choice = Choice(get_protocol(arguments.protocol), arguments.seeds)
    done = tables(arguments.results, out, choice, names=arguments.tables, dataset=arguments.dataset, on_message=_say)
    _print_pages(done.pages, arguments, output)
    for line in done.summary():
        output.text(line)


def _profile(arguments: argparse.Namespace, output: _Output) -> None:
    root, results = _data_root(arguments), arguments.results
    if arguments.categories is not None and len(arguments.categories) != 1:
        raise PadimBenchError("--categories: profiles are of one category; name one, as bottle")
    settings = _settings(arguments)

    from padim_bench.data.mvtec import list_categories
    from padim_bench.harness.profile import ProfileSettings, plan_profiles
    from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGY_NAMES
    from padim_bench.padim.weights import resolve_weights
    from padim_bench.reproduction.profiles import run_profiles
    from padim_bench.reproduction.reproduce import REAL_THING, demo_categories

    _check_choices("--strategies", arguments.strategies, STRATEGY_NAMES)
    _check_choices("--dtypes", arguments.dtypes, tuple(STORAGE_DTYPES))
    weights = [resolve_weights(name, arguments.weights) for name in arguments.backbones]
    if root is None:
        results = results / "demo"
        _say("no --data: profiling on the demo dataset, which is drawn, not photographed")
        category = demo_categories(results, arguments.categories)[0]
    else:
        arguments.categories = arguments.categories or list_categories(root, normal=arguments.normal)[:1]
        (category,) = _categories(root, arguments)
    for one in weights:
        if not one.trained:
            _say(f"{one.arch}: UNTRAINED random weights: accuracy means nothing, time and memory do")
    models = plan_profiles(weights, arguments.n_features, arguments.strategies, arguments.dtypes, _say)
    chosen = ProfileSettings(
        protocol=settings.protocol.name,
        seed=arguments.seed,
        device=settings.device,
        threads=settings.threads,
        batch_sizes=tuple(arguments.batch_sizes),
        n_images=arguments.n_images,
    )
    done = run_profiles(category, models, chosen, results=results, on_message=_say)
    _print_pages([done.page], arguments, output)
    for line in done.summary():
        output.text(line)
    output.text(f"{(results / 'README.md').as_posix()} links it all")
    if root is None:
        output.text(REAL_THING)
    output.document(
        {
            "dataset": category.dataset,
            "category": category.name,
            "files": [p.as_posix() for p in done.files],
            "profiles": [p.record | {"resumed": p.resumed, "record": p.path.as_posix()} for p in done.profiles],
        }
    )


def _print_pages(pages: Sequence[Page], arguments: argparse.Namespace, output: _Output) -> None:
    for page in pages if arguments.print else ():
        output.text(page.texts[".md"])


def _stc_root(arguments: argparse.Namespace) -> Path | None:
    if arguments.stc is not None:
        return Path(arguments.stc)
    return Path(os.environ[STC_VARIABLE]) if os.environ.get(STC_VARIABLE) else None


def _scenes(arguments: argparse.Namespace, demo_results: Path | None) -> list[Scene]:
    """Scenes of ShanghaiTech Campus at hand; in the demo a drawn pair, as videos where PyAV is installed."""
    from importlib.util import find_spec

    from padim_bench.data.stc import list_scenes, make_demo_stc, stc

    root = _stc_root(arguments)
    if root is None:
        if demo_results is None:
            return []
        video = find_spec("av") is not None
        root = make_demo_stc(demo_results / f"stc-{'video' if video else 'frames'}", video=video)
    return [stc(root, name) for name in list_scenes(root)]


def _table_document(table: Table) -> dict[str, Any]:
    return {
        "title": table.heading,
        "warnings": list(table.warnings),
        "missing": table.missing,
        "cells": [
            vars(c)
            | {"printed": vars(c.printed) if c.printed else None}
            | {"ours": c.ours, "sd": c.sd, "sem": c.sem, "difference": c.difference}
            for c in table.cells
        ],
    }


def _list(arguments: argparse.Namespace, output: _Output) -> None:
    listings: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "backbones": _list_backbones,
        "strategies": _list_strategies,
        "protocols": _list_protocols,
        "tables": _list_tables,
        "datasets": _list_datasets,
    }
    rows = listings[arguments.what]()
    wide = max(len(name) for name, _ in rows)
    for name, text in rows:
        output.text(f"{name:{wide}}  {text}")


def _list_backbones() -> list[tuple[str, str]]:
    from padim_bench.padim.layers import paper_layers
    from padim_bench.padim.weights import known_tags

    rows = []
    for arch in ("resnet18", "wide_resnet50_2", "tf_efficientnet_b5", "tf_efficientnet_b4"):
        layers = "+".join(paper_layers(arch))
        rows += [(f"{arch}.{tag}", layers) for tag in known_tags(arch)]
    return [*rows, ("ARCH[.TAG]", "any other timm model, with --layers")]


def _list_strategies() -> list[tuple[str, str]]:
    from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES

    rows = [(s.name, s.summary + ("" if s.exact else " (not exact)")) for s in STRATEGIES.values()]
    return [*rows, ("auto", "the exact one that stores least"), ("--dtype", ", ".join(STORAGE_DTYPES))]


def _list_protocols() -> list[tuple[str, str]]:
    from padim_bench.protocols import PROTOCOLS

    return [(p.name, p.source) for p in PROTOCOLS.values()]


def _list_tables() -> list[tuple[str, str]]:
    from padim_bench.report.spec import STRATEGIES_TABLE, load_toml, report_names

    rows = []
    for name in report_names():
        spec = load_toml(name)
        number = f"Table {spec['number']}: " if spec.get("number") else "ours: "
        rows.append((name, f"{number}{spec['title']}"))
    return [*rows, (STRATEGIES_TABLE, "ours: bytes and accuracy of every strategy and storage dtype; only when named")]


def _list_datasets() -> list[tuple[str, str]]:
    from padim_bench.data.demo import DEMO_CATEGORIES
    from padim_bench.data.mvtec import MVTEC_OBJECTS, MVTEC_TEXTURES

    return [
        (
            "mvtec-ad",
            f"MVTec AD: {', '.join((*MVTEC_TEXTURES, *MVTEC_OBJECTS))}; known by its numbers of images, or --dataset "
            "mvtec-ad says so",
        ),
        ("demo", f"drawn, for trying things out: {', '.join(DEMO_CATEGORIES)}"),
        ("mvtec", "any dataset in MVTec AD layout (--dataset mvtec, the default)"),
        ("folder", "normal/, anomalous/ and optionally normal_test/ and masks/ (--dataset folder)"),
    ]


def _doctor(arguments: argparse.Namespace, output: _Output) -> None:

    from padim_bench.harness.doctor import advice, checks, machine

    _check_device(arguments.device)
    threads = _threads(arguments)
    about = machine(threads, arguments.device)
    for key, value in about.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        output.text(f"{key + ':':16} {text}")
    output.text()
    found = []
    for row in checks(threads, arguments.device):
        found.append(row)
        verdict = {True: "right", False: "WRONG", None: "-"}[row["right"]]
        residual = "not finite" if row["residual"] is None else format(row["residual"], ".1e")
        output.text(
            f"{row['operation']:24} d = {row['d']:<4} {row['dtype']:8} {verdict:5}  "
            f"{row['problem'] or f'residual {residual}'}"
        )
    output.text(f"\n{advice(found)}")
    output.document({"environment": about, "checks": found, "advice": advice(found)})


def _download(arguments: argparse.Namespace, output: _Output) -> None:
    from padim_bench.data.download import SOURCES, download

    if arguments.name in SOURCES:
        output.text(f"Licence of {arguments.name}: {SOURCES[arguments.name].licence}")
    root = arguments.root or Path(os.environ.get(DATA_VARIABLE) or DOWNLOADS / arguments.name)
    root = download(arguments.name, root, url=arguments.url, archive=arguments.archive)
    output.text(f"{arguments.name} is in {root}: use it with --data {root} or {DATA_VARIABLE}={root}")


def _verify(arguments: argparse.Namespace, output: _Output) -> None:
    from padim_bench.data.mvtec import MVTEC_AD
    from padim_bench.data.verify import verify

    root = arguments.root or os.environ.get(DATA_VARIABLE)
    if not root:
        raise PadimBenchError(f"no dataset: give --root DIR or set {DATA_VARIABLE}")
    report = verify(
        Path(root),
        layout="folder" if arguments.dataset == "folder" else "mvtec",
        dataset="mvtec-ad" if arguments.dataset == "mvtec-ad" else None,
        normal=arguments.normal,
    )
    output.document(report.to_dict())
    is_mvtec = arguments.dataset == "mvtec-ad" or any(c.present and c.name in MVTEC_AD for c in report.categories)
    for category in (c for c in report.categories if c.present or is_mvtec):
        n = len(category.problems)
        state = "ok" if category.ok else f"{n} problem{'' if n == 1 else 's'}"
        state += "" if not category.present or category.found.masks else " (no masks: image level only)"
        output.text(f"{category.name:12} {state if category.present else 'absent'}")
        for problem in category.problems:
            output.text(f"  {problem}")
        for note in category.notes:
            output.text(f"  note: {note}")
    if not report.ok:
        bad = [c.name for c in report.categories if not c.ok]
        raise PadimBenchError(f"{root}: problems in {', '.join(bad)}: mend them, or fetch those categories again")


def _demo(arguments: argparse.Namespace, output: _Output) -> None:
    from padim_bench.data.demo import make_demo

    root = make_demo(arguments.root, seed=arguments.seed)
    output.text(f"demo dataset is in {root}: use it with --data {root}")
