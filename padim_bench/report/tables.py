"""Tables from records and printed numbers: a pure function, byte-identical for the same input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from padim_bench.data.datasets import DATASETS
from padim_bench.errors import PadimBenchError
from padim_bench.metrics.summary import METRICS
from padim_bench.padim.config import PADIM
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.records.facts import Environment, Recorded
from padim_bench.records.runs import RunRecord
from padim_bench.report.spec import Printed, TableMetric, TableModel, TableSpec
from padim_bench.report.values import mean_interval, shown_values

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {"texture": "Texture", "object": "Object", "all": "All"}


@dataclass(frozen=True)
class Cell:
    """One number of ours beside the paper's, in percent.

    Attributes:
        model, metric, row: where it stands; ``row`` is a category or a key of ``GROUPS``.
        ours: the mean over replicates; None if there is no valid run.
        values: one per replicate.
        paper: comparable with ours: the printed value, or for a mean over k of n categories the mean
            of the printed values of the same k. None if the paper has nothing comparable.
        printed: the value as printed, comparable or not, and what it recomputes to.
        present, full: the k and n of a mean; 1 and 1 for a category.
        verdict: "within" or "outside" the tolerance, or "".
        records: ids of the runs behind it.
        interval: ends of the 95 % interval over test images of ``ours``; None where a run has no resampled values.
    """

    model: str
    metric: str
    row: str
    values: tuple[float, ...]
    paper: float | None
    printed: Printed | None
    present: int
    full: int
    verdict: str
    records: tuple[str, ...]
    interval: tuple[float, float] | None = None

    @property
    def ours(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over replicates; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def sem(self) -> float | None:
        """Standard error of the mean over replicates."""
        return None if self.sd is None else self.sd / math.sqrt(len(self.values))

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclass(frozen=True)
class Table:
    """A table's cells with all that its caption says.

    Attributes:
        spec: which table.
        dataset: its name in the records; "" if nothing ran.
        categories: present, in order.
        cells: all of them.
        models: per model title, the records' weights, seeds, strategy and so on.
        missing: models that did not run, and why.
        warnings: what stands in the title: demo data, untrained weights.
        facts: lines of provenance.
        intervals: whether its page shows them.
    """

    spec: TableSpec
    dataset: str
    categories: tuple[str, ...]
    cells: tuple[Cell, ...]
    models: dict[str, str]
    missing: dict[str, str]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]
    intervals: bool = False

    @property
    def heading(self) -> str:
        shout = "".join(f" [{w.upper()}]" for w in self.warnings)
        return f"Table {self.spec.number}: {self.spec.title}{shout}"

    @property
    def comparable(self) -> bool:
        """Whether the paper's numbers are of this dataset."""
        return self.dataset in {"", self.spec.dataset}

    def cell(self, model: str, metric: str, row: str) -> Cell | None:
        wanted = (model, metric, row)
        return next((c for c in self.cells if (c.model, c.metric, c.row) == wanted), None)

    def printed(self, model: TableModel, metric: TableMetric, row: str) -> Printed | None:
        return self.spec.paper.get((model.paper_method, row, metric.printed)) if self.comparable else None


def build_table(
    spec: TableSpec,
    runs: Mapping[str, Sequence[RunRecord]],
    missing: Mapping[str, str],
    *,
    intervals: bool = False,
) -> Table:
    """Cells of ``spec`` from the records of each model title; categories with an invalid one are left out.

    Args:
        runs: per model title, the records of all its categories, dataset versions and seeds.
        missing: per model title that did not run, why.
        intervals: whether the page shows intervals over test images; its CSV has them always.

    Raises:
        PadimBenchError: records of more than one dataset.
    """
    records = [r for of_model in runs.values() for r in of_model]
    values = shown_values(runs, [metric.key for metric in spec.metrics])
    datasets = sorted(set(values.dataset))
    if len(datasets) > 1:
        raise PadimBenchError(f"a table needs records of one dataset, got {datasets}")
    cells = [
        cell
        for model in spec.models
        if model.title in runs
        for metric in spec.metrics
        for cell in _model_cells(spec, model, metric, values)
    ]
    several = len({r.weights.label for r in records}) > 1
    described = {m.title: _describe(runs[m.title], weights=several) for m in spec.models if m.title in runs}
    return Table(
        spec,
        next(iter(datasets), ""),
        tuple(dict.fromkeys(values.category)),
        tuple(cells),
        described,
        dict(missing),
        title_warnings(records),
        shared_facts(records, values) if records else (),
        intervals,
    )


def _model_cells(spec: TableSpec, model: TableModel, metric: TableMetric, values: pd.DataFrame) -> list[Cell]:
    """Every category's and group's, from the values of the whole table."""
    printed = {
        row: p for (method, row, key), p in spec.paper.items() if (method, key) == (model.paper_method, metric.printed)
    }
    dataset, kinds = values.dataset.iloc[0], dict(zip(values.category, values.kind, strict=True))
    if dataset != spec.dataset:
        printed = {}  # the paper's numbers are of that dataset alone
    mine = values[(values.title == model.title) & (values.metric == metric.key)]
    # Replicates by categories. A mean over the replicates that happened to be valid would flatter the rest.
    wide = mine.pivot(index=["protocol", "seed"], columns="category", values="value").dropna(axis="columns")
    if spec.versions:  # seeds of one version are no independent draws of it
        wide = wide.groupby(level="protocol").agg(fmean)
    ours = wide.to_dict("list")
    ids = mine.groupby("category").record.agg(list).to_dict()
    drawn = mine.groupby("category").resampled.agg(list).to_dict()
    known = DATASETS.get(dataset)  # one that is not known is complete as it is

    def cell(row: str, members: Sequence[str], paper: float | None, full: int) -> Cell:
        replicates = tuple(map(fmean, zip(*(ours[c] for c in members), strict=True)))
        records = tuple(record for c in members for record in ids[c])
        one = printed.get(row)
        verdict = _verdict(replicates, paper, one, metric.tolerance)
        within = mean_interval(drawn[c] for c in members)
        return Cell(model.title, metric.key, row, replicates, paper, one, len(members), full, verdict, records, within)

    cells = []
    for category in kinds:
        paper = printed[category].value if category in printed else None
        cells.append(cell(category, [category] if category in ours else [], paper, 1))
    for group in GROUPS:
        members = [c for c in kinds if c in ours and group in {"all", kinds[c]}]
        total = sum(group in {"all", kind} for kind in kinds.values())
        full = known.full(group) if known and known.kinds else total
        same = [printed[c].value for c in members if c in printed]
        paper = fmean(same) if members and len(same) == len(members) else None
        if paper is None and members and len(members) == full and group in printed:
            paper = printed[group].value
        cells.append(cell(group, members, paper, full))
    return cells


def _verdict(values: Sequence[float], paper: float | None, printed: Printed | None, tolerance: float) -> str:
    """Whether the mean is within the tolerance of the paper's value; "" where there is nothing to compare."""
    # None where the printed value contradicts the paper's others: either answer would be wrong of one of them.
    contradicted = printed is not None and printed.recomputed is not None and paper == printed.value
    if not values or paper is None or contradicted:
        return ""
    # Printed values are rounded to 0.1, ours are shown to 0.01.
    return "within" if abs(round(fmean(values), 2) - paper) <= tolerance + 1e-9 else "outside"


def _describe(records: Sequence[RunRecord], *, weights: bool) -> str:
    """How a model was made; ``weights`` says whose, where the table's models differ in it."""
    first = records[0]
    model, embedding = first.config.model, first.embedding
    whose = f"{first.weights.label}; " if weights else ""
    reduction = REDUCTIONS[model.reduction]
    how = reduction.phrase.format(kept=embedding.n_features, all=embedding.n_channels)
    if model.fusion == "sum":
        how += " in all, one model per layer, their maps added"
    seeds = sorted({r.config.model.seed for r in records})
    seed = f", seed{'s' if len(seeds) > 1 else ''} {ranges(seeds)}" if reduction.drawn else ""
    invalid = list(dict.fromkeys(r.dataset.category for r in records if not r.valid))
    used = " and ".join(dict.fromkeys(r.strategy_used or model.strategy for r in records))
    what = f"strategy {used}, {model.storage}" if model.method == PADIM else f"method {model.method}"
    return f"{whose}{'+'.join(first.config.layers)}; {how}{seed}; {what}" + (
        f"; INVALID and left out: {', '.join(invalid)}" if invalid else ""
    )


def ranges(numbers: Sequence[int]) -> str:
    """ "0 to 9" of numbers without a gap, else all of them."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def dataset_warnings(records: Sequence[Recorded]) -> list[str]:
    """What titles say of the records' datasets: that they are drawn."""
    known = [DATASETS[name] for name in dict.fromkeys(r.dataset.name for r in records) if name in DATASETS]
    return list(dict.fromkeys(d.warning for d in known if d.warning))


def title_warnings(records: Sequence[Recorded]) -> tuple[str, ...]:
    """What no reader may miss: drawn data, untrained weights (and whose, where others are trained), rounding."""
    found = dataset_warnings(records)
    unofficial = dict.fromkeys(r.dataset.category for r in records if r.dataset.official_split is False)
    if unofficial:
        found.append(f"not the official split: {', '.join(unofficial)}")
    untrained = dict.fromkeys(r.config.model.backbone for r in records if not r.weights.trained)
    if untrained:
        whose = f": {', '.join(untrained)}" if any(r.weights.trained for r in records) else ""
        found.append(f"untrained random weights{whose}")
    if rounded := {r.config.model.backbone_dtype for r in records} - {"float32"}:
        found.append(f"backbone in {', '.join(sorted(rounded))}")
    return tuple(found)


def invalid_seeds(runs: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """Runs that gave no numbers, those of each title in a line."""
    lines = []
    for title, records in runs.items():
        found = [f"{r.dataset.category} seed {r.config.model.seed}" for r in records if not r.valid]
        if found:
            lines.append(f"{title}: INVALID and left out: {', '.join(found)}.")
    return lines


def distinct(values: Sequence[Any]) -> str:
    """The distinct values, in order, as one phrase."""
    return ", ".join(dict.fromkeys(str(v) for v in values))


def thread_fact(threads: Sequence[int | None]) -> str:
    """On how many threads some records were made."""
    return f"{distinct(threads)} {'thread' if set(threads) == {1} else 'threads'}"


def code_facts(environments: Sequence[Environment]) -> str:
    """Versions, commits and machines of some records, each once."""

    def code(environment: Environment) -> str:
        commit = environment.commit
        where = f" at commit {commit[:12]}{' with changes' if environment.dirty else ''}" if commit else ""
        return f"padim-bench {environment.versions['padim-bench']}{where}"

    return (
        f"code: {distinct([code(e) for e in environments])}; "
        f"torch {distinct([e.versions['torch'] for e in environments])}, "
        f"timm {distinct([e.versions['timm'] for e in environments])}; "
        f"{distinct([e.cpu for e in environments])}"
    )


def _approximate(values: pd.DataFrame) -> list[str]:
    """The line that says whose pixel metrics are from histograms, and how far off they may be; none if none are."""
    found = values[values.error_bound != 0]
    if found.empty:
        return []
    largest = found.groupby("metric", sort=False).error_bound.max().dropna()
    told = [f"{METRICS[str(name)].phrase} {_rounded_up(bound)}" for name, bound in largest.items()]
    whose = "all" if set(found.record) == set(values.record) else distinct(list(found.category))
    where = f", within these points of the exact values: {', '.join(told)}" if told else ""
    return [f"pixel metrics of {whose} from histograms{where}"]


def _rounded_up(value: float) -> str:
    """To one digit, and never below the value."""
    digit = 10.0 ** math.floor(math.log10(value)) if value else 1.0
    return f"{math.ceil(value / digit) * digit:.1g}"


def shared_facts(records: Sequence[RunRecord], values: pd.DataFrame) -> tuple[str, ...]:
    """Provenance that all records share, each fact once, and how exact the page's values of them are."""
    sizes = dict.fromkeys(size for r in records for size in r.dataset.image_sizes)
    image_level = dict.fromkeys(r.dataset.category for r in records if not r.dataset.has_masks)
    weights = {r.weights.label: r.weights.note for r in records}
    protocols = list(dict.fromkeys(r.config.protocol.title for r in records))
    compared = [
        r.dataset.resolution.removeprefix(f"{r.config.protocol.name}-")
        if r.config.protocol.of_another_size
        else r.dataset.resolution
        for r in records
    ]
    facts = [
        f"protocol {', '.join(protocols)}; pixels compared at {distinct(compared)}"
        if len(protocols) <= 5
        else f"{len(protocols)} protocols, all of whose choices are in the records",
        f"images as stored: {', '.join(list(sizes)[:6])}{', ...' if len(sizes) > 6 else ''}",
        f"{code_facts([r.environment for r in records])}, {thread_fact([r.config.execution.threads for r in records])}",
    ]
    scenes = [r for r in records if r.dataset.kind == "scene"]
    if scenes:
        of_model = {r.dataset.category: r.dataset for r in scenes}.values()
        steps = distinct(["all" if r.config.every == 1 else f"one in {r.config.every}" for r in scenes])
        facts.append(
            f"frames: {steps} of each clip; {sum(d.n_train for d in of_model)} for training, "
            f"{sum(d.n_test for d in of_model)} for testing"
        )
    facts += _approximate(values)
    facts += [f"weights: {label}{f' ({note})' if note else ''}" for label, note in weights.items()]
    if image_level:
        facts.append(f"without ground-truth masks, image level only: {', '.join(image_level)}")
    return tuple(facts)
