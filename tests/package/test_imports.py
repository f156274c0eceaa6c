"""Which part of the package may know which: read from the source, so that nothing need be imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import padim_bench

PACKAGE = Path(padim_bench.__file__).parent


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Dotted names of what ``source``, a module of ``package``, imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def imports_of(part: str) -> list[tuple[str, str]]:
    """(file, module of padim_bench that it imports) for every file of ``padim_bench.part``."""
    found = []
    for path in sorted((PACKAGE / part).rglob("*.py")):
        package = ".".join(("padim_bench", *path.relative_to(PACKAGE).parent.parts))
        names = imported_modules(path.read_text(encoding="utf-8"), package)
        found += [(str(path.relative_to(PACKAGE)), n) for n in names if within(n, "padim_bench")]
    return found


def outside(part: str, *allowed: str) -> list[tuple[str, str]]:
    """The imports of ``part`` from padim_bench that are not within ``allowed``."""
    homes = [f"padim_bench.{name}" for name in (part, *allowed)]
    return [(file, name) for file, name in imports_of(part) if not any(within(name, home) for home in homes)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import padim_bench.runs.runner as r", "padim_bench.runs"),
        ("from padim_bench import runs", "padim_bench.runs"),
        ("from padim_bench.runs import runner", "padim_bench.runs"),
        ("from ..runs import runner", "padim_bench.runs"),
        ("from .. import runs", "padim_bench.runs"),
        ("def f():\n    if True:\n        import padim_bench.runs", "padim_bench.runs"),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: str) -> None:
    assert any(within(name, expected) for name in imported_modules(source, "padim_bench.padim"))


@pytest.mark.parametrize("part", ["padim", "metrics", "data", "report", "cli"])
def test_the_rules_have_files_to_look_at(part: str) -> None:
    assert len(list((PACKAGE / part).rglob("*.py"))) > 1


def test_the_model_knows_nothing_of_benchmarks_and_reports() -> None:
    above = [f"padim_bench.{name}" for name in ("records", "runs", "costs", "report", "reproduction", "cli")]
    assert [(f, n) for f, n in imports_of("padim") if any(within(n, m) for m in above)] == []


def test_a_baseline_knows_feature_maps_and_nothing_of_benchmarks_nor_padim_s_model_of_it() -> None:
    assert outside("baselines", "errors", "padim.embedding", "padim.parallel", "padim.tiling") == []
    assert [(f, n) for f, n in imports_of("padim") if within(n, "padim_bench.baselines")] == []


def test_of_the_rest_the_machine_s_room_knows_errors_alone_but_for_the_doctor_who_tries_strategies() -> None:
    known = [f"padim_bench.{name}" for name in ("machine", "errors", "__version__")]
    doctor = str(Path("machine", "doctor.py"))
    others = [(f, n) for f, n in imports_of("machine") if f != doctor]
    assert [(f, n) for f, n in others if n != "padim_bench" and not any(within(n, m) for m in known)] == []


def test_maps_as_files_know_nothing_of_runs_and_what_comes_of_them() -> None:
    above = [f"padim_bench.{name}" for name in ("records", "runs", "costs", "report", "reproduction", "cli")]
    assert [(f, n) for f, n in imports_of("maps") if any(within(n, m) for m in above)] == []


def test_what_pages_share_knows_what_can_be_printed_alone() -> None:
    assert outside("html", "machine.console") == []


def test_a_gallery_knows_files_and_pictures_and_nothing_of_runs_and_reports() -> None:
    assert outside("gallery", "data", "errors", "html", "machine", "maps", "metrics", "protocols", "using.heat") == []


def test_metrics_need_nothing_else_of_the_package() -> None:
    assert outside("metrics") == []


def test_what_reads_data_needs_nothing_else_of_the_package_but_errors_progress_and_what_protocols_say() -> None:
    assert outside("data", "errors", "machine.progress", "protocols") == []


# What things are called, how many images a split has, and how resampled values in records are read.
REGISTRIES = (
    *("data.datasets", "data.samples", "metrics.resampling", "metrics.summary"),
    *("padim.paper", "padim.reduction"),
)


def test_reports_need_nothing_but_errors_records_what_can_be_printed_and_what_things_are_called() -> None:
    assert (
        outside(
            "report",
            "errors",
            "html",
            "machine.console",
            "machine.reading",
            "padim.config",
            "protocols",
            "records",
            *REGISTRIES,
        )
        == []
    )


def test_records_know_nothing_of_what_makes_them_or_is_made_of_them() -> None:
    above = [f"padim_bench.{name}" for name in ("report", "reproduction", "cli")]
    assert [(f, n) for f, n in imports_of("records") if any(within(n, m) for m in above)] == []


def test_asking_what_things_are_called_loads_no_network_library() -> None:
    code = "; ".join(f"import padim_bench.{name}" for name in REGISTRIES)
    assert loaded_by(code) & {"torch", "torchvision", "timm"} == set()


def test_nothing_but_the_entry_point_knows_the_command_line() -> None:
    inside = f"cli{os.sep}"
    users = {file for file, name in imports_of("") if within(name, "padim_bench.cli") and not file.startswith(inside)}
    assert users == {"__main__.py"}


HEAVY = {
    "timm",
    "pandas",
    "matplotlib",
    "torch",
    "torchvision",
    "scipy",
    "numpy",
    "PIL",
    "pydantic",
    "tqdm",
    "tifffile",
}


def loaded_by(code: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has loaded after ``code``."""
    code += "; import sys; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert "padim_bench" in loaded
    return loaded


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import padim_bench") & HEAVY == set()


def test_reading_the_command_line_loads_nothing_heavy() -> None:
    code = "from padim_bench.cli import main; main(['run', '--help']); main(['list', 'protocols'])"
    assert loaded_by(code) & HEAVY == set()
