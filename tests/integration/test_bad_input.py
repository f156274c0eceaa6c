"""Bad input: exit code 2 and one line that names what is wrong. Our own faults: exit code 1 and a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support import CommandLine, assert_refused, contents, record_files
from torch import Tensor

from padim_bench.data.mvtec import mvtec
from padim_bench.demo import images
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.config import Wanted
from padim_bench.records.runs import RunRecord
from padim_bench.report.render import table_page
from padim_bench.report.spec import load_spec
from padim_bench.report.tables import build_table
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.runner import run

RANDOM = ("--backbone", "resnet18", "--weights", "random")
SMALL = ("--n-features", 20, "--threads", 1, "--json")
RUN = ("run", *RANDOM, *SMALL)


def _rewrite(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _corrupt_image(bottle: Path) -> Path:
    return _rewrite(bottle / "train" / "good" / "002.png", b"\x89PNG\r\n\x1a\n" + bytes(200))


def _truncated_image(bottle: Path) -> Path:
    path = bottle / "test" / "good" / "001.png"
    return _rewrite(path, path.read_bytes()[:5000])


def _truncated_mask(bottle: Path) -> Path:
    path = bottle / "ground_truth" / "rust" / "000_mask.png"
    return _rewrite(path, path.read_bytes()[:-30])


def _not_an_image(bottle: Path) -> Path:
    return _rewrite(bottle / "test" / "rust" / "000.png", b"<html>not found</html>")


def _empty_file(bottle: Path) -> Path:
    return _rewrite(bottle / "train" / "good" / "000.png", b"")


def _mask_of_another_size(bottle: Path) -> Path:
    path = bottle / "ground_truth" / "rust" / "000_mask.png"
    Image.fromarray(np.zeros((128, 256), dtype=np.uint8)).save(path)
    return path


def _missing_mask(bottle: Path) -> Path:
    path = bottle / "ground_truth" / "rust" / "000_mask.png"
    path.unlink()
    return path


def _no_training_image(bottle: Path) -> Path:
    folder = bottle / "train" / "good"
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _no_test_image(bottle: Path) -> Path:
    shutil.rmtree(bottle / "test")
    return bottle / "test"


@pytest.mark.parametrize(
    "spoil",
    [
        _corrupt_image,
        _truncated_image,
        _truncated_mask,
        _not_an_image,
        _empty_file,
        _mask_of_another_size,
        _missing_mask,
        _no_training_image,
        _no_test_image,
    ],
)
def test_a_spoilt_dataset_is_refused(
    cli: CommandLine, bottle: Path, tmp_path: Path, spoil: Callable[[Path], Path | str]
) -> None:
    culprit = spoil(bottle)
    assert_refused(cli(*RUN, "--data", bottle.parent, "--results", tmp_path / "results"), culprit)
    assert record_files(tmp_path / "results") == []


def test_a_spoilt_category_leaves_the_finished_ones_on_record(
    cli: CommandLine, tiny: Path, bottle: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny / "grid", bottle.parent / "grid")
    culprit = _truncated_image(bottle.parent / "grid")
    results = tmp_path / "results"
    command = (*RUN, "--data", bottle.parent, "--categories", "bottle,grid", "--results", results)
    assert_refused(cli(*command), culprit)
    (kept,) = record_files(results)
    assert json.loads(kept.read_text())["config"]["category"] == "bottle"


def test_a_dataset_that_is_not_there_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    assert_refused(cli(*RUN, "--data", tmp_path / "nowhere", "--results", tmp_path), tmp_path / "nowhere")
    assert_refused(cli(*RUN, "--results", tmp_path), "--data")


def test_a_dataset_that_is_a_file_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    file = _rewrite(tmp_path / "mvtec.tar", b"x")
    assert_refused(cli(*RUN, "--data", file, "--results", tmp_path), file, "not a directory")


def test_a_folder_without_categories_is_refused(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    assert_refused(cli(*RUN, "--data", bottle, "--results", tmp_path), bottle)


@pytest.mark.parametrize("category", ["toothbrush", "../data/bottle", "..", ".", ","])
def test_a_category_that_is_not_a_folder_of_the_dataset_is_refused(
    cli: CommandLine, bottle: Path, tmp_path: Path, category: str
) -> None:
    results = tmp_path / "results"
    reply = cli(*RUN, "--data", bottle.parent, "--categories", category, "--results", results)
    assert_refused(reply, "--categories" if category == "," else category)
    assert record_files(results) == []


def test_an_absolute_path_is_no_category(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    reply = cli(*RUN, "--data", bottle.parent, "--categories", bottle, "--results", tmp_path)
    assert_refused(reply, bottle)


@pytest.mark.parametrize(
    ("options", "culprits"),
    [
        (("--n-features", 449), ("449", "448")),
        (("--n-features", 0), ("--n-features", "'0'")),
        (("--n-features", "many"), ("--n-features", "many")),
        (("--n-features", ","), ("--n-features",)),
        (("--seed", "1.5"), ("--seed", "1.5")),
        (("--seed", ","), ("--seed",)),
        (("--backbone", "resnet1"), ("resnet1",)),
        (("--backbone", "resnet18,resnet1"), ("resnet1",)),
        (("--backbone", "resnet18.nobody_in1k"), ("resnet18.nobody_in1k", "resnet18.tv_in1k")),
        (("--weights", "random:x"), ("random:x",)),
        (("--weights", "no/such.safetensors"), ("no/such.safetensors",)),
        (("--layers", "layer9"), ("layer9", "layer3")),
        (("--strategy", "magic"), ("magic", "cholesky")),
        (("--storage", "int8"), ("--storage int8", "float16")),
        (("--protocol", "mine"), ("mine", "paper")),
        (("--executor", "cloud"), ("cloud", "processes:N")),
        (("--executor", "processes:0"), ("processes:0",)),
        (("--device", "abacus"), ("abacus", "cpu")),
        (("--device", "meta"), ("meta", "cpu")),
        (("--epsilon", 0), ("epsilon",)),
        (("--epsilon", "nan"), ("epsilon",)),
        (("--sigma", -1), ("sigma",)),
        (("--threads", 0), ("--threads",)),
        (("--batch-size", 0), ("--batch-size",)),
        (("--colour", "red"), ("--colour",)),
        (("--dataset", "imagenet"), ("imagenet",)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_an_unfit_option_is_refused(
    cli: CommandLine, tiny: Path, tmp_path: Path, options: tuple[object, ...], culprits: tuple[str, ...]
) -> None:
    reply = cli(*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path, *options)
    assert_refused(reply, *culprits)
    assert record_files(tmp_path) == []


@pytest.mark.parametrize("command", [(), ("fly",), ("list",), ("list", "birds"), ("run",), ("data", "burn")])
def test_an_unknown_or_unfinished_command_is_refused(cli: CommandLine, command: tuple[str, ...]) -> None:
    assert_refused(cli(*command), "--help")


def test_a_backbone_without_tag_and_weights_lists_the_tags(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    reply = cli("run", "--backbone", "resnet18", *SMALL, "--data", tiny, "--results", tmp_path)
    assert_refused(reply, "resnet18.tv_in1k", "resnet18.a1_in1k", "--weights")


@pytest.mark.usefixtures("no_hub")
def test_a_tag_that_cannot_be_had_says_what_to_fetch(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    reply = cli("run", "--backbone", "resnet18.tv_in1k", *SMALL, "--data", tiny, "--results", tmp_path)
    assert_refused(
        reply,
        "https://huggingface.co/timm/resnet18.tv_in1k/resolve/main/model.safetensors",
        "--weights",
        "HF_HUB_OFFLINE",
    )


def _resnet18(**replaced: Tensor) -> dict[str, Tensor]:
    return timm.create_model("resnet18", pretrained=False).state_dict() | replaced


def _weights_of_another_model(path: Path) -> str:
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, path)
    return "tensors are missing"


def _weights_of_another_shape(path: Path) -> str:
    save_file(_resnet18(**{"conv1.weight": torch.zeros(64, 1, 7, 7)}), path)
    return "conv1.weight"


def _weights_that_are_no_safetensors(path: Path) -> str:
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    return path.name


def _weights_with_nan(path: Path) -> str:
    weight = torch.zeros(64, 3, 7, 7)
    weight[3, 1, 4, 1] = float("nan")
    save_file(_resnet18(**{"conv1.weight": weight}), path)
    return "conv1.weight has NaN"


@pytest.mark.parametrize(
    "make",
    [
        _weights_of_another_model,
        _weights_of_another_shape,
        _weights_that_are_no_safetensors,
        _weights_with_nan,
    ],
)
def test_weights_that_do_not_fit_are_refused(
    cli: CommandLine, tiny: Path, tmp_path: Path, make: Callable[[Path], str]
) -> None:
    path = tmp_path / "resnet18.safetensors"
    culprit = make(path)
    command = ("run", "--backbone", "resnet18", *SMALL, "--data", tiny, "--results", tmp_path)
    assert_refused(cli(*command, "--weights", path), path, culprit)
    assert_refused(cli(*command, "--weights", tmp_path), path, culprit)


def test_features_that_are_not_finite_are_refused_and_the_category_is_named(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "resnet18.safetensors"
    save_file(_resnet18(**{"conv1.weight": torch.full((64, 3, 7, 7), 3e38)}), path)
    command = ("run", "--backbone", "resnet18", "--weights", path, *SMALL, "--data", tiny, "--categories", "grid")
    assert_refused(cli(*command, "--results", tmp_path), "grid", "NaN")
    assert record_files(tmp_path) == []


def test_results_in_the_place_of_a_file_are_refused_before_anything_is_computed(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _rewrite(tmp_path / "results", b"")
    monkeypatch.setattr("padim_bench.runs.runner.run_unit", lambda *_: pytest.fail("computed"))
    assert_refused(cli(*RUN, "--data", tiny, "--results", file), file, "--results")
    assert_refused(cli(*RUN, "--data", tiny, "--results", file / "below"), file / "below")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_results_in_a_read_only_folder_are_refused(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir(mode=0o555)
    assert_refused(cli(*RUN, "--data", tiny, "--results", folder), folder, "--results")


@pytest.mark.parametrize(
    "text", ["", '{"schema": 2, "id"', "[]", "{}", '{"schema": 3}', '{"schema": 3, "id": "a"}', '{"schema": 99}']
)
def test_a_file_among_the_records_that_is_none_is_refused(
    cli: CommandLine, tiny: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "records" / "bottle-resnet18.json"
    path.parent.mkdir()
    path.write_text(text)
    reply = cli(*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path)
    assert_refused(reply, path, "schema 99" if "99" in text else "delete it")
    assert path.read_text() == text


def test_a_full_disk_is_told_and_earlier_records_stay_intact(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, sync = [], os.fsync

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    assert_refused(cli(*RUN, "--data", tiny, "--results", tmp_path), os.strerror(errno.ENOSPC), tmp_path, "leather")
    (kept,) = record_files(tmp_path)
    assert json.loads(kept.read_text())["config"]["category"] == "grid"
    before = contents(tmp_path)
    assert len(before) == 1  # nor is a temporary file left
    monkeypatch.setattr(os, "fsync", sync)
    assert [r["resumed"] for r in cli(*RUN, "--data", tiny, "--results", tmp_path).runs] == [True, False, False]
    assert before.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    ("options", "culprits"),
    [
        (("table99",), ("table99", "table3")),
        (("table3", "--weights", "random", "--backbones", "vgg16"), ("vgg16", "resnet18")),
        (("table3", "--weights", "random", "--backbones", "resnet18.nobody_in1k"), ("resnet18.nobody_in1k",)),
        (("table3", "--weights", "random", "--backbones", ","), ("--backbones",)),
        (("table3", "--weights", "random:x"), ("random:x",)),
        (("table3", "--weights", "random", "--categories", "wood"), ("wood",)),
    ],
    ids=" ".join,
)
def test_an_unfit_reproduction_is_refused(
    cli: CommandLine, tiny: Path, tmp_path: Path, options: tuple[str, ...], culprits: tuple[str, ...]
) -> None:
    reply = cli("reproduce", *options, "--json", "--data", tiny, "--results", tmp_path)
    assert_refused(reply, *culprits)
    assert not (tmp_path / "tables").exists()


def test_a_reproduction_over_several_datasets_is_refused_before_anything_is_computed(
    cli: CommandLine, drawn: Path, custom: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for source in (drawn / "gear", custom / "part"):
        (tmp_path / "data" / source.name).symlink_to(source)
    command = ("reproduce", "table3", "--weights", "random", "--json", "--data", tmp_path / "data")
    reply = cli(*command, "--results", tmp_path / "results")
    assert_refused(reply, "demo: gear", "data: part", "--categories")
    assert record_files(tmp_path / "results") == []


def test_our_own_fault_is_exit_code_1_with_a_traceback(
    cli: CommandLine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Backbone, _images: Tensor) -> list[Tensor]:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Backbone, "forward", broken)
    reply = cli(*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path)
    assert (reply.code, reply.out) == (1, "")
    assert "Traceback (most recent call last)" in reply.err
    assert "RuntimeError: a bug of ours" in reply.err


@pytest.mark.parametrize(
    ("how", "why"), [("is wrong", "left |Sigma Sigma^-1 - I|"), ("hangs", "did not return within 10 s")]
)
def test_a_wrong_inverse_is_recorded_invalid_without_numbers(
    cli: CommandLine, tiny: Path, tmp_path: Path, lu_that: Callable[[str], None], how: str, why: str
) -> None:
    lu_that(how)
    command = ("run", *RANDOM, "--n-features", 20, "--threads", 1, "--data", tiny, "--categories", "bottle")
    command = (*command, "--strategy", "explicit-lu,explicit", "--results", tmp_path)
    reply = cli(*command, "--json")
    invalid, valid = reply.runs
    assert (invalid["status"], invalid["metrics"], invalid["residual"]) == ("invalid", None, None)
    assert "pytorch#142815" in invalid["reason"]
    assert why in invalid["reason"]
    assert valid["status"] == "ok"
    assert "INVALID" in reply.err
    record = json.loads(Path(invalid["record"]).read_text())
    assert (record["status"], record["metrics"], record["scores"]) == ("invalid", None, [])
    for_people = cli(*command)  # resumed
    assert for_people.code == 0
    assert "INVALID" in for_people.out


def test_no_number_of_an_invalid_run_enters_a_table(tiny: Path, tmp_path: Path, lu_that: Callable[[str], None]) -> None:
    wanted = Wanted(PaDiMConfig(n_features=20, strategy="explicit-lu"))
    model, settings = (wanted, resolve_weights("resnet18", "random")), Settings()

    def records(category: str) -> list[RunRecord]:
        return [o.record for o in run(plan([mvtec(tiny, category)], [model], settings), tmp_path)]

    lu_that("is right")
    valid = records("grid")
    lu_that("is wrong")
    invalid = records("bottle")
    assert (valid[0].status, invalid[0].status) == ("ok", "invalid")
    table = build_table(load_spec("table3"), {"R18-Rd100": [*invalid, *valid]}, {})
    cells = {c.row: c for c in table.cells if c.metric == "pro"}
    assert (cells["bottle"].ours, cells["bottle"].records, cells["bottle"].verdict) == (None, (), "")
    assert cells["object"].ours is None
    assert cells["grid"].ours is not None
    assert (cells["all"].ours, cells["all"].present) == (cells["grid"].ours, 1)
    assert cells["all"].paper == cells["grid"].paper
    for text in table_page(table).texts.values():
        assert "INVALID and left out: bottle" in text
        assert invalid[0].id[:12] not in text


def test_a_demo_run_never_hides_weights_that_are_missing_or_corrupt(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in ("TRAIN", "TEST_GOOD", "PER_DEFECT"):
        monkeypatch.setattr(images, count, 2)
    (tmp_path / "resnet18.tv_in1k.safetensors").write_bytes(b"not weights")
    for weights in (tmp_path / "typo", tmp_path, tmp_path / "resnet18.tv_in1k.safetensors"):
        reply = cli("reproduce", "table3", "--weights", weights, "--backbones", "resnet18", "--results", tmp_path / "r")
        assert (reply.code, reply.out) == (2, "")
        error = reply.err.splitlines()[-1]
        assert error.startswith("padim-bench: error: ")
        assert weights.name in error
