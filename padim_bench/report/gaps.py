"""The gaps report: published numbers side by side, and which choice of the protocol moves which number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from padim_bench.data.datasets import PAPER_DATASET
from padim_bench.records.frame import variant
from padim_bench.records.runs import RunRecord
from padim_bench.report.page import NONE, Grid, Page, Section, Source, csv_text, number
from padim_bench.report.spec import metric_titles, read_paper, read_reproductions, specs_folder
from padim_bench.report.tables import shared_facts, title_warnings
from padim_bench.report.values import shown_values

if TYPE_CHECKING:
    import pandas as pd

# Titles of protocols and their names in records, in order.
Steps = Sequence[tuple[str, str]]
Sources = dict[tuple[int, int], Source]


def gaps_page(
    spec: Mapping[str, Any],
    walks: Mapping[str, Steps],
    alone: Steps,
    variants: Mapping[str, tuple[str, str]],
    runs: Mapping[str, Sequence[RunRecord]],
    missing: Mapping[str, str],
) -> Page:
    """The report.

    Args:
        spec: ``reproduce/gaps.toml``.
        walks: per heading, the protocols from one preset to another.
        alone: ``paper``, and then the protocols that change one of its choices.
        variants: per key of a PRO variant, its name and what it is.
        runs: per model title, the records of all its protocols.
        missing: per model title that did not run, why.
    """
    records = [r for of_model in runs.values() for r in of_model]
    values = shown_values(runs, [*metric_titles(spec), "pro", *(variant("pro", key) for key in variants)])
    on_record = set(values.metric)  # a variant that came after these records were made has no row
    variants = {key: told for key, told in variants.items() if variant("pro", key) in on_record}
    report = _Report(spec, runs, values)
    for model in spec["models"]:
        report.published(model)
    main = spec["models"][0]["title"]
    if main in runs:
        for heading, steps in walks.items():
            report.ablation(main, f"{main}: {heading}, one choice at a time", steps, cumulative=True)
        report.ablation(main, f"{main}: one choice changed alone", alone, cumulative=False)
        report.variants(main, alone[0][1], {key: name for key, (name, _) in variants.items()})
    cited = [f"{r['title']}: {r['source']}." for r in spec["reproductions"] if r["id"] in report.cited]
    captions = [
        "Percent, and points in brackets. Published values are copied as printed; means are over the categories shown "
        "that have a value, and never compared across differing categories.",
        *report.notes,
        *[f"INVALID and left out: {', '.join(invalid)}." for invalid in [_invalid(records)] if invalid],
        *[f"{title}: not run: {why}." for title, why in missing.items()],
        *dict.fromkeys(cited),
        *[f"PRO variant {name}: {what}." for name, what in variants.values() if report.has_variants],
        *[f"{fact[0].upper()}{fact[1:]}." for fact in shared_facts(records, values)],
    ]
    shout = "".join(f" [{w.upper()}]" for w in title_warnings(records))
    heading = f"Gaps: {spec['title']}{shout}"
    return Page(spec["name"], heading, report.sections, captions, report.csv(), records=tuple(records))


OURS = "ours: "
N_NAMED = 3  # choices, in the note on which move a metric most
SLIGHT = 0.1  # points


class _Report:
    """Collects the grids, and the same numbers in long form."""

    def __init__(self, spec: Mapping[str, Any], runs: Mapping[str, Sequence[RunRecord]], values: pd.DataFrame) -> None:
        self.spec = spec
        groups = values.dropna(subset="value").groupby(["title", "protocol", "metric"], sort=False)
        self._values = {place: dict(zip(lines.category, lines.value, strict=True)) for place, lines in groups}
        self._sources = {
            (*place, category): Source((), "", "%", (value,), (record,), _interval(low, high))
            for place, lines in groups
            for category, value, record, low, high in zip(
                *(lines[column] for column in ("category", "value", "record", "low", "high")), strict=True
            )
        }
        self.sections: list[Section] = []
        self.lines: list[list[str]] = []
        self.notes: list[str] = []
        self.cited: set[str] = set()
        self.has_variants = False
        if runs:
            self.notes.append(
                f"Ours is one draw of channels, seed {spec['seed']}, drawn as the most popular public script draws. "
                "Other draws move a category too, some by more than these gaps: see the seeds report."
            )
        records = [r for of_model in runs.values() for r in of_model]
        self.categories = list(dict.fromkeys(r.dataset.category for r in records))
        self.real = all(r.dataset.name == PAPER_DATASET for r in records)
        side = records[0].config.protocol.images.resize if records else 0
        if records and all(r.dataset.image_sizes == (f"{side}x{side}",) for r in records):
            self.notes.append(
                f"Images and masks are stored at {side}x{side} here, so how they are resized, and comparing at the "
                "masks' own resolution, change nothing: those rows say nothing of the originals."
            )

    def values(self, title: str, protocol: str, metric: str) -> dict[str, float]:
        """Percent by category, of valid runs."""
        return self._values.get((title, protocol, metric), {})

    def sources(
        self, title: str, places: Sequence[Sequence[tuple[str, str] | None]], columns: Sequence[str]
    ) -> Sources:
        """Of a grid's numbers: for each row and column of its (protocol, metric), or None, and its category."""
        found = {
            (i, j): self._sources.get((title, *place, category))
            for i, row in enumerate(places)
            for j, (place, category) in enumerate(zip(row, columns, strict=True), start=1)
            if place is not None
        }
        return {where: source for where, source in found.items() if source is not None}

    def published(self, model: Mapping[str, Any]) -> None:
        """Paper, public reproductions, and ours under each preset."""
        folder, title = specs_folder(), model["title"]
        paper = read_paper(folder / self.spec["paper_csv"])
        theirs = read_reproductions(folder / self.spec["reproductions_csv"])
        names = {r["id"]: r["title"] for r in self.spec["reproductions"]}
        for key, called in metric_titles(self.spec).items():
            columns: dict[str, dict[str, float]] = {}
            if self.real:
                columns["paper"] = {
                    row: p.value for (m, row, k), p in paper.items() if (m, k) == (model["paper_method"], key)
                }
                for one in model["reproductions"]:
                    columns[names[one]] = {row: v for (i, row, k), v in theirs.items() if (i, k) == (one, key)}
                    self.cited |= {one} if columns[names[one]] else set()
            for preset in self.spec["presets"]:
                columns[f"{OURS}{preset}"] = self.values(title, preset, key)
            columns = {name: found for name, found in columns.items() if any(c in found for c in self.categories)}
            if not columns:
                continue
            rows = []
            for category in self.categories:
                rows.append([category, *(_shown(name, found.get(category)) for name, found in columns.items())])
            shared = [c for c in self.categories if all(c in found for found in columns.values())]
            if shared:
                means = [_shown(n, fmean(found[c] for c in shared), 2) for n, found in columns.items()]
                rows.append([f"mean of {', '.join(shared)}", *means])
            section = f"{title}, {called}: published and ours"
            presets = [(name.removeprefix(OURS), key) if name.startswith(OURS) else None for name in columns]
            sources: Sources = {}
            for i, category in enumerate(self.categories):
                here = self.sources(title, [presets], [category] * len(presets))
                sources |= {(i, j): source for (_, j), source in here.items()}
            rules = frozenset({len(self.categories)})
            self.sections.append((section, Grid(["Category", *columns], rows, rules, sources)))
            for name, found in columns.items():
                for category in self.categories:
                    self.line("published", title, key, name, category, found.get(category))
            self.disagreement(title, key, called, columns)

    def disagreement(self, title: str, key: str, called: str, columns: Mapping[str, Mapping[str, float]]) -> None:
        """How far public sources, the paper among them, are from each other, beside how far they are from ours."""
        ours = {name: found for name, found in columns.items() if name.startswith(OURS)}
        public = {name: found for name, found in columns.items() if name not in ours}
        rows, nearer = [], 0
        main = next((name for name, found in ours.items() if found), None)
        for category in self.categories:
            theirs = [found[category] for found in public.values() if category in found]
            if main is None or category not in ours[main] or len(theirs) < 2:
                continue
            between = fmean(abs(a - b) for a, b in combinations(theirs, 2))
            away = {
                name: fmean(abs(found[category] - one) for one in theirs)
                for name, found in ours.items()
                if category in found
            }
            nearer += away[main] < between
            far = [number(away.get(name)) for name in ours]
            rows.append([category, str(len(theirs)), number(max(theirs) - min(theirs)), number(between), *far])
            self.line("disagreement", title, key, "between public sources", category, between)
            for name, distance in away.items():
                self.line("disagreement", title, key, f"public sources from {name}", category, distance)
        if main is None or not rows:
            return
        header = ["Category", "Sources", "their range", "from each other", *(f"from {name}" for name in ours)]
        heading = f"{title}, {called}: how far public sources are from each other and from ours (mean, in points)"
        self.sections.append((heading, Grid(header, rows)))
        self.notes.append(
            f"{title}, {called}: public sources, the paper among them, are farther from each other than from ours "
            f"(protocol {main.removeprefix(OURS)}) in {nearer} of {len(rows)} categories, by the mean absolute "
            "difference of all their pairs, and of each to ours; one more such source would be as far from each."
        )

    def ablation(self, title: str, heading: str, steps: Steps, *, cumulative: bool) -> None:
        """Values of each step, and the change: from the step before, or from the first."""
        for key, called in metric_titles(self.spec).items():
            rows: list[list[str]] = []
            moved: dict[str, float] = {}
            before: dict[str, float] = {}
            by_step = [self.values(title, protocol, key) for _, protocol in steps]
            shared = [c for c in self.categories if all(c in found for found in by_step)]
            for i, ((step, _), found) in enumerate(zip(steps, by_step, strict=True)):
                if i == 0:
                    before = found
                row = [step]
                for column in (*self.categories, "mean"):
                    now, then = _of(found, column, shared), _of(before, column, shared)
                    change = None if i == 0 or now is None or then is None else now - then
                    row.append(number(now) + ("" if change is None else f" ({round(change, 2) + 0.0:+.2f})"))
                    self.line(heading, title, key, step, column, now, change)
                    if column == "mean" and change is not None:
                        moved[step] = change
                rows.append(row)
                before = found if cumulative else before
            if not cumulative and moved:
                most = sorted(moved.items(), key=lambda item: -abs(item[1]))[:N_NAMED]
                self.notes.append(
                    f"{called}: the choices that move the mean of {', '.join(shared)} most, each alone: "
                    + ", ".join(f"{step} ({change:+.2f})" for step, change in most)
                    + f"; {sum(abs(change) < SLIGHT for change in moved.values())} of {len(moved)} move it by less "
                    f"than {SLIGHT} points."
                )
            if any(cell != NONE for row in rows for cell in row[1:]):
                what = "change from the row above" if cumulative else "change from the first row"
                header = ["Protocol", *self.categories, "mean"]
                places = [[(protocol, key)] * len(self.categories) for _, protocol in steps]
                sources = self.sources(title, places, self.categories)
                self.sections.append((f"{heading}: {called} ({what})", Grid(header, rows, sources=sources)))

    def variants(self, title: str, protocol: str, names: Mapping[str, str]) -> None:
        """Our exact PRO and the deviating definitions, on the same maps."""
        exact = self.values(title, protocol, "pro")
        found = {name: self.values(title, protocol, variant("pro", key)) for key, name in names.items()}
        categories = [c for c in exact if any(c in values for values in found.values())]
        if not categories:
            return
        self.has_variants = True
        rows = [["exact (ours)", *(number(exact[c]) for c in categories)]]
        for name, values in found.items():
            row = [name]
            for category in categories:
                value = values.get(category)
                change = None if value is None else value - exact[category]
                row.append(number(value) + ("" if change is None else f" ({round(change, 2) + 0.0:+.2f})"))
                self.line("PRO variants", title, "pro", name, category, value, change)
            rows.append(row)
        heading = f"{title}: PRO by other definitions, on the same maps, for explanation only"
        keys = ["pro", *(variant("pro", key) for key in names)]
        sources = self.sources(title, [[(protocol, key)] * len(categories) for key in keys], categories)
        self.sections.append((heading, Grid(["Definition", *categories], rows, frozenset({1}), sources)))

    def line(
        self, section: str, model: str, metric: str, row: str, category: str, value: float | None,
        change: float | None = None,
    ) -> None:  # fmt: skip
        if value is not None:
            shown = [number(value, 4), "" if change is None else f"{round(change, 4) + 0.0:+.4f}"]
            self.lines.append([section, model, metric, row, category, *shown])

    def csv(self) -> str:
        return csv_text(["section", "model", "metric", "row", "category", "value", "change"], self.lines)


def _interval(low: float, high: float) -> tuple[float, float] | None:
    return None if math.isnan(low) else (low, high)


def _invalid(records: Sequence[RunRecord]) -> list[str]:
    return [f"{r.dataset.category} under {r.config.protocol.title}" for r in records if not r.valid]


def _of(values: Mapping[str, float], column: str, shared: Sequence[str]) -> float | None:
    """A category's value, or the mean over the categories that every step has."""
    if column != "mean":
        return values.get(column)
    return fmean(values[c] for c in shared) if shared else None


def _shown(name: str, value: float | None, digits: int = 1) -> str:
    """Published values have one digit, ours two."""
    return number(value, 2 if name.startswith(OURS) else digits)
