"""Unpacking a tar archive that need not be trusted: bounded in size, depth and time, and all of it or nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from padim_bench.errors import PadimBenchError
from padim_bench.machine.progress import Progress

# Images hardly compress, so that an archive of them that grows more than this is none.
GROWTH, AT_LEAST = 10, 1 << 30
MEMBERS = 200_000
DEPTH, NAME_BYTES, PATH_BYTES = 32, 255, 1024
_BLOCK = 1 << 20
_LARGEST_READ = 64 << 20  # tarfile reads a header as long as it says it is; files it copies in small pieces
_OPENERS: dict[bytes, Any] = {
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0": lzma.open,
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
}


class _Refused(Exception):
    """What is wrong with the archive, to follow its name."""


class _Bounded:
    """A stream that gives at most ``limit`` bytes in all, and only so many at a time."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit, self._given = stream, limit, 0
        self.last = b""  # what was read last

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_READ:
            raise _Refused("has a header that cannot be one")
        self.last = self._stream.read(size)
        self._give(len(self.last))
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise _Refused("has a header that cannot be one")
        self._give(max(0, offset - self._stream.tell()))  # a compressed stream decompresses what lies between
        return self._stream.seek(offset)

    def _give(self, n: int) -> None:
        self._given += n
        if self._given > self._limit:
            raise _Refused(f"unpacks to more than {self._limit / 1e9:.1f} GB")

    def tell(self) -> int:
        return self._stream.tell()


def unpack(archive: Path, root: Path, staging: Path, *, progress: bool | None = None) -> None:
    """Unpacks into ``staging``, a folder inside ``root``, then moves what is sound into place; nothing else is left.

    Raises:
        PadimBenchError: not a tar archive of plain files and folders, or a damaged one; a member that leads out of
            the target, is a link or a device, or has a name that no system takes; more than ten times the archive's
            size (1 GiB at least), 200,000 members or 32 levels; too little space; a folder that is there and differs.
        OSError: the disk.
    """
    if staging.exists():  # left behind by a kill
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        _extract(archive, staging, progress)
        _settle(staging, root, archive)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_space(folder: Path, need: int) -> None:
    """Raises PadimBenchError if ``folder`` has not ``need`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise PadimBenchError(f"{folder} has {free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB are needed")


def _extract(archive: Path, staging: Path, progress: bool | None) -> None:
    """Extract plain files and folders; the first member that is not sound refuses the archive."""
    size = archive.stat().st_size
    limit, names, taken = max(AT_LEAST, GROWTH * size), set[str](), 0
    check_space(staging, size)
    try:
        with (
            archive.open("rb") as raw,
            _decompressed(raw) as stream,
            Progress(size, enabled=progress, unit="B", stage="unpacking") as bar,
        ):
            bounded = _Bounded(stream, limit + MEMBERS * tarfile.RECORDSIZE)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    _check_member(member, names)
                    taken += member.size
                    if taken > limit:
                        raise _Refused(
                            f"would take {taken / 1e9:.1f} GB, and may take {limit / 1e9:.1f} GB at its size"
                        )
                    check_space(staging, member.size)
                    # Read-only folders, as in the archive of MVTec, could be neither filled nor deleted.
                    member.mode = 0o755 if member.isdir() else 0o644
                    if not 0 <= member.mtime < 1 << 33:  # NaN too
                        member.mtime = 0
                    tar.extract(member, staging, filter="data")
                    tar.members = []  # or it remembers all of them
                    bar.advance(raw.tell() - bar.done)
                if bounded.last.strip(b"\0") or not bounded.last:  # tarfile takes a damaged header for the end
                    raise _damaged(archive)
            # The tar ends before the compressed stream does, and the stream's own check comes last.
            while bounded.read(_BLOCK):
                pass
    except _Refused as error:
        raise PadimBenchError(f"{archive} is refused: it {error}") from error
    except PadimBenchError:
        raise
    except OSError as error:
        if error.errno is None:  # of gzip and bz2
            raise _damaged(archive) from error
        raise
    except Exception as error:  # a damaged header makes tarfile raise nearly anything
        raise _damaged(archive) from error


def _damaged(archive: Path) -> PadimBenchError:
    return PadimBenchError(f"{archive} is truncated, damaged or no tar archive: delete it and fetch it again")


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    start = raw.read(6)
    raw.seek(0)
    opener = next((o for magic, o in _OPENERS.items() if start.startswith(magic)), None)
    stream: IO[bytes] = raw if opener is None else opener(raw)
    return stream


def _check_member(member: tarfile.TarInfo, names: set[str]) -> None:
    """Raise unless the member is a file or a folder that any system can have, whose path stays inside the target."""
    path = PureWindowsPath(member.name)  # knows both separators, and drives
    shown = f"member {member.name[:200]!r}"
    if path.anchor or ".." in path.parts:
        raise _Refused(f"has a {shown}, which leads out of the target")
    if not (member.isreg() or member.isdir()):
        raise _Refused(f"has a {shown}, which is a link or a device")
    encoded = [part.encode("utf-8", "surrogateescape") for part in path.parts]
    too_long = any(len(part) > NAME_BYTES for part in encoded) or sum(map(len, encoded)) > PATH_BYTES
    if "\0" in member.name or too_long or len(path.parts) > DEPTH:
        raise _Refused(f"has a {shown}, whose name no system takes")
    if member.size < 0:
        raise _Refused(f"has a {shown} of {member.size} bytes")
    name = "/".join(path.parts).casefold()
    if member.isreg() and name in names:
        raise _Refused(f"has a second {shown}, but for upper and lower case")
    names.add(name)
    if len(names) > MEMBERS:
        raise _Refused(f"has more than {MEMBERS} members")


def _settle(staging: Path, root: Path, archive: Path) -> None:
    """Move the unpacked entries into ``root``; nothing moves where one folder would be overwritten."""
    entries = sorted(staging.iterdir())
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        raise PadimBenchError(f"{archive} holds no category folder")
    for folder in folders:
        target = root / folder.name
        if target.exists() and _listing(target) != _listing(folder):
            raise PadimBenchError(f"{target} exists and differs from the archive: move or delete it and run again")
    for entry in entries:
        if not (root / entry.name).exists():
            entry.rename(root / entry.name)


def _listing(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
