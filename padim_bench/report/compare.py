"""Two models, protocols or runs held against each other over the test images that both have, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import count, product, takewhile

from padim_bench.errors import PadimBenchError
from padim_bench.metrics.resampling import RESAMPLED
from padim_bench.metrics.summary import METRICS
from padim_bench.records.config import RunConfig
from padim_bench.records.merged import category_order
from padim_bench.records.runs import RunRecord
from padim_bench.report.differences import Difference, paired
from padim_bench.report.spec import load_spec, load_toml, table_names
from padim_bench.report.tables import ranges
from padim_bench.report.values import shown_values

SEPARATOR = "/"
_ID_DIGITS = 8


@dataclass(frozen=True)
class Side:
    """Runs of one configuration over categories and seeds.

    Attributes:
        asked: as the reader named it.
        records: the runs that are compared.
    """

    asked: str
    records: tuple[RunRecord, ...]

    @property
    def title(self) -> str:
        """What was run, with all that the other side may differ in."""
        first, seeds = self.records[0], sorted({r.config.model.seed for r in self.records})
        model = first.config.model
        told = [first.config.model_name, model.protocol.title, model.strategy, model.storage, first.config.weights]
        told += [one for one in (model.backbone_dtype,) if one != "float32"]
        told += [
            *first.config.extras,
            *_drawn(first),
            *([f"seed{'s' if len(seeds) > 1 else ''} {ranges(seeds)}"] if model.n_features is not None else []),
        ]
        return ", ".join(told)


@dataclass(frozen=True)
class Comparison:
    """How two sides differ in a metric.

    Attributes:
        metric: its name in ``METRICS``.
        first, second: the sides.
        categories: which both have.
        differences: of ``first`` less ``second`` by category, and "mean" over them, in points.
        shared_seeds: whether both sides are of the same draws of channels.
    """

    metric: str
    first: Side
    second: Side
    categories: tuple[str, ...]
    differences: dict[str, Difference]
    shared_seeds: bool


def compare(records: Sequence[RunRecord], first: str, second: str, metric: str) -> Comparison:
    """The paired difference of two sides, each named by the id of a record or by what was run.

    What was run is named by one or several of: model, protocol, strategy, storage, weights and dtype of the backbone,
    joined by "/", as in "R18-Rd100/anomalib". Runs of some of the training images are meant only where they are named,
    as in "R18-Rd100/n8-d0". Of all pairs of configurations that the names allow, that pair is taken
    which differs in least else, and of several such the pair with most runs in common.

    Args:
        records: all that there are.
        first, second: the names.
        metric: a name in ``RESAMPLED``.

    Raises:
        PadimBenchError: a name that no record has, two sides that are the same, without a category in common, over
            differing splits, or with runs that have no resampled values of the metric.
    """
    if metric not in RESAMPLED:
        raise PadimBenchError(f"metric {metric!r} is not resampled: choose from {', '.join(RESAMPLED)}")
    valid = [r for r in records if r.valid]
    sides = [_named(valid, name) for name in (first, second)]
    pairs = [
        (_differing(one[0], other[0]), -len(_shared(one, other)), -len(one) - len(other), i, j)
        for (i, one), (j, other) in product(enumerate(sides[0]), enumerate(sides[1]))
        if one[0].id != other[0].id
    ]
    if not pairs:
        raise PadimBenchError(f"{first} and {second} are the same run: name two that differ")
    *_, i, j = min(pairs)
    ours, theirs = sides[0][i], sides[1][j]
    categories = _shared(ours, theirs)
    if not categories:
        raise PadimBenchError(
            f"{first} and {second} have no category in common ({_categories(ours)}; {_categories(theirs)}): run both "
            "over the same ones"
        )
    _check_splits(ours, theirs, categories)
    ours, theirs, shared = _same_seeds(ours, theirs, categories)
    frames = [shown_values({name: side}, [metric]) for name, side in ((first, ours), (second, theirs))]
    found = paired(frames[0], frames[1], categories)
    if found is None:
        lacking = next((r for r in (*ours, *theirs) if metric not in (r.extra.resampled or {})), ours[0])
        raise PadimBenchError(
            f"record {lacking.id[:12]} ({lacking.dataset.category}, {lacking.config.model_name}) has no resampled "
            f"values of {METRICS[metric].title}: run it again with this version, over images with masks whose maps "
            "fit the memory limit"
        )
    return Comparison(metric, Side(first, tuple(ours)), Side(second, tuple(theirs)), tuple(categories), found, shared)


def _terms(record: RunRecord) -> tuple[str, ...]:
    """What a run may be named by."""
    config, model = record.config, record.config.model
    return (
        *(config.model_name, model.protocol.name, model.strategy, model.storage, config.weights),
        *(
            model.protocol.title,
            model.backbone_dtype,
            *config.extras,
            *_drawn(record),
            *_titles().get(config.model_name, ()),
        ),
    )


def _drawn(record: RunRecord) -> tuple[str, ...]:
    """What a run of some of the training images is called after them, as n8-d0; nothing where it is of all."""
    return () if record.config.trained is None else (record.config.trained.label,)


@cache
def _titles() -> dict[str, tuple[str, ...]]:
    """What the paper's tables call models that go by another name elsewhere, by that name."""
    found: dict[str, tuple[str, ...]] = {}
    for table in table_names():
        if "metrics" not in load_toml(table):  # of measurements
            continue
        for one in load_spec(table).models:
            if one.model.layers == "paper" and one.title != one.model.name:
                found[one.model.name] = tuple(dict.fromkeys((*found.get(one.model.name, ()), one.title)))
    return found


def _named(records: Sequence[RunRecord], name: str) -> list[list[RunRecord]]:
    """The runs that a name may mean: a list for each configuration, over its categories and seeds."""
    if len(name) >= _ID_DIGITS and (one := [r for r in records if r.id.startswith(name)]):
        return [[r] for r in one]
    words = name.split(SEPARATOR)
    known = {term for r in records for term in _terms(r)}
    if unknown := [word for word in words if word not in known]:
        near = get_close_matches(unknown[0], known) or sorted({r.config.model_name for r in records})
        raise PadimBenchError(f"no valid run is called {unknown[0]!r}: choose from {', '.join(near)}, or a record's id")
    groups: dict[RunConfig, list[RunRecord]] = {}
    for record in records:
        if set(_drawn(record)) <= set(words) <= set(_terms(record)):
            model = replace(record.config.model, seed=0)
            groups.setdefault(replace(record.config, category="", model=model), []).append(record)
    if not groups:
        raise PadimBenchError(f"no valid run is all of {name}: name less of it")
    return list(groups.values())


def _differing(one: RunRecord, other: RunRecord) -> int:
    """In how many choices two runs differ, beside category and seed."""
    parts = [{**asdict(r.config.model), **asdict(r.config)} for r in (one, other)]
    named = parts[0].keys() - {"category", "model", "seed"}
    return sum(parts[0][name] != parts[1][name] for name in named)


def _categories(records: Sequence[RunRecord]) -> str:
    return ", ".join(dict.fromkeys(r.dataset.category for r in records))


def _shared(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[str]:
    """The categories that both have, in the order of tables."""
    theirs = {r.dataset.category for r in other}
    both = {r.dataset.category: r.dataset for r in one if r.dataset.category in theirs}
    return sorted(both, key=lambda category: category_order(both[category]))


def _check_splits(ours: Sequence[RunRecord], theirs: Sequence[RunRecord], categories: Sequence[str]) -> None:
    first: dict[str, RunRecord] = {}
    for record in (*ours, *theirs):
        category = record.dataset.category
        before = first.setdefault(category, record)
        if category in categories and record.dataset.split_digest != before.dataset.split_digest:
            raise PadimBenchError(
                f"records {before.id[:12]} and {record.id[:12]} have differing splits of {category} "
                f"({before.dataset.split_digest[:12]} / {record.dataset.split_digest[:12]}): their test images cannot "
                "be paired"
            )


def _same_seeds(
    ours: list[RunRecord], theirs: list[RunRecord], categories: Sequence[str]
) -> tuple[list[RunRecord], list[RunRecord], bool]:
    """Both sides over those categories, and of those seeds that both have in all of them where there are such.

    Of several seeds those from 0 on without a gap, as tables have them.
    """

    def seeds(side: Sequence[RunRecord]) -> set[int]:
        each = [{r.config.model.seed for r in side if r.dataset.category == c} for c in categories]
        return set.intersection(*each)

    def usual(found: set[int]) -> set[int]:
        from_0 = set(takewhile(found.__contains__, count()))
        return from_0 if len(from_0) > 1 else found

    def kept(side: Sequence[RunRecord], of: set[int]) -> list[RunRecord]:
        chosen = [r for r in side if r.dataset.category in categories and r.config.model.seed in of]
        return sorted(chosen, key=lambda r: (categories.index(r.dataset.category), r.config.model.seed))

    drawn = all(side[0].config.model.n_features is not None for side in (ours, theirs))
    both = usual(seeds(ours) & seeds(theirs)) if drawn else set()
    mine, other = (both, both) if both else (usual(seeds(ours)), usual(seeds(theirs)))
    if not (mine and other):
        raise PadimBenchError("the runs have no seed that all their categories have: run the same seeds over all")
    return kept(ours, mine), kept(theirs, other), bool(both)
