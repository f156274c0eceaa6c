"""The table of strategies, from records made here: what is compared with what, and what an invalid run costs."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from padim_bench.records.runs import RunRecord
from padim_bench.report.page import NONE, Page
from padim_bench.report.spec import load_toml
from padim_bench.report.strategies import strategies_page
from tests.drawn_records import METRICS, run_config, run_record, with_resampled


def record(category: str, strategy: str, storage: str, value: float, megabytes: int, residual: float) -> RunRecord:
    """A run with that value of every metric."""
    made = run_record(run_config(category, strategy=strategy, storage=storage))
    return replace(made, metrics=dict.fromkeys(METRICS, value), state_bytes=megabytes * 10**6, residual=residual)


@pytest.fixture
def page() -> Page:
    wrong = run_record(run_config("grid", strategy="explicit-lu", storage="float32"), invalid="its inverse is wrong")
    records = [
        record("bottle", "cholesky", "float64", 0.9, 20, 1e-15),
        record("grid", "cholesky", "float64", 0.8, 30, 2e-15),
        record("bottle", "cholesky", "float16", 0.91, 5, 3e-4),
        record("grid", "cholesky", "float16", 0.77, 8, 1e-4),
        record("bottle", "explicit-lu", "float32", 0.9, 10, 1e-7),
        wrong,
    ]
    return strategies_page(load_toml("strategies"), records)


def lines_of(page: Page) -> dict[tuple[str, str], dict[str, str]]:
    return {(line["strategy"], line["dtype"]): line for line in csv.DictReader(io.StringIO(page.csv))}


def test_a_row_has_means_over_categories_and_the_largest_of_what_it_costs(page: Page) -> None:
    reference, rounded = (lines_of(page)["cholesky", dtype] for dtype in ("float64", "float16"))
    assert float(reference["pro"]) == pytest.approx(85)
    assert float(rounded["pro"]) == pytest.approx(84)
    assert (float(rounded["state_mb"]), float(rounded["residual"])) == (8, 3e-4)


def test_the_difference_is_the_largest_of_any_category_from_the_reference(page: Page) -> None:
    reference, rounded = (lines_of(page)["cholesky", dtype] for dtype in ("float64", "float16"))
    assert float(reference["difference"]) == 0
    assert float(rounded["difference"]) == pytest.approx(3)  # of grid; bottle's is 1


def test_a_strategy_that_was_wrong_in_one_category_has_no_numbers(page: Page) -> None:
    line = lines_of(page)["explicit-lu", "float32"]
    numbers = [line[key] for key in ("state_mb", "residual", "difference", "image_auroc", "pixel_auroc", "pro")]
    assert all(number == "" or math.isnan(float(number)) for number in numbers)
    ((_, grid),) = page.sections
    (row,) = [row for row in grid.rows if row[0] == "explicit-lu"]
    assert row[2:] == ["INVALID", *[NONE] * (len(row) - 3)]


def test_differences_from_the_reference_have_paired_intervals() -> None:
    reference = [with_resampled(record(c, "cholesky", "float64", 0.8, 20, 1e-15)) for c in ("bottle", "grid")]
    rounded = [with_resampled(record(c, "cholesky", "float16", 0.81, 5, 3e-4)) for c in ("bottle", "grid")]
    page = strategies_page(load_toml("strategies"), [*reference, *rounded])
    _, (title, grid) = page.sections
    assert title.startswith("Differs from cholesky in float64")
    assert grid.rows == [["cholesky", "float16", *["1.000 [1.000, 1.000]"] * 3]]  # the images' part cancels
