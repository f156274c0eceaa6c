"""``padim-bench tables``: every page from records alone, the committed ones byte for byte, several folders merged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import CommandLine, assert_refused

from padim_bench.protocols import get_protocol
from padim_bench.records.files import record_path, write_record
from padim_bench.records.runs import RunRecord
from padim_bench.report.index import REPORT
from padim_bench.reproduction.kinds import KINDS
from padim_bench.reproduction.pages import page_names
from tests.drawn_records import ENVIRONMENT, WEIGHTS, run_config, run_record

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results"


def test_the_committed_pages_are_made_of_the_committed_records_byte_for_byte_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom padim_bench.cli import main\ncode = main(sys.argv[1:])\n"
        "print('HEAVY', sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "tables", "--results", str(COMMITTED), "--out", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    details = [path.relative_to(COMMITTED).as_posix() for path in COMMITTED.glob("peers/*/peers.md")]
    assert details
    for page in ("peers/peers.md", *details, "benchmarks/README.md"):  # which other commands made, and the index links
        assert (tmp_path / page).read_bytes() == (COMMITTED / page).read_bytes()
        (tmp_path / page).unlink()
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    there = {
        p.relative_to(COMMITTED).as_posix()
        for p in (
            COMMITTED / "README.md",
            COMMITTED / REPORT,
            *(COMMITTED / "tables").iterdir(),
            *(COMMITTED / "figures").iterdir(),
        )
    }
    assert made == there
    differing = {name for name in made if _without_drawing(tmp_path / name) != _without_drawing(COMMITTED / name)}
    # A figure's curves depend on matplotlib's version, the words and numbers on nothing.
    assert {name for name in differing if not name.startswith("figures/")} == set()
    assert (COMMITTED / REPORT).stat().st_size < 2_000_000


def _without_drawing(path: Path) -> bytes:
    """What a file says, but for the figures that stand within it."""
    return re.sub(rb"<svg.*?</svg>", b"", path.read_bytes(), flags=re.DOTALL)


def _folder(folder: Path, *records: RunRecord) -> Path:
    for record in records:
        write_record(folder, record)
    return folder


def _rows(page: Path) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in reversed(lines)}  # of several grids the first


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with ten seeds of bottle, and one with seeds 0 to 2 of it and of grid."""
    ours = _folder(tmp_path / "ours", *(run_record(run_config("bottle", seed)) for seed in range(10)))
    theirs = [run_record(run_config(category, seed)) for category in ("bottle", "grid") for seed in range(3)]
    return ours, _folder(tmp_path / "theirs", *theirs)


def test_the_seeds_shown_are_those_that_hold_most_runs_over_the_same_categories(
    cli: CommandLine, two: tuple[Path, Path], tmp_path: Path
) -> None:
    reply = cli("tables", "table3", "--results", *two, "--out", tmp_path / "out")
    assert reply.code == 0
    assert (
        f"{two[1]}: runs that a folder named before has too, whose records are taken, whatever made them: 3"
        in reply.err
    )
    text = (tmp_path / "out" / "tables" / "table3.md").read_text()
    assert "seeds 0 to 9" in text  # ten runs of bottle are more than three of both
    assert "1 of 15 categories" in text
    assert cli("tables", "table3", "--results", *two, "--out", tmp_path / "3", "--seeds", 3).code == 0
    text = (tmp_path / "3" / "tables" / "table3.md").read_text()
    assert "seeds 0 to 2" in text
    assert "2 of 15 categories" in text


def test_a_mean_over_seeds_is_that_of_the_records(cli: CommandLine, two: tuple[Path, Path], tmp_path: Path) -> None:
    assert cli("tables", "table3", "--results", two[0], "--out", tmp_path / "out").code == 0
    values = [100 * (run_record(run_config("bottle", seed)).value("pixel_auroc") or 0) for seed in range(10)]
    mean = sum(values) / 10
    sd = (sum((v - mean) ** 2 for v in values) / 9) ** 0.5
    assert _rows(tmp_path / "out" / "tables" / "table3.md")["bottle"][1] == f"{mean:.2f} ± {sd:.2f}"


def test_two_folders_make_the_pages_of_one_that_holds_both(
    cli: CommandLine, two: tuple[Path, Path], tmp_path: Path
) -> None:
    both = tmp_path / "both"
    shutil.copytree(two[0], both)
    for path in (two[1] / "records").iterdir():
        if not (both / "records" / path.name).exists():
            shutil.copy(path, both / "records")
    assert cli("tables", "--results", *two, "--out", tmp_path / "a").code == 0
    assert cli("tables", "--results", both).code == 0
    for path in (tmp_path / "a" / "tables").iterdir():
        assert path.read_bytes() == (both / "tables" / path.name).read_bytes()
    for name in ("README.md", REPORT):
        assert (tmp_path / "a" / name).read_bytes() == (both / name).read_bytes()
    assert not (two[0] / "tables").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataset": {"split_digest": "e" * 64}}, "split of mvtec-ad/grid"),
        ({"weights": {"tensors_sha256": "d" * 64}}, "weights of resnet18"),
        ({"environment": {"versions": ENVIRONMENT.versions | {"padim-bench": "1.0.0"}}}, "major version"),
    ],
)
def test_what_may_not_merge_is_refused_and_both_records_are_named(
    cli: CommandLine, tmp_path: Path, change: dict[str, dict[str, Any]], field: str
) -> None:
    ours = run_record(run_config("grid", 0))
    changes = {name: replace(getattr(ours, name), **members) for name, members in change.items()}
    theirs = run_record(run_config("grid", 1), **({"dataset": replace(ours.dataset)} | changes))
    folders = _folder(tmp_path / "a", ours), _folder(tmp_path / "b", theirs)
    reply = cli("tables", "--results", *folders, "--out", tmp_path / "out")
    assert_refused(reply, field)
    for record in (ours, theirs):
        assert record_path(Path(), record).name in reply.err
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_chosen_where_there_are_several_and_none_is_the_paper_s(cli: CommandLine, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "r", *(run_record(run_config("part", dataset=name)) for name in ("nuts", "bolts")))
    assert_refused(cli("tables", "--results", folder), "--dataset")
    assert_refused(cli("tables", "--results", folder, "--dataset", "screws"), "screws")
    assert cli("tables", "table3", "--results", folder, "--dataset", "nuts").code == 0
    text = (folder / "tables" / "table3.md").read_text()
    assert "Dataset nuts, 1 of 1 categories" in text
    assert "94.9" not in text  # the paper's numbers are of another


def test_another_protocol_has_its_own_records(cli: CommandLine, tmp_path: Path) -> None:
    other = get_protocol("anomalib")
    folder = _folder(tmp_path / "r", run_record(run_config("grid")), run_record(run_config("grid", protocol=other)))
    for protocol in ("paper", "anomalib"):
        assert cli("tables", "table3", "--results", folder, "--protocol", protocol).code == 0
        text = (folder / "tables" / "table3.md").read_text()
        assert f"- Protocol {protocol}; " in text


def test_trained_weights_are_named_and_what_is_not_on_record_too(cli: CommandLine, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "r", run_record(run_config("grid")))
    reply = cli("tables", "--results", folder)
    assert reply.code == 0
    text = (folder / "tables" / "table3.md").read_text()
    assert WEIGHTS.label in text
    assert "- WR50-Rd550: not run: no record of it here." in text
    index = (folder / "README.md").read_text()
    assert "Not run here: WR50-Rd550, EfficientNet-B5, SPADE (WR50), SPADE (R18)." in index
    assert {p.stem for p in (folder / "tables").iterdir()} == {*(f"table{n}" for n in range(1, 8)), "pro"}


def test_the_pro_page_is_of_runs_that_have_the_variants_and_says_so_where_there_are_none(
    cli: CommandLine, tmp_path: Path
) -> None:
    plain = _folder(tmp_path / "plain", run_record(run_config("grid")))
    assert cli("tables", "pro", "--results", plain).code == 0
    text = (plain / "tables" / "pro.md").read_text()
    assert "- R18-Rd100: not run: no record of it here." in text
    assert "## R18-Rd100: PRO as printed; nothing of ours" in text
    assert not (plain / "figures").exists()
    runs = [run_config(category, seed, extras=("pro_variants",)) for category in ("grid", "pill") for seed in range(3)]
    folder = _folder(tmp_path / "r", *map(run_record, runs))
    assert cli("tables", "pro", "--results", folder).code == 0
    text = (folder / "tables" / "pro.md").read_text()
    assert "- Dataset mvtec-ad, 2 of 15 categories, 3 seeds." in text
    assert "- WR50-Rd550: not run: no record of it here." in text
    assert {p.name for p in (folder / "figures").iterdir()} == {"pro.svg", "pro.png"}
    assert cli("tables", "pro", "--results", folder, "--seeds", 2).code == 0
    assert "2 of 15 categories, 2 seeds." in (folder / "tables" / "pro.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("--results", "nowhere"), "nowhere"),
        (("table9",), "table9"),
        (("gaps",), "gaps"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_what_cannot_be_made_is_refused(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], culprit: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _folder(Path("results"), run_record(run_config("grid")))
    assert_refused(cli("tables", *arguments), culprit)
    assert not Path("results", "tables").exists()


def test_a_folder_without_records_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    assert_refused(cli("tables", "--results", tmp_path), str(tmp_path))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text(json.dumps({"schema": 2}))
    assert_refused(cli("tables", "--results", tmp_path), "x.json")


def test_every_page_has_a_kind() -> None:
    from padim_bench.reproduction.kinds import kind_of

    assert {id(kind_of(name)) for name in page_names()} == {id(kind) for kind in KINDS.values()}
