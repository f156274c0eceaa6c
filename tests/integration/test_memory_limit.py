"""One limit on what grows with the number of images: kept, said before a run starts, and no trace in its numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import CommandLine, assert_refused, lines_said, record_files

from padim_bench import PaDiM, PadimBenchError, evaluate, load_images
from padim_bench.data.loading import split_digest
from padim_bench.data.mvtec import mvtec

RUN = ("run", "--backbone", "resnet18", "--weights", "random", "--threads", 1)
N_MANY = 40


@pytest.fixture(scope="module")
def many(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bottle`` with forty training images, each a little darker than another of the six: not to be changed."""
    root = tmp_path_factory.mktemp("many")
    shutil.copytree(tiny / "bottle", root / "bottle")
    good = root / "bottle" / "train" / "good"
    sources = [np.asarray(Image.open(path)) for path in sorted(good.iterdir())]
    for i in range(len(sources), N_MANY):
        pixels = sources[i % len(sources)] * (1 - 0.01 * i)
        Image.fromarray(pixels.astype(np.uint8)).save(good / f"{i:03d}.png")
    return root


def _records(results: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in record_files(results)]
    return sorted(found, key=lambda r: json.dumps(r["config"], sort_keys=True))


def _both(cli: CommandLine, results: Path, limit: str, *options: object) -> tuple[list[Any], list[Any], str]:
    """Records of a run that holds everything, those of one within ``limit``, and what the latter said."""
    command = (*RUN, *options, "--json")
    held = cli(*command, "--results", results / "held")
    streamed = cli(*command, "--results", results / "streamed", "--memory-limit", limit)
    assert (held.code, streamed.code) == (0, 0), held.err + streamed.err
    return _records(results / "held"), _records(results / "streamed"), streamed.err


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--n-features", "20,50", "--strategy", "cholesky,woodbury"), id="moments are shared"),
        pytest.param(("--n-features", 10, "--reduction", "pca,semi-orthogonal,stratified"), id="projections"),
        pytest.param(("--n-features", "all", "--fusion", "sum", "--strategy", "diagonal"), id="a sum of maps"),
        pytest.param(("--n-features", 20, "--compare-at", "masks", "--dtype", "float16"), id="masks' own size"),
    ],
)
def test_a_streamed_run_gives_the_numbers_of_one_that_holds_everything(
    cli: CommandLine, tiny: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    held, streamed, _ = _both(cli, tmp_path, "2MiB", "--data", tiny, "--categories", "bottle,leather", *options)
    assert {r["memory"]["images"] for r in held} == {"held"}
    assert {r["memory"]["images"] for r in streamed} == {"streamed"}
    for one, other in zip(held, streamed, strict=True):
        assert one["id"] == other["id"]
        assert one["dataset"] == other["dataset"]
        for name, value in one["metrics"].items():
            assert other["metrics"][name] == pytest.approx(value, abs=1e-6), name
        scores = [[s["score"] for s in r["scores"]] for r in (one, other)]
        np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5)


def test_folded_moments_give_the_numbers_of_held_features(cli: CommandLine, many: Path, tmp_path: Path) -> None:
    options = ("--n-features", 4, "--seed", "2,4", "--strategy", "cholesky,auto", "--batch-size", 1)
    held, streamed, said = _both(cli, tmp_path, "2MiB", "--data", many, *options)
    assert "folded into running moments, configurations in 2 groups" in said
    for one, other in zip(held, streamed, strict=True):
        assert one["id"] == other["id"]
        assert other["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
        scores = [[s["score"] for s in r["scores"]] for r in (one, other)]
        np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5)


def test_maps_past_the_limit_are_counted_in_histograms_within_their_bounds(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    root = tmp_path / "large"
    shutil.copytree(tiny / "bottle", root / "bottle")
    for path in (root / "bottle").rglob("*/*.png"):
        with Image.open(path) as image:
            image.resize((800, 800), Image.Resampling.NEAREST).save(path)
    options = ("--data", root, "--n-features", 20, "--compare-at", "masks")
    (held,), (streamed,), said = _both(cli, tmp_path, "30MiB", *options)
    assert "pixel metrics from histograms with an error bound" in said
    bounds = streamed["extra"]["error_bounds"]
    assert set(bounds) == {"pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", "pro_per_image"}
    assert bounds["pro_per_image"] == 0  # of every image alone: exact
    for name, value in held["metrics"].items():
        assert streamed["metrics"][name] == pytest.approx(value, abs=bounds.get(name, 0) + 1e-9)
        assert 0 <= bounds.get(name, 0) < 5e-3

    command = (*RUN, *options, "--results", tmp_path / "streamed")
    rough = "1 of them with pixel metrics from histograms, within their error bounds: delete those "
    assert rough in cli(*command, "--memory-limit", "1GiB").err
    assert "histograms" not in cli(*command, "--memory-limit", "30MiB").err
    (path,) = record_files(tmp_path / "streamed")
    path.unlink()
    again = cli(*command, "--memory-limit", "1GiB")
    assert "on record already" not in again.err
    assert _records(tmp_path / "streamed")[0]["metrics"] == held["metrics"]


def test_what_will_be_streamed_is_said_in_a_line_and_what_fits_is_not(
    cli: CommandLine, many: Path, tmp_path: Path
) -> None:
    command = (*RUN, "--data", many, "--n-features", 20)
    said = lines_said(cli(*command, "--results", tmp_path / "a", "--memory-limit", "10MB").err)
    assert len(said) == 1
    assert said[0].startswith("bottle, resnet18: 40 training and 6 test images would take ")
    assert "over the limit of 9.54 MiB (--memory-limit)" in said[0]
    assert "MiB needed" in said[0]
    assert lines_said(cli(*command, "--results", tmp_path / "b").err) == []


@pytest.mark.parametrize("size", ["2 lightyears", "0", "-3MB", "GiB", "nan"])
def test_a_limit_is_a_size(cli: CommandLine, tiny: Path, tmp_path: Path, size: str) -> None:
    reply = cli(*RUN, "--data", tiny, "--results", tmp_path, f"--memory-limit={size}")
    assert_refused(reply, "--memory-limit", size)


def test_a_corrupt_image_of_a_streamed_run_is_named(cli: CommandLine, bottle: Path, tmp_path: Path) -> None:
    culprit = bottle / "train" / "good" / "003.png"
    culprit.write_bytes(culprit.read_bytes()[:200])
    options = ("--data", bottle.parent, "--results", tmp_path, "--memory-limit", "1MB")
    reply = cli(*RUN, *options)
    assert reply.code == 2
    assert culprit.name in reply.err.splitlines()[-1]


_PEAK = """
import resource, sys
from padim_bench.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, code)
"""


def _peak(*arguments: object) -> int:
    """Largest resident memory, in bytes, of one command in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PADIM_BENCH_")},
    )
    peak, code = found.stdout.split()[-2:]
    assert code == "0", found.stderr
    return int(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted otherwise elsewhere")
def test_memory_does_not_grow_with_the_images(many: Path, tmp_path: Path) -> None:
    few, more = tmp_path / "few", tmp_path / "more"
    for root, n in ((few, N_MANY), (more, 5 * N_MANY)):
        shutil.copytree(many, root)
        good = root / "bottle" / "train" / "good"
        for i in range(N_MANY, n):
            os.link(good / f"{i % N_MANY:03d}.png", good / f"{i:03d}.png")
    limit = 250 << 20  # moments take 150 MiB, and 200 images held nearly 600
    command = (*RUN, "--n-features", "all", "--fusion", "sum", "--strategy", "diagonal", "--memory-limit", limit)
    peaks = [_peak(*command, "--data", root, "--results", root) for root in (few, more)]
    (record,) = _records(more)
    assert record["memory"]["images"] == "streamed"
    assert peaks[1] - peaks[0] < limit


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted otherwise elsewhere")
@pytest.mark.parametrize(
    "options", [("--n-features", 20), ("--n-features", 200, "--resize", 320)], ids=["0.8 GB", "1.6 GB"]
)
def test_what_is_said_to_be_taken_is_taken(tiny: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    """In a fresh process, within a factor of 1.35 either way of what its record says that it took at most."""
    command = (*RUN, "--data", tiny, "--categories", "bottle", *options, "--results", tmp_path, "--json")
    done = subprocess.run(
        [sys.executable, "-m", "padim_bench", *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PADIM_BENCH_")},
    )
    (line,) = [line for line in done.stderr.splitlines() if " of memory: the program " in line]
    number, unit = line.partition(": about ")[2].split()[:2]
    said = float(number) * {"MiB": 1 << 20, "GiB": 1 << 30}[unit]
    taken = json.loads(done.stdout)["runs"][0]["memory_bytes"]
    assert said / 1.35 < taken < said * 1.35, line


_ADDED = """
import resource
from dataclasses import replace
import numpy as np
import torch
from padim_bench.evaluation import Maps
from padim_bench.protocols import get_protocol
masks = [np.arange(2000 * 2000).reshape(2000, 2000) % 7 == 0] * 16
maps = Maps(get_protocol("paper").vary(compare_at="masks"), exact=False)
for n in (2, 16):
    maps.add(torch.rand(n, 224, 224), masks[:n])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted otherwise elsewhere")
def test_maps_of_a_batch_are_resized_one_by_one() -> None:
    found = subprocess.run([sys.executable, "-c", _ADDED], capture_output=True, text=True, check=True)
    few, more = map(int, found.stdout.split())
    assert more - few < 3 * 4 * 2000**2  # and not the 14 more maps


def test_evaluate_decodes_test_images_alone(bottle: Path) -> None:
    category = mvtec(bottle.parent, "bottle")
    model = PaDiM("resnet18", weights="random", n_features=20).fit(load_images(category.train))
    whole = evaluate(model, category)
    (bottle / "train" / "good" / "000.png").write_bytes(b"no image")
    assert evaluate(model, category, batch_size=2) == whole


def test_evaluate_past_the_models_limit_says_how_far_its_metrics_may_be_off(bottle: Path) -> None:
    category = mvtec(bottle.parent, "bottle")
    model = PaDiM("resnet18", weights="random", n_features=20).fit(load_images(category.train))
    exact = evaluate(model, category)
    model.memory_limit = 1 << 20
    with pytest.warns(UserWarning, match="from histograms: pixel_auroc within"):
        bounded = evaluate(model, category)
    assert bounded == pytest.approx(exact, abs=5e-3)
    assert bounded["image_auroc"] == exact["image_auroc"]


def test_a_file_that_changes_between_two_passes_is_named(bottle: Path) -> None:
    from padim_bench.data.loading import CategoryReader
    from padim_bench.protocols import get_protocol

    category = mvtec(bottle.parent, "bottle")
    reader = CategoryReader(category, get_protocol("paper"))
    assert sum(len(images) for images, _ in reader.batches("train", 4)) == 6
    assert reader.facts().split_digest == split_digest(category)
    shutil.copy(bottle / "train" / "good" / "001.png", bottle / "train" / "good" / "002.png")
    with pytest.raises(PadimBenchError, match=r"002\.png .*changed"):
        list(reader.batches("train", 4))
