"""What of a folder is read, and how names that are no Unicode are written."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from padim_bench import PadimBenchError
from padim_bench.data.listing import entries, is_file, is_folder, is_ours, printable, spelled, subfolders, unspelled

BYTE_NAMES = pytest.mark.skipif(sys.platform != "linux", reason="names are no bytes here")


@pytest.mark.parametrize(
    "name",
    ["._000.png", ".DS_Store", ".hidden", "Thumbs.db", "thumbs.DB", "desktop.ini", "lost+found", "__MACOSX", "@eaDir",
     "$RECYCLE.BIN", "System Volume Information", "Icon\r"],
)  # fmt: skip
def test_what_systems_leave_behind_is_not_ours(name: str) -> None:
    assert not is_ours(name)


@pytest.mark.parametrize("name", ["000.png", "good", "_mask.png", "thumbs", "lost", "~", "a.b", " .x"])
def test_what_people_name_is_ours(name: str) -> None:
    assert is_ours(name)


def test_entries_are_sorted_and_those_of_no_folder_are_none(tmp_path: Path) -> None:
    for name in ("b", "a", ".c", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "aa").touch()
    assert [p.name for p in entries(tmp_path)] == ["a", "aa", "b"]
    assert [p.name for p in subfolders(tmp_path)] == ["a", "b"]
    assert entries(tmp_path / "absent") == []
    with pytest.raises(PadimBenchError, match="aa is not a directory"):
        entries(tmp_path / "aa")


def test_links_to_nowhere_loops_and_pipes_are_neither_files_nor_folders(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("/nowhere/image.png")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("dangling", "loop", "pipe"):
        assert (is_file(tmp_path / name), is_folder(tmp_path / name)) == (False, False)
    assert is_folder(tmp_path / "link")


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only the superuser can become another")
def test_a_folder_that_may_not_be_read_is_named_and_what_lies_in_it_is_not_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine").chmod(0o700)
    code = (
        "import os, sys; from pathlib import Path; from padim_bench.data.listing import entries, is_folder\n"
        "os.seteuid(65534); root = Path(sys.argv[1]); print(is_folder(root / 'mine' / 'inner'))\n"
        "try: entries(root / 'mine')\nexcept Exception as error: print(type(error).__name__, error)"
    )
    for parent in tmp_path.parents[:2]:  # pytest's own folders are closed to others
        parent.chmod(0o755)
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "False",
        f"PadimBenchError cannot read {tmp_path / 'mine'}: Permission denied: check its permissions",
    ]


# Names.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"000.png", "000.png"),
        ("größe 1.png".encode(), "größe 1.png"),
        (b"gro\xdf-000.png", "gro\\xdf-000.png"),
        (b"a\\b.png", "a\\b.png"),
        (b"a\\xdf", "a\\x5cxdf"),
        (b"a|b,\n", "a|b,\n"),
    ],
)
@BYTE_NAMES
def test_names_are_valid_unicode_and_those_that_were_stay_as_they_are(name: bytes, text: str) -> None:
    assert spelled(os.fsdecode(name)) == text
    assert os.fsencode(unspelled(text)) == name


@BYTE_NAMES
def test_no_two_names_are_spelled_alike_and_each_can_be_had_back() -> None:
    draw, seen = random.Random(0), {}
    for _ in range(20_000):
        name = bytes(draw.choice(b"\\x5cdf8a\xdf\xc3\x9f") for _ in range(draw.randint(1, 9)))
        text = spelled(os.fsdecode(name))
        text.encode("utf-8")
        assert os.fsencode(unspelled(text)) == name
        assert seen.setdefault(text, name) == name


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1", "C.UTF-8"])
@BYTE_NAMES
def test_names_are_spelled_alike_under_every_locale(locale: str, tmp_path: Path) -> None:
    for name in (b"gro\xdf", "größe".encode()):
        (tmp_path / os.fsdecode(name)).touch()
    code = (
        "import sys; from pathlib import Path; from padim_bench.data.listing import entries, spelled\n"
        "print(ascii([spelled(p.name) for p in entries(Path(sys.argv[1]))]))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LC_") and k != "LANG"}
    environment |= {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert set(ast.literal_eval(out)) == {"gro\\xdf", "größe"}


def test_any_text_can_be_made_printable() -> None:
    assert printable("plain größe\n") == "plain größe\n"
    assert printable("a\udcdfb") == "a\\xdfb"
    assert printable("\ud800") == "\\ud800"
