"""The page of a results folder links what is there, and only that."""

from __future__ import annotations

import re
from pathlib import Path

from padim_bench.report.index import index_page
from padim_bench.report.page import Grid, Page

PAGE = Page(
    "table3",
    "Table III: a title [DEMO DATA]",
    [("", Grid(["Category"], [["bottle"]]))],
    ["Percent. Dataset mvtec-ad, 1 of 15 categories.", "WR50: not run: no record of it here."],
    "",
    absent=("WR50",),
)


def test_pages_of_other_commands_are_linked_where_they_are(tmp_path: Path) -> None:
    assert "## Speed" not in index_page([], tmp_path)
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "peers.md").write_text("# Beside other implementations\n")
    text = index_page([], tmp_path)
    assert "(peers/peers.md), made by `tox -e peers`." in text
    assert "benchmarks/README.md" not in text


def test_a_page_stands_with_its_coverage_and_what_it_lacks(tmp_path: Path) -> None:
    (line,) = [line for line in index_page([PAGE], tmp_path).splitlines() if "table3" in line]
    assert line.startswith("- [Table III: a title [DEMO DATA]](tables/table3.md)")
    assert line.endswith("Percent. Dataset mvtec-ad, 1 of 15 categories. Not run here: WR50.")
    assert re.findall(r"\((tables/.*?)\)", line) == [f"tables/table3.{end}" for end in ("md", "csv", "tex")]
