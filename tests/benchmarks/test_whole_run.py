"""A whole ``padim-bench run``, from the start of its process to the record on disk, beside what it cannot do without.

Untrained ResNet18 over the demo's images: how long it takes depends neither on the weights nor on what is to be seen.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from work import IMAGES, Measure

from padim_bench import make_demo
from padim_bench.records.files import read_records

TESTED = 83  # as MVTec AD's bottle, which has IMAGES for training
IMPORTS = "import padim_bench.runs.plan, padim_bench.runs.runner, padim_bench.padim.loading_timm"


def process(*arguments: str) -> float:
    """Seconds that a Python process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=300)
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo category whose images are repeated up to the numbers of MVTec AD's bottle."""
    drawn = make_demo(tmp_path_factory.mktemp("drawn"), categories=["gear"]) / "gear"
    root = tmp_path_factory.mktemp("data") / "bottle"
    good = sorted((drawn / "train" / "good").iterdir())
    for i in range(IMAGES):
        _copy(good[i % len(good)], root / "train" / "good" / f"{i:03d}.png")
    tested = sorted((drawn / "test").glob("*/*.png"))
    for i in range(TESTED):
        source = tested[i % len(tested)]
        kind, name = source.parent.name, f"{i:03d}"
        _copy(source, root / "test" / kind / f"{name}.png")
        if kind != "good":
            mask = drawn / "ground_truth" / kind / f"{source.stem}_mask.png"
            _copy(mask, root / "ground_truth" / kind / f"{name}_mask.png")
    return root.parent


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_whole_run(measure: Measure, bottle: Path, tmp_path: Path, threads: int) -> None:
    made: list[tuple[float, dict[str, float]]] = []

    def whole() -> None:
        results = tmp_path / str(len(made))
        model = ["--backbone", "resnet18", "--weights", "random", "--n-features", "100", "--strategy", "auto"]
        given = ["run", "--data", str(bottle), *model, "--threads", str(threads), "--results", str(results)]
        seconds = process("-m", "padim_bench", *given)
        ((_, record),) = read_records(results).values()
        assert record.valid
        assert (record.dataset.n_train, record.dataset.n_test) == (IMAGES, TESTED)
        made.append((seconds, dict(record.timings_s)))

    imports = min(process("-c", IMPORTS) for _ in range(3))
    whole()
    seconds, stages = min(made, key=lambda one: one[0])
    stages = {"imports": imports} | stages
    # What is planned, the network as it is built, the record as it is written, and the process's end.
    stages["rest"] = max(0.0, seconds - sum(stages.values()))
    floor = sum(stages[name] for name in ("imports", "decode", "backbone_train", "backbone_test"))
    measure(
        whole,
        group=f"A whole run of {IMAGES} and {TESTED} images, from process to record",
        label="ResNet18, d = 100, auto",
        floor={"imports, decoding, backbone": floor},
        stages_s={name: float(f"{s:.4g}") for name, s in stages.items()},
    )
