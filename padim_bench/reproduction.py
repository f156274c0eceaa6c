"""``padim-bench reproduce``: from data at hand to the paper's tables beside the paper's numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from padim_bench.data.demo import make_demo
from padim_bench.data.mvtec import list_categories, mvtec
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.harness.config import RunConfig
from padim_bench.harness.records import Record, check_mergeable, write_text
from padim_bench.harness.runner import ModelSpec, Outcome, Settings, model_config, plan, run
from padim_bench.padim.strategies import STRATEGIES
from padim_bench.padim.weights import ENVIRONMENT_VARIABLE, Weights, resolve_weights, split_name
from padim_bench.report.render import index_page, to_csv, to_latex, to_markdown
from padim_bench.report.spec import TableModel, TableSpec
from padim_bench.report.strategies import load_strategies_spec, strategies_tables
from padim_bench.report.tables import Table, build_table

REAL_THING = (
    "For the paper's own data: padim-bench data download mvtec-ad --root DIR (4.9 GB; prints the licence), "
    "then tox -e reproduce -- --data DIR. "
    "For its weights: a network that reaches the hub, or --weights DIR with files named "
    "resnet18.tv_in1k.safetensors, wide_resnet50_2.tv_in1k.safetensors, tf_efficientnet_b5.aa_in1k.safetensors."
)


@dataclass(frozen=True)
class Reproduction:
    """Tables, the files written for each, and the runs behind them."""

    tables: tuple[Table, ...]
    files: dict[str, list[Path]]
    outcomes: tuple[Outcome, ...]


def demo_categories(results: Path, wanted: Sequence[str] | None) -> list[Category]:
    """The demo data set, drawn under ``results/data`` if it is not there yet."""
    root = make_demo(results / "data")
    return [mvtec(root, name) for name in wanted or list_categories(root)]


def reproduce(
    specs: Sequence[TableSpec],
    categories: Sequence[Category],
    *,
    results: Path,
    settings: Settings,
    weights: str | Path | None = None,
    untrained_fallback: bool = False,
    backbones: Sequence[str] | None = None,
    executor: Executor | None = None,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Reproduction:
    """Runs what the specs ask for over ``categories`` and writes their tables under ``results``.

    Args:
        specs: tables, from ``load_spec``.
        categories: those present.
        results: records go to ``records/``, tables to ``tables/``, an index to ``README.md``.
        settings: protocol, device, threads.
        weights: as for ``resolve_weights``, tried first under the spec's tag, then under the bare name.
        untrained_fallback: where no weights can be had, use seeded untrained ones and say so in every title.
        backbones: only these architectures (or ``arch.tag``, which replaces the spec's tag).
        executor, show_progress, on_message: as for ``harness.runner.run``.

    Raises:
        PadimBenchError: categories of several datasets, no model can run, or what ``run`` raises.
    """
    by_dataset: dict[str, list[str]] = {}
    for category in categories:
        by_dataset.setdefault(category.dataset, []).append(category.name)
    if len(by_dataset) > 1:
        listed = "; ".join(f"{dataset}: {', '.join(names)}" for dataset, names in by_dataset.items())
        raise PadimBenchError(f"a table is of one dataset, these are several ({listed}): choose with --categories")
    chosen: dict[str, Weights] = {}
    missing: dict[str, str] = {}
    models = [m for spec in specs for m in spec.models]
    tags = _tags(models, backbones)
    for model in models:
        if model.arch not in tags or model.arch in chosen or model.arch in missing:
            continue
        if model.stand_in_for and not backbones and _needs_no_stand_in(chosen.get(model.stand_in_for), weights):
            continue
        try:
            tag = tags[model.arch]
            chosen[model.arch] = _weights_for(model.arch, tag or model.tag, weights, strict=bool(tag))
        except WeightsNotFoundError as error:
            if untrained_fallback and not model.stand_in_for:
                on_message(f"{model.arch}: no weights at hand, so untrained random ones")
                chosen[model.arch] = resolve_weights(model.arch, "random")
            elif not model.stand_in_for or backbones:
                missing[model.arch] = str(error)
    if not chosen:
        raise WeightsNotFoundError(next(iter(missing.values()), "no model of these tables matches --backbones"))
    for arch, why in missing.items():
        on_message(f"{arch}: left out, its weights are not available: {why}")
    wanted = {m: _model_spec(m, chosen[m.arch]) for m in models if m.arch in chosen}
    units = plan(categories, list(dict.fromkeys(wanted.values())), settings)
    outcomes = run(units, results, executor=executor, show_progress=show_progress, on_message=on_message)
    check_mergeable([o.record for o in outcomes])
    by_model: dict[RunConfig, list[Record]] = {}
    for outcome in outcomes:
        by_model.setdefault(replace(outcome.config, dataset="", category=""), []).append(outcome.record)
    tables, files = [], {}
    for spec in specs:
        runs = {m.title: by_model[model_config(wanted[m], settings)] for m in spec.models if m in wanted}
        if not runs:
            on_message(f"{spec.name}: none of its models ran; no table written")
            continue
        absent = {m.title: "weights not available" for m in spec.models if m.arch in missing}
        table = build_table(spec, runs, absent)
        tables.append(table)
        files[spec.name] = write_table(table, results)
    write_text(results / "README.md", index_page(results))
    return Reproduction(tuple(tables), files, tuple(outcomes))


def compare_strategies(
    categories: Sequence[Category],
    *,
    results: Path,
    settings: Settings,
    weights: str | Path | None = None,
    untrained_fallback: bool = False,
    executor: Executor | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Reproduction:
    """Every strategy of the registry in every storage dtype over ``categories``; arguments as for :func:`reproduce`."""
    spec = load_strategies_spec()
    try:
        found = _weights_for(spec["arch"], spec["tag"], weights)
    except WeightsNotFoundError:
        if not untrained_fallback:
            raise
        on_message(f"{spec['arch']}: no weights at hand, so untrained random ones")
        found = resolve_weights(spec["arch"], "random")
    models = [
        ModelSpec(found, "paper", spec["n_features"], spec["seed"], strategy, dtype)
        for strategy in STRATEGIES
        for dtype in spec["dtypes"]
    ]
    outcomes = run(plan(categories, models, settings), results, executor=executor, on_message=on_message)
    records = [o.record for o in outcomes]
    check_mergeable(records)
    files = []
    for suffix, text in strategies_tables(spec, records).items():
        files.append(results / "tables" / f"{spec['name']}{suffix}")
        write_text(files[-1], text)
    write_text(results / "README.md", index_page(results))
    return Reproduction((), {spec["name"]: files}, tuple(outcomes))


def write_table(table: Table, results: Path) -> list[Path]:
    """Markdown, CSV and LaTeX under ``results/tables``."""
    written = []
    for suffix, text in ((".md", to_markdown(table)), (".csv", to_csv(table)), (".tex", to_latex(table))):
        path = results / "tables" / f"{table.spec.name}{suffix}"
        write_text(path, text)
        written.append(path)
    return written


def _tags(models: Sequence[TableModel], backbones: Sequence[str] | None) -> dict[str, str]:
    """Architectures to run, with the tag that the user named, or "" for the specs' own."""
    known = {m.arch: "" for m in models}
    if backbones is None:
        return known
    tags = {}
    for name in backbones:
        arch, tag = split_name(name)
        if arch not in known:
            raise PadimBenchError(f"no table has a row for backbone {name!r}: choose from {', '.join(known)}")
        tags[arch] = tag or ""
    return tags


def _weights_for(arch: str, tag: str, weights: str | Path | None, *, strict: bool = False) -> Weights:
    """The tag's weights, or unless ``strict`` the file of the bare name, which is labelled as such."""
    if _untrained_by_name(weights):
        return resolve_weights(arch, weights)
    if weights is not None and Path(weights).is_file() and not Path(weights).name.startswith(f"{arch}."):
        raise WeightsNotFoundError(f"{weights} is not named after {arch}: give a directory with a file for each model")
    try:
        return resolve_weights(f"{arch}.{tag}", weights)
    except WeightsNotFoundError as no_tag:
        if strict:
            raise
        try:
            return resolve_weights(arch, weights)
        except WeightsNotFoundError:
            raise no_tag from None


def _untrained_by_name(weights: str | Path | None) -> bool:
    return str(weights or os.environ.get(ENVIRONMENT_VARIABLE)).partition(":")[0] == "random"


def _needs_no_stand_in(principal: Weights | None, weights: str | Path | None) -> bool:
    return principal is not None and (principal.trained or _untrained_by_name(weights))


def _model_spec(model: TableModel, weights: Weights) -> ModelSpec:
    return ModelSpec(weights, model.layers, model.n_features, model.seed, model.strategy)
