"""Tables from records and printed numbers: a pure function, byte-identical for the same input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.report.spec import TableMetric, TableModel, TableSpec

Record = dict[str, Any]
GROUPS = {"texture": "Texture", "object": "Object", "all": "All"}
# How many categories a complete dataset has; a dataset we do not know is complete as it is.
FULL = {"mvtec-ad": {"texture": 5, "object": 10, "all": 15}, "demo": {"texture": 2, "object": 2, "all": 4}}


@dataclass(frozen=True)
class Cell:
    """One number of ours beside the paper's, in percent.

    Attributes:
        model, metric, row: where it stands; ``row`` is a category or a key of ``GROUPS``.
        ours: None if there is no valid run.
        paper: comparable with ours: the printed value, or for a mean over k of n categories the mean
            of the printed values of the same k. None if the paper has nothing comparable.
        printed: the value as printed, comparable or not.
        present, full: the k and n of a mean; 1 and 1 for a category.
        verdict: "within" or "outside" the tolerance, or "".
        records: ids of the runs behind it.
    """

    model: str
    metric: str
    row: str
    ours: float | None
    paper: float | None
    printed: float | None
    present: int
    full: int
    verdict: str
    records: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclass(frozen=True)
class Table:
    """A table's cells with all that its caption says.

    Attributes:
        spec: which table.
        dataset: its name in the records.
        categories: present, in order.
        cells: all of them.
        models: per model title, the records' weights, seed, strategy and so on.
        missing: models that did not run, and why.
        warnings: what stands in the title: demo data, untrained weights.
        facts: lines of provenance.
    """

    spec: TableSpec
    dataset: str
    categories: tuple[str, ...]
    cells: tuple[Cell, ...]
    models: dict[str, str]
    missing: dict[str, str]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def heading(self) -> str:
        shout = "".join(f" [{w.upper()}]" for w in self.warnings)
        return f"Table {self.spec.number}: {self.spec.title}{shout}"

    def cell(self, model: str, metric: str, row: str) -> Cell | None:
        wanted = (model, metric, row)
        return next((c for c in self.cells if (c.model, c.metric, c.row) == wanted), None)


def build_table(spec: TableSpec, runs: Mapping[str, Sequence[Record]], missing: Mapping[str, str]) -> Table:
    """Cells of ``spec`` from the records of each model title; invalid records are left out.

    Args:
        runs: per model title, one record per category.
        missing: per model title that did not run, why.

    Raises:
        PadimBenchError: no record at all, or records of more than one dataset.
    """
    records = [r for rs in runs.values() for r in rs]
    datasets = {r["dataset"]["name"] for r in records}
    if len(datasets) != 1:
        raise PadimBenchError(f"a table needs records of one dataset, got {sorted(datasets) or 'none'}")
    dataset = datasets.pop()
    kinds = {r["dataset"]["category"]: r["dataset"]["kind"] for r in records}
    cells = [
        cell
        for model in spec.models
        if model.title in runs
        for metric in spec.metrics
        for cell in _model_cells(spec, model, metric, runs[model.title], kinds, dataset)
    ]
    described = {m.title: _describe(runs[m.title]) for m in spec.models if m.title in runs}
    return Table(
        spec,
        dataset,
        tuple(kinds),
        tuple(cells),
        described,
        dict(missing),
        title_warnings(records),
        shared_facts(records),
    )


def _model_cells(
    spec: TableSpec,
    model: TableModel,
    metric: TableMetric,
    records: Sequence[Record],
    kinds: Mapping[str, str],
    dataset: str,
) -> list[Cell]:
    printed = {
        row: v for (method, row, key), v in spec.paper.items() if (method, key) == (model.paper_method, metric.key)
    }
    if dataset != "mvtec-ad":
        printed = {}  # the paper's numbers are of MVTec AD alone
    ours: dict[str, tuple[float, str]] = {}
    for record in records:
        value = record["metrics"][metric.key] if record["status"] == "ok" else None
        if value is not None:
            ours[record["dataset"]["category"]] = (100 * value, record["id"])
    cells = []
    for category in kinds:
        value = ours[category][0] if category in ours else None
        ids: tuple[str, ...] = (ours[category][1],) if category in ours else ()
        paper = printed.get(category)
        verdict = _verdict(value, paper, metric)
        cells.append(Cell(model.title, metric.key, category, value, paper, paper, len(ids), 1, verdict, ids))
    for group in GROUPS:
        members = [c for c in ours if group in {"all", kinds[c]}]
        total = sum(group in {"all", kind} for kind in kinds.values())
        full = FULL.get(dataset, {}).get(group, total)
        mean = sum(ours[c][0] for c in members) / len(members) if members else None
        same = [printed[c] for c in members if c in printed]
        paper = sum(same) / len(same) if members and len(same) == len(members) else None
        if paper is None and len(members) == full:
            paper = printed.get(group)
        ids = tuple(ours[c][1] for c in members)
        verdict = _verdict(mean, paper, metric)
        cells.append(
            Cell(model.title, metric.key, group, mean, paper, printed.get(group), len(members), full, verdict, ids)
        )
    return cells


def _verdict(ours: float | None, paper: float | None, metric: TableMetric) -> str:
    if ours is None or paper is None:
        return ""
    # Printed values are rounded to 0.1, ours are shown to 0.01.
    return "within" if abs(round(ours, 2) - paper) <= metric.tolerance + 1e-9 else "outside"


def _describe(records: Sequence[Record]) -> str:
    first = records[0]
    config, weights, embedding = first["config"], first["weights"], first["embedding"]
    drawn = "all" if config["n_features"] is None else f"{embedding['n_features']} random of"
    seed = "" if config["n_features"] is None else f", seed {config['seed']}"
    invalid = [r["dataset"]["category"] for r in records if r["status"] != "ok"]
    used = " and ".join(dict.fromkeys(r["strategy_used"] or config["strategy"] for r in records))
    return (
        f"weights {weights['label']}"
        + (f" ({weights['note']})" if weights["note"] else "")
        + f"; {drawn} {embedding['n_channels']} channels{seed}; strategy {used}, {config['dtype']}"
        + (f"; INVALID and left out: {', '.join(invalid)}" if invalid else "")
    )


def title_warnings(records: Sequence[Record]) -> tuple[str, ...]:
    """What no reader may miss: drawn data, untrained weights (and whose, where others are trained)."""
    found = []
    if any(r["dataset"]["name"] == "demo" for r in records):
        found.append("demo data, not MVTec AD")
    unofficial = dict.fromkeys(r["dataset"]["category"] for r in records if r["dataset"]["official_split"] is False)
    if unofficial:
        found.append(f"not the official split: {', '.join(unofficial)}")
    untrained = dict.fromkeys(r["config"]["backbone"] for r in records if not r["weights"]["trained"])
    if untrained:
        whose = f": {', '.join(untrained)}" if any(r["weights"]["trained"] for r in records) else ""
        found.append(f"untrained random weights{whose}")
    return tuple(found)


def shared_facts(records: Sequence[Record]) -> tuple[str, ...]:
    """Provenance that all records share, each fact once."""

    def distinct(values: Sequence[Any]) -> str:
        return ", ".join(dict.fromkeys(str(v) for v in values))

    def code(environment: Record) -> str:
        commit = environment["commit"]
        where = f" at commit {commit[:12]}{' with changes' if environment['dirty'] else ''}" if commit else ""
        return f"padim-bench {environment['versions']['padim-bench']}{where}"

    environments = [r["environment"] for r in records]
    sizes = dict.fromkeys(size for r in records for size in r["dataset"]["image_sizes"])
    image_level = dict.fromkeys(r["dataset"]["category"] for r in records if not r["dataset"]["has_masks"])
    facts = [
        f"protocol {distinct([r['config']['protocol']['name'] for r in records])}, "
        f"pixels compared at {distinct([r['dataset']['resolution'] for r in records])}",
        f"images as stored: {', '.join(list(sizes)[:6])}{', ...' if len(sizes) > 6 else ''}",
        f"code: {distinct([code(e) for e in environments])}; "
        f"torch {distinct([e['versions']['torch'] for e in environments])}, "
        f"timm {distinct([e['versions']['timm'] for e in environments])}; "
        f"{distinct([e['cpu'] for e in environments])}, {distinct([r['config']['threads'] for r in records])} threads",
    ]
    if image_level:
        facts.append(f"without ground-truth masks, image level only: {', '.join(image_level)}")
    return tuple(facts)
