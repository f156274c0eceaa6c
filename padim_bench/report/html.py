"""All pages as one HTML file: sorted and filtered where it is read, with what stands behind each number.

The file needs nothing but itself. Whatever a name holds is text: the template escapes all that is not marked as safe,
and what the script reads is JSON that cannot end its element.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup

from padim_bench.data.datasets import DATASETS
from padim_bench.html.rendering import Anchors, render
from padim_bench.machine.console import printable
from padim_bench.records.facts import Recorded
from padim_bench.records.runs import RunRecord
from padim_bench.report.machines import MACHINE
from padim_bench.report.page import NONE, Grid, Page, Source
from padim_bench.report.tables import GROUPS, code_facts, thread_fact, title_warnings

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MEANS = "means"  # the category of what is over several


def report_page(pages: Sequence[Page], figures: Mapping[str, str]) -> str:
    """The text of report.html.

    Args:
        pages: in the order in which they stand.
        figures: SVG by the figure's name; those that are not there are left out.
    """
    records = list({r.id: r for page in pages for r in page.records}.values())
    categories, models = _categories(pages, records), _models(pages)
    anchors = Anchors({"report", "finding", "data", *(page.name for page in pages)})
    behind = Behind([*records, *(one for page in pages for one in page.measured)])
    tags = Tags(categories, [name for names in models.values() for name in names])
    # What links to a number that stands in its own page too leads there.
    shown = [_page(page, figures, tags, anchors, behind) for page in pages]
    first = next((page for page in pages if page.finding), None)
    finding = None
    if first is not None and first.finding is not None:
        says, grid = first.finding
        same = {source.place: anchor for anchor, source in behind.sources if anchor.startswith(f"{first.name}-")}
        at = {where: same[source.place] for where, source in grid.sources.items() if source.place in same}
        finding = {"page": first.name, "heading": first.heading, "says": says, "grid": _grid(grid, tags, {}, at)}
    return render(
        TEMPLATE,
        title="PaDiM: benchmark and reproduction",
        warnings=title_warnings(records),
        finding=finding,
        pages=shown,
        categories=categories,
        means=MEANS,
        models=models,
        data=behind.json(),
    )


def _categories(pages: Sequence[Page], records: Iterable[RunRecord]) -> list[str]:
    """Those of the records, and of the paper's tables of the same dataset: in the dataset's order, then by name."""
    found = {r.dataset.category: r.dataset.name for r in records}
    known = [
        name for dataset in dict.fromkeys(found.values()) if dataset in DATASETS for name in DATASETS[dataset].kinds
    ]
    printed = {row for page in pages if page.table for _, row, _ in page.table.spec.paper if page.table.comparable}
    return [*(name for name in known if name in found or name in printed), *sorted(set(found) - set(known))]


def _models(pages: Sequence[Page]) -> dict[str, list[str]]:
    """What a reader may choose: models that ran, and methods that the paper alone has numbers of."""
    tables = [page.table for page in pages if page.table]
    ours = dict.fromkeys(title for table in tables for title in table.models)
    printed = dict.fromkeys(method for table in tables if table.comparable for method, _, _ in table.spec.paper)
    return {"run here": list(ours), "as printed": sorted(set(printed) - set(ours))}


@dataclass(frozen=True)
class Tags:
    """Which model and which category a heading of a row or column is of, by how it begins."""

    categories: Sequence[str]
    models: Sequence[str]

    def of(self, text: str) -> dict[str, str]:
        """Attributes of the heading: m for its model, c for its category."""
        rest = text.partition(": ")[2]  # "grid: SPADE" is of both
        model = _begins(text, self.models) or _begins(rest, self.models)
        category = _begins(text, self.categories) or _begins(rest, self.categories)
        if not category and any(text == title or text.startswith((f"{title}:", f"{title},", f"{title} "))
                                for title in (*GROUPS.values(), "mean", "distance")):  # fmt: skip
            category = MEANS
        return {name: value for name, value in (("m", model), ("c", category)) if value}


def _begins(text: str, names: Sequence[str]) -> str:
    """The longest of the names that a heading is, or begins with; "" for none."""
    ends = (":", ",", " (", " recomputed")
    found = [name for name in names if text == name or text.startswith(tuple(name + end for end in ends))]
    return max(found, key=len, default="")


class Behind:
    """What the script shows of a number: every record and every text once, numbers by their place."""

    def __init__(self, records: Iterable[Recorded]) -> None:
        self.records = {r.key: r for r in records}
        self.sources: list[tuple[str, Source]] = []
        self.rows: dict[str, Mapping[int, tuple[str, ...]]] = {}

    def json(self) -> Markup:
        """{"code": texts, "records": [id, category, seed, index of code, draw], "cells": {anchor: cell}, "rows": ...}.

        A draw is that of a run's training images; of all of them it is left out. A cell is [title, unit, mean, sd, n,
        low, high, paper, verdict, records], numbers as they are shown. Rows are {section: {row: records}} of rows that
        are of some records as a whole.
        """
        used = {identity for _, source in self.sources for identity in source.records}
        used |= {identity for of_rows in self.rows.values() for ids in of_rows.values() for identity in ids}
        kept = [r for key, r in self.records.items() if key in used]
        place = {r.key: i for i, r in enumerate(kept)}
        told = {
            r.key: f"{code_facts([r.environment])}, {thread_fact([r.config.execution.threads])}; "
            f"weights {r.weights.label}"
            for r in kept
        }
        code = list(dict.fromkeys(told.values()))
        cells = {anchor: _cell(source, place) for anchor, source in self.sources}
        document = {
            "code": code,
            "records": [
                [r.id[:12], r.dataset.category, r.config.model.seed, code.index(told[r.key]), *_draw(r)] for r in kept
            ],
            "cells": cells,
            "rows": {
                section: {str(i): [place[one] for one in ids if one in place] for i, ids in of_rows.items()}
                for section, of_rows in self.rows.items()
            },
        }
        text = json.dumps(_printable(document), ensure_ascii=False, separators=(",", ":"))
        return Markup(re.sub(r"[<>&\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text))


def _draw(record: Recorded) -> list[str]:
    drawn = record.config.trained
    return [] if drawn is None else [drawn.label]


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    return {name: _printable(one) for name, one in value.items()} if isinstance(value, dict) else value


def _cell(source: Source, place: Mapping[str, int]) -> list[Any]:
    low, high = source.interval or (None, None)
    sd = stdev(source.values) if len(source.values) > 1 else None
    numbers = [fmean(source.values), sd, len(source.values), low, high, source.paper]
    shown = [n if n is None or isinstance(n, int) else round(n, 2) for n in numbers]
    return [source.title, source.unit, *shown, source.verdict, [place[i] for i in source.records if i in place]]


def _page(page: Page, figures: Mapping[str, str], tags: Tags, anchors: Anchors, behind: Behind) -> dict[str, Any]:
    sections = []
    for title, grid in page.sections:
        name = anchors.new(page.name, _short(title) or "table")
        ours = {w: anchors.new(page.name, *source.place) for w, source in grid.sources.items() if source.place}
        others = {
            (i, j): anchors.new(name, row[0], grid.header[j])
            for i, row in enumerate(grid.rows)
            for j in range(1, len(row))
            if (i, j) not in ours and row[j] != NONE and grid.header[j] != MACHINE
        }
        at = ours | others
        behind.sources += [(at[where], source) for where, source in grid.sources.items() if where in at]
        if grid.of_rows:
            behind.rows[name] = grid.of_rows
        tag = tags.of(title)
        sections.append({"id": name, "title": title, "tag": tag, "grid": _grid(grid, tags, at, {})})
    drawn = [{"name": name, "svg": inline(figures[name], name)} for name in page.figures if name in figures]
    return {
        "name": page.name, "heading": page.heading, "sections": sections, "captions": page.captions, "figures": drawn,
    }  # fmt: skip


def _short(title: str) -> str:
    """The first words of a title, for an anchor."""
    return " ".join(re.split(r"[;,(\[]", title)[0].split()[:5])


def _grid(
    grid: Grid, tags: Tags, anchors: Mapping[tuple[int, int], str], same: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    return {
        "header": [(text, tags.of(text) if j else {}) for j, text in enumerate(grid.header)],
        "rows": [
            {
                "tag": tags.of(row[0]),
                "rule": i in grid.rules,
                "cells": [(text, anchors.get((i, j), ""), same.get((i, j), "")) for j, text in enumerate(row)],
            }
            for i, row in enumerate(grid.rows)
        ],
    }


# Colours of figures that belong to the page, and what the page calls them.
_THEMED = {
    "#ffffff": "var(--card)", "#000000": "var(--ink)", "#404040": "var(--soft)", "#595959": "var(--soft)",
    "#737373": "var(--soft)", "#b0b0b0": "var(--line)", "#bfbfbf": "var(--line)", "#cccccc": "var(--line)",
    "#e6e6e6": "var(--line)", "#ebebeb": "var(--line)", "#0072b2": "var(--blue)", "#1f77b4": "var(--blue)",
}  # fmt: skip
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DRAWN = {"svg", "g", "path", "use", "defs", "clipPath", "rect", "circle", "line", "polygon", "polyline", "image"}


def inline(svg: str, name: str) -> Markup:
    """A figure as a part of a page: what is drawn of it, in the page's colours, its ids apart from all others'."""
    root = ET.fromstring(svg)
    name = re.sub(r"[^\w-]+", "-", name)
    linked = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    _clean(root, linked, name)
    width = root.attrib.pop("width", "").removesuffix("pt")
    root.attrib.pop("height", None)
    root.set("style", f"max-width:{float(width) * 4 / 3:.0f}px" if width else "")
    root.set("role", "img")
    root.set("aria-label", name)
    ET.register_namespace("", _SVG[1:-1])
    return Markup(ET.tostring(root, encoding="unicode"))  # of drawn elements alone, serialised


def _clean(element: ET.Element, linked: set[str], name: str) -> None:
    """Without metadata, styles of whole documents and ids that nothing needs."""
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag.removeprefix(_SVG) not in _DRAWN:
            element.remove(child)
    kept = {}
    for key, value in element.attrib.items():
        if key == "id":
            if value in linked:
                kept[key] = f"{name}.{value}"
        elif key == _LINK:
            if value.startswith("#"):
                kept["href"] = f"#{name}.{value[1:]}"
            elif value.startswith("data:image/png;base64,"):
                kept["href"] = value
        elif not key.startswith("on"):
            own = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}.\1)", value)
            own = re.sub(r"#[0-9a-f]{6}", lambda m: _THEMED.get(m[0], m[0]), own)
            kept[key] = re.sub(r"\s+", " ", own).strip() if key == "d" else own
    element.attrib.clear()
    element.attrib.update(kept)
    element.text = element.tail = None
    for child in element:
        _clean(child, linked, name)
