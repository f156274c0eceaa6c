"""Fetch a public dataset, check it and unpack it."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import shlex
import shutil
import tarfile
import time
import zlib
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from padim_bench.data.mvtec import MVTEC_AD
from padim_bench.data.verify import check_category
from padim_bench.errors import PadimBenchError

RETRIES = 3  # tries in a row that bring no new byte
RETRY_WAIT_S = 2.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from. ``size`` is the archive's, in bytes (None: not known)."""

    name: str
    url: str
    filename: str
    sha256: str
    size: int | None
    licence: str
    homepage: str


# The share link changes now and then; the digest has not, so an old link fails and never misleads.
SOURCES: dict[str, Source] = {
    "mvtec-ad": Source(
        name="mvtec-ad",
        url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/"
        "download/420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        filename="mvtec_anomaly_detection.tar.xz",
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        size=5_264_982_680,
        licence="CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/): non-commercial use "
        "only, with attribution, and adaptations under the same licence. Cite Bergmann et al., The MVTec "
        "Anomaly Detection Dataset, IJCV 129(4):1038-1059, 2021, doi:10.1007/s11263-020-01400-4, and "
        "Bergmann et al., MVTec AD, CVPR 2019, 9584-9592, doi:10.1109/CVPR.2019.00982.",
        homepage="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    ),
}


class _LinkError(Exception):
    """The network, the server or the link failed, as opposed to the disk."""


def download(
    name: str,
    root: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    archive: Path | None = None,
    timeout_s: float = 20,
    progress: bool | None = None,
    keep_archive: bool = False,
) -> Path:
    """Put the dataset ``name`` under ``root`` and return ``root``.

    An interrupted fetch leaves ``<filename>.part``, which the next call resumes. ``archive`` is a
    file fetched by hand: it is checked and unpacked, and never deleted. ``progress`` None shows a
    bar when standard error is a terminal.
    """
    if name not in SOURCES:
        raise PadimBenchError(f"no dataset named {name!r}; there is: {', '.join(SOURCES)}")
    source = SOURCES[name]
    if sha256 is not None:  # another file than the one whose size we know
        source = replace(source, sha256=sha256.lower(), size=None)
    if url is not None:
        source = replace(source, url=url)
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if sha256 is None and _is_there(root):
            return root
        if archive is not None:
            archive = Path(archive)
            _check_digest(archive, source, root)
            _unpack(archive, root, source, progress)
            return root
        fetched = _obtain(source, root, timeout_s, progress)
        _unpack(fetched, root, source, progress)
        if not keep_archive:
            fetched.unlink()
    except OSError as error:
        raise PadimBenchError(f"cannot put {name} under {root}: {_one_line(error)}") from error
    return root


def _is_there(root: Path) -> bool:
    """Whether all of MVTec AD is under ``root``; raises on a category that is there but unsound."""
    entries = [check_category(root, name) for name in MVTEC_AD if (root / name).exists()]
    for entry in entries:
        # Told now, and not after five gigabytes: an existing folder is never overwritten.
        if not entry.ok:
            raise PadimBenchError(
                f"{root / entry.name} exists and is not complete ({entry.problems[0]}): move or delete it and run again"
            )
    return len(entries) == len(MVTEC_AD)


def _obtain(source: Source, root: Path, timeout_s: float, progress: bool | None) -> Path:
    """The checked archive under its final name, fetched where it is not there yet."""
    final = root / source.filename
    if final.exists():  # an earlier call was interrupted while it unpacked, or kept the archive
        _check_digest(final, source, root)
        return final
    part = root / f"{source.filename}.part"
    _fetch(source, part, timeout_s, progress)
    _check_digest(part, source, root)
    return part.rename(final)


def _fetch(source: Source, part: Path, timeout_s: float, progress: bool | None) -> None:
    """Bring ``part`` to its full length, resuming it and retrying while new bytes arrive."""
    if urlsplit(source.url).scheme not in {"http", "https"}:
        raise PadimBenchError(f"cannot fetch {source.url}: not an http or https link")
    started = best = _size(part)
    failures = 0
    with _bar(source.filename, source.size, progress) as bar:
        while True:
            try:
                _fetch_rest(source, part, timeout_s, bar)
                return
            except _LinkError as error:
                size = _size(part)
                failures = 0 if size > best else failures + 1
                best = max(best, size)
                # A link that has brought nothing at all is dead: waiting for it would only annoy.
                if best == started or failures >= RETRIES:
                    raise PadimBenchError(
                        f"cannot fetch {source.url}: {_one_line(error)}; {_by_hand(source, part.parent)}"
                    ) from error
                time.sleep(RETRY_WAIT_S)


def _fetch_rest(source: Source, part: Path, timeout_s: float, bar: tqdm[Any]) -> None:
    """One request for the bytes that ``part`` lacks."""
    have = _size(part)
    if have == source.size:
        return
    headers = {"User-Agent": "padim-bench"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urlopen(Request(source.url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left to fetch; the digest tells if that is right
            return
        raise _LinkError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _LinkError(getattr(error, "reason", error)) from error
    with response:
        start, total = _extent(response, have, source.size)
        # Images hardly compress, so the unpacked tree takes about as much as the archive.
        _check_space(part.parent, 2 * total - start)
        bar.reset(total or None)
        bar.n = bar.initial = start  # so that what was there before does not count as speed
        with part.open("ab" if start else "wb") as file:
            while block := _read(response):
                file.write(block)
                bar.update(len(block))
    if _size(part) < total:  # http.client takes an early end of the connection for the end of the file
        raise _LinkError(f"the connection closed after {_size(part)} of {total} bytes")


def _extent(response: HTTPResponse, have: int, size: int | None) -> tuple[int, int]:
    """The offset of the answer's first byte, and the length of the whole file (0: not told)."""
    if response.headers.get_content_type() == "text/html":
        raise _LinkError("the link answers with a web page")
    start, total = 0, int(response.headers.get("Content-Length") or 0)
    if response.status == 206:
        extent = re.match(r"bytes (\d+)-\d+/(\d+)$", response.headers.get("Content-Range") or "")
        if extent is None or int(extent[1]) != have:
            raise _LinkError("the server answers with another range than the one asked for")
        start, total = have, int(extent[2])
    if size and total and total != size:  # a stale link must not overwrite a good part
        raise _LinkError(f"the link serves {total} bytes, expected {size}")
    return start, total


def _read(response: HTTPResponse) -> bytes:
    """What has arrived, so that a timeout loses nothing; network faults become ``_LinkError``."""
    try:
        return response.read1(_BLOCK)
    except (OSError, HTTPException) as error:
        raise _LinkError(str(error) or type(error).__name__) from error


def _check_digest(path: Path, source: Source, root: Path) -> None:
    """Refuse a file that is not, byte for byte, the one that the source records."""
    if not path.is_file():
        raise PadimBenchError(f"no file {path}; {_by_hand(source, root)}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise PadimBenchError(
            f"{path} has sha256 {found}, expected {source.sha256}: delete it and run again, or {_by_hand(source, root)}"
        )


def _unpack(archive: Path, root: Path, source: Source, progress: bool | None) -> None:
    """Unpack into a folder of its own inside ``root``, then move what is sound into place."""
    _check_space(root, archive.stat().st_size)
    staging = root / f".{source.filename}.unpacking"
    if staging.exists():  # left behind by a kill
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        _extract(archive, staging, progress)
        _settle(staging, root, archive)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: Path, staging: Path, progress: bool | None) -> None:
    """Extract plain files and folders; the first member of another kind refuses the archive."""
    try:
        with (
            archive.open("rb") as raw,
            tarfile.open(fileobj=raw) as tar,
            _bar("unpacking", archive.stat().st_size, progress) as bar,
        ):
            for member in tar:
                _check_member(member, archive)
                # Read-only folders, as in the archive of MVTec, could be neither filled nor deleted.
                member.mode = 0o755 if member.isdir() else 0o644
                tar.extract(member, staging, filter="data")
                bar.update(raw.tell() - bar.n)
            # The tar ends before the compressed stream does, and the stream's own check comes last.
            while tar.fileobj and tar.fileobj.read(_BLOCK):
                pass
    except (tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise PadimBenchError(
            f"{archive} is truncated, damaged or no tar archive: delete it and fetch it again"
        ) from error


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    """Raise unless the member is a file or a folder whose path stays inside the target."""
    path = PureWindowsPath(member.name)  # knows both separators, and drives
    if path.anchor or ".." in path.parts:
        raise PadimBenchError(f"{archive} is refused: its member {member.name!r} leads out of the target")
    if not (member.isreg() or member.isdir()):
        raise PadimBenchError(f"{archive} is refused: its member {member.name!r} is a link or a device")


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


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise PadimBenchError(f"{folder} has {free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB are needed")


def _by_hand(source: Source, root: Path) -> str:
    command = ["padim-bench", "data", "download", source.name, "--root", str(root), "--archive"]
    return (
        f"to get the data by hand: open {source.homepage}, save {source.filename}, "
        f"and run `{shlex.join([*command, source.filename])}`"
    )


def _bar(label: str, total: int | None, progress: bool | None) -> tqdm[Any]:
    disable = None if progress is None else not progress  # tqdm's None: only on a terminal
    return tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=disable)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
