"""``padim-bench reproduce`` over many tables at once: one backbone pass, gaps, versions, scenes, refusals."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import CommandLine, assert_refused, contents, record_files

from padim_bench import PadimBenchError
from padim_bench.cli import main
from padim_bench.costs import measure
from padim_bench.costs.work import Work
from padim_bench.data.stc import list_scenes, read_frames, stc
from padim_bench.demo.scenes import make_demo_stc
from padim_bench.metrics.roc import detection_metrics
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.model import PaDiM
from padim_bench.padim.weights import resolve_weights
from padim_bench.protocols import get_protocol
from padim_bench.records.config import Execution, Wanted
from padim_bench.records.costs import to_dict
from padim_bench.records.files import read_records, to_json
from padim_bench.records.runs import RunRecord
from padim_bench.runs.plan import Settings, plan_scenes
from padim_bench.runs.runner import run
from tests.drawn_records import answered
from tests.passes import count_images

RUN = ("--weights", "random", "--threads", "2", "--backbones", "resnet18", "--categories", "grid")
OPTIONS = (*RUN, "--dataset", "mvtec-ad")  # which every title doubts
SHARED = ("table1", "table2", "table3", "table5")
IMAGES = 12  # of grid in the tiny dataset, six of them for training


@pytest.fixture(scope="module")
def passes() -> list[int]:
    """Images of every backbone pass while ``results`` was made."""
    return []


@pytest.fixture(scope="module")
def results(tiny: Path, tmp_path_factory: pytest.TempPathFactory, passes: list[int]) -> Path:
    """The tables that share the paper's protocol, over one category, two seeds."""
    folder = tmp_path_factory.mktemp("all")
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        assert (
            main(["reproduce", *SHARED, "--seeds", "2", *OPTIONS, "--data", str(tiny), "--results", str(folder)]) == 0
        )
        passes += seen
    assert (
        main(["reproduce", "seeds", "gaps", "--seeds", "2", *OPTIONS, "--data", str(tiny), "--results", str(folder)])
        == 0
    )
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_backbone_pass_serves_tables_i_ii_iii_and_v(results: Path, passes: list[int]) -> None:
    # Four single layers' and the sum's and all reductions' embeddings: one pass.
    assert sum(passes) == IMAGES
    shared = [r for _, r in read_records(results).values() if r.config.protocol.name == "paper"]
    # Three layers, their sum, all; PCA at two sizes; three drawn reductions at two sizes with two seeds; gaps' own; and
    # SPADE.
    assert len(shared) == 5 + 2 + 3 * 2 * 2 + 1 + 1


def test_everything_is_written_and_linked(results: Path) -> None:
    names = (*SHARED, "seeds", "gaps")
    assert {p.name for p in (results / "tables").iterdir()} == {
        f"{n}.{end}" for n in names for end in ("md", "csv", "tex")
    }
    assert {p.name for p in (results / "figures").iterdir()} == {"seeds.svg", "seeds.png"}
    links = re.findall(r"\]\((.*?)\)", (results / "README.md").read_text())
    assert len(links) == len(set(links)) == 3 * len(names) + 3  # and the report, and the figure twice
    assert all((results / link).is_file() for link in links)
    assert (results / "figures" / "seeds.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_repeats_nothing_and_changes_no_byte(cli: CommandLine, tiny: Path, results: Path) -> None:
    before = contents(results)
    command = ("reproduce", *SHARED, "seeds", "gaps", "--seeds", 2, *OPTIONS, "--data", tiny, "--results", results)
    reply = cli(*command, "--json")
    assert reply.code == 0
    assert all(run["resumed"] for run in reply.runs)
    assert {k: v[0] for k, v in contents(results).items()} == {k: v[0] for k, v in before.items()}


def test_tables_makes_of_the_records_what_reproduce_made(cli: CommandLine, results: Path, tmp_path: Path) -> None:
    assert cli("tables", "--results", results, "--out", tmp_path).code == 0
    made = [path for place in ("tables", "figures") for path in (results / place).iterdir()]
    for path in made:
        assert (tmp_path / path.relative_to(results)).read_bytes() == path.read_bytes(), path.name


def test_means_and_spread_are_those_of_the_records(results: Path) -> None:
    found = [r for _, r in read_records(results).values()]
    drawn = [
        100 * (r.value("pro") or 0)
        for r in found
        if (r.config.model.reduction, r.config.model.n_features) == ("semi-orthogonal", 200)
    ]
    assert len(drawn) == 2
    row = next(
        r
        for r in _rows(results / "tables" / "table2.csv")
        if (r["model"], r["metric"], r["row"]) == ("Semi-orthogonal 200", "pro", "grid")
    )
    assert float(row["ours"]) == pytest.approx(np.mean(drawn), abs=0.00501)
    assert float(row["sd"]) == pytest.approx(np.std(drawn, ddof=1), abs=0.0000501)
    assert float(row["sem"]) == pytest.approx(np.std(drawn, ddof=1) / np.sqrt(2), abs=0.0000501)
    assert row["replicates"] == "2"


def test_the_sum_of_layers_is_the_sum_of_what_the_layers_give_alone(results: Path) -> None:
    by_layers = {
        (r.config.model.fusion, r.config.layers): r
        for _, r in read_records(results).values()
        if r.config.model.reduction == "none"
    }
    alone = [by_layers["concatenate", (f"layer{i}",)] for i in (1, 2, 3)]
    added = by_layers["sum", ("layer1", "layer2", "layer3")]
    assert [r.embedding.grid for r in alone] == [(56, 56), (28, 28), (14, 14)]
    assert added.state_bytes == sum(r.state_bytes or 0 for r in alone)
    for i, score in enumerate(added.scores):  # the maximum of a sum is at most the sum of the maxima
        maxima = [r.scores[i].score for r in alone]
        assert max(maxima) < score.score <= sum(maxima) * (1 + 1e-5)


@pytest.mark.parametrize("preset", ["paper", "xiahaifeng1995", "anomalib"])
def test_the_ends_of_a_walk_are_what_run_gives_under_the_presets(
    cli: CommandLine, tiny: Path, results: Path, tmp_path: Path, preset: str
) -> None:
    (run,) = cli(
        *("run", "--data", tiny, "--categories", "grid", "--backbone", "resnet18", "--weights", "random"),
        *("--n-features", 100, "--seed", 1024, "--protocol", preset, "--threads", 2, "--results", tmp_path, "--json"),
    ).runs
    lines = [r for r in _rows(results / "tables" / "gaps.csv") if "one choice at a time" in r["section"]]
    ends = [r for r in lines if r["row"] == preset or r["row"].endswith(f"= {preset}")]
    assert {r["metric"] for r in ends} == {"image_auroc", "pixel_auroc", "pro"}
    for row in ends:
        assert float(row["value"]) == pytest.approx(100 * run["metrics"][row["metric"]], abs=0.00005)


def test_pro_by_other_definitions_stands_in_the_gaps_report_alone(results: Path) -> None:
    text = (results / "tables" / "gaps.md").read_text()
    assert "exact (ours)" in text
    assert "per image (RD4AD)" in text
    for name in (*SHARED, "seeds"):
        assert "RD4AD" not in (results / "tables" / f"{name}.md").read_text()


def test_five_versions_of_rd_mvtec_are_averaged(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    assert cli("reproduce", "table6", *OPTIONS, "--data", tiny, "--results", tmp_path).code == 0
    found = [r for _, r in read_records(tmp_path).values()]
    versions, rivals = ([r for r in found if (r.config.model.method == "padim") is own] for own in (True, False))
    assert [r.config.model.method for r in rivals] == ["spade"] * 5
    assert sorted(r.config.protocol.images.version for r in versions) == [0, 1, 2, 3, 4]
    values = [100 * (r.value("pixel_auroc") or 0) for r in versions]
    assert len(set(values)) == 5
    row = next(
        r
        for r in _rows(tmp_path / "tables" / "table6.csv")
        if (r["model"], r["metric"], r["row"]) == ("R18-Rd100", "pixel_auroc", "grid")
    )
    assert float(row["ours"]) == pytest.approx(np.mean(values), abs=0.00501)
    assert row["replicates"] == "5"


def test_without_shanghaitech_the_table_says_how_to_get_one(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    reply = cli("reproduce", "table4", *OPTIONS, "--data", tiny, "--results", tmp_path)
    assert reply.code == 0
    text = (tmp_path / "tables" / "table4.md").read_text()
    assert "91.2" in text
    assert "R18-Rd100: not run: no record of it here" in text
    assert "R18-Rd100 not run (no ShanghaiTech Campus at hand: name its folder with --stc" in reply.out
    assert record_files(tmp_path) == []


@pytest.fixture(scope="module")
def campus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return make_demo_stc(tmp_path_factory.mktemp("stc") / "campus", video=True)


def test_scenes_run_resume_and_are_within_their_error_bound(
    cli: CommandLine, tiny: Path, campus: Path, tmp_path: Path
) -> None:
    command = ("reproduce", "table4", *OPTIONS, "--data", tiny, "--results", tmp_path, "--stc", campus)
    first = cli(*command, "--stc-every", 4, "--json")
    assert [(run["category"], run["resumed"]) for run in first.runs] == [("01", False), ("02", False)]
    before = contents(tmp_path)
    again = cli(*command, "--stc-every", 4, "--json")
    assert all(run["resumed"] for run in again.runs)
    assert {k: v[0] for k, v in contents(tmp_path).items()} == {k: v[0] for k, v in before.items()}
    text = (tmp_path / "tables" / "table4.md").read_text()
    assert "one in 4 of each clip" in text
    assert "from histograms, within these points of the exact values: pixel AUROC 0." in text
    assert "DEMO DATA" in text.splitlines()[0]

    record = next(r for _, r in read_records(tmp_path).values() if r.config.category == "01")
    assert (record.dataset.n_train, record.dataset.n_test) == (20, 12)
    scene, protocol = stc(campus, "01"), get_protocol("paper-stc")
    test = [frame for clip in scene.test for frame in read_frames(clip, protocol, every=4)]
    train = [frame.image for clip in scene.train for frame in read_frames(clip, protocol, every=4)]
    model = PaDiM("resnet18", weights="random", n_features=100, seed=1024, protocol=protocol)
    maps, scores = model.fit(torch.from_numpy(np.stack(train))).score(
        torch.from_numpy(np.stack([f.image for f in test]))
    )
    np.testing.assert_allclose([s.score for s in record.scores], scores.numpy(), rtol=1e-4)
    masks = np.stack([frame.mask for frame in test if frame.mask is not None])
    exact = detection_metrics(masks, maps.numpy()).auroc
    bound = (record.extra.error_bounds or {})["pixel_auroc"]
    assert 0 < bound < 1e-3
    assert record.value("pixel_auroc") == pytest.approx(exact, abs=bound + 1e-6)


def test_scenes_alone_need_no_other_images_and_run_in_processes(cli: CommandLine, campus: Path, tmp_path: Path) -> None:
    options = ("--weights", "random", "--threads", 2, "--results", tmp_path)
    reply = cli("reproduce", "table4", "--stc", campus, "--stc-every", 8, "--executor", "processes:2", *options)
    assert reply.code == 0
    assert "demo dataset" not in reply.err
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "records", "report.html", "tables"}
    assert len(record_files(tmp_path)) == 2


def test_an_unreadable_scene_costs_no_other_table(cli: CommandLine, tiny: Path, campus: Path, tmp_path: Path) -> None:
    broken = tmp_path / "campus"
    shutil.copytree(campus, broken)
    clip = sorted((broken / "training" / "videos").iterdir())[0]
    clip.write_bytes(clip.read_bytes()[:100])
    results = tmp_path / "results"
    reply = cli(
        *("reproduce", "table4", "table5", *OPTIONS, "--data", tiny, "--results", results),
        *("--stc", broken, "--stc-every", 8),
    )
    assert reply.code == 2
    assert "scene 01: " in reply.err.splitlines()[-1]
    assert clip.name in reply.err.splitlines()[-1]
    assert (results / "tables" / "table5.md").is_file()
    assert "table5" in (results / "README.md").read_text()


def test_a_measurement_that_fails_is_named_and_costs_no_other(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def starved(_module: str, asked: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        if Work.from_dict(asked).config.model.strategy == "cholesky":
            raise PadimBenchError("ended by SIGKILL, most likely for want of memory")
        return json.loads(to_json(to_dict(answered(asked))))

    monkeypatch.setattr(measure, "in_fresh_process", starved)
    reply = cli("reproduce", "table8", *OPTIONS, "--data", tiny, "--results", tmp_path)
    assert reply.code == 0
    assert "2 of 4: grid R18-Rd100 cholesky float32: FAILED: ended by SIGKILL" in reply.err
    assert "[UNTRAINED RANDOM WEIGHTS]; 2 measurements gave no numbers: " in reply.out
    rows = [row for row in _rows(tmp_path / "tables" / "table8.csv") if row["part"] == "peak"]
    assert {row["strategy"] for row in rows} == {"auto"}
    assert {row["protocol"] for row in rows} == {"paper", "paper-stc"}
    assert [path.name.partition("-")[0] for path in (tmp_path / "measurements").iterdir()] == ["sizes"]
    kept = [json.loads(path.read_text()) for path in (tmp_path / "profiles").iterdir()]
    assert sorted(record["status"] for record in kept) == ["failed", "failed", "ok", "ok"]


def test_a_table_and_a_profile_of_the_same_model_are_one_measurement(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--data", tiny, "--results", tmp_path, "--weights", "random", "--threads", 1, "--categories", "grid")
    chosen = ("--backbone", "resnet18", "--seed", 1024, "--strategy", "auto")
    modules: list[str] = []
    true = measure.in_fresh_process

    def noted(module: str, asked: dict[str, Any], *others: Any, **more: Any) -> dict[str, Any]:
        modules.append(module)
        if module == "padim_bench.costs.growth":
            return true(module, asked, *others, **more)
        return json.loads(to_json(to_dict(answered(asked))))

    monkeypatch.setattr(measure, "in_fresh_process", noted)
    assert cli("profile", *chosen, *where).code == 0
    (kept,) = (tmp_path / "profiles").iterdir()
    written = kept.read_bytes()
    reply = cli("reproduce", "table7", "--backbones", "resnet18", *where)
    assert reply.code == 0, reply.err
    assert f"measured before ({kept.name}) and not repeated" in reply.err
    assert modules == ["padim_bench.costs.worker", *["padim_bench.costs.growth"] * 2]
    assert [path.read_bytes() for path in (tmp_path / "profiles").iterdir()] == [written]
    assert cli("reproduce", "table7", "--backbones", "resnet18", *where).code == 0
    assert modules == ["padim_bench.costs.worker", *["padim_bench.costs.growth"] * 2]
    rows = _rows(tmp_path / "tables" / "table7.csv")
    assert {row["quantity"].partition(":")[0] for row in rows if row["source"] == "ours"} == {
        "inference", "training", "growth",
    }  # fmt: skip


def test_a_scene_in_bounded_memory_is_the_same_scene(campus: Path, tmp_path: Path) -> None:
    wanted = Wanted(PaDiMConfig(n_features=2, seed=10, protocol=get_protocol("paper-stc")))
    model, settings = (wanted, resolve_weights("resnet18", "random")), Settings(Execution(batch_size=1))
    scenes = [stc(campus, list_scenes(campus)[1])]
    found: list[RunRecord] = []
    said: list[str] = []
    for limit in (1 << 40, 1):
        results = tmp_path / str(limit)
        units = plan_scenes(scenes, [model], replace(settings, memory_limit=limit), every=4)
        (outcome,) = run(units, results, on_message=said.append)
        found.append(outcome.record)
    free, bounded = ([s.score for s in r.scores] for r in found)
    np.testing.assert_allclose(bounded, free, rtol=1e-4)
    (line,) = [line for line in said if " of memory: the program " not in line]
    assert "features of 20 training frames would take" in line
    assert "folded into running moments" in line


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("table9",), "table9"),
        (("table1", "--seeds", "0"), "--seeds"),
        (("table4", "--stc", "nowhere"), "nowhere"),
        (("table4", "--stc-every", "0"), "--stc-every"),
    ],
)
def test_what_cannot_be_is_refused(
    cli: CommandLine, tiny: Path, tmp_path: Path, arguments: tuple[str, ...], culprit: str
) -> None:
    assert_refused(cli("reproduce", *arguments, *OPTIONS, "--data", tiny, "--results", tmp_path), culprit)
    assert record_files(tmp_path) == []
