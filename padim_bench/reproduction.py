"""``padim-bench reproduce``: from data at hand to the paper's tables beside the paper's numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from padim_bench.ablation import alone, gap_protocols, walk
from padim_bench.data.demo import make_demo
from padim_bench.data.loading import split_digest
from padim_bench.data.mvtec import MVTEC_AD, list_categories, mvtec
from padim_bench.data.samples import Category
from padim_bench.data.stc import Scene
from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.files import check_writable, write_bytes, write_text
from padim_bench.harness.config import RunConfig
from padim_bench.harness.fresh import named_again
from padim_bench.harness.measurements import check_measurements, keep_measurement, measurement_path, read_measurement
from padim_bench.harness.memory import analytic_figures, measure_peak, stored_states
from padim_bench.harness.profile import FAILED, Profile, ProfileModel, ProfileSettings, profile
from padim_bench.harness.records import Record, check_mergeable, without_paths
from padim_bench.harness.runner import ModelSpec, Outcome, Settings, model_config, plan, run
from padim_bench.harness.scenes import run_scenes
from padim_bench.harness.timing import measure_timing
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.padim.strategies import STRATEGIES
from padim_bench.padim.weights import ENVIRONMENT_VARIABLE, Weights, resolve_weights, split_name
from padim_bench.progress import Progress
from padim_bench.protocols import Protocol, get_protocol, rd_mvtec_protocol
from padim_bench.report.figures import render, spread_figure
from padim_bench.report.gaps import gaps_pages
from padim_bench.report.index import index_page
from padim_bench.report.memory import load_memory_spec, memory_tables
from padim_bench.report.pareto import pareto_figure
from padim_bench.report.profiles import NAME as PROFILES
from padim_bench.report.profiles import profiles_tables
from padim_bench.report.render import summary, to_csv, to_latex, to_markdown
from padim_bench.report.seeds import paper_values, seeds_frame, seeds_pages
from padim_bench.report.spec import TableModel, TableSpec, load_spec, load_toml
from padim_bench.report.strategies import load_strategies_spec, strategies_tables
from padim_bench.report.tables import Table, build_table, title_warnings
from padim_bench.report.timing import growth_figure, load_timing_spec, timing_tables

REAL_THING = (
    "For the paper's own data: padim-bench data download mvtec-ad --root DIR (4.9 GB; prints the licence), "
    "then tox -e reproduce -- --data DIR. "
    "For its weights: a network that reaches the hub, or --weights DIR with files named "
    "resnet18.tv_in1k.safetensors, wide_resnet50_2.tv_in1k.safetensors, tf_efficientnet_b5.aa_in1k.safetensors."
)
NO_WEIGHTS = "weights not available offline"
NOT_ASKED = "not asked for; name it with --backbones"
# Of what can be made, what --protocol and --compare-at change: the rest is about protocols, datasets or machines.
FOLLOW_PROTOCOL = ("table1", "table2", "table3", "table5", "seeds")
NO_STC = "no ShanghaiTech Campus at hand: name its folder with --stc or PADIM_BENCH_STC"
_PLACES = ("records", "tables", "figures", "")  # of a results folder, and its index


@dataclass(frozen=True)
class Reproduction:
    """Tables, the files written for each table, report and figure, and the runs behind them.

    ``failed`` says of tables of measurements how many failed.
    """

    tables: tuple[Table, ...]
    files: dict[str, list[Path]]
    outcomes: tuple[Outcome, ...]
    failed: dict[str, int] = field(default_factory=dict)

    def summary(self, names: Sequence[str]) -> list[str]:
        """A line for each of these tables and reports: how it went, where it lies; then the runs without numbers."""
        tables = {table.spec.name: table for table in self.tables}
        lines = []
        for name in names:
            page = next((path for path in self.files.get(name, ()) if path.suffix == ".md"), None)
            if page is None:
                lines.append(f"{name}: not written, as said above")
                continue
            said = summary(tables[name]) if name in tables else _heading(page)
            if name in self.failed:
                said += f"; {self.failed[name]} measurements failed"
            lines.append(f"{name}: {said}: {page.as_posix()}")
        if void := sum(outcome.record["status"] != "ok" for outcome in self.outcomes):
            lines.append(f"{void} of {len(self.outcomes)} runs INVALID: the pages name them, the records say why")
        return lines


def _heading(page: Path) -> str:
    """A page's first line, which holds what no reader may miss."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def demo_categories(results: Path, wanted: Sequence[str] | None) -> list[Category]:
    """The demo data set, drawn under ``results/data`` if it is not there yet."""
    root = make_demo(results / "data")
    return [mvtec(root, name) for name in wanted or list_categories(root)]


# A model over no category, by what its table calls it; several where it is replicated or ablated.
Wanted = dict[str, list[ModelSpec]]


@dataclass
class _Weights:
    """The weights of every architecture of the tables, found once."""

    given: str | Path | None
    chosen: dict[str, Weights] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def reproduce(
    names: Sequence[str],
    categories: Sequence[Category],
    *,
    results: Path,
    settings: Settings,
    weights: str | Path | None = None,
    untrained_fallback: bool = False,
    backbones: Sequence[str] | None = None,
    seeds: int = 0,
    brief: bool = False,
    scenes: Sequence[Scene] = (),
    stc_every: int = 1,
    executor: Executor | None = None,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Reproduction:
    """Runs what the named tables ask for over ``categories`` and writes them under ``results``.

    Args:
        names: from ``report_names()``.
        categories: those present.
        results: records go to ``records/``, tables to ``tables/``, figures to ``figures/``, an index to ``README.md``.
        settings: protocol, device, threads.
        weights: as for ``resolve_weights``, tried first under the spec's tag, then under the bare name.
        untrained_fallback: where no weights can be had, use seeded untrained ones and say so in every title.
        backbones: only these architectures (or ``arch.tag``, which replaces the spec's tag).
        seeds: so many channel seeds, 0 and up, in every table; 0 for what each spec says.
        brief: for the demo: two versions of Rd-MVTec AD, ten images timed, memory of one strategy.
        scenes: of ShanghaiTech Campus.
        stc_every: of its clips' frames, the first and then every so many.
        executor, show_progress, on_message: as for ``harness.runner.run``.

    Raises:
        PadimBenchError: unknown names, categories of several datasets, no model can run, or what ``run`` raises.
    """
    by_dataset: dict[str, list[str]] = {}
    for category in categories:
        by_dataset.setdefault(category.dataset, []).append(category.name)
    if len(by_dataset) > 1:
        listed = "; ".join(f"{dataset}: {', '.join(names)}" for dataset, names in by_dataset.items())
        mend = "choose with --categories"
        if all(category.name in MVTEC_AD for category in categories):
            mend += ", or say that all of it is MVTec AD with --dataset mvtec-ad"
        raise PadimBenchError(f"a table is of one dataset, these are several ({listed}): {mend}")
    raw = {name: load_toml(name) for name in names}
    if any(one["layout"] in {"timing", "memory"} for one in raw.values()):
        check_measurements(results / "measurements")
    specs = {name: load_spec(name) for name, one in raw.items() if one["layout"] in {"categories", "models"}}
    if brief:
        specs = {name: replace(spec, versions=min(spec.versions, 2)) for name, spec in specs.items()}
    found = _find_weights(raw, weights, backbones, untrained_fallback, on_message)

    wanted: dict[str, Wanted] = {}
    for name in names:
        if name in specs:
            wanted[name] = _table_runs(specs[name], found, seeds, settings.protocol)
        elif raw[name]["layout"] == "seeds":
            wanted[name] = _seed_runs(raw[name], found, seeds)
        elif raw[name]["layout"] == "gaps":
            wanted[name] = _gap_runs(raw[name], found)
    over_images = [n for n in wanted if n not in specs or specs[n].dataset == "mvtec-ad"]
    models = [m for n in over_images for ms in wanted[n].values() for m in ms]
    units = plan(categories, list(dict.fromkeys(models)), settings)
    if categories and "mvtec-ad" not in by_dataset and all(c.name in MVTEC_AD for c in categories):
        on_message(
            f"{', '.join(c.name for c in categories)}: not with MVTec AD's numbers of images, so taken for a dataset "
            f"of its own, {categories[0].dataset}, without the paper's numbers; if it is MVTec AD: --dataset mvtec-ad"
        )
    outcomes = run(
        units, results, executor=executor, show_progress=show_progress, on_message=on_message, writes=_PLACES
    )
    check_mergeable([o.record for o in outcomes])
    by_run: dict[RunConfig, list[Record]] = {}
    for outcome in outcomes:
        by_run.setdefault(replace(outcome.config, dataset="", category=""), []).append(outcome.record)

    writer = _Writer(results, on_message)
    if settings.protocol != get_protocol("paper") and (fixed := [n for n in names if n not in FOLLOW_PROTOCOL]):
        on_message(
            f"{', '.join(fixed)}: made under protocols of their own, whatever --protocol, --compare-at and --bits say"
        )
    if settings.backbone_dtype != "float32" and (timed := [n for n in names if n in {"table7", "table8"}]):
        on_message(f"{', '.join(timed)}: measured with the backbone in float32, whatever --backbone-dtype says")
    for name in names:
        if name in specs and name in over_images:
            runs = {
                title: [by_run[model_config(m, settings)] for m in replicates]
                for title, replicates in wanted[name].items()
            }
            writer.table(specs[name], runs, _absent(specs[name].models, found))
        elif name in wanted and name not in specs:
            flat = {
                title: [r for m in replicates for r in by_run[model_config(m, settings)]]
                for title, replicates in wanted[name].items()
            }
            if raw[name]["layout"] == "seeds":
                writer.seeds(raw[name], flat, NO_WEIGHTS if raw[name]["arch"] in found.missing else NOT_ASKED)
            else:
                writer.gaps(raw[name], flat, _missing_of(raw[name]["models"], found))
    unreadable: PadimBenchError | None = None  # a scene must not cost what comes after it
    for name in (n for n in specs if n not in over_images):
        missing = _absent(specs[name].models, found)
        if not scenes:
            missing |= {m.title: NO_STC for m in specs[name].models if m.title not in missing}
        try:
            scene_outcomes, runs = _scene_runs(wanted[name], scenes, settings, results, stc_every, on_message)
        except PadimBenchError as error:
            unreadable = error
            continue
        outcomes += scene_outcomes
        writer.table(specs[name], runs, missing)
    for name in names:
        if raw[name]["layout"] == "timing":
            writer.timing(categories, found, settings, backbones, brief=brief)
        elif raw[name]["layout"] == "memory":
            writer.memory(categories, found, settings, backbones, brief=brief)
    write_text(results / "README.md", index_page(results))
    if unreadable is not None:
        raise unreadable
    return Reproduction(tuple(writer.tables), writer.files, tuple(outcomes), writer.failed)


# What is to run.


def _table_runs(spec: TableSpec, found: _Weights, seeds: int, protocol: Protocol) -> Wanted:
    """Every model of a table with its replicates: seeds times versions of Rd-MVTec AD."""
    n_seeds = seeds or spec.seeds
    wanted: Wanted = {}
    for model in spec.models:
        if model.arch not in found.chosen:
            continue
        drawn = range(n_seeds) if n_seeds and model.drawn else [model.seed]
        protocols: list[Protocol | None] = [None]
        if spec.dataset == "stc":
            protocols = [get_protocol("paper-stc")]
        elif spec.versions:
            protocols = [rd_mvtec_protocol(version) for version in range(spec.versions)]
        wanted[model.title] = [
            ModelSpec(
                found.chosen[model.arch],
                model.layers,
                model.n_features,
                seed,
                model.strategy,
                reduction=model.reduction,
                fusion=model.fusion,
                protocol=one,
            )
            for one in protocols
            for seed in drawn
        ]
    return wanted


def _seed_runs(spec: Mapping[str, Any], found: _Weights, seeds: int) -> Wanted:
    if spec["arch"] not in found.chosen:
        return {}
    return {
        m["title"]: [
            ModelSpec(
                found.chosen[spec["arch"]],
                n_features=m.get("n_features"),
                seed=seed,
                strategy=spec["strategy"],
                reduction=m["reduction"],
            )
            for seed in (range(seeds or spec["seeds"]) if m.get("n_features") else [0])
        ]
        for m in spec["models"]
    }


def _gap_runs(spec: Mapping[str, Any], found: _Weights) -> Wanted:
    """Presets for every model; the ablation and the PRO variants for the first."""
    wanted: Wanted = {}
    for i, m in enumerate(spec["models"]):
        if m["arch"] not in found.chosen:
            continue
        protocols = gap_protocols(spec) if i == 0 else [get_protocol(p) for p in spec["presets"]]
        wanted[m["title"]] = [
            ModelSpec(
                found.chosen[m["arch"]],
                n_features=m["n_features"],
                seed=spec["seed"],
                strategy=spec["strategy"],
                protocol=one,
                extras=("pro_variants",) if i == 0 and one.name == "paper" else (),
            )
            for one in protocols
        ]
    return wanted


def _scene_runs(
    wanted: Wanted,
    scenes: Sequence[Scene],
    settings: Settings,
    results: Path,
    every: int,
    on_message: Callable[[str], None],
) -> tuple[list[Outcome], dict[str, list[list[Record]]]]:
    if not scenes:
        return [], {}
    runs: dict[str, list[list[Record]]] = {}
    outcomes: list[Outcome] = []
    for title, models in wanted.items():
        for model in models:
            done = run_scenes(scenes, [model], settings, results, every=every, on_message=on_message)
            outcomes += done
            runs.setdefault(title, []).append([o.record for o in done])
    return outcomes, runs


# What is written.


class _Writer:
    """Writes tables, reports and figures, and remembers where."""

    def __init__(self, results: Path, on_message: Callable[[str], None]) -> None:
        self.results = results
        self.on_message = on_message
        self.tables: list[Table] = []
        self.files: dict[str, list[Path]] = {}
        self.failed: dict[str, int] = {}

    def table(
        self, spec: TableSpec, runs: Mapping[str, Sequence[Sequence[Record]]], missing: Mapping[str, str]
    ) -> None:
        table = build_table(spec, runs, missing)
        self.tables.append(table)
        self.files[spec.name] = write_table(table, self.results)

    def seeds(self, spec: Mapping[str, Any], runs: Mapping[str, Sequence[Record]], absent: str) -> None:
        """``absent`` says why there are no runs, if there are none."""
        records = [r for rs in runs.values() for r in rs]
        if not records:
            self.on_message(f"{spec['name']}: not written: {spec['arch']} {absent}")
            return
        self._texts(spec["name"], seeds_pages(spec, runs))
        metrics = {m["key"]: m["title"] for m in spec["metrics"]}
        frame = seeds_frame(runs, list(metrics))
        if frame.empty:  # all runs invalid, which the page says
            return
        printed = paper_values(spec, frame, records[0]["dataset"]["name"])
        drawn = [m["title"] for m in spec["models"] if m["title"] in runs and m["title"] != spec["reference"]]
        shout = "".join(f"\n[{w.upper()}]" for w in title_warnings(records))
        n_seeds = frame[frame.method.isin(drawn)].seed.nunique()
        title = f"PaDiM, ResNet18: each point is one of {n_seeds} seeds, bars are means{shout}"
        figure = spread_figure(frame, metrics, drawn, spec["reference"], printed, title)
        self._figure(spec["name"], render(figure))

    def gaps(self, spec: Mapping[str, Any], runs: Mapping[str, Sequence[Record]], missing: Mapping[str, str]) -> None:
        if not runs:
            self.on_message(f"{spec['name']}: not written: " + "; ".join(f"{m} {why}" for m, why in missing.items()))
            return
        walks = {f"from {w['from']} to {w['to']}": walk(w["from"], w["to"]) for w in spec["walks"]}
        named = {heading: [(s.title, s.protocol.name) for s in steps] for heading, steps in walks.items()}
        changed = [("paper", "paper"), *((s.title, s.protocol.name) for s in alone(spec))]
        variants = {key: (v.name, f"{v.what} ({v.seen_in})") for key, v in PRO_VARIANTS.items()}
        self._texts(spec["name"], gaps_pages(spec, named, changed, variants, runs, missing))

    def timing(
        self,
        categories: Sequence[Category],
        found: _Weights,
        settings: Settings,
        backbones: Sequence[str] | None,
        *,
        brief: bool,
    ) -> None:
        """Table VII, measured on one category; time does not depend on training, so any weights will do."""
        spec, category = load_timing_spec(), _measured_category(categories)
        records: list[Record] = []
        failed: dict[str, str] = {}
        for model in spec["models"]:
            if backbones is not None and model["arch"] not in {split_name(b)[0] for b in backbones}:
                continue
            weights = found.chosen.get(model["arch"]) or resolve_weights(model["arch"], "random")
            for strategy in model["strategies"]:
                chosen = {
                    "n_features": model["n_features"],
                    "seed": model["seed"],
                    "strategy": strategy,
                    "threads": settings.threads,
                    "device": settings.device,
                    "n_images": 10 if brief else spec["n_images"],
                }
                asked = chosen | {"weights": weights.sha256, "split": split_digest(category)}
                name = f"timing-{category.name}-{model['title'].lower()}-{strategy}"
                measure = partial(measure_timing, category, weights, **chosen, on_message=self.on_message)
                records += self._measured(name, asked, measure, failed, f"{model['title']}, {strategy}")
        self._texts(spec["name"], timing_tables(spec, records, failed), failed)
        if records:
            self._figure(spec["name"], render(growth_figure(records)), "-growth")

    def memory(
        self,
        categories: Sequence[Category],
        found: _Weights,
        settings: Settings,
        backbones: Sequence[str] | None,
        *,
        brief: bool,
    ) -> None:
        """Table VIII: computed, stored, and measured in processes of their own on one category."""
        spec, category = load_memory_spec(), _measured_category(categories)
        n, datasets, models = spec["n_images"], spec["datasets"], spec["models"]
        analytic = analytic_figures(models, datasets)
        states = stored_states(models, datasets, {f"n = {n}": n}, strategies=tuple(STRATEGIES), dtypes=spec["dtypes"])
        counts = {name: c.train for name, c in MVTEC_AD.items()}
        by_category = stored_states(
            models[-1:], datasets[:1], counts, strategies=("auto",), dtypes=("float32", "float16")
        )
        peaks: list[Record] = []
        failed: dict[str, str] = {}
        where: dict[str, Any] = {"dataset": category.dataset, "normal": category.normal}
        for model in models:
            if backbones is not None and model["arch"] not in {split_name(b)[0] for b in backbones}:
                continue
            weights = found.chosen.get(model["arch"])
            name, label = named_again(model["arch"], weights)
            for protocol in ("paper", "paper-stc"):
                for strategy in model["strategies"][: 1 if brief else None]:
                    chosen = {
                        "n_features": model["n_features"],
                        "seed": model["seed"],
                        "strategy": strategy,
                        "protocol": protocol,
                        "threads": settings.threads,
                    }
                    asked = chosen | {
                        "weights": weights.sha256 if weights else "random",
                        "split": split_digest(category),
                    }
                    what = f"memory-{category.name}-{model['title'].lower()}-{strategy}-{protocol}"
                    self.on_message(f"{category.name} {model['title']} {strategy} {protocol}: measuring peak memory")
                    measure = partial(measure_peak, category.root, category.name, label, name, **where, **chosen)
                    title = f"{model['title']}, {strategy}, {protocol}"
                    peaks += self._measured(what, asked, measure, failed, title)
        self._texts(spec["name"], memory_tables(spec, analytic, states, by_category, peaks, failed), failed)

    def _measured(
        self,
        name: str,
        asked: Mapping[str, Any],
        measure: Callable[[], Record],
        failed: dict[str, str],
        title: str,
    ) -> list[Record]:
        """A measurement of this very thing on this machine from ``measurements/``, or a new one kept there.

        One that fails is said to have failed, under its title, and costs no other. A spoilt file raises.
        """
        path = measurement_path(self.results / "measurements", name, asked)
        if (record := read_measurement(path, asked)) is not None:
            self.on_message(f"{name}: measured before ({path.name}) and not repeated")
            return [record]
        check_writable(*(self.results / place for place in ("measurements", "tables", "figures", "")))
        try:
            with Progress(None, stage=f"measuring {name}"):
                record = measure()
        except PadimBenchError as error:
            self.on_message(f"{name}: not measured: {error}")
            failed[title] = without_paths(str(error))
            return []
        return [keep_measurement(path, record)]

    def _texts(self, name: str, texts: Mapping[str, str], failed: Mapping[str, str] = MappingProxyType({})) -> None:
        if failed:
            self.failed[name] = len(failed)
        for suffix, text in texts.items():
            path = self.results / "tables" / f"{name}{suffix}"
            write_text(path, text)
            self.files.setdefault(name, []).append(path)

    def _figure(self, name: str, files: Mapping[str, bytes], suffix: str = "") -> None:
        for kind, content in files.items():
            path = self.results / "figures" / f"{name}{suffix}.{kind}"
            write_bytes(path, content)
            self.files.setdefault(name, []).append(path)


def _measured_category(categories: Sequence[Category]) -> Category:
    """Bottle, which the paper's field measures on, where it is present."""
    return next((c for c in categories if c.name == "bottle"), categories[0])


def write_table(table: Table, results: Path) -> list[Path]:
    """Markdown, CSV and LaTeX under ``results/tables``."""
    written = []
    for suffix, text in ((".md", to_markdown(table)), (".csv", to_csv(table)), (".tex", to_latex(table))):
        path = results / "tables" / f"{table.spec.name}{suffix}"
        write_text(path, text)
        written.append(path)
    return written


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
    units = plan(categories, models, settings)
    outcomes = run(units, results, executor=executor, on_message=on_message, writes=_PLACES)
    records = [o.record for o in outcomes]
    check_mergeable(records)
    writer = _Writer(results, on_message)
    writer._texts(spec["name"], strategies_tables(spec, records))
    write_text(results / "README.md", index_page(results))
    return Reproduction((), writer.files, tuple(outcomes))


@dataclass(frozen=True)
class Profiles:
    """Measured configurations in the order asked for, and the files written about them."""

    profiles: tuple[Profile, ...]
    files: list[Path]

    def summary(self) -> list[str]:
        """How many configurations ended how, and where the page lies."""
        count = Counter(profile.record["status"] for profile in self.profiles)
        ended = ", ".join(f"{n} {status}" for status, n in count.items())
        page = next(path for path in self.files if path.suffix == ".md")
        return [f"{_heading(page)}: {len(self.profiles)} configurations: {ended}: {page.as_posix()}"]


def run_profiles(
    category: Category,
    models: Sequence[ProfileModel],
    settings: ProfileSettings,
    *,
    results: Path,
    on_message: Callable[[str], None] = lambda _: None,
) -> Profiles:
    """Measures the configurations, as ``harness.profile.profile`` does, and writes tables, figure and index.

    Raises as it does, and PadimBenchError if no configuration could be measured at all.
    """
    found = profile(category, models, settings, results, on_message=on_message)
    records = [p.record for p in found]
    if all(r["status"] == FAILED for r in records):
        raise PadimBenchError(f"none of {len(records)} configurations could be measured: {records[0]['reason']}")
    writer = _Writer(results, on_message)
    writer._texts(PROFILES, profiles_tables(records))
    if (figure := pareto_figure(records)) is not None:
        for kind, content in render(figure).items():
            path = results / "figures" / f"pareto.{kind}"
            write_bytes(path, content)
            writer.files[PROFILES].append(path)
    write_text(results / "README.md", index_page(results))
    return Profiles(tuple(found), writer.files[PROFILES])


# Weights.


def _find_weights(
    raw: Mapping[str, Mapping[str, Any]],
    weights: str | Path | None,
    backbones: Sequence[str] | None,
    untrained_fallback: bool,
    on_message: Callable[[str], None],
) -> _Weights:
    """Weights of every architecture that a table, or a measurement, is of."""
    models = [
        TableModel(m["title"], m.get("arch", one.get("arch", "")), m.get("tag", one.get("tag", "")),
                   stand_in_for=m.get("stand_in_for", ""))
        for one in raw.values()
        for m in one["models"]
    ]  # fmt: skip
    tags = _tags(models, backbones)
    found = _Weights(weights)
    for model in models:
        if model.arch not in tags or model.arch in found.chosen or model.arch in found.missing:
            continue
        if model.stand_in_for and not backbones and _needs_no_stand_in(found.chosen.get(model.stand_in_for), weights):
            continue
        try:
            tag = tags[model.arch]
            found.chosen[model.arch] = _weights_for(model.arch, tag or model.tag, weights, strict=bool(tag))
        except WeightsNotFoundError as error:
            if untrained_fallback and not model.stand_in_for:
                on_message(f"{model.arch}: no weights at hand, so untrained random ones")
                found.chosen[model.arch] = resolve_weights(model.arch, "random")
            elif not model.stand_in_for or backbones:
                found.missing[model.arch] = str(error)
    if not found.chosen and any(one["layout"] not in {"timing", "memory"} for one in raw.values()):
        raise WeightsNotFoundError(next(iter(found.missing.values()), "no model of these tables matches --backbones"))
    for arch, why in found.missing.items():
        on_message(f"{arch}: left out, its weights are not available: {why}")
    return found


def _absent(models: Sequence[TableModel], found: _Weights) -> dict[str, str]:
    return _missing_of([{"title": m.title, "arch": m.arch, "stand_in_for": m.stand_in_for} for m in models], found)


def _missing_of(models: Sequence[Mapping[str, Any]], found: _Weights) -> dict[str, str]:
    """Models that did not run, and why; a stand-in that was not needed is not missed."""
    missing = {}
    for m in models:
        if m["arch"] in found.missing:
            missing[m["title"]] = NO_WEIGHTS
        elif m["arch"] not in found.chosen and not m.get("stand_in_for"):
            missing[m["title"]] = NOT_ASKED
    return missing


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
