"""Bytes that no machine decides: the paper's arithmetic, and what strategies store."""

from __future__ import annotations

import pytest
import torch

from padim_bench.baselines import BASELINES
from padim_bench.costs.sizes import (
    analytic_bytes,
    analytic_figures,
    analytic_rules,
    full_parameters,
    held_by_rivals,
    state_bytes,
    training_features,
    whole_embedding,
)
from padim_bench.errors import PadimBenchError
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES, strategy_names
from padim_bench.report.costs import load_measured_spec
from padim_bench.report.memory import matches

SPEC = load_measured_spec("table8")


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
    fits = {(r.model, r.dataset, r.rule) for r in figures if matches(r.value, printed[r.model, r.dataset])}
    assert fits == {
        ("R18-Rd100", "MVTec AD", "gaussians+cnn"),
        ("R18-Rd100", "STC", "gaussians+cnn"),
        ("WR50-Rd550", "STC", "gaussians+cnn"),
        ("WR50-Rd550", "MVTec AD", "gaussians"),
        ("WR50-Rd550", "MVTec AD", "gaussians+cnn-binary"),
    }


def test_spade_s_printed_memory_is_its_training_features_on_mvtec_ad_and_not_on_stc() -> None:
    wr50 = SPEC["rivals"][-1:]
    on_mvtec, on_stc = training_features(wr50, SPEC["datasets"])
    assert on_mvtec.bytes == 4 * 242 * (256 * 56**2 + 512 * 28**2 + 1024 * 14**2)
    printed = {(r["model"], r["dataset"]): r["value"] for r in SPEC["paper"]}
    assert matches(on_mvtec.value, printed[on_mvtec.model, on_mvtec.dataset])
    assert not matches(on_stc.value, printed[on_stc.model, on_stc.dataset])


def test_what_a_rival_holds_is_what_a_fitted_one_holds() -> None:
    rival, dataset = SPEC["rivals"][0], SPEC["datasets"][0]
    whole = whole_embedding(rival, dataset["protocol"])
    learner = BASELINES[rival["method"]].make(whole)
    maps = [torch.rand(3, c, *grid) for c, grid in zip(whole.layer_channels, whole.layer_grids, strict=True)]
    learner.update(whole.select(maps))
    learner.fit()
    (row,) = held_by_rivals([rival], dataset, [3])
    assert row.bytes == learner.state_bytes


def test_a_network_whose_maps_are_not_registered_is_refused() -> None:
    with pytest.raises(PadimBenchError, match="resnet34: not one of the paper's networks"):
        whole_embedding({"arch": "resnet34", "layers": ["layer1"]}, "paper")


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
