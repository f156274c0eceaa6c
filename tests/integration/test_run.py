"""``padim-bench run``: what it prints, what it puts on record, and what it never computes twice."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import CommandLine, assert_refused, contents, record_files, strings
from torch import Tensor

from padim_bench import STRATEGIES, PadimBenchError
from padim_bench.data.loading import split_digest
from padim_bench.data.mvtec import mvtec
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.config import RunConfig, Wanted
from padim_bench.runs import images, methods, runner
from padim_bench.runs.plan import Settings, plan
from tests.passes import count_images

METRICS = {"image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"}
METRICS |= {"pro_per_image"}
IMAGE_METRICS = {m for m in METRICS if m.startswith("image")}
IMAGES = 6 + 6  # of a category of ``tiny``: training and test
RUN = ("run", "--backbone", "resnet18", "--weights", "random", "--n-features", 20, "--threads", 1)


def test_json_is_one_document_with_the_documented_keys(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    reply = cli(
        *RUN, "--data", tiny, "--categories", "bottle,grid", "--n-features", 50, "--seed", 7, "--strategy", "whitening",
        "--storage", "float16", "--protocol", "anomalib", "--device", "cpu", "--results", tmp_path, "--json",
    )  # fmt: skip
    assert [run["category"] for run in reply.runs] == ["bottle", "grid"]
    for run in reply.runs:
        config = run["config"]
        model, execution = config["model"], config["execution"]
        assert (model["backbone"], model["n_features"], model["seed"]) == ("resnet18", 50, 7)
        assert (model["strategy"], model["storage"], execution["threads"]) == ("whitening", "float16", 1)
        assert model["protocol"]["name"] == "anomalib"
        assert set(run["metrics"]) == METRICS
        assert all(0 <= value <= 1 for value in run["metrics"].values())
        assert {"fit", "score"} <= set(run["timings_s"])
        assert all(seconds >= 0 for seconds in run["timings_s"].values())
        assert 0 <= run["residual"] < 5e-3
        factors, means = 2 * STRATEGIES["whitening"].n_values(6, 50), 4 * 50
        assert run["state_bytes"] == 64 * 64 * (factors + means)
        assert run["memory_bytes"] > run["state_bytes"]
        record = json.loads(Path(run["record"]).read_text())
        assert {k: record[k] for k in ("config", "metrics", "timings_s", "state_bytes", "residual")} == {
            k: run[k] for k in ("config", "metrics", "timings_s", "state_bytes", "residual")
        }


def test_people_read_percent_and_where_the_records_are(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    reply = cli(*RUN, "--data", tiny, "--categories", "bottle,leather", "--results", tmp_path)
    assert reply.code == 0
    metrics = {r["config"]["category"]: r["metrics"] for r in map(json.loads, _texts(tmp_path))}
    lines = {line.split()[0]: line.split() for line in reply.out.splitlines()}
    expected = [f"{100 * metrics['bottle'][k]:.2f}" for k in ("image_auroc", "pixel_auroc", "pro")]
    assert lines["bottle"][4:7] == expected
    assert lines["leather"][4:7] == [f"{100 * metrics['leather']['image_auroc']:.2f}", "-", "-"]
    assert "untrained" in reply.out
    assert str(tmp_path / "records") in reply.out


def _texts(results: Path) -> list[str]:
    return [path.read_text() for path in record_files(results)]


def test_what_native_code_prints_stays_out_of_the_document(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Backbone.forward

    def noisy(self: Backbone, images: Tensor) -> list[Tensor]:
        os.write(1, b"Intel oneMKL ERROR: Parameter 6 was incorrect\n")
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", noisy)
    reply = cli(*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path, "--json")
    assert len(reply.runs) == 1
    assert "oneMKL" in reply.err


def test_a_second_call_computes_nothing_and_says_so(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*RUN, "--data", tiny, "--results", tmp_path, "--json")
    first = cli(*command)
    assert not any(run["resumed"] for run in first.runs)
    before, seen = contents(tmp_path), count_images(monkeypatch)
    second = cli(*command)
    assert seen == []
    assert contents(tmp_path) == before
    assert "3 of 3 runs are on record already" in second.err
    assert all(run.pop("resumed") for run in second.document["runs"])
    assert [run | {"resumed": True} for run in first.runs] == second.runs


def test_only_what_is_missing_is_computed(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*RUN, "--data", tiny, "--results", tmp_path, "--json")
    assert cli(*command, "--categories", "bottle").code == 0
    before, seen = contents(tmp_path), count_images(monkeypatch)
    reply = cli(*command, "--categories", "bottle,grid", "--strategy", "cholesky,diagonal")
    assert [(r["category"], r["config"]["model"]["strategy"], r["resumed"]) for r in reply.runs] == [
        ("bottle", "cholesky", True),
        ("bottle", "diagonal", False),
        ("grid", "cholesky", False),
        ("grid", "diagonal", False),
    ]
    after = contents(tmp_path)
    assert len(after) == 4
    assert before.items() <= after.items()
    assert sum(n for n in seen if n > 1) == 2 * IMAGES


def test_configurations_share_one_backbone_pass_per_category(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_images(monkeypatch)
    reply = cli(
        *RUN, "--data", tiny, "--categories", "bottle,grid", "--n-features", "20,50", "--seed", "0,1",
        "--strategy", "cholesky,diagonal", "--dtype", "float32,float16", "--results", tmp_path, "--json",
    )  # fmt: skip
    assert len(reply.runs) == len(record_files(tmp_path)) == 2 * 16
    assert sum(n for n in seen if n > 1) == 2 * IMAGES  # a single image may find out the grids
    assert sum(n == 1 for n in seen) <= 2


def test_several_backbones_in_one_command_are_the_runs_of_one_command_each(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    chosen = ("--layers", "layer1", "--weights", "random", "--n-features", 10, "--threads", 1)
    command = ("run", *chosen, "--data", tiny, "--categories", "grid", "--results", tmp_path)
    together = cli(*command, "--backbone", "resnet18,resnet34", "--storage", "float16")
    assert together.code == 0, together.err
    assert [line.split()[:2] for line in together.out.splitlines()[2:-1]] == [
        ["grid", "R18-layer1-Rd10"],
        ["grid", "resnet34-layer1-Rd10"],
    ]
    kept = contents(tmp_path / "records")
    for name in ("resnet18", "resnet34"):
        (alone,) = cli(*command, "--backbone", name, "--dtype", "float16", "--json").runs
        assert (alone["config"]["model"]["backbone"], alone["config"]["model"]["storage"], alone["resumed"]) == (
            name,
            "float16",
            True,
        )
    assert contents(tmp_path / "records") == kept


def test_a_run_that_shares_features_gives_the_numbers_of_one_that_does_not(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    command = (*RUN, "--data", tiny, "--categories", "grid", "--seed", 3, "--json")
    shared = cli(*command, "--n-features", "100,20", "--strategy", "diagonal,explicit", "--results", tmp_path / "a")
    alone = cli(*command, "--n-features", "20", "--strategy", "explicit", "--results", tmp_path / "b")
    (wanted,) = alone.runs
    (same,) = [r for r in shared.runs if r["config"] == wanted["config"]]
    assert same["metrics"] == wanted["metrics"]


def test_a_record_holds_its_provenance_and_nothing_personal(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    reply = cli(*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path, "--json")
    text = Path(reply.runs[0]["record"]).read_text()
    record = json.loads(text)
    assert record["schema"] == 3
    assert record["status"] == "ok"
    assert record["dataset"]["split_digest"] == split_digest(mvtec(tiny, "bottle"))
    assert {k: record["dataset"][k] for k in ("name", "category", "n_train", "n_test", "n_anomalous")} == {
        "name": "set", "category": "bottle", "n_train": 6, "n_test": 6, "n_anomalous": 3
    }  # fmt: skip
    assert record["dataset"]["resolution"] == "paper-224"
    assert record["weights"]["trained"] is False
    assert "untrained" in record["weights"]["label"]
    for digest in (record["id"], record["weights"]["sha256"], record["embedding"]["channels_sha256"]):
        assert re.fullmatch("[0-9a-f]{64}", digest)
    environment = record["environment"]
    assert environment["versions"]["torch"] == metadata.version("torch")
    assert environment["threads"] == 1
    assert {"os", "cpu", "cpu_count", "python", "commit", "dirty"} <= set(environment)
    assert len(record["scores"]) == 6
    assert sum(score["label"] for score in record["scores"]) == 3

    assert not [s for s in strings(record) if Path(s).is_absolute()]
    for private in (tmp_path, tiny, Path.home(), Path(__file__).parents[2]):
        assert str(private) not in text
    host = socket.gethostname()
    assert len(host) < 4 or host not in text
    assert not re.search(rf"[/\\\"@]{re.escape(getpass.getuser())}[/\\\"@]", text)


def test_a_changed_image_gets_a_record_of_its_own(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = (*RUN, "--data", bottle.parent, "--results", results, "--json")
    (first,) = cli(*command).runs
    before = contents(results)
    path = bottle / "train" / "good" / "000.png"
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    (second,) = cli(*command).runs
    assert first["record"] != second["record"]
    assert len(record_files(results)) == 2
    assert before.items() <= contents(results).items()


def test_a_category_without_ground_truth_has_image_metrics_only(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    (run,) = cli(*RUN, "--data", tiny, "--categories", "leather", "--results", tmp_path, "--json").runs
    assert {k for k, v in run["metrics"].items() if v is None} == METRICS - IMAGE_METRICS
    assert all(0 <= run["metrics"][k] <= 1 for k in IMAGE_METRICS)
    assert json.loads(Path(run["record"]).read_text())["dataset"]["has_masks"] is False


def test_test_images_of_one_label_give_null_and_no_crash(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    for folder in (bottle / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    reply = cli(*RUN, "--data", bottle.parent, "--results", tmp_path, "--json")
    assert reply.runs[0]["metrics"]["image_auroc"] is None


def test_a_custom_dataset_is_named_after_its_folder(cli: CommandLine, custom: Path, tmp_path: Path) -> None:
    (run,) = cli(*RUN, "--data", custom, "--results", tmp_path, "--json").runs
    assert (run["config"]["dataset"], run["category"]) == ("factory", "part")
    assert 0 <= run["metrics"]["pro"] <= 1


def test_plain_folders_are_a_dataset(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "plain"
    shutil.copytree(tiny / "bottle" / "train" / "good", root / "normal")
    shutil.copytree(tiny / "bottle" / "test" / "rust", root / "anomalous")
    (run,) = cli(*RUN, "--dataset", "folder", "--data", root, "--results", tmp_path, "--json").runs
    assert run["category"] == "plain"
    assert run["metrics"]["image_auroc"] is not None
    assert run["metrics"]["pro"] is None


def test_another_number_of_threads_is_another_record(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    command = (*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path, "--json")
    runs = [cli(*command, "--threads", n).runs[0] for n in (1, 2)]
    assert [run["config"]["execution"]["threads"] for run in runs] == [1, 2]
    assert len(record_files(tmp_path)) == 2


def test_a_rounding_backbone_is_recorded_with_its_error(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    command = (*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path, "--json")
    (exact,) = cli(*command).runs
    (rounded,) = cli(*command, "--backbone-dtype", "bfloat16").runs
    errors = [json.loads(Path(run["record"]).read_text())["backbone_error"] for run in (exact, rounded)]
    assert (rounded["config"]["model"]["backbone_dtype"], rounded["resumed"]) == ("bfloat16", False)
    assert errors[0] == 0 < errors[1] < 0.05


def test_the_users_threads_are_as_before(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    assert cli(*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path, "--json").code == 0
    assert torch.get_num_threads() == before


def test_what_a_worker_had_finished_is_kept_when_a_later_run_fails(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(config: RunConfig, seen: methods.Seen, **chosen: Any) -> methods.Fitted:
        if config.model.seed == 1:
            raise PadimBenchError("unfit")
        return methods.fit(config, seen, **chosen)

    monkeypatch.setattr(images, "fit", fit)
    weights, settings = resolve_weights("resnet18", "random"), Settings()
    models = [(Wanted(PaDiMConfig(n_features=20, seed=seed)), weights) for seed in (0, 1)]
    units = plan([mvtec(tiny, "bottle")], models, settings)
    with ThreadPoolExecutor(1) as pool, pytest.raises(PadimBenchError, match="unfit"):
        runner.run(units, tmp_path, executor=pool)
    assert len(record_files(tmp_path)) == 1


def test_processes_give_the_numbers_of_a_serial_run(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    command = (*RUN, "--data", tiny, "--categories", "bottle,grid", "--json")
    serial = cli(*command, "--results", tmp_path / "serial")
    apart = cli(*command, "--results", tmp_path / "apart", "--executor", "processes:2")
    assert [(r["config"], r["metrics"]) for r in apart.runs] == [(r["config"], r["metrics"]) for r in serial.runs]
    assert [p.name for p in record_files(tmp_path / "apart")] == [p.name for p in record_files(tmp_path / "serial")]


def test_other_methods_are_run_by_name_and_refuse_what_padim_alone_has(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    command = ("run", "--backbone", "resnet18", "--weights", "random", "--threads", 1, "--results", tmp_path)
    command += ("--data", tiny, "--categories", "bottle")
    found = cli(*command, "--method", "spade-k5,mahalanobis", "--json").runs
    assert [run["strategy_used"] for run in found] == ["spade-k5", "mahalanobis"]
    assert [run["metrics"]["pro"] is None for run in found] == [False, True]
    assert {tuple(run["config"]["model"]["layers"]) for run in found} == {("layer1", "layer2", "layer3", "layer4")}
    for option in (("--strategy", "woodbury"), ("--n-features", 20), ("--fusion", "sum"), ("--epsilon", 0.1)):
        assert_refused(cli(*command, "--method", "spade", *option), option[0], "a choice of padim alone, not of spade")
    assert_refused(cli(*command, "--method", "spad"), "--method spad: choose from padim, spade")
