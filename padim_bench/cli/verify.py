"""``padim-bench verify``: runs what records say again, and holds every number against theirs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim_bench.cli.options import (
    DATA_VARIABLE,
    add_json,
    add_normal,
    check_device,
    check_threads,
    data_root,
)
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, positive, real
from padim_bench.errors import PadimBenchError
from padim_bench.machine.console import printable

if TYPE_CHECKING:
    from padim_bench.records.config import Execution
    from padim_bench.records.differences import Difference, Verdict
    from padim_bench.records.facts import Environment
    from padim_bench.records.runs import RunRecord
    from padim_bench.runs.again import Claim, Job

DIFFERENT = 3  # the exit code
ABOUT = """Runs again exactly what each record says, over the same images with the same weights, on this machine, and
prints every metric then and now, their difference and what it amounts to. Records of one category share the passes of
their networks; nothing is written."""
VERDICTS = """A record's verdict is that of its worst metric:
  identical                      bit for bit
  within rounding                up to 0.001 points of a percent; 0.02 where the state is in float16, 0.15 where it or
                                 the backbone is in bfloat16: ten times what exact strategies, threads, instructions and
                                 versions of torch were seen to change. A metric of image scores steps when two images
                                 change places: it is within rounding, too, where no score moved by more than 1e-5 of
                                 itself, 2e-3 or 3e-2. With --tolerance X all this is X
  within the bootstrap interval  both in the 95 % interval of the record's own resampled test images, which image AUROC,
                                 pixel AUROC, PRO and PRO per image have
  different                      anything else, and a run that gave no numbers

Exit code 0, 3 where a record is different, 2 for bad input: other images or other weights than a record's are refused,
since their numbers would say nothing of it."""


def add_to(commands: Commands) -> None:
    """Adds ``verify`` to the commands."""
    parser = commands.add_parser(
        "verify",
        help="run again what records say, and tell how far the numbers differ",
        description=ABOUT,
        epilog=VERDICTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "records",
        type=Path,
        nargs="+",
        metavar="RECORD|DIR",
        help="files of records, results folders, or folders of records; of a folder what needs other images or weights "
        "is left out, and said to be",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"dataset root, default ${DATA_VARIABLE}")
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="directory of .safetensors files, or one file; which are the record's their tensors tell, not their names",
    )
    parser.add_argument(
        "--tolerance",
        type=real,
        metavar="X",
        help="within rounding is a difference up to X, of each metric in its own unit, which is points of a percent",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="default: the record's")
    parser.add_argument("--device", help="cpu or cuda; default: the record's")
    add_normal(parser)
    add_json(parser)
    parser.set_defaults(command=verify)


def verify(arguments: argparse.Namespace, output: Output) -> int:
    """Prints how each record's numbers differ from those of its run made again; returns the exit code."""
    tolerance = arguments.tolerance
    if tolerance is not None and not tolerance >= 0:
        raise PadimBenchError(f"--tolerance {tolerance}: give 0 or more, in points of a percent")
    if (root := data_root(arguments)) is None:
        raise PadimBenchError(f"no dataset: give --data DIR or set {DATA_VARIABLE}")

    from padim_bench.records.differences import Verdict, counted
    from padim_bench.runs.again import by_category, prepare, read_claims, run_again

    jobs, left_out = prepare(
        read_claims(arguments.records),
        root,
        arguments.weights,
        normal=arguments.normal,
        threads=arguments.threads,
        device=arguments.device,
    )
    _check_machine(jobs)
    for why, n in left_out.items():
        say(f"left out: {n} {'record' if n == 1 else 'records'} {why}")
    found: list[tuple[Claim, Difference]] = []
    for some in by_category(jobs):
        done = run_again(some, tolerance, on_message=say)
        for claim, difference in done:
            for line in text_lines(claim, difference):
                output.text(line)
        found += done
    counts = counted([difference for _, difference in found])
    output.text(summary(counts, left_out))
    output.document(
        {
            "tolerance": tolerance,
            "records": [_described(claim, difference) for claim, difference in found],
            "left_out": left_out,
            "counts": {str(verdict): n for verdict, n in counts.items()},
        }
    )
    return DIFFERENT if counts[Verdict.DIFFERENT] else 0


def _check_machine(jobs: Sequence[Job]) -> None:
    """Raises PadimBenchError, naming the first such record, for a device or threads that this machine has not."""
    first: dict[Execution, Job] = {}
    for job in jobs:
        first.setdefault(job.settings.execution, job)
    for execution, job in first.items():
        try:
            check_device(execution.device)
        except PadimBenchError as error:
            raise PadimBenchError(f"{job.claim.path}: {error}, which rounds otherwise") from error
        check_threads(execution.threads, f"{job.claim.path}: --threads {execution.threads}")


def text_lines(claim: Claim, found: Difference) -> list[str]:
    """A record's verdict as people read it: what and where, every metric, and what else there is to compare."""
    from padim_bench.records.frame import metric_of

    then, now = found.then, found.now
    lines = [f"{claim.path.as_posix()}: {_named(then)}", f"  then: {_where(then)}", f"  now:  {_where(now)}"]
    if not now.valid:
        lines.append(f"  invalid now, and without numbers: {now.reason}")
    else:
        titles = {one.name: _title(one.name) for one in found.metrics}
        wide = max(map(len, titles.values()))
        lines.append(f"  {'':{wide}} {'then':>11} {'now':>11} {'difference':>11}  verdict")
        for one in found.metrics:
            shown = metric_of(one.name).shown
            values = [f"{'-' if v is None else format(shown(v), '.6f'):>11}" for v in (one.then, one.now)]
            apart = "-" if one.difference is None else f"{one.difference:+.1e}" if one.difference else "0"
            lines.append(f"  {titles[one.name]:{wide}} {' '.join(values)} {apart:>11}  {one.verdict}")
        lines.append(f"  {_beside(found)}")
    lines += [f"  {line}" for line in found.others]
    return [*lines, f"  {found.verdict}", ""]


def _named(record: RunRecord) -> str:
    config, model = record.config, record.config.model
    drawn = [] if config.trained is None else [config.trained.label]
    seed = [f"seed {model.seed}"] if model.n_features is not None else []
    words = [printable(config.category), config.model_name, *seed, *drawn, model.strategy, model.storage]
    return f"{' '.join(words)}, {model.protocol.name}"


def _where(record: RunRecord) -> str:
    here = record.environment
    commit = "no commit" if here.commit is None else f"commit {here.commit[:7]}{' and changes' if here.dirty else ''}"
    versions = ", ".join(f"{name} {here.versions[name]}" for name in ("torch", "padim-bench"))
    return f"{record.machine}, {versions} ({commit}), {record.finished[:10]}"


def _title(name: str) -> str:
    from padim_bench.records.frame import metric_of

    _, _, variant = name.partition(": ")
    metric = metric_of(name)
    return f"{metric.title}{f': {variant}' if variant else ''}, {metric.unit}"


def _beside(found: Difference) -> str:
    """Scores, channels and residuals, in a line."""
    scores = found.scores
    if scores.largest is None:
        told = "scores are not of the same images"
    elif scores.largest == 0:
        told = f"scores of {scores.n_images} images identical"
    else:
        told = f"scores of {scores.n_images} images apart by at most {scores.largest:.1e}, {scores.relative:.1e} of one"
    channels = "the same" if found.same_channels else "others"
    residuals = ["-" if r.residual is None else f"{r.residual:.1e}" for r in (found.then, found.now)]
    return f"{told}; channels {channels}; residual {residuals[0]} then, {residuals[1]} now"


def summary(counts: Mapping[Verdict, int], left_out: Mapping[str, int]) -> str:
    """The last line: how many records there are of each verdict."""
    n = sum(counts.values())
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    left = f"; left out: {sum(left_out.values())}" if left_out else ""
    return f"{n} record{'' if n == 1 else 's'}: {told}{left}"


def _described(claim: Claim, found: Difference) -> dict[str, Any]:
    """What ``--json`` says of a record."""
    from padim_bench.records.frame import metric_of

    then, now = found.then, found.now
    return {
        "record": claim.path.as_posix(),
        "id": then.id,
        "config": then.to_dict()["config"],
        "verdict": str(found.verdict),
        "reason": now.reason,
        "metrics": [
            {
                "name": one.name,
                "unit": metric_of(one.name).unit,
                "then": one.then,
                "now": one.now,
                "difference": one.difference,
                "interval": None if one.interval is None else list(one.interval),
                "verdict": str(one.verdict),
            }
            for one in found.metrics
        ],
        "scores": {
            "n_images": found.scores.n_images,
            "largest_difference": found.scores.largest,
            "largest_relative": found.scores.relative,
        },
        "same_channels": found.same_channels,
        "residual": {"then": then.residual, "now": now.residual},
        "others": found.others,
        "where": {name: _environment(r, r.environment) for name, r in (("then", then), ("now", now))},
    }


def _environment(record: RunRecord, here: Environment) -> dict[str, Any]:
    return {
        "processor": here.processor,
        "device": record.config.execution.device,
        "threads": record.config.execution.threads,
        "versions": here.versions,
        "commit": here.commit,
        "dirty": here.dirty,
        "finished": record.finished,
    }
