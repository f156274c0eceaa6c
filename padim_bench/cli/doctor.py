"""``padim-bench doctor``: versions, and whether this machine's linear algebra is right."""

from __future__ import annotations

import argparse

from padim_bench.cli.options import add_json, add_machine, check_device, thread_count
from padim_bench.cli.output import Output
from padim_bench.cli.parsing import Commands


def add_to(commands: Commands) -> None:
    """Adds ``doctor`` to the commands."""
    parser = commands.add_parser("doctor", help="versions, and whether this machine's linear algebra is right")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(command=examine)


def examine(arguments: argparse.Namespace, output: Output) -> None:
    """Prints what the machine has, and a verdict on each operation that has been wrong somewhere."""
    from padim_bench.machine.doctor import advice, checks, machine
    from padim_bench.machine.features import features_line

    check_device(arguments.device)
    threads = thread_count(arguments)
    about = machine(threads, arguments.device)
    shown = {k: v for k, v in about.items() if k not in {"cpu_capability", "instructions", "native_half", "mkl"}}
    for key, value in (shown | {"features": features_line(about)}).items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = "; ".join(text) if isinstance(text, list) else text
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
