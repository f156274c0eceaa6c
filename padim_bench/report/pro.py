"""The PRO report: by which definition our maps give the paper's printed column, and what that would change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.metrics.resampling import ends
from padim_bench.records.frame import variant
from padim_bench.records.runs import RunRecord
from padim_bench.report.figures import render, spread_figure
from padim_bench.report.page import NONE, Grid, Page, Section, Source, csv_text, mean_sd, number
from padim_bench.report.spec import read_paper, read_reproductions, specs_folder
from padim_bench.report.tables import invalid_seeds, shared_facts, title_warnings
from padim_bench.report.values import mean_interval, shown_values

if TYPE_CHECKING:
    import pandas as pd

MVTEC = "MVTec's definition"
PAPER = "paper"
PER_IMAGE = "pro_per_image"
OBJECTS, ALL = "objects", "all"
# By category.
Column = Mapping[str, float]


def distances(values: pd.DataFrame, printed: Column) -> pd.DataFrame:
    """How far each definition's column is from a printed one: root mean squares over categories, in points.

    Args:
        values: a line per definition, category and seed, with the columns definition, category, kind, seed and value,
            in percent. Of a seed that a category lacks nothing is taken, so that all are of the same draws.
        printed: percent by category; others than these are left out.

    Returns:
        Of every definition and ``over`` ("objects", "all"): n (of categories), ``of_means`` (of the means over seeds),
        and of the distances of single seeds ``mean``, ``sd`` (NaN of one seed), ``low`` and ``high``.
    """
    import pandas as pd

    kept = values[values.category.isin(list(printed))]
    lines = []
    for over in (OBJECTS, ALL):
        chosen = kept[kept.kind != "texture"] if over == OBJECTS else kept
        for definition, mine in chosen.groupby("definition", sort=False):
            by_seed = mine.pivot(index="seed", columns="category", values="value").dropna()
            if by_seed.empty:
                continue
            off = by_seed - pd.Series(dict(printed)).reindex(by_seed.columns)
            ones = np.sqrt((off**2).mean(axis="columns"))
            of_means = float(np.sqrt((off.mean() ** 2).mean()))
            spread = ones.mean(), ones.std(), ones.min(), ones.max()
            lines.append((definition, over, by_seed.shape[1], of_means, *spread))
    columns = ["definition", "over", "n", "of_means", "mean", "sd", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


def pro_page(
    spec: Mapping[str, Any],
    variants: Mapping[str, str],
    runs: Mapping[str, Sequence[RunRecord]],
    missing: Mapping[str, str],
) -> Page:
    """The report.

    Args:
        spec: ``reproduce/pro.toml``.
        variants: what each deviating definition is, by its name.
        runs: per model title, the records of all its seeds and categories.
        missing: per model title that did not run, why.
    """
    named = {"pro": MVTEC} | {variant("pro", name): name for name in variants}
    values = shown_values(runs, [*named, PER_IMAGE])
    records = [r for of_model in runs.values() for r in of_model]
    frame = values[values.metric.isin(list(named))].dropna(subset="value")
    frame = frame.assign(definition=frame.metric.map(named))
    # The two whose values over resampled test images are on record.
    both = values.assign(definition=values.metric.map({"pro": MVTEC, PER_IMAGE: spec["beside"]}))
    resampled = both[both.definition.notna() & both.resampled.notna()]
    report = _Report(spec, frame, resampled, all(r.dataset.name == PAPER_DATASET for r in records))
    for model in spec["models"]:
        report.model(model)
    shown = set(frame.definition)
    cited = [f"{r['title']}: {r['source']}." for r in spec["reproductions"] if r["id"] in report.cited]
    captions = [
        _coverage(records),
        "Percent, and points. Means over seeds ± standard deviation over them. A distance is the root mean square over "
        "categories of our value less the printed one: of the means over seeds, and of one seed's values, as mean ± "
        "standard deviation (smallest to largest) over seeds.",
        *report.notes,
        *[f"{title}: not run: {why}." for title, why in missing.items()],
        *invalid_seeds(runs),
        *dict.fromkeys(cited),
        *[f"{name}: {what}." for name, what in variants.items() if name in shown],
        *[f"{fact[0].upper()}{fact[1:]}." for fact in (shared_facts(records, values) if records else ())],
    ]
    warned = title_warnings(records)
    shout = "".join(f" [{w.upper()}]" for w in warned)
    drawn = [one for one in (MVTEC, spec["beside"]) if one in shown]

    def figure() -> Mapping[str, bytes]:
        lines = "".join(f"\n[{w.upper()}]" for w in warned)
        chosen = frame[frame.definition.isin(drawn)].assign(method=frame.definition, metric=frame.title)
        panels = {title: f"{title}: PRO" for title in report.printed_of}
        printed = {(c, title): v for title, column in report.printed_of.items() for c, v in column.items()}
        title = f"PRO by two definitions, on the same maps: each point is one seed, bars are means{lines}"
        return render(spread_figure(chosen, panels, drawn, None, printed, title, paper="printed in the paper"))

    return Page(
        spec["name"],
        f"PRO: {spec['title']}{shout}",
        report.sections,
        captions,
        report.csv(),
        absent=tuple(missing),
        figures={} if frame.empty else {spec["name"]: figure},
        records=tuple(records),
        finding=report.finding,
    )


class _Report:
    """Collects the grids, the sentences that follow from them, and the same numbers in long form."""

    def __init__(self, spec: Mapping[str, Any], frame: pd.DataFrame, drawn: pd.DataFrame, real: bool) -> None:
        self.spec, self.frame, self.drawn, self.real = spec, frame, drawn, real
        folder = specs_folder()
        self.paper = read_paper(folder / spec["paper_csv"])
        theirs = read_reproductions(folder / spec["reproductions_csv"])
        self.theirs = {(one, row): value for (one, row, metric), value in theirs.items() if metric == "pro"}
        self.names = {r["id"]: r["title"] for r in spec["reproductions"]}
        self.sections: list[Section] = []
        self.notes: list[str] = []
        self.lines: list[list[str]] = []
        self.cited: set[str] = set()
        self.printed_of: dict[str, Column] = {}
        self.n_printed = 0
        self.finding: tuple[str, Grid] | None = None

    def model(self, model: Mapping[str, Any]) -> None:
        """Everything about one model, ours or only what is printed of it."""
        title = model["title"]
        of_model = self.frame[self.frame.title == title]
        categories = list(dict.fromkeys(of_model.category))
        n_runs = of_model.groupby("definition").size()
        whole = set(n_runs[n_runs == n_runs.get(MVTEC, 0)].index)  # the same runs for every definition
        mine = of_model[of_model.definition.isin(whole)]
        if partly := [d for d in dict.fromkeys(of_model.definition) if d not in whole]:
            self.notes.append(f"{title}: not on record, or undefined, in some run, and left out: {', '.join(partly)}.")
        published = self.published(model)
        if mine.empty:
            self.printed_alone(title, published)
            return
        self.n_printed = len(published.get(PAPER, {}))
        self.printed_of[title] = {c: v for c, v in published.get(PAPER, {}).items() if c in categories}
        to = {name: distances(mine, column) for name, column in published.items()}
        order = self.nearest_first(to.get(PAPER), list(dict.fromkeys(mine.definition)))
        if PAPER in to and not to[PAPER].empty:
            self.to_paper(title, to[PAPER], order, mine)
            self.found(title, to[PAPER], order, mine)
        self.by_category(title, mine, order, published, categories)
        self.over_images(title, mine)
        self.taken_apart(title, mine, categories)
        self.to_others(title, to, order)
        if PAPER in to and not to[PAPER].empty:
            self.what_fits(title, mine, to[PAPER], order)
            self.verdicts(title, model["paper_method"], mine)
            self.would_settle(title, published, categories)
        for line in mine.itertuples():
            self.line("value", title, line.definition, line.category, line.seed, line.value, line.record[:12])

    def published(self, model: Mapping[str, Any]) -> dict[str, Column]:
        """Printed columns by whose they are: all categories that each has."""
        if not self.real:
            return {}
        columns: dict[str, Column] = {
            PAPER: {
                row: p.value
                for (method, row, metric), p in self.paper.items()
                if (method, metric) == (model["paper_method"], "pro")
            }
        }
        for one in model["reproductions"]:
            columns[self.names[one]] = {row: v for (i, row), v in self.theirs.items() if i == one}
            self.cited.add(one)
        return {name: {row: v for row, v in c.items() if row not in _MEANS} for name, c in columns.items()}

    def overs(self, found: pd.DataFrame) -> list[str]:
        """Objects and all, or only all where there are objects alone or none."""
        n = found.groupby("over").n.max()
        return [over for over in (OBJECTS, ALL) if over == ALL or n.get(OBJECTS, n[ALL]) < n[ALL]]

    def nearest_first(self, to_paper: pd.DataFrame | None, definitions: list[str]) -> list[str]:
        """Definitions by their distance to the paper over the objects, or over all where there is no object."""
        if to_paper is None or to_paper.empty:
            return definitions
        over = self.overs(to_paper)[0]
        ranked = to_paper[to_paper.over == over].sort_values("of_means", kind="stable")
        return [*ranked.definition, *(d for d in definitions if d not in set(ranked.definition))]

    def to_paper(self, title: str, found: pd.DataFrame, order: list[str], mine: pd.DataFrame) -> None:
        """How far every definition is from the paper's column, nearest first."""
        overs = self.overs(found)
        by = {(line["definition"], line["over"]): line for line in found.to_dict("records")}
        header = ["Definition"]
        for over in overs:
            n = found[found.over == over].n.iloc[0]
            header += [f"{over} ({n}): means", f"{over}: one seed"]
        header.append("printed value within the seeds' range")
        printed = self.printed_of[title]
        rows = []
        for definition in order:
            row = [definition]
            for over in overs:
                one = by[definition, over]
                row += [number(one["of_means"]), _with_sd(*(one[name] for name in ("mean", "sd", "low", "high")))]
                self.line("distance to paper", title, definition, over, "means", one["of_means"])
                self.line("distance to paper", title, definition, over, "one seed, mean", one["mean"])
            inside = [c for c, low, high in _ranges(mine, definition) if c in printed and low <= printed[c] <= high]
            row.append(f"{len(inside)} of {len(printed)}")
            rows.append(row)
        self.sections.append((f"{title}: distance to the paper's printed PRO, nearest first", Grid(header, rows)))

    def found(self, title: str, away: pd.DataFrame, order: list[str], mine: pd.DataFrame) -> None:
        """The first model's two definitions beside the printed column: what a reader is to see first."""
        both = [MVTEC, self.spec["beside"]]
        over = self.overs(away)[0]
        far = {line["definition"]: line for line in away[away.over == over].to_dict("records")}
        if self.finding or not set(both) <= set(far):
            return
        rows: list[list[str]] = []
        sources: dict[tuple[int, int], Source] = {}
        for category in dict.fromkeys(mine.category):
            if category in self.printed_of[title]:
                at = [self.source(title, mine, definition, category) for definition in both]
                sources |= {(len(rows), 2 + i): source for i, source in enumerate(at)}
                printed = number(self.printed_of[title][category], 1)
                rows.append([category, printed, *(mean_sd(source.values) for source in at)])
        n, whose = int(far[MVTEC]["n"]), "objects" if over == OBJECTS else "categories"
        rows.append([f"distance over {n} {whose}", NONE, *(number(far[one]["of_means"]) for one in both)])
        says = (
            f"{title}, percent, on the same maps. Over {n} {whose} PRO by {MVTEC}, which the paper cites, lies "
            f"{far[MVTEC]['of_means']:.2f} points (root mean square) from the printed column, averaged "
            f"{self.spec['beside']} {far[self.spec['beside']]['of_means']:.2f}. Nearest of {len(order)} definitions: "
            f"{order[0]}."
        )
        header = ["Category", "printed", *both]
        self.finding = says, Grid(header, rows, frozenset({len(rows) - 1}), sources)

    def source(self, title: str, mine: pd.DataFrame, definition: str, category: str) -> Source:
        """What stands behind the mean over seeds of one definition in one category."""
        lines = mine[(mine.definition == definition) & (mine.category == category)]
        resampled = self.drawn[(self.drawn.title == title) & (self.drawn.definition == definition)]
        kept = resampled[resampled.record.isin(list(lines.record))].resampled.to_list()
        return Source(
            (category, title, definition),
            f"{title}, PRO by {definition}, {category}",
            "%",
            tuple(map(float, lines.value)),
            tuple(lines.record),
            mean_interval([kept]) if len(kept) == len(lines) else None,
            self.printed_of[title].get(category),
        )

    def by_category(
        self,
        title: str,
        mine: pd.DataFrame,
        order: list[str],
        published: Mapping[str, Column],
        categories: list[str],
    ) -> None:
        """Every definition in every category, below what is printed."""
        rows = [
            [whose, *(number(column.get(c), 1 if whose == PAPER else 2) for c in categories)]
            for whose, column in published.items()
            if any(c in column for c in categories)
        ]
        rules = {len(rows)} if rows else set()
        sources: dict[tuple[int, int], Source] = {}
        for definition in order:
            at = [self.source(title, mine, definition, category) for category in categories]
            sources |= {(len(rows), 1 + i): source for i, source in enumerate(at) if source.values}
            rows.append([definition, *(mean_sd(source.values) for source in at)])
        section = f"{title}: PRO of every category, printed and by every definition on the same maps"
        self.sections.append((section, Grid(["Definition", *categories], rows, frozenset(rules), sources)))

    def over_images(self, title: str, mine: pd.DataFrame) -> None:
        """The two definitions over resampled test images: each category, and the distance over the objects."""
        printed = self.printed_of.get(title, {})
        of_title = self.drawn[(self.drawn.title == title) & self.drawn.category.isin(list(printed))]
        categories = [c for c in dict.fromkeys(mine.category) if c in printed]
        chosen = [c for c in categories if c in set(mine[mine.kind != "texture"].category)] or categories
        rows, away = [], {}
        for definition, lines in of_title.groupby("definition", sort=False):
            values = {c: lines[lines.category == c] for c in categories}
            whole = set(mine[mine.definition == MVTEC].record)
            if set(lines.record) != whole:
                return
            means = {c: np.mean(list(of.resampled), axis=0) for c, of in values.items()}
            within = {c: ends(drawn) for c, drawn in means.items()}
            off = np.sqrt(np.mean([(means[c] - printed[c]) ** 2 for c in chosen], axis=0))
            away[definition] = off
            now = math.sqrt(fmean((float(values[c].value.mean()) - printed[c]) ** 2 for c in chosen))
            cells = [_with_ends(float(values[c].value.mean()), *within[c]) for c in categories]
            rows.append([str(definition), *cells, _with_ends(now, *ends(off))])
            inside = [c for c in categories if within[c][0] <= printed[c] <= within[c][1]]
            self.notes.append(
                f"{title}, {definition}, over test images: the printed value lies within the interval of the mean over "
                f"seeds in {', '.join(inside) or 'none'}."
            )
        if len(rows) < 2:
            return
        less = away[MVTEC] - away[self.spec["beside"]]
        low, high = ends(less)
        self.notes.append(
            f"{title}, over test images: {MVTEC} is further from the printed column than {self.spec['beside']} in "
            f"{int((less > 0).sum())} of {less.size} resamples, by {low:.2f} to {high:.2f} points in 95 % of them. A "
            "distance of resampled values holds their scatter too, and so is larger than that of the values."
        )
        section = f"{title}: over test images, mean over seeds [95 % interval], and distance over the objects shown"
        paper = ["paper", *(number(printed[c], 1) for c in categories), NONE]
        self.sections.append((section, Grid(["Definition", *categories, "distance"], [paper, *rows], frozenset({1}))))

    def taken_apart(self, title: str, mine: pd.DataFrame, categories: list[str]) -> None:
        """What each part of a definition that mixes several does: means over seeds, and the change by the part."""
        means = mine.groupby(["definition", "category"], sort=False).value.mean().unstack("category")[categories]
        means["mean"] = means.mean(axis="columns", skipna=False)
        steps = [MVTEC, *(name for name in self.spec["walk"] if name in means.index)]
        if len(steps) < 2:
            return
        changes = means.loc[steps].diff()
        rows = []
        for i, step in enumerate(steps):
            now, by = means.loc[step], changes.loc[step]
            rows.append(
                [step, *(number(now[c]) + (f" ({round(by[c], 2) + 0.0:+.2f})" if i else "") for c in now.index)]
            )
        section = f"{title}: from {MVTEC} to {steps[-1]}, one part at a time (change from the row above)"
        self.sections.append((section, Grid(["Definition", *means.columns], rows)))

    def to_others(self, title: str, to: Mapping[str, pd.DataFrame], order: list[str]) -> None:
        """The same distances to what other codes publish, over all categories that they have."""
        others = {name: found for name, found in to.items() if name != PAPER and not found.empty}
        if not others:
            return
        columns = [(name, found[found.over == ALL].set_index("definition")) for name, found in others.items()]
        header = ["Definition", *(f"{name} ({found.n.iloc[0]})" for name, found in columns)]
        rows = []
        for definition in order:
            rows.append([definition, *(number(found.of_means[definition]) for _, found in columns)])
            for name, found in columns:
                self.line(f"distance to {name}", title, definition, ALL, "means", found.of_means[definition])
        nearest = [f"{name}'s by {found.of_means.idxmin()} ({found.of_means.min():.2f})" for name, found in columns]
        self.notes.append(
            f"{title}: nearest to other codes: {'; '.join(nearest)}. Those were computed under preprocessing of their "
            "own, so a distance to them is of protocol and definition together."
        )
        section = f"{title}: distance to other codes' PRO, over all categories shown that they have"
        self.sections.append((section, Grid(header, rows)))

    def printed_alone(self, title: str, published: Mapping[str, Column]) -> None:
        """What is printed, where nothing of ours is on record."""
        columns = {name: column for name, column in published.items() if column}
        if len(columns) < 2:
            return
        categories = [c for c in columns[PAPER] if all(c in column for column in columns.values())]
        rows = [
            [c, *(number(column[c], 1 if name == PAPER else 2) for name, column in columns.items())] for c in categories
        ]
        self.sections.append((f"{title}: PRO as printed; nothing of ours", Grid(["Category", *columns], rows)))
        for name, column in columns.items():
            for c in categories:
                self.line("printed", title, name, c, "", column[c])

    def what_fits(self, title: str, mine: pd.DataFrame, found: pd.DataFrame, order: list[str]) -> None:
        """Sentences on what the printed column agrees with, and what with nothing here."""
        printed, beside = self.printed_of[title], self.spec["beside"]
        over = self.overs(found)[0]
        of = found[found.over == over].set_index("definition")
        n_seeds = mine.seed.nunique()
        told = [f"{d} {of.of_means[d]:.2f}" for d in dict.fromkeys([order[0], MVTEC, beside]) if d in of.index]
        which = "the objects" if over == OBJECTS else "the categories"
        self.notes.append(
            f"{title}, distance over {which} shown, {n_seeds} seed{'s' if n_seeds > 1 else ''}: {'; '.join(told)}. "
            "Intervals are over seeds alone: categories are too few to resample, and their scatter is in no interval "
            "here."
        )
        for definition in dict.fromkeys([MVTEC, beside, order[0]]):
            ranges = {c: (low, high) for c, low, high in _ranges(mine, definition) if c in printed}
            if not ranges:
                continue
            inside = [c for c, (low, high) in ranges.items() if low <= printed[c] <= high]
            outside = [
                f"{c} ({printed[c]:.1f}, ours {low:.2f} to {high:.2f})"
                for c, (low, high) in ranges.items()
                if c not in inside
            ]
            self.notes.append(
                f"{title}, {definition}: the printed value lies within the range of seeds in "
                f"{', '.join(inside) or 'none'}; outside in {', '.join(outside) or 'none'}."
            )
        every = {d: {c: (low, high) for c, low, high in _ranges(mine, d)} for d in order}
        means = mine.groupby(["definition", "category"]).value.mean()
        for c, value in printed.items():
            if any(one[c][0] <= value <= one[c][1] for one in every.values()):
                continue
            nearest = min(order, key=lambda d: abs(means[d, c] - value))
            self.notes.append(
                f"{title}, {c}: no definition here gives the printed {value:.1f} with any seed; the nearest mean is "
                f"{means[nearest, c]:.2f} ({nearest})."
            )
        self.notes.append(
            f"{title}: {len(order)} definitions are held against the printed values of {len(printed)} of "
            f"{self.n_printed} categories. That one of them comes near is a reading that these figures allow, not a "
            "proof, and where several lie within the spread over seeds, they do not tell which."
        )

    def verdicts(self, title: str, method: str, mine: pd.DataFrame) -> None:
        """Whether PaDiM is above its rival as printed, and by two definitions on our maps."""
        printed, rival = self.printed_of[title], self.spec["rival"]
        theirs = {(m, row): p.value for (m, row, metric), p in self.paper.items() if metric == "pro"}
        others = [m for m in dict.fromkeys(m for m, _ in theirs) if not m.startswith("PaDiM")]
        definitions = [d for d in (MVTEC, self.spec["beside"]) if d in set(mine.definition)]
        rows, changed = [], {d: list[str]() for d in definitions}
        for other in sorted(others, key=lambda m: m != rival):
            for c, value in printed.items():
                if (other, c) not in theirs:
                    continue
                bar = theirs[other, c]
                row = [f"{c}: {other}", number(bar, 1), f"{number(value, 1)} ({_above(value, bar)})"]
                turned = False
                for definition in definitions:
                    ours = mine[(mine.definition == definition) & (mine.category == c)].value
                    mean, n_above = float(ours.mean()), int((ours > bar).sum())
                    row.append(f"{mean:.2f} ({n_above} of {len(ours)} above)")
                    if _above(mean, bar) != _above(value, bar):
                        turned = True
                        changed[definition].append(f"{c} against {other} ({n_above} of {len(ours)} seeds above)")
                if turned or other == rival:
                    rows.append(row)
        header = ["Category: method", "its printed PRO", f"{title}, printed", *definitions]
        section = f"{title}: above or below, printed and measured: {rival}, and others whose verdict changes"
        self.sections.append((section, Grid(header, rows)))
        for definition, which in changed.items():
            self.notes.append(f"{title}, verdicts that change by {definition}: {', '.join(which) or 'none'}.")
        self.notes.append(
            f"{title}: other methods' PRO is as Table III prints it beside {method}, by whatever definition it was "
            "made: a verdict between ours and theirs holds only where both are of one definition."
        )

    def would_settle(self, title: str, published: Mapping[str, Column], categories: list[str]) -> None:
        """Sentences on what is not at hand."""
        others = [column for name, column in published.items() if name != PAPER]
        away = {
            c: value - fmean(column[c] for column in others)
            for c, value in published[PAPER].items()
            if c not in categories and others and all(c in column for column in others)
        }
        next_one = ""
        if away:
            c = max(away, key=lambda one: abs(away[one]))
            codes = ", ".join(f"{column[c]:.2f}" for column in others)
            next_one = (
                f" Of the categories not shown, the paper is furthest from the other codes on {c}: printed "
                f"{published[PAPER][c]:.1f}, theirs {codes}. A definition that also gives that value would weigh more "
                "than all of these."
            )
        self.notes.append(
            f"{title}: what would settle it: the paper's evaluation code or its maps, of which none is in public that "
            f"we know of.{next_one}"
        )

    def line(
        self, section: str, model: str, definition: Any, place: Any, which: Any, value: float, record: str = ""
    ) -> None:
        self.lines.append([section, model, str(definition), str(place), str(which), number(value, 4), record])

    def csv(self) -> str:
        return csv_text(["section", "model", "definition", "place", "seed", "value", "record"], self.lines)


_MEANS = ("texture", "object", "all")


def _coverage(records: Sequence[RunRecord]) -> str:
    if not records:
        return "Printed values alone."
    dataset = records[0].dataset.name
    n, n_seeds = len({r.dataset.category for r in records}), len({r.config.model.seed for r in records})
    known = DATASETS.get(dataset)
    of = f" of {len(known.kinds)}" if known and known.kinds else ""
    return f"Dataset {dataset}, {n}{of} categories, {n_seeds} seed{'s' if n_seeds > 1 else ''}."


def _ranges(mine: pd.DataFrame, definition: str) -> list[tuple[str, float, float]]:
    """Each category's smallest and largest value over seeds, by one definition."""
    groups = mine[mine.definition == definition].groupby("category", sort=False).value
    return [(str(c), float(v.min()), float(v.max())) for c, v in groups]


def _with_ends(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _above(value: float, bar: float) -> str:
    return "above" if value > bar else "below" if value < bar else "equal"


def _with_sd(mean: float, sd: float, low: float, high: float) -> str:
    return number(mean) if math.isnan(sd) else f"{mean:.2f} ± {sd:.2f} ({low:.2f} to {high:.2f})"
