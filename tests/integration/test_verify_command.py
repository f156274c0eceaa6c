"""``padim-bench verify``: records run again on this machine, spoilt ones, and what is refused rather than compared."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support import CommandLine, assert_refused, contents, lines_said, record_files

from padim_bench.machine.environment import environment
from padim_bench.records.files import read_record, write_record
from padim_bench.records.runs import RunRecord
from padim_bench.records.sealed import write_sealed
from padim_bench.runs.runner import Interrupted
from tests.drawn_records import cost, run_config, run_record

ROOT = Path(__file__).resolve().parents[2]
RUN = ("run", "--backbone", "resnet18", "--n-features", 20, "--threads", 1)


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three strategies over bottle, one of them in little memory, and one over grid; untrained weights."""
    from padim_bench.cli import main

    results = tmp_path_factory.mktemp("made")
    for category, strategies, limit in (
        ("bottle", "cholesky,woodbury", "2GiB"),
        ("bottle", "explicit", "6.5MB"),
        ("grid", "cholesky", "2GiB"),
    ):
        options = ["--data", tiny, "--categories", category, "--strategy", strategies, "--memory-limit", limit]
        assert main([str(a) for a in (*RUN, "--weights", "random:3", *options, "--results", results)]) == 0
    assert {record.memory.images for record in of_bottle(results).values()} == {"held", "streamed"}
    return results


def of_bottle(results: Path) -> dict[str, RunRecord]:
    records = [read_record(path) for path in record_files(results) if path.name.startswith("bottle")]
    return {record.config.model.strategy: record for record in records}


def test_on_the_same_machine_every_number_is_the_record_s_own_and_nothing_is_written(
    cli: CommandLine, made: Path, bottle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    results = Path(shutil.copytree(made, tmp_path / "results"))
    write_record(results, run_record(run_config(seed=8), invalid="LU is wrong"))
    scene = run_record(run_config("01"))
    write_record(results, replace(scene, dataset=replace(scene.dataset, kind="scene")))
    before = contents(results)
    reply = cli("verify", results, "--data", bottle.parent, "--json")
    assert reply.code == 0, reply.err
    assert contents(results) == before
    assert list(temporary.iterdir()) == []
    assert reply.document["counts"] == {
        "identical": 3,
        "within rounding": 0,
        "within the bootstrap interval": 0,
        "different": 0,
    }
    for one in reply.document["records"]:
        record = read_record(Path(one["record"]))
        assert {m["name"]: m["now"] for m in one["metrics"]} == record.metrics
        assert {m["difference"] for m in one["metrics"]} == {0}
        assert one["scores"] == {"n_images": len(record.scores), "largest_difference": 0, "largest_relative": 0}
        assert (one["same_channels"], one["others"]) == (True, [])  # streamed again where it was
        assert one["residual"] == {"then": record.residual, "now": record.residual}
        assert one["where"]["now"]["processor"] == environment()["cpu"]
        assert one["where"]["now"]["threads"] == 1
    # Of a folder, what needs other images or gave no numbers is counted and left out.
    assert sorted(reply.document["left_out"].values()) == [1, 1, 1]
    said = [line for line in lines_said(reply.err) if not line.startswith("left out: 1 record of ")]
    assert all("decoded batch by batch" in line for line in said)


def spoilt(record: RunRecord, **metrics: float) -> RunRecord:
    """With other metrics than the run gave."""
    return replace(record, metrics=(record.metrics or {}) | metrics)


def test_what_was_moved_is_found_and_how_far_decides_the_verdict_and_the_exit_code(
    cli: CommandLine, made: Path, tiny: Path, tmp_path: Path
) -> None:
    records = of_bottle(made)
    values = records["cholesky"].metrics or {}
    pro, auroc = values["pro"] or 0.0, values["pixel_auroc"] or 0.0
    write_record(tmp_path, spoilt(records["explicit"], pro=pro + 5e-6))
    write_record(tmp_path, spoilt(records["cholesky"], pro=pro + 1e-4))
    reply = cli("verify", tmp_path, "--data", tiny, "--threads", 2)
    assert reply.code == 0, reply.err
    assert reply.out.splitlines()[-1] == (
        "2 records: 0 identical, 1 within rounding, 1 within the bootstrap interval, 0 different"
    )
    (line,) = (line for line in reply.out.splitlines() if "PRO, %" in line and "interval" in line)
    assert line.split()[2:5] == [f"{100 * (pro + 1e-4):.6f}", f"{100 * pro:.6f}", "-1.0e-02"]
    assert f"then: {environment()['cpu']}, 1 thread, torch {torch.__version__.partition('+')[0]}" in reply.out
    assert f"now:  {environment()['cpu']}, 2 threads" in reply.out
    write_record(tmp_path, spoilt(records["woodbury"], pixel_auroc=auroc / 2))
    paths = [path for path in record_files(tmp_path) if "woodbury" in path.name]
    reply = cli("verify", *paths, "--data", tiny)
    assert reply.code == 3
    assert lines_said(reply.err) == []
    assert reply.out.splitlines()[-1].endswith("0 within the bootstrap interval, 1 different")
    assert cli("verify", *paths, "--data", tiny, "--tolerance", 100).code == 0


def test_other_images_are_another_split_and_are_not_compared(cli: CommandLine, made: Path, bottle: Path) -> None:
    image = next((bottle / "test" / "good").iterdir())
    Image.new("RGB", (64, 64)).save(image)
    reply = cli("verify", made / "records", "--data", bottle.parent)
    assert_refused(reply, "bottle", "another split", "--data")
    image.unlink()
    assert_refused(cli("verify", made / "records", "--data", bottle.parent), "another split", "6 + 5 images", "6 + 6")


def test_weights_are_known_by_their_tensors_and_others_are_not_compared(
    cli: CommandLine, tiny: Path, tmp_path: Path, no_hub: None
) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet18").state_dict()
    places = {name: tmp_path / name for name in ("own", "renamed", "others", "none")}
    for place in places.values():
        place.mkdir()
    save_file(network, places["own"] / "resnet18.safetensors")
    shutil.copy(places["own"] / "resnet18.safetensors", places["renamed"] / "resnet18.tv_in1k.safetensors")
    network["conv1.weight"] += 1
    save_file(network, places["others"] / "resnet18.safetensors")
    options = ("--data", tiny, "--weights")
    assert cli(*RUN, *options, places["own"], "--categories", "bottle", "--results", tmp_path).code == 0
    (path,) = record_files(tmp_path)
    reply = cli("verify", path, *options, places["renamed"], "--json")
    assert (reply.code, reply.document["counts"]["identical"]) == (0, 1), reply.err
    assert_refused(cli("verify", path, *options, places["others"]), path, "other weights of resnet18", "--weights")
    assert_refused(cli("verify", path, *options, "random"), path, "other weights of resnet18", "untrained")
    assert_refused(cli("verify", path, *options, places["none"]), "no resnet18.safetensors")


def made_with(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file written again, with its seal, after a change of what it says."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["sha256"]
    change(stored)
    write_sealed(path, json.dumps(stored, indent=1) + "\n")
    return path


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        (lambda stored: stored.update(schema=99), ("schema", "99", "the version of padim-bench that made it")),
        (lambda stored: stored["environment"]["versions"].update({"padim-bench": "99.0.0"}), ("99.0.0", "later")),
        (lambda stored: stored.pop("scores"), ("no readable record", "scores")),
        (
            lambda stored: stored.update(seed=1) or stored["config"]["model"].update(seed=9),
            ("no readable record", "id"),
        ),
        (lambda stored: stored["metrics"].update(pro=2.0), ("no readable record", "pro")),
    ],
)
def test_a_record_that_this_version_cannot_trust_is_refused(
    cli: CommandLine, made: Path, tiny: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], culprits: Any
) -> None:
    path = made_with(Path(shutil.copy(record_files(made)[0], tmp_path)), change)
    assert_refused(cli("verify", path, "--data", tiny), path, *culprits)


def test_what_cannot_be_run_again_is_refused_by_name_in_one_line(
    cli: CommandLine, made: Path, tiny: Path, custom: Path, tmp_path: Path
) -> None:
    first, *_ = record_files(made)
    verify = ("verify", "--data", tiny)
    void = write_record(tmp_path, run_record(run_config(seed=8), invalid="LU is wrong"))
    assert_refused(cli(*verify, void), void, "gave no numbers")
    scene = run_record(run_config("01"))
    scene_path = write_record(tmp_path, replace(scene, dataset=replace(scene.dataset, kind="scene")))
    assert_refused(cli(*verify, scene_path), scene_path, "--stc")
    assert_refused(cli(*verify, tmp_path), "nothing can be verified", "1 of video scenes")
    measured = tmp_path / "cost.json"
    from padim_bench.records.costs import to_dict
    from padim_bench.records.files import to_json

    write_sealed(measured, to_json(to_dict(cost(run_config()))))
    assert_refused(cli(*verify, measured), measured, "measurement", "records/")
    assert_refused(cli(*verify, tmp_path / "absent.json"), "absent.json")
    assert_refused(cli(*verify, tiny), tiny, "no records")
    assert_refused(cli("verify", first, "--data", custom), first, "--data")
    assert_refused(cli("verify", first, "--data", tmp_path / "absent"), "no such directory", "absent")
    assert_refused(cli("verify", first), "--data")
    for wrong in ("-1", "nan"):
        assert_refused(cli(*verify, first, "--tolerance", wrong), "--tolerance")
    assert_refused(cli(*verify, first, "--threads", 100_000), first, "--threads")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_record_of_a_gpu_is_run_on_a_processor_only_where_that_is_asked_for(
    cli: CommandLine, made: Path, tiny: Path, tmp_path: Path
) -> None:
    record = of_bottle(made)["cholesky"]
    config = replace(record.config, execution=replace(record.config.execution, device="cuda"))
    record = replace(record, config=config, id=config.run_id(record.dataset.split_digest, record.weights.identity))
    path = write_record(tmp_path, record)
    assert_refused(cli("verify", path, "--data", tiny), path, "cuda", "--device cpu")
    assert cli("verify", path, "--data", tiny, "--device", "cpu").code == 0


def test_ctrl_c_leaves_nothing_behind_and_promises_nothing(
    cli: CommandLine, made: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(units: object, results: Path, **_: object) -> None:
        (results / "records").mkdir(parents=True)
        raise Interrupted(1, 2)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("padim_bench.runs.again.run", interrupted)
    reply = cli("verify", made, "--data", tiny)
    assert (reply.code, reply.err) == (130, "padim-bench: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_without_a_temporary_folder_a_line_says_how_to_give_one(
    cli: CommandLine, made: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("padim_bench.runs.again.TemporaryDirectory", none)
    assert_refused(cli("verify", made, "--data", tiny), "no temporary folder", "TMPDIR")


@pytest.mark.data
def test_a_committed_record_comes_out_again_from_the_real_images(
    cli: CommandLine, real_data: Path, real_weights: Path
) -> None:
    """R18-Rd100 of bottle under the paper's protocol, whatever machine this is."""
    files = [
        path for path in record_files(ROOT / "results") if path.name.startswith("bottle-resnet18-rd100-s1024-chol")
    ]
    (chosen,) = (
        one
        for one in map(read_record, files)
        if (one.config.protocol.name, one.config.model.storage, one.config.extras) == ("paper", "float32", ())
    )
    (path,) = (ROOT / "results" / "records").glob(f"*-{chosen.id[:12]}.json")
    reply = cli("verify", path, "--data", real_data, "--weights", real_weights, "--json")
    assert reply.code == 0, reply.err
    (one,) = reply.document["records"]
    assert one["verdict"] in {"identical", "within rounding"}
    assert {m["name"] for m in one["metrics"]} == set(chosen.metrics or {})
