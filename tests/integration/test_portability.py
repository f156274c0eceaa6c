"""What only Unix, or only Linux, has is used where it is there and missed by nobody: simulated by removing it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import CommandLine, record_files

import padim_bench
from padim_bench.machine import environment
from padim_bench.records.costs import CostRecord, MeasuredCost
from padim_bench.records.measurements import read_measurement
from padim_bench.report.costs import load_measured_spec
from padim_bench.report.memory import memory_page
from padim_bench.report.pareto import pareto_figure
from padim_bench.report.profiles import profiles_page

PACKAGE = Path(padim_bench.__file__).parent
UNIX_MODULES = ("fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty", "pty", "posix")
UNIX_NAMES = {
    "os": ("fork", "getloadavg", "getuid", "geteuid", "killpg", "mkfifo", "posix_fallocate", "sched_getaffinity",
           "setsid", "statvfs", "sysconf", "uname", "wait3"),
    "signal": ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "pthread_sigmask", "setitimer",
               "sigtimedwait"),
}  # fmt: skip
# As a process of Windows finds things; without the names that Python's own modules need to run on this system.
BARE = """
import os, pathlib, signal, sys
for name in ("resource", "grp", "pwd", "termios", "syslog"):
    sys.modules[name] = None
for name in ("getloadavg", "posix_fallocate", "sched_getaffinity"):
    vars(os).pop(name, None)
for name in ("SIGHUP", "SIGUSR1", "pthread_sigmask"):
    vars(signal).pop(name, None)
for what in ("read_text", "write_text", "open"):
    def without(self, *a, _before=getattr(pathlib.Path, what), **k):
        if self.as_posix().startswith(("/proc/", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return _before(self, *a, **k)
    setattr(pathlib.Path, what, without)
"""


def _bare(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(BARE)
    paths = os.pathsep.join([str(folder), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PADIM_BENCH_")} | {"PYTHONPATH": paths}
    command = [sys.executable, "-m", "padim_bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=settings)


def _guarded(tree: ast.Module) -> set[ast.AST]:
    """Nodes within a ``try``, an ``if`` or a ``with suppress``."""
    blocks = (ast.Try, ast.If, ast.IfExp, ast.With, ast.BoolOp)
    return {inner for block in ast.walk(tree) if isinstance(block, blocks) for inner in ast.walk(block)}


def test_no_module_depends_silently_on_what_only_unix_has() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = _guarded(tree)
        for node in (n for n in ast.walk(tree) if n not in guarded):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name in UNIX_MODULES]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.module in UNIX_MODULES else []
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [node.attr] if node.attr in UNIX_NAMES.get(node.value.id, ()) else []
            found += [f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)} {name}" for name in names]
    assert found == []


def test_a_run_on_a_bare_system_gives_the_same_numbers_and_says_what_was_not_measured(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    run = ("run", "--backbone", "resnet18", "--weights", "random", "--n-features", 10, "--threads", 1)
    run = (*run, "--data", tiny, "--categories", "bottle", "--json")
    done = _bare(tmp_path, *run, "--results", tmp_path / "bare")
    assert done.returncode == 0, done.stderr
    (there,) = json.loads(done.stdout)["runs"]
    assert there["memory_bytes"] is None
    (here,) = cli(*run, "--results", tmp_path / "usual").runs
    assert there["metrics"] == here["metrics"]
    assert here["memory_bytes"] > 10**7
    names = [path.name for folder in ("bare", "usual") for path in record_files(tmp_path / folder)]
    assert names[0] == names[1]
    (record,) = map(json.loads, (p.read_text(encoding="utf-8") for p in record_files(tmp_path / "bare")))
    assert record["memory"]["peak_rss_bytes"] is None
    assert all("\\" not in score["image"] for score in record["scores"])
    (again,) = cli(*run, "--results", tmp_path / "bare").runs
    assert again["resumed"]


def test_a_profile_on_a_bare_system_has_no_peak_and_is_written(tiny: Path, tmp_path: Path) -> None:
    profile = ("profile", "--backbones", "resnet18", "--weights", "random", "--n-features", 10, "--threads", 1)
    profile = (*profile, "--strategies", "cholesky", "--batch-sizes", 1, "--n-images", 2, "--data", tiny)
    done = _bare(tmp_path, *profile, "--categories", "bottle", "--results", tmp_path / "bare", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["profiles"]
    assert found["status"] == "ok"
    assert found["memory"]["peak_rss_bytes"] is None
    assert (tmp_path / "bare" / "tables" / "profiles.md").is_file()
    # With a measured one beside it no memory is drawn, and the unmeasured wins by no memory.
    (path,) = (tmp_path / "bare" / "profiles").glob("*.json")
    unmeasured = read_measurement(path, CostRecord)
    assert isinstance(unmeasured, MeasuredCost)
    measured = replace(unmeasured, memory=replace(unmeasured.memory, peak_rss_bytes=10**9))
    figure = pareto_figure([unmeasured, measured])
    assert figure is not None
    assert len(figure.axes) == 1
    assert "| 1000 |" in profiles_page([unmeasured, measured]).texts[".md"]
    assert set(vars(unmeasured.memory.peaks).values()) == {None}
    page = memory_page(load_measured_spec("table8"), [], [], [], [unmeasured]).texts[".md"]
    (row,) = [line for line in page.splitlines() if line.startswith("|") and "bottle" in line]
    assert row.endswith(4 * " | \N{EN DASH}" + " |")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux resets the peak")
def test_where_the_system_tells_it_the_peak_is_measured() -> None:
    found = environment.PeakMemory().read()
    assert found["peak_rss_scope"] == "run"
    assert found["peak_rss_bytes"] > 10**7
    assert environment.larger(found["peak_rss_bytes"], 1) == found["peak_rss_bytes"]


def test_a_peak_that_the_system_takes_back_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([5_000, 4_000, 6_000])
    monkeypatch.setattr(environment, "peak_rss", lambda: next(told))
    memory = environment.PeakMemory()
    assert [memory.read()["peak_rss_bytes"] for _ in range(3)] == [5_000, 5_000, 6_000]


def test_of_two_peaks_the_larger_counts_and_an_unmeasured_one_leaves_none() -> None:
    assert environment.larger(None, 1) is None
