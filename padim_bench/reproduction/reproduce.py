"""``padim-bench reproduce``: from data at hand to the paper's tables beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.data.mvtec import list_categories, mvtec
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Category
from padim_bench.data.stc import Scene
from padim_bench.demo.images import make_demo
from padim_bench.errors import PadimBenchError
from padim_bench.padim.paper import weight_files
from padim_bench.padim.weights import Weights
from padim_bench.protocols import get_protocol
from padim_bench.records.config import Execution, Wanted
from padim_bench.records.files import check_mergeable
from padim_bench.records.measurements import HELD, read_measurements
from padim_bench.records.merged import Evidence
from padim_bench.report.page import Page
from padim_bench.report.render import summary
from padim_bench.report.spec import load_toml
from padim_bench.reproduction.kinds import Choice, WantedRuns, kind_of
from padim_bench.reproduction.measured import Measuring
from padim_bench.reproduction.pages import folder_of, make_pages, others_there, write_index, write_page
from padim_bench.reproduction.weights import FoundWeights, find_weights, members
from padim_bench.runs.plan import Settings, plan, plan_scenes
from padim_bench.runs.runner import Outcome, RunsFailedError, run
from padim_bench.runs.scenes import SceneUnit

REAL_THING = (
    "For the paper's own data: padim-bench data download mvtec-ad --root DIR (4.9 GB; prints the licence), "
    "then tox -e reproduce -- --data DIR. "
    f"For its weights: a network that reaches the hub, or --weights DIR with files named {', '.join(weight_files())}."
)
NO_STC = "no ShanghaiTech Campus at hand: name its folder with --stc or PADIM_BENCH_STC"
_PLACES = ("records", "tables", "figures", "")  # of a results folder, and its index


@dataclass(frozen=True)
class Reproduction:
    """Pages, the files of each, the runs behind them, and what stands on none.

    Attributes:
        pages: those that were asked for and could be made.
        files: written, by page.
        outcomes: of runs.
        absent: by page, why it has no run of a model, by the model's title.
        failed: by page, how many of its measurements gave no numbers.
    """

    pages: tuple[Page, ...]
    files: dict[str, list[Path]]
    outcomes: tuple[Outcome, ...]
    absent: dict[str, dict[str, str]]
    failed: dict[str, int]

    def summary(self, names: Sequence[str]) -> list[str]:
        """A line for each of these pages: how it went, where it lies; then the runs without numbers."""
        pages = {page.name: page for page in self.pages}
        lines = []
        for name in names:
            if name not in pages:
                lines.append(f"{name}: not written, as said above")
                continue
            table = pages[name].table
            said = summary(table, self.absent.get(name, {})) if table else pages[name].heading
            if name in self.failed:
                said += f"; {self.failed[name]} measurements gave no numbers"
            lines.append(f"{name}: {said}: {self.files[name][0].as_posix()}")
        if void := sum(not outcome.record.valid for outcome in self.outcomes):
            lines.append(f"{void} of {len(self.outcomes)} runs INVALID: the pages name them, the records say why")
        return lines


def demo_categories(results: Path, wanted: Sequence[str] | None) -> list[Category]:
    """The demo data set, drawn under ``results/data`` if it is not there yet."""
    root = make_demo(results / "data")
    return [mvtec(root, name) for name in wanted or list_categories(root)]


def reproduce(
    names: Sequence[str],
    categories: Sequence[Category],
    *,
    results: Path,
    choice: Choice,
    settings: Settings,
    weights: str | Path | None = None,
    untrained_fallback: bool = False,
    backbones: Sequence[str] | None = None,
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
        results: records go to ``records/``, tables to ``tables/``, figures to ``figures/``, an index to ``README.md``;
            all but records to :func:`~padim_bench.reproduction.pages.folder_of` it.
        choice: the protocol, how many channel seeds, 0 and up, in every table (0 for what each spec says), and the
            dtype of the backbones.
        settings: where and how.
        weights: as for ``resolve_weights``, tried first under the spec's tag, then under the bare name.
        untrained_fallback: where no weights can be had, use seeded untrained ones and say so in every title.
        backbones: only these architectures (or ``arch.tag``, which replaces the spec's tag).
        brief: for the demo: two versions of Rd-MVTec AD, no baselines, ten images timed, costs of one strategy.
        scenes: of ShanghaiTech Campus.
        stc_every: of its clips' frames, the first and then every so many.
        executor, show_progress, on_message: as for ``runs.runner.run``.

    Raises:
        PadimBenchError: unknown names, categories of several datasets, no model can run, or what ``run`` raises.
    """
    _one_dataset(categories)
    specs = {name: load_toml(name) for name in names}
    measured = [name for name in names if specs[name]["layout"] in {"timing", "memory"}]
    if measured:
        for place in HELD:
            read_measurements(results, place)
    found = find_weights(
        [m for spec in specs.values() for m in members(spec)],
        weights,
        backbones,
        untrained_fallback=untrained_fallback,
        needed=len(measured) < len(names),
        on_message=on_message,
    )
    wanted = {name: kind_of(name).wanted(name, choice, brief) for name in names}
    over_scenes = [name for name in names if DATASETS[specs[name].get("dataset", PAPER_DATASET)].members == "scenes"]
    over_images = _models({name: wanted[name] for name in names if name not in over_scenes}, specs, found)
    units = plan(categories, over_images, settings, results=results, on_message=on_message)
    _say_what_will_be(wanted, choice, brief, categories, on_message)
    if scenes:
        models = _models({name: wanted[name] for name in over_scenes}, specs, found)
        units += plan_scenes(scenes, models, settings, every=stc_every)
    unreadable: RunsFailedError | None = None  # a scene must not cost what comes after it
    try:
        outcomes = run(
            units, results, executor=executor, show_progress=show_progress, on_message=on_message, writes=_PLACES
        )
    except RunsFailedError as error:
        if not all(isinstance(unit, SceneUnit) for unit in error.units):
            raise
        unreadable, outcomes = error, error.outcomes
        over_scenes, names = [], [name for name in names if name not in over_scenes]
    check_mergeable([o.record for o in outcomes])
    here = Execution(settings.execution.device, settings.execution.threads)  # images at a time as profiles have them
    measuring = Measuring(found, results, here, backbones, brief, on_message)
    failed = {name: n for name in measured if (n := measuring.measure(name, _measured_category(categories)))}
    evidence = Evidence(
        tuple(o.record for o in outcomes),
        tuple(measuring.costs.values()),
        tuple(measuring.growth.values()),
        tuple(measuring.sizes.values()),
    )
    pages = make_pages(names, evidence, choice)
    absent = {name: found.absent(members(specs[name])) for name in names}
    for name in over_scenes if not scenes else ():
        absent[name] |= {m.title: NO_STC for m in members(specs[name]) if m.title not in absent[name]}
    for name in names:
        if name not in {page.name for page in pages}:
            why = "; ".join(f"{title} {reason}" for title, reason in absent[name].items())
            on_message(f"{name}: not written: {why or 'no run of it has numbers'}")
    out = folder_of(results, choice.protocol)
    files = {page.name: write_page(page, out) for page in pages}
    others = others_there(results, files, on_message) if out == results else []
    write_index([*pages, *others], results, out)
    if unreadable is not None:
        raise unreadable
    return Reproduction(tuple(pages), files, tuple(outcomes), absent, failed)


def _one_dataset(categories: Sequence[Category]) -> None:
    by_dataset: dict[str, list[str]] = {}
    for category in categories:
        by_dataset.setdefault(category.dataset, []).append(category.name)
    if len(by_dataset) > 1:
        listed = "; ".join(f"{dataset}: {', '.join(names)}" for dataset, names in by_dataset.items())
        mend = "choose with --categories"
        if all(category.name in MVTEC_AD for category in categories):
            mend += ", or say that all of it is MVTec AD with --dataset mvtec-ad"
        raise PadimBenchError(f"a table is of one dataset, these are several ({listed}): {mend}")


def _models(
    wanted: Mapping[str, WantedRuns], specs: Mapping[str, Mapping[str, Any]], found: FoundWeights
) -> list[tuple[Wanted, Weights]]:
    """What pages want with the weights that there are, each once."""
    runs: dict[Wanted, None] = {}
    for name, by_title in wanted.items():
        titles = found.runs(members(specs[name]))
        runs |= dict.fromkeys(w for title, ws in by_title.items() if title in titles for w in ws)
    return [(w, found.chosen[w.model.backbone]) for w in runs]


def _say_what_will_be(
    wanted: dict[str, WantedRuns],
    choice: Choice,
    brief: bool,
    categories: Sequence[Category],
    on_message: Callable[[str], None],
) -> None:
    """What may surprise of a page's dataset or protocol."""
    if categories and categories[0].dataset != PAPER_DATASET and all(c.name in MVTEC_AD for c in categories):
        on_message(
            f"{', '.join(c.name for c in categories)}: not with MVTec AD's numbers of images, so taken for a dataset "
            f"of its own, {categories[0].dataset}, without the paper's numbers; if it is MVTec AD: --dataset mvtec-ad"
        )
    if choice.protocol != get_protocol("paper"):
        usual = Choice(get_protocol("paper"), choice.seeds, choice.backbone_dtype)
        if fixed := [name for name in wanted if kind_of(name).wanted(name, usual, brief) == wanted[name]]:
            on_message(
                f"{', '.join(fixed)}: made under protocols of their own, whatever --protocol and options of "
                "its choices say"
            )
    if choice.backbone_dtype != "float32" and (timed := [name for name, runs in wanted.items() if not runs]):
        on_message(f"{', '.join(timed)}: measured with the backbone in float32, whatever --backbone-dtype says")


def _measured_category(categories: Sequence[Category]) -> Category:
    """Bottle, which the paper's field measures on, where it is present."""
    return next((c for c in categories if c.name == "bottle"), categories[0])
