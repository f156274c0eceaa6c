"""``padim-bench list``: what there is to choose from."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from padim_bench.cli.output import Output
from padim_bench.cli.parsing import Commands


def add_to(commands: Commands) -> None:
    """Adds ``list`` to the commands."""
    parser = commands.add_parser("list", help="what there is to choose from")
    parser.add_argument(
        "what",
        choices=["backbones", "methods", "reductions", "strategies", "protocols", "tables", "datasets", "metrics"],
    )
    parser.set_defaults(command=list_choices)


def list_choices(arguments: argparse.Namespace, output: Output) -> None:
    """Prints a line for each choice: its name, and what it is."""
    listings: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "backbones": _list_backbones,
        "methods": _list_methods,
        "reductions": _list_reductions,
        "strategies": _list_strategies,
        "protocols": _list_protocols,
        "tables": _list_tables,
        "datasets": _list_datasets,
        "metrics": _list_metrics,
    }
    rows = listings[arguments.what]()
    wide = max(len(name) for name, _ in rows)
    for name, text in rows:
        output.text(f"{name:{wide}}  {text}")


def _list_backbones() -> list[tuple[str, str]]:
    from padim_bench.padim.layers import paper_layers
    from padim_bench.padim.paper import PAPER_BACKBONES
    from padim_bench.padim.weights import known_tags

    rows = []
    for arch in PAPER_BACKBONES:
        layers = "+".join(paper_layers(arch))
        rows += [(f"{arch}.{tag}", layers) for tag in known_tags(arch)]
    return [*rows, ("ARCH[.TAG]", "any other timm model, with --layers")]


def _list_methods() -> list[tuple[str, str]]:
    from padim_bench.baselines import BASELINES
    from padim_bench.padim.config import PADIM

    rows = [(b.name, b.summary) for b in BASELINES.values()]
    return [(PADIM, "PaDiM: a Gaussian to each position's embedding (arXiv:2011.08785)"), *rows]


def _list_reductions() -> list[tuple[str, str]]:
    from padim_bench.padim.reduction import REDUCTIONS

    return [(r.name, r.summary) for r in REDUCTIONS.values()]


def _list_strategies() -> list[tuple[str, str]]:
    from padim_bench.padim.strategies import AUTO, STORAGE_DTYPES, STRATEGIES

    rows = [(s.name, s.summary + ("" if s.exact else " (not exact)")) for s in STRATEGIES.values()]
    return [*rows, ("auto", AUTO), ("--storage", ", ".join(STORAGE_DTYPES))]


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
    from padim_bench.data.datasets import DATASETS

    return [(d.name, d.summary.format(categories=", ".join(d.kinds))) for d in DATASETS.values()]


def _list_metrics() -> list[tuple[str, str]]:
    from padim_bench.metrics.summary import METRICS

    better = {True: "higher", False: "lower"}
    return [
        (m.name, f"{m.title}: {m.level} level, in {m.unit}, {better[m.larger_is_better]} is better")
        for m in METRICS.values()
    ]
