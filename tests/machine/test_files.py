"""Files written whole or not at all, what killed writers leave, and what is told before any work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from padim_bench import PadimBenchError
from padim_bench.machine.files import (
    check_writable,
    clear_abandoned,
    replacing,
    shortened,
    temporary_folder,
    write_bytes,
    write_text,
)

DAY_S = 86400
# Writes to a temporary neighbour for ever; says "writing" once it is in the middle.
WRITER = """
import sys
from pathlib import Path
from padim_bench.machine.files import replacing
with replacing(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    file.write(bytes(1 << 20))
    file.flush()
    print("writing", flush=True)
    while True:
        file.write(bytes(1 << 10))
        file.seek(0)
"""


def writer(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"writing"
    return process


def older(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def temporary_of(path: Path) -> Path:
    """A temporary file of ``path`` as this process names it."""
    with suppress(KeyError), replacing(path) as temporary:
        raise KeyError
    return temporary


def test_a_killed_writers_file_is_cleared_by_the_next_run_and_a_living_ones_is_not(tmp_path: Path) -> None:
    dead, living = writer(tmp_path / "one.json"), writer(tmp_path / "two.json")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert len(list(tmp_path.iterdir())) == 2
        check_writable(tmp_path)
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".two.json.")
    finally:
        living.kill()
        living.wait()
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_processes_of_a_machine_without_a_network_are_of_one_place(tmp_path: Path) -> None:
    code = (
        "import random, sys, uuid; uuid.getnode = lambda: random.getrandbits(48) | 1 << 40\n"
        "from pathlib import Path; from padim_bench.machine.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as path: print(path.name.split('.')[-2].split('-')[0]); path.touch()"
    )
    places = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "one.json")],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for _ in range(2)
    }
    assert len(places) == 1


def test_files_of_other_machines_and_older_versions_are_cleared_when_old(tmp_path: Path) -> None:
    mine = temporary_of(tmp_path / "one.json").name
    elsewhere = re.sub(r"\.[0-9a-f]{12}-", f".{'0' * 12}-", mine)
    assert elsewhere != mine
    names = {elsewhere: 3700, ".x.json.4711.tmp": 3700, ".write-test.4711": 3700, mine: 2 * DAY_S}
    for name, age in names.items():
        (tmp_path / name).touch()
        check_writable(tmp_path)
        assert (tmp_path / name).exists(), name
        older(tmp_path / name, age)
        check_writable(tmp_path)
        assert not (tmp_path / name).exists(), name
    for name in (".hidden", ".x.tmp", "x.json", ".x.json.tmp", "1.tmp", ".notes.2024.tmp"):  # anybody's
        (tmp_path / name).touch()
        older(tmp_path / name, 9 * DAY_S)
    check_writable(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_nothing_is_cleared_in_a_folder_above_one_that_is_not_there(tmp_path: Path) -> None:
    above = temporary_of(tmp_path / "one.json")
    above.touch()
    older(above, 2 * DAY_S)
    check_writable(tmp_path / "new" / "records")
    assert above.exists()


def test_only_a_files_own_are_cleared_where_others_share_the_folder(tmp_path: Path) -> None:
    names = [re.sub(r"-\d+-", "-999999999-", temporary_of(tmp_path / name).name) for name in ("one", "two")]
    for name in names:
        (tmp_path / name).touch()
    clear_abandoned(tmp_path, of="one")
    assert [p.name for p in tmp_path.iterdir()] == names[1:]


def test_a_folder_whose_writer_was_killed_is_cleared_and_one_in_use_is_not(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "maps") as mine:
        (mine / "a.tiff").touch()
        killed = tmp_path / re.sub(r"-\d+-", "-999999999-", mine.name)
        (killed / "test").mkdir(parents=True)
        (killed / "test" / "b.tiff").touch()
        clear_abandoned(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [mine.name]
        assert (mine / "a.tiff").exists()
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_file_never_meet(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"  # the last to end
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_open_elsewhere_is_replaced_once_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls, replace = tmp_path / "one", [], os.replace

    def held(*names: str) -> None:
        calls.append(names)
        if len(calls) < 3:
            raise PermissionError(13, "The process cannot access the file")
        replace(*names)

    monkeypatch.setattr(os, "replace", held)
    write_text(path, "1")
    assert path.read_text() == "1"
    assert len(calls) == 3


def test_the_same_content_is_not_written_again_and_permissions_are_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "below" / "one"
    write_bytes(path, b"1")
    before = older(path, DAY_S).stat()
    assert before.st_mode & 0o777 == 0o666 & ~_umask()
    write_bytes(path, b"1")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    write_bytes(path, b"2")
    assert path.read_bytes() == b"2"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_cannot_be_written_is_named_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file")
    with pytest.raises(PadimBenchError, match=r"cannot write .*records: it is a file"):
        check_writable(tmp_path / "records")
    with pytest.raises(PadimBenchError, match=r"cannot write .*records"):
        check_writable(tmp_path / "records" / "below")
    check_writable(tmp_path / "new" / "tables")
    assert [p.name for p in tmp_path.iterdir()] == ["records"]


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, unwritable: Callable[[Path], Path]) -> None:
    place = unwritable(tmp_path / "tables")
    with pytest.raises(PadimBenchError, match=r"cannot write .*tables"):
        check_writable(tmp_path, place)


@pytest.fixture
def unwritable() -> Callable[[Path], Path]:
    """Makes a folder in which nothing can be made, unless by a user whom nothing stops."""

    def make(path: Path) -> Path:
        path.mkdir()
        path.chmod(0o555)
        if os.access(path, os.W_OK):
            pytest.skip("this user may write anywhere")
        return path

    return make


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("a", "b"), "a-b.json"),
        (("a/b", 'c<>:"|?*\\'), "a_b-c________.json"),
        ((".a", "b"), "_a-b.json"),
        (("line\nbreak", "\ud800"), "line_break-_.json"),
        (("Ω" * 100, "b" * 20), f"{'Ω' * 57}-{'b' * 20}.json"),
        (("a" * 100, "b" * 100), f"{'a' * 67}-{'b' * 67}.json"),
    ],
)
def test_names_are_cut_by_their_longest_part_and_hold_no_odd_character(parts: tuple[str, ...], name: str) -> None:
    assert shortened(parts, ending=".json") == name
    assert len(name.encode()) <= 140
