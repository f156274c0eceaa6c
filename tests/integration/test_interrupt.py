"""A run that is killed or interrupted keeps what is finished, and the same command does the rest."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import CommandLine, Contents, Reply, contents, lines_said, record_files, start

from padim_bench.machine.environment import commit
from padim_bench.runs.executors import open_executor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

RUN = ("run", "--backbone", "resnet18", "--weights", "random", "--strategy", "cholesky,diagonal", "--json")
REPRODUCE = ("reproduce", "table3", "table5", "--backbones", "resnet18", "--weights", "random", "--json")


def _stopped_after_the_first_record(
    command: tuple[object, ...], results: Path, with_signal: signal.Signals
) -> tuple[Reply, Contents]:
    """What the process answered, and the records that it left."""
    process = start(*command)
    try:
        deadline = time.monotonic() + 300
        while not record_files(results):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no record appeared"
            time.sleep(0.002)
        process.send_signal(with_signal)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    records = {name: found for name, found in contents(results).items() if name.endswith(".json")}
    return Reply(process.returncode, out, err), records


@pytest.fixture
def no_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of :func:`start`: tables name the commits of their records."""
    monkeypatch.setenv("GIT_DIR", os.devnull)
    commit.cache_clear()
    yield
    commit.cache_clear()


def _tables(results: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((results / "tables").iterdir())}


def test_a_killed_run_resumes_with_its_finished_records_untouched(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    command = (*RUN, "--data", tiny, "--threads", 1, "--results", tmp_path)
    reply, kept = _stopped_after_the_first_record(command, tmp_path, signal.SIGKILL)
    assert reply.code == -signal.SIGKILL
    assert 1 <= len(kept) < 6
    resumed = cli(*command)
    assert sorted(run["category"] for run in resumed.runs) == sorted(["bottle", "grid", "leather"] * 2)
    assert f"{len(kept)} of 6 runs are on record already" in resumed.err
    assert sum(run["resumed"] for run in resumed.runs) == len(kept)
    assert kept.items() <= contents(tmp_path).items()
    assert len(record_files(tmp_path)) == 6
    assert all(json.loads(path.read_text())["status"] == "ok" for path in record_files(tmp_path))


def test_the_tables_of_a_killed_and_resumed_reproduction_are_those_of_an_uninterrupted_one(
    cli: CommandLine, tiny: Path, tmp_path: Path, no_commit: None
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = (*REPRODUCE, "--data", tiny, "--threads", 1, "--results")
    reply, kept = _stopped_after_the_first_record((*command, killed), killed, signal.SIGKILL)
    assert reply.code == -signal.SIGKILL
    assert 1 <= len(kept) < 3
    assert not (killed / "tables").exists()
    assert cli(*command, killed).code == 0
    assert cli(*command, whole).code == 0
    assert kept.items() <= contents(killed).items()
    assert [p.name for p in record_files(killed)] == [p.name for p in record_files(whole)]
    assert list(_tables(killed)) == [f"table{n}.{end}" for n in (3, 5) for end in ("csv", "md", "tex")]
    assert _tables(killed) == _tables(whole)
    assert (killed / "README.md").read_bytes() == (whole / "README.md").read_bytes()


def test_ctrl_c_keeps_the_finished_runs_and_says_in_a_line_how_to_resume(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    command = (*RUN, "--data", tiny, "--threads", 1, "--results", tmp_path)
    reply, kept = _stopped_after_the_first_record(command, tmp_path, signal.SIGINT)
    assert reply.code == 130
    assert reply.out == ""
    (line,) = lines_said(reply.err)
    assert re.fullmatch(
        r"padim-bench: interrupted: \d+ of 6 runs are finished and kept; the same command resumes", line
    )
    assert f" {len(kept)} of 6 " in line
    assert set(contents(tmp_path)) == set(kept)  # no temporary file is left
    resumed = cli(*command)
    assert sum(run["resumed"] for run in resumed.runs) == len(kept) < 6
    assert kept.items() <= contents(tmp_path).items()


def test_ctrl_c_keeps_the_finished_scenes_and_the_same_command_does_the_rest(
    cli: CommandLine, campus_frames: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    command = (
        "reproduce",
        "table4",
        "--stc",
        campus_frames,
        "--stc-every",
        4,
        "--backbones",
        "resnet18",
        "--weights",
        "random",
    )
    options = ("--threads", 1, "--results", results, "--json")
    reply, kept = _stopped_after_the_first_record((*command, *options), results, signal.SIGINT)
    assert (reply.code, len(kept)) == (130, 1)
    assert lines_said(reply.err)[-1].startswith("padim-bench: interrupted: 1 of 2 runs are finished and kept")
    resumed = cli(*command, *options)
    assert [(run["category"], run["resumed"]) for run in resumed.runs] == [("01", True), ("02", False)]
    assert "1 of 2 runs are on record already" in resumed.err
    assert kept.items() <= contents(results).items()


def test_a_half_written_record_is_none(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    command = (*RUN, "--data", tiny, "--categories", "bottle", "--results", tmp_path)
    assert cli(*command).code == 0
    half = record_files(tmp_path)[0]
    text = half.read_text()
    half.rename(half.with_name(f".{half.name}.4711.tmp")).write_text(text[: len(text) // 2])
    resumed = cli(*command)
    assert sum(run["resumed"] for run in resumed.runs) == 1
    assert len(record_files(tmp_path)) == 2


def test_ctrl_c_does_not_reach_the_worker_processes() -> None:
    with open_executor("processes:1") as pool:
        assert pool is not None
        assert signal.SIGINT in pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_interruption_ends_the_worker_processes() -> None:
    workers: list[multiprocessing.process.BaseProcess] = []

    def interrupted() -> None:
        with open_executor("processes:1") as pool:
            assert pool is not None
            pool.submit(os.getpid).result()
            pool.submit(time.sleep, 3600)
            workers.extend(multiprocessing.active_children())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [worker.exitcode for worker in workers] == [-signal.SIGTERM]


def test_the_module_is_the_command() -> None:
    process: subprocess.Popen[str] = start("--version")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert re.fullmatch(r"padim-bench \d+\.\d+\.\d+\n", out)
