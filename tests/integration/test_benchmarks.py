"""One quick benchmark, saved: the suite runs, and what it saves names neither machine nor checkout."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_saved_run_is_complete_and_names_no_machine(tmp_path: Path) -> None:
    saved = tmp_path / "new folder" / "cpu.json"
    arguments = ["tests/benchmarks/test_strategies.py::test_apply[100-diagonal-1]", "--threads=1"]
    options = ["--benchmark-only", "--benchmark-max-time=0.01", f"--benchmark-json={saved}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *arguments, *options]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = saved.read_text(encoding="utf-8")
    assert platform.node() not in text
    assert str(ROOT) not in text
    run = json.loads(text)
    about = run["benchmarks"][0]["extra_info"]
    assert about["floor_s"] > 0
    assert about["share"] > 0
    assert run["ceilings"]["1"]["gemm_float32"] > 1

    page = [sys.executable, "-m", "padim_bench.report.benchmarks", str(saved.parent)]
    subprocess.run(page, check=True, timeout=60)
    assert "| diagonal (lossy) |" in (saved.parent / "README.md").read_text(encoding="utf-8")
