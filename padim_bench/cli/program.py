"""``padim-bench``: finds the command, calls it, and turns whatever ends it into a line and an exit code.

Exit codes: 0 done (a reader of our output may have gone), 1 our fault, 2 bad input, want of memory, or standard output
that could not be written (what was done is kept), 3 a run made again that differs from its record (``verify`` alone),
130 interrupted, 143 ended by SIGTERM (128 and its number, for any).
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from padim_bench import __version__
from padim_bench.cli import (
    check,
    compare,
    data,
    doctor,
    fit,
    gallery,
    listing,
    predict,
    profile,
    reproduce,
    run,
    score_maps,
    tables,
    verify,
)
from padim_bench.cli.output import Output, notes_said, say
from padim_bench.cli.parsing import Parser
from padim_bench.errors import PadimBenchError
from padim_bench.machine.console import Signals, Streams, memory_problem
from padim_bench.machine.progress import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    with Streams() as streams, Signals() as signals:
        code = _exit_code(argv, streams, signals)
        with suppress(BrokenPipeError):  # of streams that are not the process's own
            sys.stdout.flush()
        if code in {0, verify.DIFFERENT} and streams.lost is not None:
            why = streams.lost.strerror or streams.lost
            say(f"padim-bench: error: cannot write to standard output: {why}: what was done is done, and kept")
            return 2
        return code


def _exit_code(argv: Sequence[str] | None, streams: Streams, signals: Signals) -> int:
    try:
        arguments = make_parser().parse_args(argv)
        stage = " ".join([arguments.command_name, *getattr(arguments, "tables", ())])
        as_json = getattr(arguments, "json", False)
        with notes_said(), Output(streams, as_json=as_json) as output, Progress(None, stage=stage):
            return arguments.command(arguments, output) or 0
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except PadimBenchError as error:
        say(f"padim-bench: error: {error}")
        return 2
    except KeyboardInterrupt as error:
        return _interrupted(signals, str(error))
    except Exception as error:
        if signals.received is not None:  # an import that is interrupted may say that it failed
            return _interrupted(signals, "")
        if (line := memory_problem(error)) is not None:
            say(f"padim-bench: error: {line}")
            return 2
        traceback.print_exc()
        say("padim-bench: this is a fault of padim-bench itself; please report it with the lines above")
        return 1


def _interrupted(signals: Signals, done: str) -> int:
    """Says what is kept; the exit code is a shell's for a process that a signal ended."""
    by = signals.received
    what = "interrupted" if by in {None, signal.SIGINT} else f"ended by {by.name}"
    say(f"padim-bench: {what}{': ' + done + '; the same command resumes' if done else ''}")
    return 128 + (by or signal.SIGINT)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; parsed arguments hold the ``command`` to call with them.

    It returns an exit code, or None for 0.
    """
    parser = Parser(prog="padim-bench", description="Benchmark and reproducibility suite for PaDiM (arXiv:2011.08785).")
    parser.add_argument("--version", action="version", version=f"padim-bench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name", parser_class=Parser)
    for command in (
        *(run, reproduce, tables, compare, check, verify, fit, predict, score_maps, gallery),
        *(profile, listing, doctor, data),
    ):
        command.add_to(commands)
    return parser
