"""Table VIII: printed, computed and stored bytes, and the peaks of costs."""

from __future__ import annotations

import csv
import io

from padim_bench.costs.sizes import analytic_figures, held_by_rivals, stored_states, training_features
from padim_bench.protocols import get_protocol
from padim_bench.report.costs import load_measured_spec
from padim_bench.report.memory import memory_page
from padim_bench.report.page import NONE
from tests.drawn_records import cost, failed_cost, run_config

SPEC = load_measured_spec("table8")
AUTO = run_config(strategy="auto", seed=1024)
FIGURES = analytic_figures(SPEC["models"], SPEC["datasets"])


def test_tables_are_the_same_for_the_same_numbers() -> None:
    def made() -> dict[str, str]:
        states = stored_states(
            SPEC["models"][:1], SPEC["datasets"], {"bottle": 209}, strategies=["cholesky", "auto"], dtypes=["float32"]
        )
        sizes = {"bottle": 209, "toothbrush": 60}
        by_category = stored_states(
            SPEC["models"][1:], SPEC["datasets"][:1], sizes, strategies=["auto"], dtypes=["float32", "float16"]
        )
        return memory_page(SPEC, FIGURES, states, by_category, [cost(AUTO, trained=False)]).texts

    tables = made()
    assert tables == made()
    text = tables[".md"]
    assert "[UNTRAINED RANDOM WEIGHTS]" in text.splitlines()[0]
    assert f"| SPADE (WR50) | STC | {NONE} | 37.0 |" in text
    assert "| WR50-Rd550 | STC | 64 x 64 | 5.2 | 4.97 | 5.24 | 4.88 | Gaussians + full CNN, GB |" in text
    assert "No single rule gives all 4" in text
    assert "| toothbrush | 60 | woodbury | 0.414 | 0.210 |" in text
    rows = list(csv.DictReader(io.StringIO(tables[".csv"])))
    assert {r["part"] for r in rows} == {"printed", "computed", "stored", "stored by category", "peak"}
    assert all(r["value"] and r["unit"] for r in rows)
    assert tables[".tex"].count(r"\begin{tabular}") == 4


def test_rivals_stand_by_the_features_of_all_training_images_and_by_several_numbers_of_them() -> None:
    analytic = [*FIGURES, *training_features(SPEC["rivals"], SPEC["datasets"])]
    held = held_by_rivals(SPEC["rivals"], SPEC["datasets"][0], [10, 391])
    text = memory_page(SPEC, analytic, [], [], [], by_images=held).texts[".md"]
    assert (
        f"| SPADE (WR50) | MVTec AD | 56 x 56 | 1.4 | {NONE} | {NONE} | {NONE} | 1.36 | Training features, GB |" in text
    )
    assert "the printed 37.0 GB are features of 5041 images, 24 % of them" in text
    assert "Training features, GB: 1 of 2. No single rule gives all 4 of PaDiM" in text
    assert "| SPADE (WR50) | spade | float32 | 0.0565 | 2.21 |" in text


def test_peaks_are_those_of_costs_after_each_step() -> None:
    stc = run_config(strategy="auto", seed=1024, protocol=get_protocol("paper-stc"))
    text = memory_page(SPEC, FIGURES, [], [], [cost(AUTO), cost(stc)]).texts[".md"]
    for pixels in (224, 256):
        row = f"| R18-Rd100 | bottle | auto (whitening) | float32 | 209 | {pixels} x {pixels} | 0.0833 |"
        assert f"{row} 0.758 | 0.821 | 1.07 | 1.23 |" in text


def test_a_peak_that_was_not_measured_is_a_dash_and_one_that_failed_has_a_reason() -> None:
    page = memory_page(SPEC, FIGURES, [], [], [cost(AUTO, megabytes=None), failed_cost(AUTO)])
    assert f"| 0.0833 | 0.758 | 0.821 | 1.07 | {NONE} |" in page.texts[".md"]
    assert page.captions[-1] == "R18-Rd100 auto, bottle, 224 x 224: failed: made failed."


def test_tables_without_measurements_are_the_arithmetic_alone() -> None:
    text = memory_page(SPEC, FIGURES, [], [], []).texts[".md"]
    assert "UNTRAINED" not in text
    assert "Peak" not in text
