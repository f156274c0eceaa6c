"""The paper's largest models at full size on real images: they run, say that they are untrained, and take no 8 GB."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import start

from padim_bench import STRATEGIES
from padim_bench.cli import main

pytestmark = pytest.mark.data

EXACT = [name for name, s in STRATEGIES.items() if s.exact]


def test_rows_of_untrained_weights_run_at_full_size_and_say_so(real_data: Path, tmp_path: Path) -> None:
    for folder in (*(real_data / "bottle").glob("t*/*"), *(real_data / "bottle").glob("ground_truth/*")):
        few = tmp_path / "data" / folder.relative_to(real_data)
        few.mkdir(parents=True)
        # SPADE takes seconds for each test image.
        for path in sorted(folder.iterdir())[: None if folder.parent.name == "train" else 2]:
            shutil.copy(path, few)
    options = ["--backbones", "wide_resnet50_2,tf_efficientnet_b5", "--weights", "random", "--dataset", "mvtec-ad"]
    options += ["--data", str(tmp_path / "data"), "--threads", "2", "--results", str(tmp_path)]
    assert main(["reproduce", "table3", "table5", *options]) == 0
    records = {
        r["config"]["model"]["backbone"]: r
        for r in (json.loads(p.read_text()) for p in tmp_path.glob("records/*.json"))
        if r["config"]["model"]["method"] == "padim"
    }
    assert records["wide_resnet50_2"]["embedding"]["n_features"] == 550
    assert records["tf_efficientnet_b5"]["embedding"]["n_features"] == 344
    for record in records.values():
        assert (record["status"], record["embedding"]["grid"]) == ("ok", [56, 56])
        assert record["residual"] < 2e-5
    for name in ("table3", "table5"):
        text = (tmp_path / "tables" / f"{name}.md").read_text()
        assert "UNTRAINED RANDOM WEIGHTS" in text.splitlines()[0]
        for model in ("WR50-Rd550", "EfficientNet-B5"):
            assert model in text
        assert "R18-Rd100: not run: no record of it here" in text


def test_wr50_rd550_fits_and_scores_inside_8_gb(real_data: Path, tmp_path: Path) -> None:
    options = ["--categories", "bottle", "--backbone", "wide_resnet50_2", "--weights", "random", "--n-features", "550"]
    options += ["--data", str(real_data), "--strategy", ",".join(EXACT), "--threads", "2", "--results", str(tmp_path)]
    process = start("run", *options)  # a process of its own: memory is measured
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    records = [json.loads(p.read_text()) for p in (tmp_path / "records").glob("*.json")]
    assert len(records) == len(EXACT)
    valid = [r for r in records if r["status"] == "ok"]
    assert {r["config"]["model"]["strategy"] for r in valid} >= set(EXACT) - {"explicit-lu"}
    for record in valid:
        assert record["embedding"]["grid"] == [56, 56]
        assert record["memory"]["peak_rss_bytes"] < 8e9, record["config"]["model"]["strategy"]
        assert record["residual"] < 2e-5
    for key in ("image_auroc", "pixel_auroc", "pro"):
        values = [r["metrics"][key] for r in valid]
        assert max(values) - min(values) < 1e-4
