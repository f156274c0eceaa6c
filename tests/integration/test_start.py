"""What a run loads: nothing until it is needed, and of what it never needs nothing at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUN = """
import json, sys
from padim_bench.cli import main

data, results = sys.argv[1:]
loaded = []

def note(event, arguments):
    if event == "open" and str(arguments[0]).startswith(data) and str(arguments[0]).endswith(".png") and not loaded:
        loaded.append(sorted(sys.modules))

sys.addaudithook(note)
model = ["--backbone", "resnet18", "--weights", "random"]
code = main(["run", "--data", data, "--categories", "bottle", *model, "--results", results])
loaded.append(sorted(sys.modules))
print(json.dumps([code, *loaded]))
"""
NEVER = (
    *("torch._dynamo", "torch._inductor", "sympy"),  # torch's compiler
    *("pandas", "matplotlib", "sklearn", "anomalib", "distributed", "av"),
    *("padim_bench.report", "padim_bench.reproduction", "padim_bench.costs"),
)


def test_a_run_loads_no_compiler_no_tables_and_no_figures_before_its_first_image_nor_later(
    tiny: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tiny), str(tmp_path / "results")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    code, *loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert len(loaded) == 2, "no image was opened"
    for modules in loaded:
        assert [m for m in modules if any(m == name or m.startswith(f"{name}.") for name in NEVER)] == []
    assert "padim_bench.metrics.pro" in loaded[-1]
