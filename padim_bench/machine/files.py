"""Files written whole or not at all, whoever else writes beside us, and whatever ends in the middle."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from padim_bench.errors import PadimBenchError

# Of a file's name: file systems take 255, encrypted ones (eCryptfs) 143.
NAME_BYTES = 140
_TEMPORARY_NAME_BYTES = 80
# What some system or other refuses in a name, and what no text can hold.
_UNFIT = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
# A writer that cannot be looked up from here is taken for dead if its file has not changed for so long; one whose
# number some process has, which need not be the same process, after a day.
_ABANDONED_S, _ABANDONED_AFTER_ALL_S = 3600, 86400
_TEMPORARY = re.compile(r"\..*\.(?P<place>[0-9a-f]{12})-(?P<pid>\d+)-[0-9a-f]{12}\.tmp", re.DOTALL)
# As versions before wrote them.
_OLDER_TEMPORARY = re.compile(r"\..*\.(json|md|csv|tex|png|svg)\.\d+\.tmp|\.write-test\.\d+", re.DOTALL)
# A virus scanner or a reader of the old file, on Windows, lets go after a moment.
_RENAME_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; one that has this content already is left as it is.

    Raises PadimBenchError, naming the file, if the folder cannot be written or the disk is full.
    """
    with suppress(OSError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to, which becomes ``path`` at the end, or is gone if anything was raised.

    Its name is nobody else's, also where several containers share a folder and number their processes alike.
    Raises OSError.
    """
    temporary = path.with_name(f".{shortened([path.name], _TEMPORARY_NAME_BYTES)}.{_own_name()}.tmp")
    try:
        yield temporary
        _rename(temporary, path)
    except BaseException:
        with suppress(OSError):  # what was raised says more
            temporary.unlink(missing_ok=True)
        raise


def _rename(temporary: Path, path: Path) -> None:
    for wait_s in _RENAME_WAITS_S:
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(wait_s)
        else:
            return
    temporary.replace(path)


@contextmanager
def temporary_folder(inside: Path, name: str) -> Iterator[Path]:
    """A hidden folder there, gone with the block; one whose writer is killed is cleared as its files are.

    Raises PadimBenchError where it cannot be made.
    """
    folder = inside / f".{name}.{_own_name()}.tmp"
    try:
        folder.mkdir()
    except OSError as error:
        raise cannot_write(inside, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_abandoned(folder: Path, *, of: str | None = None) -> None:
    """Removes temporary files and folders whose writer was killed: none of this machine's, or unknown and old.

    Args:
        folder: where to look, not below it; nothing happens if it is not there.
        of: only those of a file of this name.
    """
    start = "." if of is None else f".{shortened([of], _TEMPORARY_NAME_BYTES)}."
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith(start) and _abandoned(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _abandoned(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None and not _OLDER_TEMPORARY.fullmatch(path.name):
        return False
    here = found is not None and found["place"] == _place()
    alive = _alive(int(found["pid"])) if found is not None and here else None
    if alive is False:
        return True
    return time.time() - path.lstat().st_mtime > (_ABANDONED_AFTER_ALL_S if alive else _ABANDONED_S)


def _alive(pid: int) -> bool | None:
    """Whether a process of this machine runs; None where asking is not safe (on Windows it may end it)."""
    if os.name != "posix":
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    return True


def _own_name() -> str:
    return f"{_place()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


@cache
def _place() -> str:
    """Where process numbers mean what they mean here: this machine since it started, this container."""
    facts, address = [platform.node()], uuid.getnode()
    if not address >> 40 & 1:  # where no network has an address, every process draws one, marked by this bit
        facts.append(str(address))
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - no file's name
    return hashlib.sha256("\n".join(facts).encode("utf-8", "replace")).hexdigest()[:12]


def cannot_write(path: Path, error: OSError) -> PadimBenchError:
    return PadimBenchError(f"cannot write {path}: {error.strerror or error}: choose another folder, or free some space")


def make_folder(folder: Path) -> None:
    """A folder, and those above it, to write into; what killed writers left in it is cleared.

    Raises PadimBenchError, naming it, where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    clear_abandoned(folder)


def check_writable(*folders: Path) -> None:
    """Fails now rather than after the first run; what killed writers left in the folders is cleared.

    A folder that is not there yet is not made: its nearest one that is must be writable.
    Raises PadimBenchError, naming what is in the way.
    """
    for folder in folders:
        there = folder
        try:
            while not there.exists() and there != there.parent:
                there = there.parent
            if not there.is_dir():
                raise NotADirectoryError(0, "it is a file, not a folder")
            probe = there / f".write-test.{_own_name()}.tmp"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise cannot_write(there, error) from error
        if there == folder:  # a folder above it is not ours
            clear_abandoned(folder)


def shortened(parts: Sequence[str], limit: int = NAME_BYTES, ending: str = "") -> str:
    """A file's name, ``parts`` joined by hyphens and ``ending``, in ``limit`` bytes at most.

    Characters that some system refuses become "_"; of what is too long the longest part is cut. What makes
    the name unique belongs into ``ending``.
    """
    fit = [_UNFIT.sub("_", part) for part in parts]
    if not _can_be_named("-".join(fit)):
        fit = [part.encode("ascii", "replace").decode("ascii").replace("?", "_") for part in fit]
    while len(f"{'-'.join(fit)}{ending}".encode()) > limit and any(fit):
        longest = max(range(len(fit)), key=lambda i: len(fit[i].encode()))
        fit[longest] = fit[longest][:-1]
    name = "-".join(fit)
    return (f"_{name[1:]}" if name.startswith(".") else name) + ending  # a hidden file is not ours to read


def _can_be_named(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # in a locale without UTF-8
        return False
    return True
