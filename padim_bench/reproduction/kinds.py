"""Kinds of pages: each knows which runs it wants, and which page the records of those make.

A spec's ``layout`` names its kind. To add one, write its two functions, name them in ``KINDS``, and say in
``report.shapes`` what its spec holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar

from padim_bench.data.datasets import DATASETS, PAPER_SCENES
from padim_bench.data.drawn import Drawn
from padim_bench.padim.config import PADIM, PaDiMConfig
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.protocols import Protocol, get_protocol
from padim_bench.records.config import Wanted
from padim_bench.records.costs import CostRecord, GrowthRecord, Measurement
from padim_bench.records.merged import Evidence, category_order
from padim_bench.records.runs import RunRecord
from padim_bench.report.page import Page
from padim_bench.report.spec import EFFORT, TableModel, TableSpec, described, load_spec, load_toml
from padim_bench.reproduction.ablation import alone, gap_protocols, walk
from padim_bench.reproduction.wanted import Runs, with_layers

# Runs by the title of the row or column that they are of.
WantedRuns = dict[str, list[Wanted]]
NO_RECORD = "no record of it here"
PROFILES = "profiles"
OneMeasured = TypeVar("OneMeasured", CostRecord, GrowthRecord)


@dataclass(frozen=True)
class Choice:
    """How pages are made from the evidence.

    Attributes:
        protocol: of the pages that are not about protocols of their own.
        seeds: so many, 0 and up, in every page; 0 for those that hold most of the evidence.
        backbone_dtype: of the runs.
        intervals: whether tables of cells show intervals over test images.
    """

    protocol: Protocol
    seeds: int = 0
    backbone_dtype: str = "float32"
    intervals: bool = False

    def wants(self, model: PaDiMConfig, *, extras: tuple[str, ...] = (), **changes: Any) -> Wanted:
        """A run of ``model`` with some changes, under this protocol unless there is another among them."""
        chosen: dict[str, Any] = {"protocol": self.protocol, "backbone_dtype": self.backbone_dtype} | changes
        return Wanted(replace(model, **chosen), extras)


@dataclass(frozen=True)
class Kind:
    """A kind of page.

    Attributes:
        wanted: (name, choice, brief) -> the runs that the page of that name is made from, by title; none for pages
            of measurements. Where ``choice.seeds`` is 0 the spec says how many; ``brief`` asks for fewer versions and
            no baselines, for the demo.
        page: (name, evidence, choice) -> the page, or None where the evidence does not make one.
    """

    wanted: Callable[[str, Choice, bool], WantedRuns]
    page: Callable[[str, Evidence, Choice], Page | None]


def kind_of(name: str) -> Kind:
    """Raises PadimBenchError for a name that no page has."""
    if name == PROFILES:
        return KINDS[PROFILES]
    return KINDS[load_toml(name)["layout"]]


def _nothing(name: str, choice: Choice, brief: bool) -> WantedRuns:
    return {}


# Tables of cells: I to VI.


def _table_wanted(name: str, choice: Choice, brief: bool) -> WantedRuns:
    """Every model of a table with its replicates: versions of Rd-MVTec AD times seeds."""
    spec = load_spec(name)
    if brief:
        padim = tuple(m for m in spec.models if m.model.method == PADIM)
        spec = replace(spec, versions=min(spec.versions, 2), models=padim)
    return {m.title: [w for of_version in _replicates(spec, m, choice) for w in of_version] for m in spec.models}


def _replicates(spec: TableSpec, model: TableModel, choice: Choice) -> list[list[Wanted]]:
    """The runs of a model: a list for each version, of a run for each seed."""
    n_seeds = choice.seeds or spec.seeds
    drawn = range(n_seeds) if n_seeds and model.drawn else [model.model.seed]
    protocols = [choice.protocol]
    if own := DATASETS["rd-mvtec" if spec.versions else spec.dataset].protocol:
        protocols = [own(version) for version in range(spec.versions or 1)]
    one = choice.wants(model.model)
    return [[one.vary(seed=seed, protocol=protocol) for seed in drawn] for protocol in protocols]


def _table_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.report.render import table_page
    from padim_bench.report.tables import build_table

    spec = load_spec(name)
    scenes = spec.dataset == PAPER_SCENES
    runs = Runs(r for r in evidence.records if (r.dataset.kind == "scene") is scenes)
    found: dict[str, list[RunRecord]] = {}
    for model in spec.models:
        seeds = choice.seeds if model.drawn else 1
        ones = [of_version[0] for of_version in _replicates(spec, model, replace(choice, seeds=1))]
        present = list(takewhile(lambda one: rectangle(runs, [one], seeds, model.model.seed), ones))  # noqa: B023
        if present and (records := [r for rs in rectangle(runs, present, seeds, model.model.seed) for r in rs]):
            found[model.title] = records
    at_hand = {m.model.backbone for m in spec.models if m.title in found}
    found = {m.title: found[m.title] for m in spec.models if m.title in found and m.stand_in_for not in at_hand}
    missing = {m.title: NO_RECORD for m in spec.models if m.title not in found and not m.stand_in_for}
    for model in spec.models if choice.seeds else ():
        if model.title in missing and rectangle(runs, _replicates(spec, model, choice)[0][:1], 0, model.model.seed):
            missing[model.title] = f"no record of {choice.seeds} seeds of it here"
    page = table_page(build_table(spec, found, missing, intervals=choice.intervals))
    return replace(page, records=tuple(r for of_model in found.values() for r in of_model))


def rectangle(runs: Runs, ones: Sequence[Wanted], seeds: int, own: int | None = None) -> list[list[RunRecord]]:
    """The records of each of ``ones`` and each seed, over the same categories throughout.

    Of seeds 0 to k - 1 for every k, and of seed ``own`` alone, that rectangle of seeds by categories is taken which
    holds most runs, and of two such the one of more categories; so every value of a page is over the same draws.
    ``seeds`` is k where it is not 0, whatever else there is.

    Returns:
        A list for each of ``ones`` and within it for each seed, in that order: the records, one a category.
    """
    by_seed: list[dict[str, list[RunRecord]]] = []
    while not seeds or len(by_seed) < seeds:
        row = _complete(runs, ones, len(by_seed))
        if not row:
            break
        by_seed.append(row)
    sides = [seeds] if seeds else range(1, len(by_seed) + 1)
    candidates = [by_seed[:k] for k in sides if k <= len(by_seed)]
    if own is not None and not seeds:
        candidates.append([_complete(runs, ones, own)])
    shared = [[c for c in rows[0] if all(c in row for row in rows)] for rows in candidates]
    size, categories, rows = max(
        ((len(rows) * len(cs), cs, rows) for cs, rows in zip(shared, candidates, strict=True)),
        key=lambda found: (found[0], len(found[1])),
        default=(0, [], []),
    )
    return [[row[c][i] for c in categories] for i in range(len(ones)) for row in rows] if size else []


def _complete(runs: Runs, ones: Sequence[Wanted], seed: int) -> dict[str, list[RunRecord]]:
    """By category, the record of each of ``ones`` with that seed, of the categories that have all of them."""
    found = [{r.dataset.category: r for r in runs.of(one.vary(seed=seed))} for one in ones]
    return {
        category: [of_one[category] for of_one in found] for category in found[0] if all(category in f for f in found)
    }


# The seeds report.


def _seeds_wanted(name: str, choice: Choice, brief: bool) -> WantedRuns:
    spec = load_toml(name)
    return {
        m["title"]: [
            _of_seeds(spec, m, choice).vary(seed=seed)
            for seed in (range(choice.seeds or spec["seeds"]) if m.get("n_features") else [0])
        ]
        for m in spec["models"]
    }


def _of_seeds(spec: Mapping[str, Any], model: Mapping[str, Any], choice: Choice) -> Wanted:
    return choice.wants(described(dict(model) | {name: spec[name] for name in ("arch", "strategy")}))


def _seeds_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.report.seeds import seeds_page

    spec, runs = load_toml(name), Runs(evidence.records)
    found = {}
    for model in spec["models"]:
        rows = rectangle(runs, [_of_seeds(spec, model, choice)], choice.seeds if model.get("n_features") else 1)
        if records := [r for row in rows for r in row]:
            found[model["title"]] = records
    drawn = [r.config.model.seed for title, records in found.items() if title != spec["reference"] for r in records]
    return seeds_page(spec, found) if drawn and (choice.seeds or max(drawn) > 0) else None  # one seed has no spread


# The gaps report.


def _gaps_wanted(name: str, choice: Choice, brief: bool) -> WantedRuns:
    """Presets for every model; the ablation and the PRO variants for the first."""
    spec = load_toml(name)
    wanted: WantedRuns = {}
    for i, m in enumerate(spec["models"]):
        protocols = gap_protocols(spec) if i == 0 else [get_protocol(p) for p in spec["presets"]]
        wanted[m["title"]] = [
            choice.wants(
                described(m | {name: spec[name] for name in ("seed", "strategy")}),
                protocol=one,
                extras=("pro_variants",) if i == 0 and one.name == "paper" else (),
            )
            for one in protocols
        ]
    return wanted


def _gaps_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.metrics.pro_variants import PRO_VARIANTS
    from padim_bench.report.gaps import gaps_page

    spec, runs = load_toml(name), Runs(evidence.records)
    found: dict[str, list[RunRecord]] = {}
    for title, wanted in _gaps_wanted(name, choice, False).items():
        by_protocol = {w.model.protocol.name: runs.of(w) for w in wanted}
        if all(by_protocol[preset] for preset in spec["presets"]):  # else there is nothing to walk between
            found[title] = [r for records in by_protocol.values() for r in records]
    if not found:
        return None
    walks = {f"from {w['from']} to {w['to']}": walk(w["from"], w["to"]) for w in spec["walks"]}
    named = {heading: [(s.title, s.protocol.name) for s in steps] for heading, steps in walks.items()}
    changed = [("paper", "paper"), *((s.title, s.protocol.name) for s in alone(spec))]
    variants = {key: (v.name, f"{v.what} ({v.seen_in})") for key, v in PRO_VARIANTS.items()}
    missing = {m["title"]: NO_RECORD for m in spec["models"] if m["title"] not in found}
    return gaps_page(spec, named, changed, variants, found, missing)


# The PRO report.


def _pro_wanted(name: str, choice: Choice, brief: bool) -> WantedRuns:
    spec = load_toml(name)
    seeds = range(choice.seeds or spec["seeds"])
    return {m["title"]: [_of_pro(spec, m, choice).vary(seed=seed) for seed in seeds] for m in spec["models"]}


def _of_pro(spec: Mapping[str, Any], model: Mapping[str, Any], choice: Choice) -> Wanted:
    return choice.wants(described(dict(model) | {"strategy": spec["strategy"]}), extras=("pro_variants",))


def _pro_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    """Also without any run: it then holds what is printed alone."""
    from padim_bench.metrics.pro_variants import PRO_VARIANTS
    from padim_bench.report.pro import pro_page

    spec, runs = load_toml(name), Runs(evidence.records)
    found = {}
    for model in spec["models"]:
        rows = rectangle(runs, [_of_pro(spec, model, choice)], choice.seeds)
        if records := [r for row in rows for r in row]:
            found[model["title"]] = records
    variants = {key: f"{v.what} ({v.seen_in})" for key, v in PRO_VARIANTS.items()}
    missing = {m["title"]: NO_RECORD for m in spec["models"] if m["title"] not in found}
    return pro_page(spec, variants, found, missing)


# The report on few normal images.


def _shots_wanted(name: str, choice: Choice, brief: bool) -> WantedRuns:
    spec = load_toml(name)
    parts = {m["title"]: _of_shots(spec, m, choice, brief) for m in spec["models"]}
    return {title: [w for ws in of_model.values() for w in ws] for title, of_model in parts.items()}


def _of_shots(spec: Mapping[str, Any], model: Mapping[str, Any], choice: Choice, brief: bool) -> WantedRuns:
    """The runs of a model, by what is drawn: nothing, images of few, images with replacement, or channels."""
    one = choice.wants(described({"seed": spec["seed"]} | dict(model)))
    images, draws, resamples = spec["images"], spec["draws"], spec["resamples"]
    if brief:
        images, draws, resamples = images[:5:4], 2, 2
    lottery = one.model.n_features is not None and REDUCTIONS[one.model.reduction].drawn
    resampled = [Drawn(None, draw, replaced=True) for draw in range(resamples if lottery else 0)]
    return {
        "all": [one],
        "drawn": [replace(one, trained=Drawn(n, draw)) for n in images for draw in range(draws)],
        "bootstrap": [replace(one, trained=drawn) for drawn in resampled],
        "channels": [one.vary(seed=s) for s in range(choice.seeds or spec["channel_seeds"])] if lottery else [],
    }


def _shots_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.report.shots import shots_page

    spec, runs = load_toml(name), Runs(evidence.records)
    found = {}
    for model in spec["models"]:
        wanted = _of_shots(spec, model, choice, False)
        parts = {part: [r for w in ws for r in runs.of(w)] for part, ws in wanted.items()}
        if parts["drawn"]:
            found[model["title"]] = parts
    missing = {m["title"]: NO_RECORD for m in spec["models"] if m["title"] not in found}
    return shots_page(spec, found, missing) if found else None


# The table of strategies.


def _strategies_wanted(name: str, choice: Choice, brief: bool) -> WantedRuns:
    from padim_bench.padim.strategies import STRATEGIES

    spec = load_toml(name)
    return {spec["title"]: [_of_strategies(spec, choice, s, dtype) for s in STRATEGIES for dtype in spec["dtypes"]]}


def _of_strategies(spec: Mapping[str, Any], choice: Choice, strategy: str, storage: str) -> Wanted:
    return choice.wants(described(spec), strategy=strategy, storage=storage)


def _strategies_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    """Of every strategy on record, whether this version has it or not; the reference first, which all need."""
    from padim_bench.report.strategies import REFERENCE, strategies_page

    spec, runs = load_toml(name), Runs(evidence.records)
    if not runs.of(_of_strategies(spec, choice, *REFERENCE)):
        return None
    names = {r.config.model.strategy for r in evidence.records} - {"auto"}
    ordered = sorted(names, key=lambda strategy: (strategy != REFERENCE[0], strategy))
    records = [r for s in ordered for dtype in spec["dtypes"] for r in runs.of(_of_strategies(spec, choice, s, dtype))]
    return strategies_page(spec, records)


# What the whole takes.


def _effort_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.report.effort import effort_page

    return effort_page(load_toml(name), evidence.records)


# Tables of measurements: VII and VIII, and the profiles.

# Table VII's images are MVTec AD's; Table VIII has the sizes of both datasets'.
_COST_PROTOCOLS = {"timing": ("paper",), "memory": ("paper", "paper-stc")}


def wanted_costs(spec: Mapping[str, Any], *, brief: bool = False) -> list[PaDiMConfig]:
    """The models whose costs a table of measurements wants, in its order.

    ``brief`` asks for one strategy of each under one protocol, so that the demo's tables share their measurements.
    """
    few = slice(0, 1 if brief else None)
    return [
        replace(described(model), strategy=strategy, protocol=get_protocol(protocol))
        for model in spec["models"]
        for protocol in _COST_PROTOCOLS[spec["layout"]][few]
        for strategy in model["strategies"][few]
    ]


def wanted_growth(spec: Mapping[str, Any], *, brief: bool = False) -> list[PaDiMConfig]:
    """The models whose growth with the training images Table VII wants: those of its costs, then its rivals.

    The demo's has no rivals: held to 60 images, they would show nothing.
    """
    rivals = [] if brief else spec.get("rivals", [])
    return [*wanted_costs(spec, brief=brief), *map(described, rivals)]


def _timing_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    """Also without any: it then holds the paper's seconds alone."""
    from padim_bench.report.costs import load_measured_spec
    from padim_bench.report.timing import timing_page

    spec = load_measured_spec(name)
    growth = _of_models(evidence.growth, wanted_growth(spec))
    return timing_page(spec, _of_models(evidence.costs, wanted_costs(spec)), growth)


def _memory_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.report.costs import load_measured_spec
    from padim_bench.report.memory import memory_page

    spec = load_measured_spec(name)
    sizes = [one for one in evidence.sizes if one.asked == asked_sizes(spec)]
    if not sizes:
        return None
    found = max(sizes, key=lambda one: (len(one.strategies), one.finished))
    costs = _of_models(evidence.costs, wanted_costs(spec))
    return memory_page(spec, found.analytic, found.states, found.by_category, costs, by_images=found.by_images)


def asked_sizes(spec: Mapping[str, Any]) -> str:
    """Digest of what of Table VIII's spec decides the bytes that are computed and stored."""
    names = ("models", "rivals", "datasets", "n_images", "growth", "dtypes")
    deciding = {name: spec[name] for name in names if name in spec}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _of_models(measured: Iterable[OneMeasured], models: Iterable[PaDiMConfig]) -> list[OneMeasured]:
    """Of the models that the table wants, in its order; then by category and machine."""
    places = {with_layers(model).normalised(0): i for i, model in enumerate(models)}

    def place(one: OneMeasured) -> tuple[Any, ...]:
        where = category_order(one.dataset)
        return places[one.config.model], where, _machine(one), one.finished, one.id

    return sorted((one for one in measured if one.config.model in places), key=place)


def _machine(measured: Measurement) -> tuple[Any, ...]:
    found, execution = measured.environment, measured.config.execution
    return execution.device, found.gpu or "", found.cpu, execution.threads


def _profiles_page(name: str, evidence: Evidence, choice: Choice) -> Page | None:
    from padim_bench.report.figures import render
    from padim_bench.report.pareto import pareto_figures
    from padim_bench.report.profiles import profiles_page

    if not evidence.costs:
        return None
    costs = sorted(evidence.costs, key=_cost_order)
    figures = {file: partial(render, figure) for file, figure in pareto_figures(costs).items()}
    return replace(profiles_page(costs), figures=figures)


def _cost_order(cost: CostRecord) -> tuple[Any, ...]:
    """Machines apart, then category, protocol, model, strategy and storage; untrained networks last."""
    model, dataset = cost.config.model, cost.dataset
    where = dataset.name, category_order(dataset), not cost.weights.trained
    n, storage = model.n_features, model.storage
    which = model.protocol.name, model.backbone, n is None, n or 0, model.seed, model.strategy
    return *_machine(cost), *where, *which, -_width(storage), storage, cost.id


def _width(dtype: str) -> int:
    return int("".join(c for c in dtype if c.isdigit()))


_TABLE = Kind(_table_wanted, _table_page)
KINDS: dict[str, Kind] = {
    "categories": _TABLE,
    "models": _TABLE,
    "seeds": Kind(_seeds_wanted, _seeds_page),
    "gaps": Kind(_gaps_wanted, _gaps_page),
    "pro": Kind(_pro_wanted, _pro_page),
    "shots": Kind(_shots_wanted, _shots_page),
    "strategies": Kind(_strategies_wanted, _strategies_page),
    "timing": Kind(_nothing, _timing_page),
    "memory": Kind(_nothing, _memory_page),
    PROFILES: Kind(_nothing, _profiles_page),
    EFFORT: Kind(_nothing, _effort_page),
}
