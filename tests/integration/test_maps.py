"""Maps that a run saves and that are scored again: the run's own metrics, to the last digit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from support import CommandLine, assert_refused, contents, lines_said

from padim_bench import PadimBenchError, SaveMaps, mvtec, score_maps
from padim_bench.maps.saving import at_image
from padim_bench.protocols import get_protocol, rd_mvtec_protocol

MODEL = ("--backbone", "resnet18", "--weights", "random", "--n-features", "8", "--threads", "1")


def metrics_of(reply: Any) -> dict[str, dict[str, float]]:
    assert reply.code == 0, reply.err
    return {one["category"]: one["metrics"] for one in reply.document["categories"]}


def test_maps_saved_at_the_protocol_s_size_score_as_the_run_did(tiny: Path, tmp_path: Path, cli: CommandLine) -> None:
    maps = tmp_path / "maps"
    options = (*MODEL, "--data", tiny, "--results", tmp_path / "results", "--json")
    saved = (*options, "--save-maps", maps, "--maps-at", "protocol", "--save-masks", tmp_path / "masks")
    first = cli("run", *saved)
    runs = {run["category"]: run for run in first.runs}
    assert "MVTec's evaluation needs the masks" in first.err
    found = cli("score-maps", "--maps", maps, "--data", tiny, "--protocol", "paper", "--json")
    assert metrics_of(found) == {name: run["metrics"] for name, run in runs.items()}
    assert runs["leather"]["metrics"]["pro"] is None
    resampled = score_maps(maps, mvtec(tiny, "bottle"), protocol="paper").resampled
    for name, values in runs["bottle"]["extra"]["resampled"].items():
        assert np.allclose(values, resampled[name], atol=1e-6, rtol=0)
    one = tifffile.imread(maps / "bottle/test/good/000.tiff")
    assert (one.dtype, one.shape) == (np.float32, (224, 224))
    masks = sorted((tmp_path / "masks").rglob("*.png"))
    assert len(masks) == 6
    assert {Image.open(path).size for path in masks} == {(224, 224)}

    # Masks of 256 pixels are not those of these maps.
    assert_refused(cli("score-maps", "--maps", maps, "--data", tiny, "--categories", "grid"), "224x224", "256x256")

    # What is on record is run again for its maps, and its record stays.
    record = Path(runs["bottle"]["record"])
    before, stamp = record.read_bytes(), record.stat().st_mtime_ns
    (maps / "bottle/test/good/000.tiff").unlink()
    again = cli("run", *saved, "--categories", "bottle")
    assert "1 of 1 runs are on record already" in again.err
    assert "run again for their maps" in again.err
    assert "other metrics" not in again.err
    assert (maps / "bottle/test/good/000.tiff").exists()
    assert (record.read_bytes(), record.stat().st_mtime_ns) == (before, stamp)


def test_maps_at_the_images_size_score_as_a_run_that_compares_there(
    tiny: Path, tmp_path: Path, cli: CommandLine
) -> None:
    maps = tmp_path / "maps"
    options = (*MODEL, "--protocol", "anomalib", "--compare-at", "masks", "--categories", "bottle", "--data", tiny)
    run = cli("run", *options, "--save-maps", maps, "--results", tmp_path, "--executor", "processes:1", "--json")
    scores = maps / "bottle" / "scores.csv"
    found = cli("score-maps", "--maps", maps, "--data", tiny, "--scores", scores, "--json")
    assert metrics_of(found)["bottle"] == run.runs[0]["metrics"]
    assert "bottle" in cli("score-maps", "--maps", maps, "--data", tiny).out


def test_a_run_s_gallery_has_a_page_of_each_model_by_the_run_s_own_scores_and_metrics(
    tiny: Path, tmp_path: Path, cli: CommandLine
) -> None:
    folder, maps = tmp_path / "gallery", tmp_path / "maps"
    options = (*MODEL, "--seed", "0,1", "--categories", "bottle", "--data", tiny, "--results", tmp_path / "results")
    first = cli("run", *options, "--gallery", folder, "--executor", "processes:1", "--json")
    found = {}
    for path in folder.rglob("summary.json"):
        summary = json.loads(path.read_text())
        found[summary["model"]] = summary
        assert len(list((path.parent / "heat").rglob("*.jpg"))) == summary["n_images"]
        assert sorted(one.name for one in path.parent.iterdir()) == [
            "heat",
            "image",
            "index.html",
            "mask",
            "summary.json",
        ]
    assert set(found) == {f"R18-Rd8 (cholesky, float32, seed {seed})" for seed in (0, 1)}
    for run, summary in zip(first.runs, (found[name] for name in sorted(found)), strict=True):
        assert summary["threshold"] == run["extra"]["image_f1_threshold"]
        assert summary["metrics"] == {name: run["metrics"][name] for name in summary["metrics"]}
        assert summary["warnings"] == ["untrained random weights"]
    index = (folder / "index.html").read_text()
    assert all(name in index for name in found)
    assert index.count('alt="the heat map') == 2

    # The maps alone, saved, give the same verdicts; and what is on record is drawn again.
    again = cli("run", *options, "--seed", "0", "--gallery", folder, "--save-maps", maps, "--maps-at", "protocol")
    assert "run again for their maps" in again.err
    assert f"gallery: {(folder / 'index.html').as_posix()}" in again.out
    given = ("gallery", "--maps", maps, "--data", tiny, "--protocol", "paper", "--out", tmp_path / "own", "--json")
    (own,) = cli(*given).document["categories"]
    drawn = found["R18-Rd8 (cholesky, float32, seed 0)"]
    assert {name: own[name] for name in ("threshold", "missed", "false_alarms")} == {
        name: drawn[name] for name in ("threshold", "missed", "false_alarms")
    }


def test_what_a_crop_cuts_off_has_the_map_s_minimum() -> None:
    import torch

    inner = torch.rand(224, 224)
    whole = at_image(inner, (512, 300), get_protocol("paper"))
    assert whole.shape == (300, 512)
    assert (whole[:18] == whole.min()).all()
    assert (whole[:, -31:] == whole.min()).all()
    same = at_image(inner, (256, 256), get_protocol("paper"))
    assert np.array_equal(same[16:240, 16:240], inner.numpy())
    assert same[0, 0] == inner.min()


def test_options_that_make_no_sense_of_maps_are_refused(tiny: Path, tmp_path: Path, cli: CommandLine) -> None:
    options = (*MODEL, "--data", tiny, "--results", tmp_path)
    assert_refused(cli("run", *options, "--maps-at", "image"), "--maps-at", "--save-maps")
    assert_refused(cli("run", *options, "--save-masks", tmp_path), "--save-masks", "--save-maps")
    several = cli("run", *options, "--save-maps", tmp_path / "maps", "--seed", "0,1")
    assert_refused(several, "maps of 2 models")
    apart = (
        "--backbone",
        "resnet18",
        "--weights",
        "random",
        "--method",
        "mahalanobis",
        "--data",
        tiny,
        "--results",
        tmp_path,
    )
    assert_refused(cli("run", *apart, "--save-maps", tmp_path / "maps"), "mahalanobis scores images alone")
    assert_refused(cli("run", *apart, "--gallery", tmp_path / "gallery"), "mahalanobis scores images alone")
    (tmp_path / "file").write_text("")
    assert_refused(cli("run", *options, "--save-maps", tmp_path / "file"), tmp_path / "file")
    assert_refused(cli("run", *options, "--gallery", tmp_path), tmp_path, "is no gallery")
    before = contents(tiny)
    assert_refused(cli("run", *options, "--save-maps", tiny), tiny, "is the dataset itself")
    masks = ("--save-maps", tmp_path / "maps", "--save-masks", tiny / ".." / tiny.name)
    assert_refused(cli("run", *options, *masks), "is the dataset itself")
    assert contents(tiny) == before
    with pytest.raises(PadimBenchError, match="--maps-at protocol"):
        SaveMaps(tmp_path).check(rd_mvtec_protocol(0))
    scored = ("score-maps", "--data", tiny, "--maps")
    assert_refused(cli(*scored, tmp_path / "none"), "no such folder of maps")
    (tmp_path / "maps" / "other").mkdir(parents=True)
    assert_refused(cli(*scored, tmp_path / "maps"), "other is no category of")
    (tmp_path / "maps" / "other").rename(tmp_path / "maps" / "grid")
    reply = cli(*scored, tmp_path / "maps")
    assert (reply.code, reply.out) == (2, "")
    assert lines_said(reply.err)[0] == "no maps of leather, bottle: left out"
    assert "no map for" in lines_said(reply.err)[1]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(
    tiny: Path, tmp_path: Path, cli: CommandLine
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    reply = cli("run", *MODEL, "--data", tiny, "--results", tmp_path, "--save-maps", closed)
    assert_refused(reply, "cannot write", closed)


@pytest.mark.data
def test_saved_maps_of_bottle_score_as_mvtec_s_evaluation_code_printed(
    real_data: Path, real_weights: Path, tmp_path: Path, cli: CommandLine
) -> None:
    options = ("--backbone", "resnet18", "--weights", real_weights, "--seed", "1024", "--protocol", "anomalib")
    place = ("--data", real_data, "--categories", "bottle")
    run = cli(
        "run", *options, *place, "--save-maps", tmp_path / "maps", "--results", tmp_path, "--threads", "2", "--json"
    )
    found = metrics_of(cli("score-maps", "--maps", tmp_path / "maps", *place, "--json"))["bottle"]
    assert found["pro"] == pytest.approx(0.958358837, abs=1e-5)
    assert found["image_auroc"] == pytest.approx(0.996825397, abs=1e-3)  # one pair of images in another order
    assert found == run.runs[0]["metrics"]
