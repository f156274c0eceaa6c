"""Measurements on disk: whole, sound and of what was asked, or refused in a line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padim_bench import PadimBenchError
from padim_bench.records.files import as_read, to_json
from padim_bench.records.measurements import (
    check_measurements,
    keep_measurement,
    measurement_path,
    read_measurement,
)
from padim_bench.records.sealed import sealed
from padim_bench.report.memory import load_memory_spec, memory_page
from padim_bench.report.pareto import pareto_figure
from padim_bench.report.profiles import profiles_page
from padim_bench.report.timing import growth_figure, load_timing_spec, timing_page
from tests.drawn_records import memory, profile, run_config, timing
from tests.spoil import edited, flipped, outcomes, ruined, spoilt

DRAWN = {"timing": timing, "memory": memory, "profile": profile}


def page(record: dict[str, Any] | None, kind: str, *, figures: bool = False) -> dict[str, str]:
    """What is made of one measurement."""
    assert record is not None
    if kind == "timing":
        found = timing_page(load_timing_spec(), [record]).texts
        return found | ({"figure": str(growth_figure([record]))} if figures else {})
    if kind == "memory":
        return memory_page(load_memory_spec(), [], [], [], [record]).texts
    return profiles_page([record]).texts | ({"figure": str(pareto_figure([record]))} if figures else {})


def read_page(path: Path, kind: str, *, figures: bool = False) -> Callable[[], dict[str, str]]:
    return lambda: page(read_measurement(path), kind, figures=figures)


@pytest.fixture(params=DRAWN)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(kind: str, tmp_path: Path) -> Path:
    """A measurement on disk."""
    path = tmp_path / f"{kind}-bottle-0123456789ab.json"
    record = DRAWN[kind](run_config(strategy="auto"))
    assert keep_measurement(path, record) == as_read(record)
    return path


def test_a_measurement_comes_back_as_it_was_kept(kind: str, path: Path) -> None:
    assert read_measurement(path) == as_read(DRAWN[kind](run_config(strategy="auto")))
    assert read_measurement(path.with_name("none.json")) is None


def test_no_flipped_bit_changes_a_page_or_gives_a_traceback(kind: str, path: Path) -> None:
    draw = random.Random(4)
    cases = {f"flip {i}": spoilt(path, flipped(path.read_bytes(), draw), read_page(path, kind)) for i in range(60)}
    assert outcomes(cases, read_page(path, kind)(), str(path))["refused"] == 60


def test_what_is_no_measurement_any_more_is_refused(kind: str, path: Path) -> None:
    contents = enumerate(ruined(path.read_bytes()))
    cases = {f"{i}: {c[:30]!r}": spoilt(path, c, read_page(path, kind)) for i, c in contents}
    assert outcomes(cases, None, str(path))["refused"] == len(cases)


def test_an_edited_measurement_is_refused_and_with_a_new_digest_gives_no_traceback(kind: str, path: Path) -> None:
    draw, expected, whole = random.Random(5), read_page(path, kind)(), json.loads(path.read_text())
    plain = {
        f"edit {i}": spoilt(path, (to_json(edited(whole, draw)) + "\n").encode(), read_page(path, kind))
        for i in range(20)
    }
    outcomes(plain, expected, str(path))
    record = read_measurement(path)
    assert record is not None
    resealed = {
        f"edit {i}": spoilt(
            path, sealed(to_json(edited(record, draw)) + "\n").encode(), read_page(path, kind, figures=i % 10 == 0)
        )
        for i in range(150)
    }
    assert outcomes(resealed, expected, str(path), changes=True)["refused"] > 50


@pytest.mark.parametrize("status", ["void", "failed"])
def test_what_could_not_be_measured_says_why_and_has_no_numbers(tmp_path: Path, status: str) -> None:
    whole = profile(run_config(strategy="auto"))
    numbers = ("accuracy", "metrics", "fit_s", "scoring", "memory", "strategy_used")
    record = {k: v for k, v in whole.items() if k not in numbers} | {"status": status, "reason": "ended by SIGKILL"}
    keep_measurement(tmp_path / "one.json", record)
    read = read_measurement(tmp_path / "one.json")
    assert status.upper() in page(read, "profile")[".md"]
    keep_measurement(tmp_path / "one.json", record | {"reason": None})
    with pytest.raises(PadimBenchError, match=r"reason: .*delete it, and it is measured again"):
        read_measurement(tmp_path / "one.json")


def test_a_measurement_of_something_else_under_this_name_is_refused(tmp_path: Path) -> None:
    asked = {"strategy": "auto", "threads": 1, "device": "cpu", "weights": "a" * 64, "split": "b" * 64}
    path = measurement_path(tmp_path, "timing", asked)
    keep_measurement(path, timing(run_config(strategy="auto")))
    assert read_measurement(path, asked) is not None
    keep_measurement(path, timing(run_config(strategy="woodbury")))
    with pytest.raises(PadimBenchError, match="strategy: 'woodbury', where 'auto' was asked for"):
        read_measurement(path, asked)


def test_a_spoilt_measurement_is_found_before_any_work(tmp_path: Path) -> None:
    keep_measurement(tmp_path / "one.json", memory(run_config()))
    (tmp_path / "._one.json").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    check_measurements(tmp_path)
    check_measurements(tmp_path / "none")
    (tmp_path / "two.json").write_text("{")
    with pytest.raises(PadimBenchError, match=r"two\.json"):
        check_measurements(tmp_path)
