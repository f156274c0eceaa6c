"""Table VIII: the paper's arithmetic, the bytes really stored, and the peak of a fresh process."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from padim_bench.costs.memory import (
    analytic_bytes,
    analytic_figures,
    analytic_rules,
    full_parameters,
    measure_peak,
    state_bytes,
    stored_states,
)
from padim_bench.errors import PadimBenchError
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES, strategy_names
from padim_bench.records.files import check_mergeable
from padim_bench.records.measurements import keep_measurement, read_measurement
from padim_bench.report.memory import load_memory_spec, matches, memory_page
from padim_bench.report.page import NONE

SPEC = load_memory_spec()


@pytest.mark.parametrize(("arch", "n"), [("resnet18", 11_689_512), ("wide_resnet50_2", 68_883_240)])
def test_full_parameters_are_those_of_the_paper_s_backbones(arch: str, n: int) -> None:
    assert full_parameters(arch) == n


def test_analytic_bytes_are_means_and_dense_matrices() -> None:
    alone, with_cnn, binary = analytic_rules()
    assert analytic_bytes(7, 3, 10, alone) == 4 * 3 * (10 + 100)
    assert analytic_bytes(7, 3, 10, with_cnn) == analytic_bytes(7, 3, 10, binary) == 4 * (3 * 110 + 7)


def test_no_single_rule_gives_all_printed_figures() -> None:
    figures = analytic_figures(SPEC["models"], SPEC["datasets"])
    printed = {(r["model"], r["dataset"]): r["value"] for r in SPEC["paper"]}
    fits = {
        (r["model"], r["dataset"], r["rule"]) for r in figures if matches(r["value"], printed[r["model"], r["dataset"]])
    }
    assert fits == {
        ("R18-Rd100", "MVTec AD", "gaussians+cnn"),
        ("R18-Rd100", "STC", "gaussians+cnn"),
        ("WR50-Rd550", "STC", "gaussians+cnn"),
        ("WR50-Rd550", "MVTec AD", "gaussians"),
        ("WR50-Rd550", "MVTec AD", "gaussians+cnn-binary"),
    }


@pytest.mark.parametrize(
    ("value", "printed", "fits"), [(3.801, "3.8", True), (4.077, "3.8", False), (0.164, "0.17", False)]
)
def test_a_figure_fits_at_the_precision_printed(value: float, printed: str, fits: bool) -> None:
    assert matches(value, printed) is fits


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize(("n", "d"), [(5, 12), (30, 12), (9, 40)])
def test_state_bytes_are_those_of_a_real_fit(strategy: str, dtype: str, n: int, d: int) -> None:
    embedding = PatchEmbedding((d,), ((4, 6),), tuple(range(d)))
    moments = TrainingMoments(embedding, torch.float64, 1 << 30)
    moments.update(embedding.select([0.05 * torch.randn(n, d, 4, 6, generator=torch.Generator().manual_seed(1))]))
    fitted = fit_gaussians(moments, epsilon=0.01, strategy=strategy, storage=dtype)
    assert state_bytes(strategy, dtype, n, d, 24) == fitted.state_bytes


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_state_bytes_at_the_paper_s_size(strategy: str) -> None:
    size = state_bytes(strategy, "float32", 209, 550, 3136)
    if strategy.startswith("explicit") or strategy == "cholesky":
        assert size == analytic_bytes(0, 3136, 550, analytic_rules()[0])
    else:
        assert size < analytic_bytes(0, 3136, 550, analytic_rules()[0])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PadimBenchError, match="unknown strategy"):
        state_bytes("packed", "float32", 5, 4, 1)
    with pytest.raises(PadimBenchError, match="unknown dtype"):
        state_bytes("cholesky", "int8", 5, 4, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("memory") / "factory"
    generator = np.random.default_rng(0)
    for folder, n in (("train/good", 5), ("test/good", 2)):
        (found / "part" / folder).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(found / "part" / folder / f"{i:03d}.png")
    return found


@pytest.fixture(scope="module")
def peak(root: Path) -> dict[str, Any]:
    return measure_peak(root, "part", "resnet18", "random", n_features=20, seed=3, threads=1)


def test_peaks_of_a_fresh_process_only_rise(peak: dict[str, Any], root: Path, tmp_path: Path) -> None:
    peaks = peak["peaks"]
    assert list(peaks) == ["imports", "backbone", "end"]
    assert 0 < peaks["imports"] <= peaks["backbone"] <= peaks["end"]
    assert (peak["kind"], peak["n_train"], peak["config"]["n_scored"]) == ("memory", 5, 2)
    assert peak["state_bytes"] == state_bytes("auto", "float32", 5, 20, 56 * 56)
    assert peak["environment"]["threads"] == peak["config"]["threads"] == 1
    assert str(root) not in str(peak)
    check_mergeable([peak])
    assert keep_measurement(tmp_path / "peak.json", peak) == peak == read_measurement(tmp_path / "peak.json")


def test_what_the_process_complains_of_is_raised(root: Path) -> None:
    with pytest.raises(PadimBenchError, match="no category 'other'"):
        measure_peak(root, "other", "resnet18", "random")


def test_tables_are_the_same_for_the_same_numbers(peak: dict[str, Any]) -> None:
    def made() -> dict[str, str]:
        states = stored_states(
            SPEC["models"][:1], SPEC["datasets"], {"bottle": 209}, strategies=["cholesky", "auto"], dtypes=["float32"]
        )
        sizes = {"bottle": 209, "toothbrush": 60}
        by_category = stored_states(
            SPEC["models"][1:], SPEC["datasets"][:1], sizes, strategies=["auto"], dtypes=["float32", "float16"]
        )
        figures = analytic_figures(SPEC["models"], SPEC["datasets"])
        return memory_page(SPEC, figures, states, by_category, [peak]).texts

    tables = made()
    assert tables == made()
    text = tables[".md"]
    assert "[UNTRAINED RANDOM WEIGHTS]" in text.splitlines()[0]
    assert f"| SPADE (WR50) | STC | {NONE} | 37.0 |" in text
    assert "| WR50-Rd550 | STC | 64 x 64 | 5.2 | 4.97 | 5.24 | 4.88 | Gaussians + full CNN, GB |" in text
    assert "No single rule gives all 4" in text
    assert "| toothbrush | 60 | woodbury | 0.414 | 0.210 |" in text
    assert "R18-Rd20 (untrained)" in text
    rows = list(csv.DictReader(io.StringIO(tables[".csv"])))
    assert {r["part"] for r in rows} == {"printed", "computed", "stored", "stored by category", "peak"}
    assert all(r["value"] and r["unit"] for r in rows)
    assert tables[".tex"].count(r"\begin{tabular}") == 4


def test_tables_without_measurements_are_the_arithmetic_alone() -> None:
    text = memory_page(SPEC, analytic_figures(SPEC["models"], SPEC["datasets"]), [], [], []).texts[".md"]
    assert "UNTRAINED" not in text
    assert "Peak" not in text
