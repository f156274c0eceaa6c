"""Other sizes than a protocol's own: from the command line to records, maps, models and predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tifffile
from PIL import Image
from support import CommandLine, assert_refused, contents, record_files

from padim_bench.padim.backbones import create_backbone
from padim_bench.padim.paper import known_maps
from padim_bench.protocols import PROTOCOLS
from padim_bench.records.files import write_record
from tests.drawn_records import run_config, run_record

MODEL = ("--backbone", "resnet18", "--weights", "random", "--n-features", 8, "--threads", 1)


def test_a_run_at_another_size_is_recorded_as_such_and_its_maps_score_as_it_did(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    place = ("--data", tiny, "--categories", "bottle")
    size = ("--resize", 320, "--crop", 288)
    usual = cli("run", *MODEL, *place, "--results", tmp_path, "--json").runs[0]
    folders = ("--save-maps", tmp_path / "maps", "--save-masks", tmp_path / "masks")
    reply = cli("run", *MODEL, *place, *size, *folders, "--maps-at", "protocol", "--results", tmp_path, "--json")
    (run,) = reply.runs
    assert not run["resumed"]
    assert run["config"]["model"]["protocol"]["name"] == "paper+resize=320+crop=288"
    assert run["metrics"] != usual["metrics"]
    assert len(record_files(tmp_path)) == 2
    assert tifffile.imread(tmp_path / "maps/bottle/test/good/000.tiff").shape == (288, 288)
    assert {Image.open(path).size for path in (tmp_path / "masks").rglob("*.png")} == {(288, 288)}
    maps = ("score-maps", "--maps", tmp_path / "maps", *place, "--json")
    (found,) = cli(*maps, "--protocol", "paper+resize=320+crop=288").document["categories"]
    assert found["metrics"] == pytest.approx(run["metrics"], abs=1e-9)
    assert_refused(cli(*maps, "--protocol", "paper"), "288x288", "224x224")

    # At the images' size they lie over the part that was seen, as those of a run that compares there.
    at_masks = ("run", *MODEL, *place, *size, "--compare-at", "masks", "--results", tmp_path, "--json")
    (run,) = cli(*at_masks, "--save-maps", tmp_path / "whole", "--save-masks", tmp_path / "seen").runs
    assert tifffile.imread(tmp_path / "whole/bottle/test/good/000.tiff").shape == (256, 256)
    seen = {Image.open(path).size for path in (tmp_path / "seen").rglob("*.png")}
    assert seen == {(256, 256)}
    told = cli("run", *MODEL, *place, *size, "--results", tmp_path).out
    assert "protocol: paper, resize 320, crop 288;" in told


def test_a_model_of_another_size_predicts_at_it(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    fitted = cli("fit", *MODEL, "--data", tiny, "--category", "bottle", "--resize", 161, "--crop", "none", "--folds", 2,
                 "--save", model)  # fmt: skip
    assert fitted.code == 0, fitted.err
    assert "protocol paper, resize 161, crop none" in fitted.out
    assert "of memory: the program " in fitted.err
    reply = cli("predict", model, tiny / "bottle" / "test", "--out", out, "--maps", "--threads", 1, "--json")
    assert reply.code == 0, reply.err
    assert "of memory: the program " in reply.err
    images = reply.document["images"]
    assert {tifffile.imread(path).shape for path in out.rglob("*.tiff")} == {(161, 161)}
    with (out / "scores.csv").open(encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [one["image"] for one in images]


def test_pages_of_another_size_do_not_mix_with_the_protocol_s_own(cli: CommandLine, tmp_path: Path) -> None:
    large = PROTOCOLS["paper"].sized(512, 448)
    for protocol in (PROTOCOLS["paper"], large):
        write_record(tmp_path, run_record(run_config(protocol=protocol)))
    assert cli("tables", "--results", tmp_path).code == 0
    before = contents(tmp_path)
    assert cli("tables", "--results", tmp_path, "--resize", 512).code == 0
    own = tmp_path / large.name
    assert {name: one for name, one in contents(tmp_path).items() if not name.startswith(large.name)} == before
    text = (own / "tables" / "table3.md").read_text(encoding="utf-8")
    assert "Protocol paper, resize 512, crop 448; pixels compared at 448." in text
    assert (own / "README.md").is_file()
    assert (own / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--crop", 300), "crop 300 is larger than the image, which protocol paper resizes to 256 pixels"),
        (("--resize", 200, "--crop", 201), "crop 201"),
        (("--resize", 0), "--resize: '0' is not between 1 and"),
        (("--resize", "-3"), "--resize"),
        (("--crop", "half"), "--crop: 'half' is not a whole number"),
        (("--resize", "1e3"), "--resize: '1e3' is not a whole number"),
        (("--resize", 16, "--crop", 4), "no spatial grid for images of 4x4 pixels"),
    ],
)
@pytest.mark.parametrize("command", ["run", "fit"])
def test_sizes_that_cannot_be_are_refused_in_a_line(
    cli: CommandLine, tiny: Path, tmp_path: Path, command: str, options: tuple[object, ...], said: str
) -> None:
    where = ("--results", tmp_path) if command == "run" else ("--save", tmp_path / "m")
    assert_refused(cli(command, *MODEL, "--data", tiny, "--categories", "bottle", *where, *options), said)


@pytest.mark.parametrize("command", ["run", "fit", "profile"])
def test_what_cannot_fit_is_refused_before_an_image_is_read(
    cli: CommandLine, bottle: Path, tmp_path: Path, command: str
) -> None:
    (bottle / "train" / "good" / "000.png").write_bytes(b"no image")
    where = ("--save", tmp_path / "m") if command == "fit" else ("--results", tmp_path / "results")
    options = (*MODEL[:4], "--n-features", "all", "--storage", "float64", "--resize", 2500, "--crop", "none")
    options = (*options, "--strategy", "cholesky")  # 630 GB
    reply = cli(command, *options, "--data", bottle.parent, "--categories", "bottle", *where)
    assert_refused(reply, "bottle", "GiB of memory", "state", "left on this machine", "a smaller --crop")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("size", [225, 250, 321])
@pytest.mark.parametrize("arch", ["resnet18", "tf_efficientnet_b4"])
def test_networks_have_the_positions_at_odd_sizes_that_are_reckoned_with(arch: str, size: int) -> None:
    backbone = create_backbone(arch, "random")
    known = known_maps(arch, backbone.layers, size)
    assert known is not None
    assert known[1] == backbone.grids(size)
    assert json.dumps(known[0]) == json.dumps(backbone.channels)
