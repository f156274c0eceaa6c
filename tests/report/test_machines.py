"""Pages of several machines' records: each row says which machine made it; pages of one machine say it once, below."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from padim_bench.padim.reduction import WHOLE
from padim_bench.protocols import get_protocol, rd_mvtec_protocol
from padim_bench.records.costs import CostRecord, GrowthRecord, SizesRecord, to_dict
from padim_bench.records.files import to_json, write_record
from padim_bench.records.sealed import write_sealed
from padim_bench.report.costs import load_measured_spec
from padim_bench.reproduction.kinds import Choice, asked_sizes
from padim_bench.reproduction.pages import tables
from tests.drawn_records import ENVIRONMENT, cost, growth, run_config, run_record, sizes

CHOICE = Choice(get_protocol("paper"))
AMD, INTEL = "an EPYC, 1 thread", "a Xeon, 1 thread"


def measured(record: CostRecord | GrowthRecord, cpu: str) -> CostRecord | GrowthRecord:
    return replace(record, environment=replace(ENVIRONMENT, cpu=cpu))


def folder(root: Path, cpu: str, *categories: str) -> Path:
    """What a machine leaves that ran some categories, and measured the costs of one."""
    layers = {"layers": ("layer1",), "n_features": None, "reduction": WHOLE}
    for category in categories:
        runs = [run_config(category, **more) for more in ({}, layers)]
        runs.append(run_config(category, protocol=rd_mvtec_protocol(0)))
        for config in runs:
            write_record(root, replace(run_record(config), environment=replace(ENVIRONMENT, cpu=cpu)))
    config = run_config("bottle", 1024, strategy="auto")
    written: list[tuple[str, CostRecord | GrowthRecord | SizesRecord]] = [
        ("profiles", measured(cost(config), cpu)),
        ("measurements", measured(growth(config), cpu)),
        ("measurements", replace(sizes(), asked=asked_sizes(load_measured_spec("table8")))),
    ]
    for i, (place, record) in enumerate(written):
        write_sealed(root / place / f"{cpu[-4:]}-{i}.json", to_json(to_dict(record)) + "\n")
    return root


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages of two machines that have no category in common, by name, in Markdown; and their CSV."""
    root = tmp_path_factory.mktemp("two")
    folders = [folder(root / "a", "an EPYC", "grid", "bottle"), folder(root / "b", "a Xeon", "pill")]
    written = tables(folders, root / "out", CHOICE)
    return {f"{page.name}{suffix}": text for page in written.pages for suffix, text in page.texts.items()}


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]


def test_a_row_of_a_category_names_the_machine_that_ran_it(merged: dict[str, str]) -> None:
    found = {row[0]: row[-1] for row in rows(merged["table3.md"]) if "printed" not in row[0]}
    told = {row[0]: row[-1] for row in rows(merged["table3.md"].partition("as printed")[0])}
    assert (told["grid"], told["bottle"], told["pill"]) == (AMD, AMD, INTEL)
    assert told["Category"] == "Machine"
    assert told["All, mean of 3 of 15"] == f"{AMD} and {INTEL}"
    assert found


@pytest.mark.parametrize("name", ["table1.md", "table5.md", "table6.md"])
def test_a_row_of_a_model_names_the_machine_of_each_of_its_numbers(merged: dict[str, str], name: str) -> None:
    told = {row[0]: row[-1] for row in rows(merged[name]) if INTEL in row[-1]}
    assert told
    for machines in told.values():
        assert machines == f"{AMD}: grid, bottle; {INTEL}: pill"


@pytest.mark.parametrize("name", ["table7.md", "table8.md", "profiles.md"])
def test_the_same_measured_on_two_machines_is_two_rows_that_tell_which(merged: dict[str, str], name: str) -> None:
    told = [row[-1] for row in rows(merged[name])]
    assert told.count(AMD) == told.count(INTEL) > 0


def test_the_numbers_in_long_form_name_the_machine_too(merged: dict[str, str]) -> None:
    lines = list(csv.DictReader(io.StringIO(merged["table3.csv"])))
    told = {line["row"]: line["machine"] for line in lines if line["records"]}
    assert (told["grid"], told["pill"], told["all"]) == (AMD, INTEL, f"{AMD} and {INTEL}")


def test_pages_of_one_machine_have_no_such_column(tmp_path: Path) -> None:
    written = tables([folder(tmp_path / "a", "an EPYC", "grid", "pill")], tmp_path / "out", CHOICE)
    assert {page.name for page in written.pages} >= {*(f"table{n}" for n in (1, 3, 5, 6, 7, 8)), "profiles"}
    for page in written.pages:
        if page.name != "effort":  # which has a machine of its own
            assert all("Machine" not in grid.header for _, grid in page.sections)
