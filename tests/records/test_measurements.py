"""Measurements on disk: whole, sound and of what was asked, or refused in a line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from padim_bench import PadimBenchError
from padim_bench.records.costs import AnyMeasurement, CostRecord, GrowthRecord, SizesRecord, from_dict, to_dict
from padim_bench.records.files import to_json
from padim_bench.records.measurements import (
    keep_measurement,
    measurement_path,
    read_kept,
    read_measurement,
    read_measurements,
)
from padim_bench.records.sealed import sealed
from padim_bench.report.costs import load_measured_spec
from padim_bench.report.memory import memory_page
from padim_bench.report.pareto import pareto_figure
from padim_bench.report.profiles import profiles_page
from padim_bench.report.timing import growth_figure, timing_page
from tests.drawn_records import cost, failed_cost, growth, run_config, sizes
from tests.spoil import edited, flipped, outcomes, ruined, spoilt

CONFIG = run_config(strategy="auto", seed=1024)
DRAWN: dict[str, AnyMeasurement] = {"cost": cost(CONFIG), "growth": growth(CONFIG), "sizes": sizes()}


def page(record: AnyMeasurement | None, *, figures: bool = False) -> dict[str, str]:
    """What is made of one measurement."""
    if isinstance(record, GrowthRecord):
        found = timing_page(load_measured_spec("table7"), [], [record]).texts
        return found | ({"figure": str(growth_figure([record]))} if figures else {})
    if isinstance(record, SizesRecord):
        return memory_page(load_measured_spec("table8"), record.analytic, record.states, record.by_category, []).texts
    assert isinstance(record, CostRecord)
    found = profiles_page([record]).texts | {
        "VII": timing_page(load_measured_spec("table7"), [record], []).texts[".md"]
    }
    found |= {"VIII": memory_page(load_measured_spec("table8"), [], [], [], [record]).texts[".md"]}
    return found | ({"figure": str(pareto_figure([record]))} if figures else {})


def read_page(path: Path, *, figures: bool = False) -> Callable[[], dict[str, str]]:
    return lambda: page(read_measurement(path, CostRecord, GrowthRecord, SizesRecord), figures=figures)


@pytest.fixture(params=DRAWN)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(kind: str, tmp_path: Path) -> Path:
    """A measurement on disk."""
    path = tmp_path / f"{kind}-bottle-0123456789ab.json"
    assert keep_measurement(path, DRAWN[kind]) == DRAWN[kind]
    return path


def test_a_measurement_comes_back_as_it_was_kept(kind: str, path: Path) -> None:
    assert read_measurement(path, type(DRAWN[kind])) == DRAWN[kind]
    assert from_dict(json.loads(to_json(to_dict(DRAWN[kind])))) == DRAWN[kind]
    assert read_measurement(path.with_name("none.json"), CostRecord) is None


def test_what_by_default_is_none_is_left_out(path: Path) -> None:
    stored = to_dict(cost(CONFIG))
    assert "peak_cuda_bytes" not in stored["memory"]
    assert "gpu" not in stored["environment"]
    assert stored["reason"] is None


def test_no_flipped_bit_changes_a_page_or_gives_a_traceback(kind: str, path: Path) -> None:
    draw = random.Random(4)
    cases = {f"flip {i}": spoilt(path, flipped(path.read_bytes(), draw), read_page(path)) for i in range(60)}
    assert outcomes(cases, read_page(path)(), str(path))["refused"] == 60


def test_what_is_no_measurement_any_more_is_refused(kind: str, path: Path) -> None:
    contents = enumerate(ruined(path.read_bytes()))
    cases = {f"{i}: {c[:30]!r}": spoilt(path, c, read_page(path)) for i, c in contents}
    assert outcomes(cases, None, str(path))["refused"] == len(cases)


def test_an_edited_measurement_is_refused_and_with_a_new_digest_gives_no_traceback(kind: str, path: Path) -> None:
    draw, expected, whole = random.Random(5), read_page(path)(), json.loads(path.read_text())
    plain = {
        f"edit {i}": spoilt(path, (to_json(edited(whole, draw)) + "\n").encode(), read_page(path)) for i in range(20)
    }
    outcomes(plain, expected, str(path))
    record = json.loads(to_json(to_dict(DRAWN[kind])))
    resealed = {
        f"edit {i}": spoilt(
            path, sealed(to_json(edited(record, draw)) + "\n").encode(), read_page(path, figures=i % 10 == 0)
        )
        for i in range(150)
    }
    assert outcomes(resealed, expected, str(path), changes=True)["refused"] > 50


@pytest.mark.parametrize("status", ["void", "failed"])
def test_what_could_not_be_measured_says_why_and_has_no_numbers(tmp_path: Path, status: str) -> None:
    record = failed_cost(CONFIG, status)
    assert keep_measurement(tmp_path / "one.json", record) == record
    assert status.upper() in page(record)[".md"]
    (tmp_path / "two.json").write_text(sealed(to_json(to_dict(record) | {"reason": None}) + "\n"))
    with pytest.raises(PadimBenchError, match=r"reason: there is none\): delete it, and it is measured again"):
        read_measurement(tmp_path / "two.json", CostRecord)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("kind",), "timing", "kind and status: 'timing ok' is none of cost ok, "),
        (("memory", "peaks", "fit"), "much", "memory.peaks.fit: input should be a valid integer"),
        (("fit_s", "total"), None, "fit_s.total: input should be a valid number"),
        (("scoring", 0, "batch_size"), 8, "scoring: not one of each batch size, 1 among them"),
        (("metrics", "pro"), 1.5, "metrics.pro: input should be less than or equal to 1"),
        (("config", "model", "strategy"), 3, "config.model.strategy: input should be a valid string"),
        (("dataset", "category"), "grid", "dataset.category: 'grid', where config has 'bottle'"),
        (("environment", "versions", "torch"), "", "environment.versions: no version of torch"),
        (("reason",), "why", "reason: a measurement that is ok has none"),
        (("id",), "f" * 64, "id: it is not that of this configuration, split and weights"),
    ],
)
def test_what_is_malformed_is_named_by_file_and_member(
    tmp_path: Path, place: tuple[str | int, ...], value: object, said: str
) -> None:
    stored = json.loads(to_json(to_dict(cost(CONFIG))))
    container = stored
    for key in place[:-1]:
        container = container[key]
    container[place[-1]] = value
    (tmp_path / "one.json").write_text(sealed(to_json(stored) + "\n"))
    with pytest.raises(PadimBenchError) as refused:
        read_measurement(tmp_path / "one.json", CostRecord)
    assert f"{tmp_path / 'one.json'} is not a readable measurement (" in str(refused.value)
    assert said in str(refused.value)


def test_a_measurement_of_something_else_under_this_name_is_refused(tmp_path: Path) -> None:
    record, other = cost(CONFIG), cost(run_config(strategy="woodbury"))
    path = measurement_path(tmp_path, "bottle", record.id, "cpu")
    keep_measurement(path, record)
    assert read_kept(path, CostRecord, record.id) == record
    keep_measurement(path, other)
    with pytest.raises(PadimBenchError, match="is of something else than was asked for"):
        read_kept(path, CostRecord, record.id)


def test_another_folder_s_kind_is_refused(tmp_path: Path) -> None:
    keep_measurement(tmp_path / "profiles" / "one.json", growth(CONFIG))
    with pytest.raises(PadimBenchError, match=r"one\.json .*'growth', which does not belong in this folder"):
        read_measurements(tmp_path, "profiles")


def test_a_spoilt_measurement_is_found_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    keep_measurement(folder / "one.json", cost(CONFIG))
    (folder / "._one.json").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    assert list(read_measurements(tmp_path, "profiles")) == ["one.json"]
    assert read_measurements(tmp_path / "none", "profiles") == {}
    (folder / "two.json").write_text("{")
    with pytest.raises(PadimBenchError, match=r"two\.json"):
        read_measurements(tmp_path, "profiles")
