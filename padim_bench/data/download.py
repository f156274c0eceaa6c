"""Fetch a public dataset, check it and unpack it."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from padim_bench.data.archives import check_space, unpack
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.verify import check_category
from padim_bench.errors import PadimBenchError
from padim_bench.machine.progress import Progress

RETRIES = 3  # tries in a row that bring no new byte
RETRY_WAIT_S = 2.0
PACE_S, SLOWEST = 60.0, 10_000  # so many seconds at so few bytes a second end a fetch
MOST = 50_000_000_000  # bytes, of a file whose size nobody tells
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


class _TooSlow(_LinkError):
    """Bytes arrive, and would for ever."""


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
    bar when standard error is a terminal, lines now and then elsewhere.

    ``timeout_s`` is a socket's. A server that is silent for three times as long, or sends less than 10 kB a second
    over a minute, is given up, whatever the number of connections; never is more written than the file has, or 50 GB
    where nobody tells its size.

    Raises PadimBenchError: no such dataset, a link that is none, fails or is too slow, another file than the one
    recorded, an archive that is refused (see ``archives.unpack``), or a disk that is full or may not be written.
    """
    if name not in SOURCES:
        raise PadimBenchError(f"no dataset named {name!r}; there is: {', '.join(SOURCES)}")
    source = SOURCES[name]
    if sha256 is not None:  # another file than the one whose size we know
        source = replace(source, sha256=sha256.lower(), size=None)
    if url is not None:
        source = replace(source, url=url)
    root = Path(root)
    staging = root / f".{source.filename}.unpacking"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if sha256 is None and _is_there(root):
            return root
        if archive is not None:
            archive = Path(archive)
            _check_digest(archive, source, root)
            unpack(archive, root, staging, progress=progress)
            return root
        fetched = _obtain(source, root, timeout_s, progress)
        unpack(fetched, root, staging, progress=progress)
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
    """Bring ``part`` to its full length, resuming it and retrying while new bytes arrive, and fast enough."""
    _check_link(source.url)
    started = best = _size(part)
    failures, pace = 0, _Pace(best)
    with Progress(source.size or 0, enabled=progress, unit="B", stage=source.filename) as bar:
        while True:
            try:
                _fetch_rest(source, part, timeout_s, bar, pace)
                return
            except _LinkError as error:
                size = _size(part)
                failures = 0 if size > best else failures + 1
                best = max(best, size)
                # A link that has brought nothing at all is dead: waiting for it would only annoy.
                if best == started or failures >= RETRIES or isinstance(error, _TooSlow):
                    raise PadimBenchError(
                        f"cannot fetch {source.url}: {_one_line(error)}; {_by_hand(source, part.parent)}"
                    ) from error
                time.sleep(RETRY_WAIT_S)


def _check_link(url: str) -> None:
    try:
        parts = urlsplit(url)
        fit = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets and ports
        fit = False
    if not fit or not url.isprintable() or " " in url:
        raise PadimBenchError(f"cannot fetch {url!r}: not an http or https link")


class _Pace:
    """Raises _TooSlow where the file has grown too little over ``PACE_S``, however many connections that took."""

    def __init__(self, size: int) -> None:
        self._size, self._since = size, time.monotonic()
        self._largest = size

    def at(self, size: int) -> None:
        """The file has ``size`` bytes; what a retry fetches a second time does not count."""
        self._largest = max(self._largest, size)
        took = time.monotonic() - self._since
        if took < PACE_S:
            return
        if self._largest - self._size < SLOWEST * took:
            raise _TooSlow(f"{self._largest - self._size} bytes in {took:.0f} s, too slow to be of use")
        self._size, self._since = self._largest, time.monotonic()


def _fetch_rest(source: Source, part: Path, timeout_s: float, bar: Progress, pace: _Pace) -> None:
    """One request for the bytes that ``part`` lacks."""
    have = _size(part)
    if have == source.size:
        return
    headers = {"User-Agent": "padim-bench"} | ({"Range": f"bytes={have}-"} if have else {})
    pace.at(have)
    answer = _Answer(Request(source.url, headers=headers), timeout_s)
    try:
        status, told = answer.start()
        if status == 416 and have:  # nothing is left to fetch; the digest tells if that is right
            if source.size and have < source.size:
                raise _LinkError(f"the link serves less than the {have} bytes that are there")
            return
        start, total = _extent(status, told, have, source.size)
        end = source.size or total or MOST
        # Images hardly compress, so the unpacked tree takes about as much as the archive.
        check_space(part.parent, 2 * total - start)
        bar.reset(total, start)
        with part.open("ab" if start else "wb") as file:
            while start < end and (block := answer.block()):
                start += file.write(block[: end - start])  # never more than the file has
                file.flush()
                bar.advance(len(block))
                pace.at(start)
    finally:
        answer.close()
    if not source.size and start == MOST:
        raise _LinkError(f"the link serves more than {MOST / 1e9:.0f} GB, without saying how much")
    if start < (source.size or total):  # http.client takes an early end of the connection for the end of the file
        raise _LinkError(f"the connection closed after {start} of {source.size or total} bytes")


class _Answer:
    """A server's answer, read in a thread of its own: a socket's timeout ends no server that sends bytes one by one."""

    def __init__(self, request: Request, timeout_s: float) -> None:
        self._blocks: Queue[Any] = Queue(maxsize=4)
        self._left = Event()
        self._patience_s = 3 * timeout_s
        Thread(target=self._read, args=(request, timeout_s), daemon=True).start()

    def start(self) -> tuple[int, Message]:
        """Status and headers. Raises _LinkError for errors of the network and the server."""
        found: tuple[int, Message] = self._next()
        return found

    def block(self) -> bytes:
        """What has arrived, so that a timeout loses nothing; nothing at the end. Raises as :meth:`start` does."""
        found: bytes = self._next()
        return found

    def close(self) -> None:
        """Nobody waits for the rest: the thread ends as soon as its socket lets it."""
        self._left.set()

    def _next(self) -> Any:
        try:
            found = self._blocks.get(timeout=self._patience_s)
        except Empty:
            raise _LinkError(f"the server sent next to nothing for {self._patience_s:g} s") from None
        if isinstance(found, Exception):
            raise _LinkError(_one_line(getattr(found, "reason", None) or found)) from found
        return found

    def _read(self, request: Request, timeout_s: float) -> None:
        try:
            with _opener().open(request, timeout=timeout_s) as response:
                self._put((response.status, response.headers))
                while not self._left.is_set() and (block := response.read1(_BLOCK)):
                    self._put(block)
                self._put(b"")
        except HTTPError as error:
            error.close()
            self._put((416, error.headers) if error.code == 416 else _LinkError(f"HTTP {error.code} {error.reason}"))
        except Exception as error:  # of the network, or of a link or an answer that http.client cannot read
            self._put(error)

    def _put(self, item: object) -> None:
        while not self._left.is_set():
            try:
                return self._blocks.put(item, timeout=0.5)
            except Full:
                continue


def _extent(status: int, headers: Message, have: int, size: int | None) -> tuple[int, int]:
    """The offset of the answer's first byte, and the length of the whole file (0: not told)."""
    if status not in {200, 206}:
        raise _LinkError(f"HTTP {status} and no file")
    if headers.get_content_type() == "text/html":
        raise _LinkError("the link answers with a web page")
    start, total = 0, _length(headers)
    if status == 206:
        extent = re.fullmatch(rf"bytes ({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)", headers.get("Content-Range") or "")
        if extent is None or int(extent[1]) != have:
            raise _LinkError("the server answers with another range than the one asked for")
        start, total = have, 0 if extent[3] == "*" else int(extent[3])
    if size and total and total != size:  # a stale link must not overwrite a good part
        raise _LinkError(f"the link serves {total} bytes, expected {size}")
    return start, total


_NUMBER = "[0-9]{1,18}"  # int takes signs, spaces, underscores and thousands of digits


def _length(headers: Message) -> int:
    """What Content-Length says, 0 if there is none; said several times alike it counts once."""
    stated = {part.strip() for value in headers.get_all("Content-Length") or () for part in value.split(",")}
    if not stated:
        return 0
    (first, *others) = stated
    if others or not re.fullmatch(_NUMBER, first):
        raise _LinkError(f"the server states a length that is none ({', '.join(sorted(stated))[:100]!r})")
    return int(first)


class _NoOtherScheme(HTTPRedirectHandler):
    """Redirections lead to web servers, never to files or FTP."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        try:
            _check_link(newurl)
        except PadimBenchError as error:
            raise _LinkError(f"it leads elsewhere: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Of urllib's handlers only those for web links."""
    opener = OpenerDirector()
    for handler in (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor):
        opener.add_handler(handler())
    opener.add_handler(_NoOtherScheme())
    return opener


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


def _by_hand(source: Source, root: Path) -> str:
    command = ["padim-bench", "data", "download", source.name, "--root", str(root), "--archive"]
    return (
        f"to get the data by hand: open {source.homepage}, save {source.filename}, "
        f"and run `{shlex.join([*command, source.filename])}`"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
