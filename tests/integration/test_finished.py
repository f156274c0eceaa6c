"""What is finished is shown again without a byte written; what is spoilt or in the way is told before any work."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support import CommandLine, assert_refused, contents, record_files

SMALL = ("--backbone", "resnet18", "--weights", "random", "--n-features", 20, "--threads", 1)
TABLES = (
    "reproduce",
    "--dataset",
    "mvtec-ad",
    "table3",
    "seeds",
    "--weights",
    "random",
    "--threads",
    1,
    "--backbones",
    "resnet18",
    "--seeds",
    2,
)
Seen = dict[str, int]


def times_of_folders(root: Path) -> Seen:
    """Anything made, renamed or removed in a folder changes its time, also if it is gone again."""
    return {p.as_posix(): p.stat().st_mtime_ns for p in (root, *root.rglob("*")) if p.is_dir()}


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from padim_bench.cli import main

    results = tmp_path_factory.mktemp("finished")
    data = ("--data", tiny, "--categories", "bottle", "--results", results)
    assert main([str(a) for a in ("run", *SMALL, *data)]) == 0
    assert main([str(a) for a in (*TABLES, *data)]) == 0
    return results


def test_finished_results_are_shown_again_and_nothing_is_written(cli: CommandLine, tiny: Path, finished: Path) -> None:
    before, folders = contents(finished), times_of_folders(finished)
    data = ("--data", tiny, "--categories", "bottle", "--results", finished)
    assert [run["resumed"] for run in cli("run", *SMALL, *data, "--json").runs] == [True]
    assert cli(*TABLES, *data).code == 0
    assert contents(finished) == before
    assert times_of_folders(finished) == folders


@pytest.mark.parametrize("place", ["records", "tables", "figures"])
def test_a_file_where_a_folder_is_to_be_is_told_before_any_work(
    cli: CommandLine, tiny: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / place).write_text("")
    reply = cli(*TABLES, "--data", tiny, "--categories", "bottle", "--results", tmp_path)
    assert_refused(reply, tmp_path / place)
    assert list(tmp_path.iterdir()) == [tmp_path / place]


def test_a_run_needs_no_more_than_its_records(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("")
    assert cli("run", *SMALL, "--data", tiny, "--categories", "bottle", "--results", tmp_path).code == 0


def test_what_systems_leave_among_records_costs_no_run(cli: CommandLine, tiny: Path, finished: Path) -> None:
    """Appledouble files, for one: a copy by way of a Mac has one for each file."""
    (record, *_) = record_files(finished)
    strays = [record.with_name(f"._{record.name}"), record.with_name(".DS_Store"), record.with_name("x.json")]
    for stray in strays[:2]:
        stray.write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    strays[2].mkdir()
    data = ("--data", tiny, "--categories", "bottle", "--results", finished)
    assert [run["resumed"] for run in cli("run", *SMALL, *data, "--json").runs] == [True]
    strays[2].rmdir()
    for stray in strays[:2]:
        stray.unlink()


def _flip(raw: bytes) -> bytes:
    at = random.Random(len(raw)).randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "spoil", [_flip, lambda raw: raw[:-9], lambda _: b"", lambda raw: raw.replace(b": 0.", b": 0.0")]
)
@pytest.mark.parametrize("command", [("run", *SMALL), TABLES])
def test_a_spoilt_record_stops_any_command_that_would_show_it(
    cli: CommandLine, tiny: Path, finished: Path, command: tuple[object, ...], spoil: Callable[[bytes], bytes]
) -> None:
    (path, *_), before = record_files(finished), contents(finished)
    raw = path.read_bytes()
    path.write_bytes(spoil(raw))
    try:
        reply = cli(*command, "--data", tiny, "--categories", "bottle", "--results", finished)
        assert_refused(reply, path, "delete it, and the run is redone")
    finally:
        path.write_bytes(raw)
    assert {k: v[0] for k, v in contents(finished).items()} == {k: v[0] for k, v in before.items()}


def test_the_longest_names_and_seeds_leave_records(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    import shutil

    long = "x" * 200
    shutil.copytree(tiny / "bottle", tmp_path / "data" / long)
    options = ("--data", tmp_path / "data", "--results", tmp_path / "results", "--seed", 2**63 - 1)
    for resumed in (False, True):
        assert [run["resumed"] for run in cli("run", *SMALL, *options, "--json").runs] == [resumed]
    (record,) = record_files(tmp_path / "results")
    assert len(record.name) <= 140
