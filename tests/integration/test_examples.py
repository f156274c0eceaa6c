"""What the README and the pages of docs/ show is what happens."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch

from padim_bench.cli import main
from padim_bench.cli.program import make_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "console", "py", "text"}  # py and text: signatures and their examples, made


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """What a shell would call of a page's examples."""
    shown = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line.split() for line in re.findall(r"^padim-bench (.*?)(?:\s+#.*)?$", shown, re.MULTILINE)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADIM_BENCH_WEIGHTS", "random")  # no network
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python")).replace("path/to/mvtec-ad", tiny.as_posix())
    names: dict[str, object] = {"images": torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)}
    exec(compile(code, page.name, "exec"), names)
    if "maps, scores" in code:
        assert names["maps"].shape == (2, 224, 224)  # type: ignore[attr-defined]
        assert names["anomalous"].shape == (2,)  # type: ignore[attr-defined]
        assert (tmp_path / "bottle.safetensors").is_file()


def test_the_pages_have_python_examples_where_they_promise_them() -> None:
    assert {page.name for page in PAGES if blocks(page, "python")} >= {"README.md", "python-api.md"}


def test_the_readme_s_path_from_one_s_own_pictures_to_heat_maps(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADIM_BENCH_WEIGHTS", "random")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "bottle" / "train" / "good", "normal")
    shutil.copytree(tiny / "bottle" / "test", "new")
    path = [command for command in commands(ROOT / "README.md") if command[0] in {"fit", "predict"}]
    assert [command[0] for command in path] == ["fit", "predict"]
    for command in path:
        assert main(command) == 0
    with Path("seen/scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(Path("new").rglob("*.png")))
    assert all(Path("seen", row["heat_map"]).is_file() and row["over_threshold"] for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_listings_are_what_the_commands_print(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page, "console"):
        command, _, shown = block.partition("\n")
        assert main(command.removeprefix("$ padim-bench ").split()) == 0
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_parses(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"^```(\w+)$", text, flags=re.MULTILINE)) <= LANGUAGES
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) % 2 == 0
    for command in commands(page):
        assert callable(make_parser().parse_args(command).command)
    for command in re.findall(r"`padim-bench ([\w-]+)(?: [^`]*)?`", text.replace("\n", " ")):
        with pytest.raises(SystemExit) as done:
            make_parser().parse_args([command, "--help"])
        assert done.value.code == 0


def test_the_pages_show_commands_and_listings() -> None:
    assert len(commands(ROOT / "docs" / "command-line.md")) > 20
    assert len(commands(ROOT / "README.md")) >= 3
    assert len([block for page in PAGES for block in blocks(page, "console")]) >= 6
    assert any(command == ["list", "strategies"] for page in PAGES for command in commands(page))
