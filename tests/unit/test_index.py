"""The page of a results folder links what is there, and only that."""

from __future__ import annotations

from pathlib import Path

from padim_bench.report.index import index_page


def test_pages_of_other_commands_are_linked_where_they_are(tmp_path: Path) -> None:
    assert "## Speed" not in index_page(tmp_path)
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "peers.md").write_text("# Beside other implementations\n")
    text = index_page(tmp_path)
    assert "(peers/peers.md), made by `tox -e peers`." in text
    assert "benchmarks/README.md" not in text
