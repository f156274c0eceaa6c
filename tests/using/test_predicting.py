"""fit and predict: scores and heat maps of one's own images, whatever they are and however many."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from padim_bench import PaDiM, PadimBenchError
from padim_bench.cli import main
from padim_bench.data.samples import Sample
from padim_bench.evaluation import load_images
from padim_bench.protocols import get_protocol
from padim_bench.records.canonical import plain
from padim_bench.using import predicting
from padim_bench.using.finding import Found, find_images
from padim_bench.using.heat import Scale, heat_map, outlined, picture_of

rng = np.random.default_rng(0)


def drawn(*shape: int) -> NDArray[np.uint8]:
    return rng.integers(90, 130, shape, dtype=np.uint8)


def put(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted by the command line to a folder of one's own images, one of which lies deeper."""
    folder = tmp_path_factory.mktemp("own")
    for i in range(8):
        put(folder / ("deeper" if i == 3 else ".") / f"{i}.png", Image.fromarray(drawn(70, 60, 3)))
    saved = folder / "model.safetensors"
    given = ["--images", str(folder), "--backbone", "resnet18", "--weights", "random", "--n-features", "8"]
    assert main(["fit", *given, "--folds", "4", "--save", str(saved)]) == 0
    return saved


def table(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_images_of_any_size_and_mode_are_scored_and_unreadable_ones_named_skipped_and_counted(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "images" / "out"
    put(images / "a" / "grey.png", Image.fromarray(drawn(50, 60)))
    put(images / "a" / "wide.png", Image.fromarray(drawn(50, 60).astype(np.uint16) * 257))
    put(images / "tiny.png", Image.new("RGB", (1, 1)))
    put(images / "long.png", Image.new("P", (3000, 40)))
    put(images / "clear.png", Image.new("RGBA", (40, 40)))
    put(images / "same.png", Image.new("RGB", (40, 40)))
    put(images / "same.bmp", Image.new("L", (40, 40), 255))
    put(images / "ground_truth" / "mask.png", Image.new("L", (40, 40)))
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (images / "notes.txt").write_text("no image")
    command = ["predict", str(model), str(images), "--out", str(out), "--maps", "--batch-size", "3"]
    assert main(command) == 2
    said = capfd.readouterr()
    assert "broken.png" in said.err
    assert "left out 2: folder of masks: 1 (ground_truth/ with 1 image); no image format that is read: 1" in said.err
    assert "1 of 8 images could not be read" in said.err
    assert "the 0.99 quantile of the scores of 8 training images, each scored without its fold (4 folds)" in said.out
    rows = {Path(row["image"]).name: row for row in table(out)}
    assert {row["heat_map"] for row in rows.values()} == {
        *("a/grey.png", "a/wide.png", "tiny.png", "long.png", "clear.png", "same.png", "same.png.png", "")
    }
    assert rows["broken.png"]["score"] == rows["broken.png"]["over_threshold"] == ""
    loaded = PaDiM.load(model)
    for name, row in rows.items():
        if name == "broken.png":
            continue
        assert row["over_threshold"] == ("yes" if float(row["score"]) > loaded.threshold() else "no")
        heat = Image.open(out / row["heat_map"])
        assert 256 <= max(heat.size) <= 1024
        found = np.asarray(Image.open(out / row["heat_map"]).convert("RGB"))
        assert found.dtype == np.uint8
        tiff = Image.open((out / row["heat_map"]).with_suffix(".tiff"))
        assert (tiff.mode, tiff.size) == ("F", (224, 224))
        assert np.asarray(tiff).max() == pytest.approx(float(row["score"]), rel=1e-5)
    # Again, as a document: what lies in the folder of results is searched no more than before.
    assert main([*command, "--json"]) == 2
    document = json.loads(capfd.readouterr().out)
    assert document["threshold"]["n_images"] == 8
    assert [i["score"] is None for i in document["images"]].count(True) == 1
    assert len(document["images"]) == 8


def test_every_choice_of_a_model_that_run_has_is_kept_in_the_file_and_used_by_predict(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved, out = tmp_path / "chosen.safetensors", tmp_path / "out"
    images = str(model.parent)
    choices = ["--half-products", "native", "--backbone-dtype", "bfloat16", "--compute-dtype", "float32"]
    choices += ["--storage", "float16", "--strategy", "whitening", "--reduction", "stratified", "--n-features", "9"]
    choices += ["--layers", "layer1+layer2", "--epsilon", "0.02", "--sigma", "2", "--bits", "12", "--seed", "3"]
    given = ["fit", "--images", images, "--backbone", "resnet18", "--weights", "random", "--save", str(saved)]
    assert main([*given, *choices, "--folds", "1", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["config"]
    loaded = PaDiM.load(saved)
    assert told == json.loads(json.dumps(plain(loaded.config)))
    assert (loaded.config.half_products, loaded.config.compute_dtype) == ("native", "float32")
    assert (loaded.config.backbone_dtype, loaded.backbone.dtype) == ("bfloat16", "bfloat16")
    assert (loaded.config.storage, loaded.config.strategy, loaded.config.reduction) == (
        *("float16", "whitening", "stratified"),
    )
    assert (loaded.config.layers, loaded.config.n_features, loaded.config.seed) == (("layer1", "layer2"), 9, 3)
    protocol = loaded.config.protocol
    assert (protocol.epsilon, protocol.maps.sigma, protocol.images.bits) == (0.02, 2.0, 12)
    assert main(["predict", str(saved), str(model.parent / "0.png"), "--out", str(out)]) == 0
    sample = Sample(model.parent / "0.png", 0, "good")
    (batch,) = load_images([sample], protocol, 1)
    assert float(table(out)[0]["score"]) == pytest.approx(float(loaded.score(batch)[1][0]), rel=1e-5)
    # One model is one file.
    assert main([*given, "--strategy", "whitening,dual"]) == 2
    assert "--strategy: one model is made at a time: give one value" in capfd.readouterr().err


def test_what_cannot_be_done_is_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = put(tmp_path / "images" / "a.png", Image.new("RGB", (9, 9))), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    fit = ["fit", "--backbone", "resnet18", "--weights", "random", "--save", str(tmp_path / "m")]
    cases = {
        ("predict", tmp_path / "none", image, "--out", out): "no model",
        ("predict", image, image, "--out", out): "model",
        ("predict", model, tmp_path / "empty", "--out", out): "no image found in",
        ("predict", model, tmp_path / "gone", "--out", out): "no image and no folder",
        ("predict", model, image.parent, "--out", image.parent): "results need a folder of their own",
        ("predict", model, image, "--out", image.parent): "would overwrite the image",
        ("predict", model, image, "--out", image): "cannot write",
        ("predict", model, image, "--out", out, "--quantile", "99"): "--quantile 99: choose 0 to 1",
        ("predict", model, image, "--out", out, "--weights", "random:3"): "was fitted with weights",
        (*fit, "--images", image.parent): "--folds 5: there is 1 training image",
        (*fit, "--images", image.parent, "--category", "x"): "--images and --data",
    }
    for command, said in cases.items():
        assert main([str(word) for word in command]) == 2, command
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
        assert said in line
    assert not (tmp_path / "m").exists()


def test_nothing_but_a_model_and_results_of_an_earlier_call_is_written_over(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    own = put(images / "a.png", Image.new("RGB", (9, 9)))
    fit = ["fit", "--images", str(images), "--backbone", "resnet18", "--weights", "random", "--folds", "1", "--save"]
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for target, said in (
        (images, "is a folder: name a file in it"),
        (own, "would overwrite that file, which is no model"),
        (notes, "would overwrite that file, which is no model"),
    ):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert main([*fit, str(target)]) == 2
        assert said in capsys.readouterr().err
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    saved = tmp_path / "m.safetensors"
    assert [main([*fit, str(saved)]), main([*fit, str(saved)])] == [0, 0]  # a model takes the place of one

    predict = ["predict", str(model), str(own), "--out", str(out)]
    for name in ("a.png", "scores.csv"):
        other = put(out / "a.png", Image.new("L", (5, 5))) if name == "a.png" else out / name
        other.write_text("of something else")
        assert main(predict) == 2
        assert f"would overwrite {other}, which no earlier predict wrote" in capsys.readouterr().err
        assert other.read_text() == "of something else"
        other.unlink()
    assert [main(predict), main(predict)] == [0, 0]


def test_a_model_without_scores_predicts_without_a_threshold_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        put(tmp_path / "normal" / f"{i}.png", Image.fromarray(drawn(40, 40, 3)))
    saved, out = tmp_path / "m.safetensors", tmp_path / "out"
    given = ["--images", str(tmp_path / "normal"), "--backbone", "resnet18", "--weights", "random"]
    assert main(["fit", *given, "--n-features", "4", "--folds", "1", "--save", str(saved)]) == 0
    assert main(["predict", str(saved), str(tmp_path / "normal" / "0.png"), "--out", str(out)]) == 0
    assert "no threshold: the model keeps no scores" in capsys.readouterr().out
    assert table(out)[0]["over_threshold"] == ""


def test_ten_thousand_images_are_read_no_further_than_two_batches_ahead_and_what_was_done_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, read = put(tmp_path / "a.png", Image.fromarray(drawn(40, 40, 3))), list[Path]()
    before = predicting.read_bytes
    monkeypatch.setattr(predicting, "read_bytes", lambda path: (read.append(path), before(path))[1])
    found = [Found(image, Path(f"{i:05}")) for i in range(10_000)]
    going = predicting.predict(PaDiM.load(model), found, tmp_path / "out", threshold=None, batch_size=4)
    assert len(list(islice(going, 8))) == 8
    assert len(read) <= 12
    going.close()  # as Ctrl-C does
    assert len(table(tmp_path / "out")) == 8
    assert len(list((tmp_path / "out").glob("*.png"))) == 8


def test_memory_does_not_grow_with_the_number_of_images(model: Path, tmp_path: Path) -> None:
    image = put(tmp_path / "a.png", Image.fromarray(drawn(256, 256, 3)))
    found = [Found(image, Path(f"{i % 7}")) for i in range(240)]
    loaded, process = PaDiM.load(model), psutil.Process()
    going = predicting.predict(loaded, found, tmp_path / "out", threshold=1.0, maps=True, batch_size=4)
    for _ in islice(going, 40):
        pass
    before = process.memory_info().rss
    assert len(list(going)) == 200
    # One picture and one map of each image held would be 80 MB.
    assert process.memory_info().rss - before < 40_000_000


def test_ctrl_c_in_the_middle_leaves_a_whole_table_of_what_was_done(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image, out = put(tmp_path / "images" / "0.png", Image.fromarray(drawn(300, 300, 3))), tmp_path / "out"
    for i in range(1, 600):
        (image.parent / f"{i}.png").hardlink_to(image)

    def interrupt() -> None:
        until, rows = time.monotonic() + 100, out / "scores.csv"
        while time.monotonic() < until and not (rows.exists() and rows.read_text().count("\n") > 4):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    assert main(["predict", str(model), str(image.parent), "--out", str(out), "--batch-size", "4"]) == 130
    waiting.join()
    rows = table(out)
    assert 0 < len(rows) < 600
    assert all(float(row["score"]) > 0 and (out / row["heat_map"]).exists() for row in rows)
    assert f"{len(rows)} of 600 images are done" in capfd.readouterr().err
    assert [path.name for path in out.iterdir() if path.suffix not in {".png", ".csv"}] == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_any_characters_are_cells_of_the_table_and_none_is_a_formula(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("=1+1.png", "./-2.png", "@a.png", "a, b.png", 'a"b.png', "a\nb.png", "größe 寸.png", "a.PNG")
    for name in names:
        put(tmp_path / name, Image.new("L", (9, 9)))
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(model), *names, "--out", "out"]) == 0
    rows = table(tmp_path / "out")
    assert [row["image"].removeprefix("./") for row in rows] == [name.removeprefix("./") for name in names]
    for row in rows:
        assert not {row["image"][0], row["heat_map"][0]} & set("=+-@")
        assert (tmp_path / row["image"]).is_file()
        assert (tmp_path / "out" / row["heat_map"]).is_file()
    assert len({row["heat_map"] for row in rows}) == len(names)


def test_results_are_never_images_to_look_at_and_never_written_over_one(model: Path, tmp_path: Path) -> None:
    image = put(tmp_path / "images" / "a.tiff", Image.new("L", (9, 9), 7))
    for out in ("first", "second"):
        command = ["predict", str(model), str(image.parent), "--out", str(image.parent / out), "--maps"]
        assert main(command) == 0
        assert [row["image"] for row in table(image.parent / out)] == [image.as_posix()]
    before = image.read_bytes()
    assert main(["predict", str(model), str(image), "--out", str(image.parent), "--maps"]) == 2
    assert image.read_bytes() == before


def test_names_that_clash_are_kept_apart_and_an_image_named_twice_is_one(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/A.bmp", "y/a.png", "x/.hidden.png", "x/out/a.png"):
        put(tmp_path / name, Image.new("L", (2, 2)))
    x, y = tmp_path / "x", tmp_path / "y"
    found, notes = find_images([x, y, x / "a.png"], x / "out")
    assert [str(one.place) for one in found] == ["A", "a.png", "a.png-2"]
    assert notes == [f"{x / 'a.png'}: named twice, or a link to an image that is there already: each is taken once"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such links for all")
def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.png", Image.new("L", (2, 2)))
    (tmp_path / "x" / "again").symlink_to(tmp_path / "x")
    for name in ("b.png", "c.png"):
        (tmp_path / "x" / name).symlink_to(tmp_path / "x" / "a.png")
    found, notes = find_images([tmp_path / "x"])
    assert len(found) == 1
    assert "link to a folder: 1 (again" in notes[0]
    assert notes[1].startswith(f"{tmp_path / 'x' / 'b.png'} and 1 more: named twice, or a link to an image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PadimBenchError, match="no image found"):
        find_images([tmp_path / "empty"])


def test_a_heat_map_outlines_what_is_over_the_threshold_and_darkens_what_the_crop_leaves_out() -> None:
    protocol = get_protocol("paper")
    values = np.zeros((224, 224), np.float32)
    values[100:120, 100:120] = 10
    picture = picture_of(Image.new("L", (256, 256), 100))
    found = np.asarray(heat_map(picture, values, protocol, Scale(5.0, 10.0), threshold=5.0))
    assert found.shape == (256, 256, 3)
    assert (found[0, 0] == 45).all()  # outside the crop
    assert (found[20, 20] == 100).all()  # as it was
    assert (found[116, 120] == 255).all()  # the region's upper edge
    assert found[126, 126, 0] > found[126, 126, 1]  # red


def test_a_contour_keeps_what_is_thin_and_touches_nothing_but_its_edge() -> None:
    picture = picture_of(Image.new("L", (64, 64), 100), largest=256)
    region = np.zeros((2048, 2048), np.bool_)
    region[1000] = True  # a line of one pixel in eight
    found = np.asarray(outlined(picture, region, (0, 255, 0)))
    assert (found[124:127] == (0, 255, 0)).all()
    assert (found[[123, 127]] == 0).all()
    assert (np.delete(found, range(123, 128), axis=0) == 100).all()


@pytest.mark.data
def test_on_real_bottles_the_threshold_of_left_out_images_tells_most_of_the_test_images(
    real_data: Path, real_weights: Path, tmp_path: Path
) -> None:
    saved, out, weights = tmp_path / "m.safetensors", tmp_path / "out", ["--weights", str(real_weights)]
    given = ["--data", str(real_data), "--category", "bottle", "--backbone", "resnet18", *weights]
    assert main(["fit", *given, "--save", str(saved)]) == 0
    assert main(["predict", str(saved), str(real_data / "bottle" / "test"), "--out", str(out), *weights]) == 0
    over = {"good": list[bool](), "broken": list[bool]()}
    for row in table(out):
        over["good" if Path(row["image"]).parent.name == "good" else "broken"].append(row["over_threshold"] == "yes")
    assert np.mean(over["broken"]) > 0.8
    assert np.mean(over["good"]) < 0.25
    assert torch.isfinite(torch.tensor(float(row["score"])))
