"""Names of any characters in Markdown, LaTeX, CSV and figures: shown as they are, and never markup."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest

from padim_bench.report.figures import render, spread_figure
from padim_bench.report.page import Grid, Page, latex_table, markdown_page

ROOT = Path(__file__).parents[2]
NAMES = [
    "a|b", "a\nb", "a,b", 'a"b', "<script>", "&lt;", "5%", "_x_", "metal_nut", "a\\b", "a\\|b", "*b*", "`c`",
    "[x](y)", "[x]: y", "~~d~~", "$e$", "$f", "x^2", "{g}", "#1", "[h]", "\x1b[31m", "\udcff", "-1 of 2", "<= 2",
]  # fmt: skip
GRID = Grid(["Category", *NAMES], [[name, *(f"{i}.00" for i in range(len(NAMES)))] for name in NAMES])


def _shown(cell: str) -> str:
    """What a Markdown reader shows of a cell without markup: escapes taken back."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)


def test_a_name_is_a_cell_of_markdown_and_no_markup() -> None:
    text = markdown_page("A heading [DEMO DATA]", [("", GRID)], [f"Left out: {', '.join(NAMES)}."])
    assert text.startswith("# A heading [DEMO DATA]\n")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == len(NAMES) + 2
    assert {len(row) for row in rows} == {len(NAMES) + 1}
    cells = [row[0].strip() for row in rows[2:]]
    assert [_shown(cell) for cell in cells[:6]] == ["a|b", "a\\nb", "a,b", 'a"b', "<script>", "&lt;"]
    spelled = [n.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\udcff", "\\xff") for n in NAMES]
    assert [_shown(cell) for cell in cells] == spelled
    for cell in (*cells, text.splitlines()[-1]):
        assert not re.search(r"(?<!\\)(`|<\w|\*\S|~~|&\w+;|\]\()", cell.replace("\\[x](y)", "")), cell
    assert "metal_nut" in cells  # which means nothing within a word, and reads better
    assert "\x1b" not in text
    text.encode("utf-8")


def test_our_own_words_in_the_committed_pages_are_no_markup_either() -> None:
    """Escaping what a page holds changes nothing in it: asterisks after numbers, brackets in titles."""
    for path in sorted((ROOT / "results" / "tables").glob("*.md")):
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        captions = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
        rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
        again = markdown_page(first.removeprefix("# "), [("", Grid(rows[0], rows[1:]))], captions).splitlines()
        assert [x for x in again if x[:2] in {"# ", "- ", "| "}] == [
            x for x in [first, *lines] if x[:2] in {"# ", "- ", "| "}
        ]


def test_a_name_is_a_cell_of_latex_and_no_command() -> None:
    text = latex_table("t", "A heading", [("", GRID)], [f"Left out: {', '.join(NAMES)}."])
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == len(NAMES) + 1
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(NAMES)}
    for row in rows:
        assert len(re.findall(r"(?<!\\)[%#_]", row)) == 0
        assert len(re.findall(r"(?<!\\)\$", row)) % 2 == 0
        assert len(re.findall(r"(?<!\\)\{", row)) == len(re.findall(r"(?<!\\)\}", row))
        assert not re.search(r"[<>|\x00-\x1f]", row)
        assert not row.strip().startswith("[")  # which would be the argument of the line break before it
    text.encode("utf-8")


def test_a_name_is_a_value_of_csv() -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(GRID.rows)
    text = Page("t", "A heading", [("", GRID)], [], out.getvalue()).texts[".csv"]
    assert [row[0] for row in csv.reader(io.StringIO(text, newline=""))] == NAMES


@pytest.mark.filterwarnings("error")
def test_a_name_is_a_label_of_a_figure_and_no_mathematics() -> None:
    names = [name for name in NAMES if name.isascii()]
    frame = pd.DataFrame(
        [(m, c, "pro", s, 90.0 + s, "r") for m in ("Rd100", "all") for c in names for s in (0, 1)],
        columns=["method", "category", "metric", "seed", "value", "record"],
    )
    figure = spread_figure(frame, {"pro": "PRO"}, ["Rd100"], "all", {}, f"not the official split: {', '.join(names)}")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[names.index("$f")] == r"\$f"
    assert labels[1] == r"a\nb"
    assert render(figure)["svg"].startswith(b"<?xml")
