"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from padim_bench.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_python_examples_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADIM_BENCH_WEIGHTS", "random")  # no network
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("python")).replace("path/to/mvtec-ad", tiny.as_posix())
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    names: dict[str, object] = {"images": images}
    exec(compile(code, "README.md", "exec"), names)
    assert names["maps"].shape == (2, 224, 224)  # type: ignore[attr-defined]
    assert (tmp_path / "bottle.safetensors").is_file()


def test_listings_are_what_the_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert blocks("console")
    for block in blocks("console"):
        command, _, shown = block.partition("\n")
        assert main(command.removeprefix("$ padim-bench ").split()) == 0
        assert capsys.readouterr().out == shown


def test_the_result_tables_and_figures_are_the_committed_ones() -> None:
    tables, peers = ROOT / "results" / "tables", sorted((ROOT / "results" / "peers").rglob("peers.md"))
    shown = [line for line in README.splitlines() if line.startswith("|")]
    for pages in ([tables / "pro.md"], [tables / "table3.md"], peers):  # each has a part of them, whole lines
        committed = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
        assert any(line in committed for line in shown if "---" not in line)
        shown = [line for line in shown if line not in committed]
    assert shown == []
    figures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert figures
    assert all((ROOT / figure).is_file() for figure in figures)


def test_what_the_map_names_is_there() -> None:
    where = README.partition("## Where things are")[2].partition("\n## ")[0]
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    named = [name for name in re.findall(r"`([\w/]+/)`", where) if name not in {"unit/", "integration/"}]
    assert len(named) > 8
    for name in [*links, *named]:
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name


def test_commands_named_in_the_readme_parse() -> None:
    commands = re.findall(r"^padim-bench (.*?)(?:\s+#.*)?$", "\n".join(blocks("sh")).replace("\\\n", " "), re.MULTILINE)
    assert len(commands) >= 6
    from padim_bench.cli.program import make_parser

    for command in commands:
        assert callable(make_parser().parse_args(command.split()).command)
