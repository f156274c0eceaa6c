"""One of each kind, entered in its registry for the length of a test: listed, run, on record and in a table."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import CommandLine

from padim_bench import DATASETS, METRICS, PAPER_BACKBONES, REDUCTIONS, STRATEGIES, PadimBenchError
from padim_bench.baselines import BASELINES
from padim_bench.data.datasets import mvtec_layout
from padim_bench.data.samples import Dataset
from padim_bench.metrics.summary import Evidence, Metric
from padim_bench.padim.paper import PaperBackbone
from padim_bench.padim.reduction import Reduction
from padim_bench.report import spec

TABLE = """\
name = "table9"
number = "IX"
title = "what was added"
layout = "models"
dataset = "factory"
paper_csv = "paper/table9.csv"

[[metrics]]
key = "score_gap"
tolerance = 1.0

[[models]]
title = "Ours"
arch = "test_resnet"
tag = "r160_in1k"
n_features = 8
reduction = "first"
strategy = "mine"

[[models]]
title = "Rival"
arch = "test_resnet"
tag = "r160_in1k"
method = "rival"
"""


def score_gap(found: Evidence) -> float:
    return float(found.scores[found.labels == 1].mean() - found.scores[found.labels == 0].mean())


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One of each kind of our own, gone after the test."""
    monkeypatch.setitem(BASELINES, "rival", replace(BASELINES["spade-k5"], name="rival", summary="a rival of ours"))
    monkeypatch.setitem(STRATEGIES, "mine", replace(STRATEGIES["cholesky"], name="mine", summary="one of our own"))
    first = Reduction("first", "the first channels", "First", "first {kept} of {all} channels", _first)
    monkeypatch.setitem(REDUCTIONS, "first", first)
    layers = {"paper": ("layer1", "layer2")}
    ours = PaperBackbone("test_resnet", "a small network", "r160_in1k", layers, short="Small")
    monkeypatch.setitem(PAPER_BACKBONES, "test_resnet", ours)
    kinds = {"grid": "texture", "bottle": "object", "leather": "texture", "part": "object"}
    factory = Dataset("factory", "Factory", "ours: {categories}", kinds, opener=mvtec_layout("factory"))
    monkeypatch.setitem(DATASETS, "factory", factory)
    gap = Metric("score_gap", "Score gap", "image", score_gap, short="gap", headline=True, low=-1e9, high=1e9,
                 scale=1.0, unit="distances", required=False)  # fmt: skip
    monkeypatch.setitem(METRICS, "score_gap", gap)
    specs = tmp_path / "reproduce"
    shutil.copytree(spec.specs_folder(), specs)
    (specs / "table9.toml").write_text(TABLE)
    (specs / "paper" / "table9.csv").write_text("method,row,metric,value,recomputed,note\n")
    monkeypatch.setattr(spec, "specs_folder", lambda: specs)


def _first(channels: object, n_features: int, _seed: int, _components: object) -> tuple[tuple[int, ...], None]:
    return tuple(range(n_features)), None


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("strategies", "mine one of our own"),
        ("methods", "rival a rival of ours"),
        ("reductions", "first the first channels"),
        ("backbones", "test_resnet.r160_in1k layer1+layer2"),
        ("datasets", "factory ours: grid, bottle, leather, part"),
        ("metrics", "score_gap Score gap: image level, in distances, higher is better"),
        ("tables", "table9 Table IX: what was added"),
    ],
)
def test_what_is_added_is_listed(cli: CommandLine, what: str, line: str) -> None:
    assert line in [" ".join(found.split()) for found in cli("list", what).out.splitlines()]


@pytest.mark.usefixtures("added")
def test_what_is_added_is_run_recorded_and_tabled(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shared = ("--data", tiny, "--dataset", "factory", "--categories", "grid,bottle", "--weights", "random",
              "--threads", 1, "--results", results)  # fmt: skip
    run = ("run", "--backbone", "test_resnet", "--n-features", 8, "--reduction", "first", "--strategy", "mine", *shared)
    shown = cli(*run)
    assert shown.code == 0, shown.err
    assert "im.AUROC px.AUROC     PRO     gap" in shown.out
    assert "Small-First8" in shown.out

    for answer in cli(*run, "--json").runs:
        assert answer["resumed"]  # read back, and known by its id
        record = json.loads(Path(answer["record"]).read_text())
        config, dataset = record["config"], record["dataset"]
        assert (config["model"]["reduction"], config["model"]["strategy"], config["model"]["layers"]) == (
            "first",
            "mine",
            ["layer1", "layer2"],
        )
        assert (dataset["name"], dataset["kind"], dataset["official_split"]) == (
            "factory", DATASETS["factory"].kinds[dataset["category"]], None,
        )  # fmt: skip
        normal, anomalous = ([s["score"] for s in record["scores"] if s["label"] == label] for label in (0, 1))
        expected = np.mean(anomalous) - np.mean(normal)
        assert record["metrics"]["score_gap"] == pytest.approx(expected, rel=1e-5)

    reply = cli("reproduce", "table9", *shared)
    assert reply.code == 0, reply.err
    page = (results / "tables" / "table9.md").read_text()
    assert page.startswith("# Table IX: what was added")
    assert "Score gap in distances. Dataset factory, 2 of 4 categories." in page
    assert "Texture: ours (1 of 2)" in page
    assert "layer1+layer2; first 8 of" in page
    assert "channels; method rival" in page
    assert "strategy mine" in page
    (results / "tables" / "table9.md").unlink()
    again = cli("tables", "table9", "--results", results)
    assert again.code == 0, again.err
    assert (results / "tables" / "table9.md").read_text() == page


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(("wrong", "right"), [("score_grap", "score_gap"), ("factorie", "factory")])
def test_a_table_of_an_unknown_metric_or_dataset_names_the_file_and_what_there_is(wrong: str, right: str) -> None:
    path = spec.specs_folder() / "table9.toml"
    path.write_text(TABLE.replace(right, wrong))
    with pytest.raises(PadimBenchError, match=f"'{wrong}' is none of .*{right}") as caught:
        spec.load_spec("table9")
    assert str(path) in str(caught.value)
