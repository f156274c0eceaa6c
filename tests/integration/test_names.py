"""Names of folders and files, whatever they are, through the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support import CommandLine, assert_refused, record_files, start

RUN = ("run", "--backbone", "resnet18", "--weights", "random", "--n-features", 20, "--threads", 1, "--json")


def test_normal_images_by_another_name_are_refused_or_named(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    (bottle / "test" / "good").rename(bottle / "test" / "OK")
    command = (*RUN, "--data", bottle.parent, "--results", tmp_path / "results")
    assert_refused(cli(*command), bottle / "test" / "OK", "--normal OK")
    reply = cli(*command, "--normal", "good,ok")
    (run,) = reply.runs
    assert run["metrics"]["image_auroc"] is not None
    dataset = json.loads(Path(run["record"]).read_text())["dataset"]
    assert dataset["n_anomalous"] == dataset["n_test"] - 3
    assert dataset["notes"] == ["normal as asked for by name: test/OK, train/good"]
    assert "note: bottle: normal as asked for by name" in reply.err


def test_what_is_left_out_is_said_once_and_kept_in_the_record(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    (bottle / "train" / "good" / "extra").mkdir()
    os.link(bottle / "train" / "good" / "000.png", bottle / "train" / "good" / "extra" / "000.png")
    command = (*RUN, "--data", bottle.parent, "--results", tmp_path / "results", "--seed", "0,1")
    reply = cli(*command)
    note = "left out 1: folder in a folder of images: 1 (train/good/extra/ with 1 image)"
    assert reply.err.count(note) == 1
    for run in reply.runs:
        assert json.loads(Path(run["record"]).read_text())["dataset"]["notes"] == [note]


def test_a_comma_in_the_name_of_a_category_is_written_with_a_backslash(
    cli: CommandLine, bottle: Path, tmp_path: Path
) -> None:
    root = bottle.rename(bottle.with_name("a,b|c")).parent
    command = (*RUN, "--data", root, "--results", tmp_path / "results")
    assert_refused(cli(*command, "--categories", "a,b|c"), "'a'")
    assert [run["category"] for run in cli(*command, "--categories", r"a\,b|c").runs] == ["a,b|c"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are no bytes here")
def test_names_that_are_no_unicode_run_alike_under_every_locale(
    bottle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(b"gro\xdf")
    root = bottle.rename(bottle.with_name(odd)).parent
    image = root / odd / "train" / "good" / "000.png"
    image.rename(image.with_name(f"{odd}.png"))
    results, found = tmp_path / odd, []
    for settings in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        process = start(*RUN, "--data", root, "--results", results)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        found.append(json.loads(out)["runs"][0])
        monkeypatch.undo()
    (path,) = record_files(results)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["dataset"]["category"] == "gro\\xdf"
    assert [(run["category"], run["resumed"]) for run in found] == [("gro\\xdf", False), ("gro\\xdf", True)]
