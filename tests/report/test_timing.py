"""Table VII: costs and growth beside the paper's printed seconds."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from padim_bench.report.costs import figure3, load_measured_spec
from padim_bench.report.page import NONE
from padim_bench.report.timing import growth_figure, inference_s, rivals_figure, timing_page, training_s
from tests.drawn_records import cost, failed_cost, growth, run_config

SPEC = load_measured_spec("table7")
AUTO = run_config(strategy="auto", seed=1024)


def test_the_paper_s_stages_are_sums_of_ours() -> None:
    record = cost(AUTO)
    assert training_s(record.fit_s) == {
        "read": pytest.approx(0.06), "backbone": 1.3, "fit": pytest.approx(0.7), "total": 2.06,
    }  # fmt: skip
    found = inference_s(record)
    assert list(found) == ["read", "backbone", "embed", "distance", "map", "total"]
    assert found["read"] == record.from_file_s.read
    assert found["total"] == record.from_file_s.total  # with reading, other than the latency of the profiles
    assert found["distance"] == record.latency_s.distance


def test_tables_stand_beside_the_printed_numbers() -> None:
    text = timing_page(SPEC, [cost(AUTO, milliseconds=43.94)], [growth(AUTO)]).texts[".md"]
    assert "| R18-Rd100 | bottle | auto (whitening) | 0.23 | 0.0454 | 0.0500 | 1.50 | 2.00 |" in text
    assert f"| R18-Rd100 | bottle | auto (whitening) | 209 | {NONE} | 2.06 | 0.0600 | 1.30 | 0.700 |" in text
    for model, seconds in (("SPADE (WR50)", "7.10"), ("VAE (R18)", "0.21"), ("WR50-Rd550", "0.95")):
        assert f"| {model} | {NONE} | {NONE} | {seconds} |" in text
    assert "1500 s" in text
    assert "UNTRAINED" not in text
    assert "no difference or verdict" in text
    assert "bottle of mvtec-ad (1 of 15 categories)" in text
    assert "i7-4710HQ" in text
    assert "6154" in text


def test_the_growth_ratio_is_last_to_first() -> None:
    text = timing_page(SPEC, [], [growth(AUTO)]).texts[".md"]
    assert "| R18-Rd100 | bottle | cholesky | 10.0 | 15.0 | 20.0 (209) | 2.00 | 4.00 | 0.0100 to 0.209 |" in text
    assert "| R18-Rd100 | bottle | auto (woodbury) | 10.0 |" in text


def test_rivals_stand_beside_their_network_s_model_in_the_grid_and_in_a_figure_of_their_own() -> None:
    config = replace(AUTO, model=replace(AUTO.model, method="spade").normalised(0))
    rival = growth(config)
    page = timing_page(SPEC, [], [growth(AUTO), rival])
    assert "| spade-R18 | bottle |" in page.texts[".md"]
    assert f"| SPADE (R18) | bottle | spade | {NONE} | 0.0200 |" in page.texts[".md"]  # the whole at 209 images
    assert "Methods other than PaDiM: growth alone is measured" in page.texts[".md"]
    assert list(page.figures) == ["table7-growth", "table7-rivals"]
    time, state = rivals_figure([growth(AUTO), rival]).axes
    assert [line.get_label() for line in time.lines] == ["R18-Rd100, bottle, cholesky", "spade-R18, bottle"]
    assert list(state.lines[1].get_ydata()) == pytest.approx([1e-6 * p.state_bytes for p in rival.points[-3:]])
    assert list(timing_page(SPEC, [], [growth(AUTO)]).figures) == ["table7-growth"]


def test_untrained_weights_stand_in_title_and_row() -> None:
    tables = timing_page(SPEC, [cost(AUTO, trained=False)], [growth(AUTO, trained=False)]).texts
    assert "[UNTRAINED RANDOM WEIGHTS]" in tables[".md"].splitlines()[0]
    assert "R18-Rd100 (untrained)" in tables[".md"]
    assert "[UNTRAINED RANDOM WEIGHTS]" in tables[".tex"]


def test_what_could_not_be_measured_has_a_line_with_the_reason() -> None:
    failed = replace(growth(AUTO), status="failed", reason="took more than 1 s", points=())
    page = timing_page(SPEC, [failed_cost(AUTO)], [failed])
    assert "R18-Rd100 auto, bottle: failed: made failed." in page.captions
    assert "growth of R18-Rd100 auto, bottle: failed: took more than 1 s." in page.captions
    assert not page.figures
    assert f"| R18-Rd100 | {NONE} | {NONE} | 0.23 | {NONE} |" in page.texts[".md"]


def test_every_number_of_the_csv_has_its_unit() -> None:
    page = timing_page(SPEC, [cost(AUTO)], [growth(AUTO)])
    assert page.texts == timing_page(SPEC, [cost(AUTO)], [growth(AUTO)]).texts
    rows = list(csv.DictReader(io.StringIO(page.texts[".csv"])))
    assert {r["source"] for r in rows} == {"paper", "ours"}
    assert all(r["value"] and r["unit"] and r["quantity"] for r in rows)
    (total,) = [r for r in rows if r["quantity"] == "inference: total" and r["statistic"] == "median"]
    assert float(total["value"]) == 0.0215


def test_the_figure_has_a_panel_per_model_and_a_line_per_series() -> None:
    pytest.importorskip("matplotlib")
    panels = growth_figure([growth(AUTO, trained=False), growth(AUTO)]).axes
    assert [panel.get_title() for panel in panels] == ["R18-Rd100 (untrained)", "R18-Rd100"]
    for panel in panels:
        assert panel.get_xscale() == "log"
        assert [len(line.get_xdata()) for line in panel.lines] == [3, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04544, "0.0454"), (7.1, "7.10"), (9.996, "10.0"), (123.4, "123"), (4567.0, "4570"), (0, "0"), (None, NONE)],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert figure3(value) == text
