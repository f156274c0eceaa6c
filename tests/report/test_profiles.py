"""Profiles: the front, and what is written of what was measured, void or failed."""

from __future__ import annotations

import csv
import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_bench.protocols import get_protocol
from padim_bench.records.costs import CostRecord
from padim_bench.report.figures import render
from padim_bench.report.pareto import pareto_figure, pareto_figures
from padim_bench.report.profiles import accuracy_key, best, comparable, pareto_front, profiles_page
from tests.drawn_records import cost, failed_cost, run_config

Points = list[tuple[int, int, int]]


def test_the_front_of_points_computed_by_hand() -> None:
    points = [(1, 9), (2, 5), (2, 6), (3, 5), (4, 1), (4, 1), (9, 0), (9, 9)]
    assert pareto_front(points) == [True, True, False, False, True, True, True, False]
    assert pareto_front([(3, 3, 3), (3, 3, 2), (0, 9, 9)]) == [False, True, True]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_the_front_is_what_nothing_dominates(points: Points) -> None:
    def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    assert pareto_front(points) == [not any(dominates(other, point) for other in points) for point in points]


@pytest.fixture(scope="module")
def records() -> list[CostRecord]:
    """Made-up numbers: rows 1 to 3 and 5 are the front, 4 is beaten by 2, 6 is void, 7 failed."""
    made: list[CostRecord] = [
        cost(run_config(strategy=strategy), status=status, pro=pro, milliseconds=milliseconds, megabytes=megabytes)
        for strategy, status, pro, milliseconds, megabytes in (
            ("cholesky", "ok", 0.90, 20.0, 900),
            ("woodbury", "ok", 0.90, 30.0, 700),
            ("diagonal", "lossy", 0.80, 10.0, 600),
            ("explicit", "ok", 0.90004, 31.0, 701),
            ("whitening", "ok", 0.90, 19.0, 901),
        )
    ]
    return [*made, failed_cost(run_config(strategy="explicit-lu"), "void"), failed_cost(run_config(strategy="auto"))]


def test_the_front_of_records_ignores_accuracy_that_is_not_printed(records: list[CostRecord]) -> None:
    assert accuracy_key(records) == "pro"
    assert list(best(records)) == [1, 2, 3, 5]


def test_without_masks_the_front_is_over_image_auroc() -> None:
    assert accuracy_key([cost(run_config(), pro=None)]) == "image_auroc"


def test_untrained_networks_and_other_protocols_are_on_fronts_of_their_own(records: list[CostRecord]) -> None:
    untrained = cost(run_config(), trained=False, pro=0.99, milliseconds=1, megabytes=1)  # it would beat all
    stc = cost(run_config(protocol=get_protocol("paper-stc")), pro=0.1, milliseconds=99, megabytes=9999)
    several = [*records, untrained, stc]
    assert list(best(several)) == [1, 2, 3, 5, 8, 9]
    assert [title.partition("thread")[2] for title in comparable(several)] == [
        "",
        ", untrained",
        ", protocol paper-stc",
    ]
    assert list(pareto_figures(several)) == ["pareto-bottle-on-a-cpu-1-thread"]  # a front of one tells nothing
    assert list(pareto_figures([untrained])) == ["pareto"]
    page = profiles_page(several)
    (said,) = [line for line in page.captions if line.startswith("Front: ")]
    assert "Untrained networks, whose accuracy means nothing, are left to themselves." in said
    assert "Untrained networks" not in " ".join(profiles_page(records).captions)
    assert "[UNTRAINED RANDOM WEIGHTS: RESNET18]" in page.heading


def test_categories_of_one_name_in_two_datasets_are_not_compared() -> None:
    both = [cost(run_config(dataset=name), pro=pro) for name, pro in (("mvtec-ad", 0.9), ("mine", 0.95))]
    assert set(best(both)) == {1, 2}
    assert [title.partition(" on ")[0] for title in comparable(both)] == ["bottle of mvtec-ad", "bottle of mine"]


def test_the_figure_says_that_networks_are_untrained() -> None:
    (figure,) = pareto_figures([cost(run_config(), trained=False)]).values()
    assert "[UNTRAINED RANDOM WEIGHTS]" in figure.get_suptitle()


def test_tables_are_the_same_for_the_same_records(records: list[CostRecord]) -> None:
    tables = profiles_page(records).texts
    assert tables == profiles_page(list(records)).texts
    text = tables[".md"]
    summary = [line for line in text.split("##")[1].splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[-2] for line in summary] == ["yes", "yes", "yes", "", "yes", "–", "–"]  # noqa: RUF001
    assert all(f"{name} | " in text for name in ("cholesky", "diagonal"))
    assert tables[".tex"].count(r"\begin{tabular}") == 5


def test_void_and_failed_rows_have_a_reason_and_no_number(records: list[CostRecord]) -> None:
    tables = profiles_page(records).texts
    for i, name, status in ((6, "explicit-lu", "void"), (7, "auto", "failed")):
        rows = [line for line in tables[".md"].splitlines() if line.startswith(f"| {i} |")]
        assert len(rows) == 1
        assert rows[0].endswith(f"| {status.upper()} |")
        assert set(rows[0].split(" | ")[4:-1]) == {"–"}  # noqa: RUF001
        assert f"- {i}, R18-Rd100 {name} float32: {status}: made {status}." in tables[".md"]
        found = [r for r in csv.DictReader(io.StringIO(tables[".csv"])) if r["row"] == str(i)]
        assert [(r["quantity"], r["value"]) for r in found] == [("reason", f"made {status}")]


def test_tables_of_nothing_valid_are_the_reasons(records: list[CostRecord]) -> None:
    tables = profiles_page(records[-2:]).texts
    assert "made void" in tables[".md"]
    assert "made failed" in tables[".md"]
    assert pareto_figure(records[-2:]) is None


def test_every_number_of_the_csv_has_its_unit_and_place(records: list[CostRecord]) -> None:
    rows = list(csv.DictReader(io.StringIO(profiles_page(records).texts[".csv"])))
    for r in (r for r in rows if r["quantity"] != "reason"):
        assert np.isfinite(float(r["value"]))
        assert r["provenance"]
        assert r["unit"] or r["quantity"].startswith(("metric", "relative error", "load"))
    fits = {r["quantity"]: float(r["value"]) for r in rows if r["row"] == "1" and r["quantity"].startswith("fit")}
    assert fits["fit: total"] == pytest.approx(sum(v for k, v in fits.items() if k != "fit: total"), abs=1e-5)


def test_the_figure_is_the_same_for_the_same_records_and_its_numbers_stand_clear(
    records: list[CostRecord],
) -> None:
    figure = pareto_figure(records)
    assert figure is not None
    again = pareto_figure(records)
    assert again is not None
    assert render(figure) == render(again)
    for axes in figure.axes:
        assert sorted(t.get_text() for t in axes.texts) == ["1", "2", "3", "5"]
        boxes = [t.get_window_extent() for t in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    title = figure.get_suptitle()
    assert title == "Profiles over mvtec-ad: bottle on a CPU, 1 thread"
