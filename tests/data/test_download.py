"""Fetching, unpacking and checking a dataset, against a real HTTP server on the loopback."""

from __future__ import annotations

import hashlib
import importlib
import io
import lzma
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from padim_bench.data import archives
from padim_bench.data.download import SOURCES, Source, download
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Counts
from padim_bench.errors import PadimBenchError

# By its full name: in the package, ``download`` may as well be the function.
module = importlib.import_module("padim_bench.data.download")
FILENAME = SOURCES["mvtec-ad"].filename


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what it was asked for."""

    payload: bytes = b""
    ranges: bool = True
    status: int = 200
    drops: int = 0  # so many answers end halfway
    content_type: str = "application/x-xz"
    length: str = "{0}"  # what is stated, of a number of bytes; nothing for no such header
    location: str = ""  # where the first question is sent
    send: Callable[[BaseHTTPRequestHandler, bytes], None] | None = None  # instead of all at once
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0
    url: str = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            site.asked.append(asked)
            if site.location:
                self.send_response(302)
                self.send_header("Location", site.location)
                self.end_headers()
                site.location = ""
                return
            if site.status == 204:
                self.send_response(204)
                self.end_headers()
                return
            if site.status != 200:
                self.send_error(site.status)
                return
            start = int(asked[len("bytes=") : -1]) if asked and site.ranges else 0
            total = len(site.payload)
            if start >= total > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Type", site.content_type)
            if site.length:
                self.send_header("Content-Length", site.length.format(total - start))
            self.end_headers()
            body = site.payload[start:]
            if site.send:
                site.send(self, body)
                return
            if site.drops:
                site.drops -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)
            site.sent += len(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "RETRY_WAIT_S", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/{FILENAME}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)


def _save(path: Path, shape: tuple[int, ...] = (16, 16, 3), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _make_category(root: Path, name: str, train: int = 3, good: int = 1, bad: int = 2) -> Path:
    folder = root / name
    for i in range(train):
        _save(folder / f"train/good/{i:03}.png", seed=i)
    for i in range(good):
        _save(folder / f"test/good/{i:03}.png", seed=50 + i)
    for i in range(bad):
        _save(folder / f"test/crack/{i:03}.png", seed=100 + i)
        _save(folder / f"ground_truth/crack/{i:03}_mask.png", (16, 16), seed=i)
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    _make_category(root, "bottle")
    _make_category(root, "screw")
    (root / "license.txt").write_text("terms\n")
    return root


def _pack(tree: Path, edit: Callable[[tarfile.TarInfo], tarfile.TarInfo] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for entry in sorted(tree.iterdir()):
            tar.add(entry, entry.name, filter=edit)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def payload(tree: Path) -> bytes:
    return _pack(tree)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _get(site: Site, root: Path, sha256: str | None = None, **options: object) -> Path:
    return download("mvtec-ad", root, url=site.url, sha256=sha256 or _sha(site.payload), **options)  # type: ignore[arg-type]


# Fetching


def test_fetches_checks_and_unpacks(
    site: Site, tmp_path: Path, tree: Path, payload: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    site.payload = payload
    root = tmp_path / "new" / "data"
    assert _get(site, root) == root
    assert _files(root) == _files(tree)
    assert sorted(entry.name for entry in root.iterdir()) == ["bottle", "license.txt", "screw"]
    assert capfd.readouterr() == ("", "")


def test_progress_shows_a_bar_on_standard_error(
    site: Site, tmp_path: Path, payload: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    site.payload = payload
    _get(site, tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert FILENAME in err


def test_keeps_the_archive_on_request_and_uses_it_again(site: Site, tmp_path: Path, payload: bytes) -> None:
    site.payload = payload
    _get(site, tmp_path, keep_archive=True)
    assert (tmp_path / FILENAME).read_bytes() == payload
    shutil.rmtree(tmp_path / "bottle")
    _get(site, tmp_path)
    assert (tmp_path / "bottle/train/good/000.png").is_file()
    assert len(site.asked) == 1


def test_resumes_a_part_and_asks_only_for_the_rest(site: Site, tmp_path: Path, tree: Path, payload: bytes) -> None:
    site.payload = payload
    have = len(payload) // 3
    (tmp_path / f"{FILENAME}.part").write_bytes(payload[:have])
    _get(site, tmp_path)
    assert site.asked == [f"bytes={have}-"]
    assert site.sent == len(payload) - have
    assert _files(tmp_path) == _files(tree)


def test_restarts_where_the_server_ignores_the_range(site: Site, tmp_path: Path, tree: Path, payload: bytes) -> None:
    site.payload, site.ranges = payload, False
    (tmp_path / f"{FILENAME}.part").write_bytes(b"x" * 1000)
    _get(site, tmp_path)
    assert site.asked == ["bytes=1000-"]
    assert _files(tmp_path) == _files(tree)


def test_goes_on_where_the_part_is_complete(site: Site, tmp_path: Path, tree: Path, payload: bytes) -> None:
    site.payload = payload
    (tmp_path / f"{FILENAME}.part").write_bytes(payload)
    _get(site, tmp_path)
    assert site.sent == 0
    assert _files(tmp_path) == _files(tree)


def test_a_dropped_connection_is_resumed(site: Site, tmp_path: Path, tree: Path, payload: bytes) -> None:
    site.payload, site.drops = payload, 1
    _get(site, tmp_path)
    assert site.asked == [None, f"bytes={len(payload) // 2}-"]
    assert site.sent == len(payload)
    assert _files(tmp_path) == _files(tree)


def test_gives_up_on_a_server_that_always_drops(site: Site, tmp_path: Path, payload: bytes) -> None:
    site.payload, site.drops, site.ranges = payload, 100, False
    with pytest.raises(PadimBenchError, match="the connection closed after"):
        _get(site, tmp_path)
    assert len(site.asked) == 1 + module.RETRIES
    assert (tmp_path / f"{FILENAME}.part").stat().st_size == len(payload) // 2


def test_an_interrupt_leaves_the_part_for_the_next_call(site: Site, tmp_path: Path, tree: Path, payload: bytes) -> None:
    site.payload, part = payload, tmp_path / f"{FILENAME}.part"

    def halfway(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(body[:500])
        until(lambda: part.is_file() and part.stat().st_size == 500)
        os.kill(os.getpid(), signal.SIGINT)

    site.send = halfway
    with pytest.raises(KeyboardInterrupt):
        _get(site, tmp_path)
    assert _files(tmp_path) == {f"{FILENAME}.part": payload[:500]}
    site.send = None
    _get(site, tmp_path)
    assert site.asked[-1] == "bytes=500-"
    assert _files(tmp_path) == _files(tree)


def test_a_wrong_digest_is_refused(site: Site, tmp_path: Path, payload: bytes) -> None:
    site.payload = payload
    with pytest.raises(PadimBenchError) as caught:
        _get(site, tmp_path, sha256="0" * 64)
    message = str(caught.value)
    assert all(text in message for text in (FILENAME, _sha(payload), "0" * 64, "delete it"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"{FILENAME}.part"]


def _assert_by_hand(message: str, root: Path) -> None:
    assert "\n" not in message
    assert SOURCES["mvtec-ad"].homepage in message
    assert f"save {FILENAME}" in message
    assert f"padim-bench data download mvtec-ad --root {root} --archive {FILENAME}" in message


@pytest.mark.parametrize("status", [404, 403, 503])
def test_an_http_error_says_how_to_go_on_by_hand(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    with pytest.raises(PadimBenchError, match=f"HTTP {status}") as caught:
        _get(site, tmp_path)
    _assert_by_hand(str(caught.value), tmp_path)
    assert len(site.asked) == 1


def test_a_refused_connection_says_how_to_go_on_by_hand(tmp_path: Path, site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nothing else can take the port
        site.url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(PadimBenchError, match="refused") as caught:
            _get(site, tmp_path)
    _assert_by_hand(str(caught.value), tmp_path)


def test_a_silent_server_times_out(tmp_path: Path, site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site.url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(PadimBenchError, match="timed out") as caught:
            _get(site, tmp_path, timeout_s=0.2)
    _assert_by_hand(str(caught.value), tmp_path)


def test_a_web_page_does_not_overwrite_a_part(site: Site, tmp_path: Path, payload: bytes) -> None:
    site.payload, site.content_type, site.ranges = b"<html>moved</html>", "text/html", False
    (tmp_path / f"{FILENAME}.part").write_bytes(payload)
    with pytest.raises(PadimBenchError, match="web page"):
        _get(site, tmp_path)
    assert (tmp_path / f"{FILENAME}.part").read_bytes() == payload


def test_a_file_of_another_size_does_not_overwrite_a_part(site: Site, tmp_path: Path, payload: bytes) -> None:
    site.payload, site.ranges = b"something else", False
    (tmp_path / f"{FILENAME}.part").write_bytes(payload)
    with pytest.raises(PadimBenchError, match="serves 14 bytes, expected 5264982680"):
        download("mvtec-ad", tmp_path, url=site.url)
    assert (tmp_path / f"{FILENAME}.part").read_bytes() == payload


def test_a_full_disk_is_told_before_the_fetch(
    site: Site, tmp_path: Path, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.payload = payload
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1))
    with pytest.raises(PadimBenchError, match="GB free"):
        _get(site, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://127.0.0.1/x", "nonsense", "http://[", "http://", "http:///x", "http://a:99999999/x",
     "http://a:b/x", "http://a b/x", "http://a/\n", "http://a/\x00", "data:,x", "", "http://[::1", "//a/x"],
)  # fmt: skip
def test_only_http_links_are_followed(tmp_path: Path, url: str) -> None:
    with pytest.raises(PadimBenchError, match="not an http or https link"):
        download("mvtec-ad", tmp_path, url=url)


# Servers that are odd, slow or hostile


def _refused(site: Site, root: Path, **options: object) -> str:
    with pytest.raises(PadimBenchError) as caught:
        _get(site, root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "length", ["+{0}", "-{0}", "-1", "{0}_0", "abc", "{0}, 7", "0x10", "9" * 30, "9" * 5000, "{0}.0"]
)
def test_a_length_that_is_none_is_refused(site: Site, tmp_path: Path, payload: bytes, length: str) -> None:
    site.payload, site.length = payload, length
    _assert_by_hand(_refused(site, tmp_path), tmp_path)
    assert not (tmp_path / f"{FILENAME}.part").exists()


@pytest.mark.parametrize("length", ["{0}, {0}", " {0} ", "", "0{0}"])
def test_a_length_that_can_be_read_or_is_not_told_will_do(
    site: Site, tmp_path: Path, tree: Path, payload: bytes, length: str
) -> None:
    site.payload, site.length = payload, length
    _get(site, tmp_path)
    assert _files(tmp_path) == _files(tree)


def _known(monkeypatch: pytest.MonkeyPatch, payload: bytes) -> None:
    source = replace(SOURCES["mvtec-ad"], sha256=_sha(payload), size=len(payload))
    monkeypatch.setitem(SOURCES, "mvtec-ad", source)


def test_an_answer_longer_than_the_file_is_never_written_past_it(
    site: Site, tmp_path: Path, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _known(monkeypatch, payload)
    site.payload, site.length = payload + bytes(5_000_000), ""
    download("mvtec-ad", tmp_path, url=site.url, keep_archive=True)
    assert (tmp_path / FILENAME).read_bytes() == payload


def test_a_file_whose_size_nobody_tells_is_bounded(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 100_000)
    site.payload, site.length, site.ranges = bytes(5_000_000), "", False
    assert "without saying how much" in _refused(site, tmp_path)
    assert (tmp_path / f"{FILENAME}.part").stat().st_size == 100_000


def test_a_few_bytes_a_connection_end_after_a_while(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.3)
    site.payload, site.send = bytes(1_000_000), lambda handler, body: handler.wfile.write(body[:5])  # type: ignore[assignment]
    message = _refused(site, tmp_path)
    assert "too slow" in message
    _assert_by_hand(message, tmp_path)
    assert len(site.asked) > 1


def test_what_is_fetched_again_does_not_count_as_speed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.5)
    site.payload, site.ranges, sizes = bytes(3_000_000), False, iter(range(1_000_000, 2_000_000, 5))
    site.send = lambda handler, body: handler.wfile.write(body[: next(sizes)])  # type: ignore[assignment]
    assert "too slow" in _refused(site, tmp_path)


def test_bytes_that_trickle_end_after_a_while(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.3)

    def trickle(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        for i in range(len(body)):
            handler.wfile.write(body[i : i + 1])
            time.sleep(0.01)

    site.payload, site.send = bytes(1_000_000), trickle
    assert "too slow" in _refused(site, tmp_path)
    assert 0 < (tmp_path / f"{FILENAME}.part").stat().st_size < 1000


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_headers_that_trickle_end_after_a_while(site: Site, tmp_path: Path, head: bytes) -> None:
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def drip() -> None:
            connection, _ = slow.accept()
            with connection, suppress(OSError):
                connection.sendall(head)
                while not done.is_set():
                    connection.sendall(b"0")
                    time.sleep(0.02)

        thread = threading.Thread(target=drip)
        thread.start()
        site.url = f"http://127.0.0.1:{slow.getsockname()[1]}/x"
        assert "next to nothing" in _refused(site, tmp_path, timeout_s=0.2)
        done.set()
        thread.join()


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://[", "data:,x"])
def test_a_redirection_that_leaves_the_web_is_refused(site: Site, tmp_path: Path, target: str) -> None:
    site.location = target
    _assert_by_hand(_refused(site, tmp_path), tmp_path)
    assert len(site.asked) == 1
    assert _files(tmp_path) == {}


def test_a_redirection_on_the_web_is_followed(site: Site, tmp_path: Path, tree: Path, payload: bytes) -> None:
    site.payload, site.location = payload, site.url
    _get(site, tmp_path)
    assert _files(tmp_path) == _files(tree)


def test_an_answer_without_a_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.status = 204
    assert "HTTP 204 and no file" in _refused(site, tmp_path)


def test_a_link_to_a_shorter_file_costs_no_part(
    site: Site, tmp_path: Path, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _known(monkeypatch, payload)
    site.payload = payload[:100]
    (tmp_path / f"{FILENAME}.part").write_bytes(payload[:500])
    with pytest.raises(PadimBenchError, match="serves less than the 500 bytes"):
        download("mvtec-ad", tmp_path, url=site.url)
    assert _files(tmp_path) == {f"{FILENAME}.part": payload[:500]}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_disk_that_fills_up_is_one_line(site: Site, tmp_path: Path, payload: bytes) -> None:
    site.payload = payload
    (tmp_path / f"{FILENAME}.part").symlink_to("/dev/full")
    assert "No space left" in _refused(site, tmp_path)


def test_an_unknown_dataset_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PadimBenchError, match="mvtec-ad"):
        download("cifar", tmp_path)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PadimBenchError, match="cannot put mvtec-ad under"):
        download("mvtec-ad", tmp_path / "file")


# Unpacking


def _by_archive(tmp_path: Path, data: bytes, root: Path | None = None) -> Path:
    archive = tmp_path / "by_hand.tar.xz"
    archive.write_bytes(data)
    return download("mvtec-ad", root or tmp_path / "root", archive=archive, sha256=_sha(data))


def test_an_archive_fetched_by_hand_is_unpacked_and_kept(tmp_path: Path, tree: Path, payload: bytes) -> None:
    root = _by_archive(tmp_path, payload)
    assert _files(root) == _files(tree)
    assert (tmp_path / "by_hand.tar.xz").is_file()


def test_an_archive_fetched_by_hand_is_checked(tmp_path: Path, payload: bytes) -> None:
    archive = tmp_path / "by_hand.tar.xz"
    with pytest.raises(PadimBenchError, match="no file"):
        download("mvtec-ad", tmp_path / "root", archive=archive)
    archive.write_bytes(payload)
    with pytest.raises(PadimBenchError, match=_sha(payload)):
        download("mvtec-ad", tmp_path / "root", archive=archive)
    assert list((tmp_path / "root").iterdir()) == []


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("bottle/link")
    member.type, member.linkname = kind, target
    return member


MALICIOUS = {
    "parent": tarfile.TarInfo("../escaped"),
    "deep parent": tarfile.TarInfo("bottle/../../escaped"),
    "inner parent": tarfile.TarInfo("bottle/../screw"),
    "absolute": tarfile.TarInfo("/padim-bench-escaped"),
    "backslash": tarfile.TarInfo("..\\escaped"),
    "drive": tarfile.TarInfo("C:escaped"),
    "symlink out": _link(tarfile.SYMTYPE, "/etc"),
    "symlink in": _link(tarfile.SYMTYPE, "train"),
    "hardlink": _link(tarfile.LNKTYPE, "bottle/train/good/000.png"),
    "fifo": _link(tarfile.FIFOTYPE, ""),
    "device": _link(tarfile.CHRTYPE, ""),
}


@pytest.mark.parametrize("member", MALICIOUS.values(), ids=MALICIOUS.keys())
def test_a_malicious_archive_is_refused_whole(tmp_path: Path, tree: Path, member: tarfile.TarInfo) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        tar.add(tree / "bottle", "bottle")
        tar.addfile(member)
        tar.add(tree / "screw", "screw")
    with pytest.raises(PadimBenchError, match=re.escape(repr(member.name))):
        _by_archive(tmp_path, buffer.getvalue())
    assert list((tmp_path / "root").iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["by_hand.tar.xz", "root"]
    assert not Path("/padim-bench-escaped").exists()


def _tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:xz", **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as tar:  # type: ignore[call-overload]
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, **about: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in about.items():
        setattr(member, key, value)
    return member


def _pax(**headers: str) -> bytes:
    return _tar((_member("bottle/a.png", pax_headers=headers), b"x"), format=tarfile.PAX_FORMAT)


ODD = {
    "a NUL in a name": _pax(path="bottle/a\0b.png"),
    "a name too long": _tar((_member(f"bottle/{'a' * 300}.png"), b"x")),
    "a path too long": _tar((_member("/".join(["b" * 100] * 20)), b"x")),
    "1500 levels": _tar((_member("/".join("a" * 1500)), b"x")),
    "a second member": _tar((_member("bottle/a.png"), b"x"), (_member("bottle/a.png"), b"y")),
    "another case": _tar((_member("bottle/a.png"), b"x"), (_member("bottle/A.png"), b"y")),
    "a negative size": _pax(size="-5"),
    "a huge size": _pax(size="20000000000"),
    "a file and a folder": _tar((_member("bottle"), b"x"), (_member("bottle/a.png"), b"y")),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_an_archive_that_no_system_could_hold_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PadimBenchError) as caught:
        _by_archive(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("mtime", ["nan", "inf", "-inf", "-5", "1e300", "99999999999999"])
def test_times_that_are_none_do_not_matter(tmp_path: Path, mtime: str) -> None:
    root = _by_archive(tmp_path, _pax(mtime=mtime))
    assert (root / "bottle" / "a.png").read_bytes() == b"x"


def test_a_sparse_member_is_as_large_as_it_would_be(tmp_path: Path) -> None:
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.truncate(20_000_000_000)
    packed = tmp_path / "sparse.tar"
    command = ["tar", "--sparse", "--format=gnu", "-cf", packed, "--transform=s,^,bottle/,", "-C", tmp_path, "hole"]
    if shutil.which("tar") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no GNU tar here")
    hole.unlink()
    with pytest.raises(PadimBenchError, match=r"would take 20\.0 GB, and may take 1\.1 GB"):
        _by_archive(tmp_path, packed.read_bytes())
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("kind", ["member", "header", "end"])
def test_what_decompresses_without_end_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(100 << 20)
    monkeypatch.setattr(archives, "AT_LEAST", 1 << 20)
    monkeypatch.setattr(archives, "MEMBERS", 100)
    if kind == "member":
        plain = _tar((_member("bottle/a.png"), zeros), mode="w:")
    elif kind == "header":
        header = _member("x", type=tarfile.XHDTYPE, size=len(zeros)).tobuf(tarfile.USTAR_FORMAT)
        plain = header + zeros
    else:
        plain = _tar((_member("bottle/a.png"), b"x"), mode="w:") + zeros
    with pytest.raises(PadimBenchError, match="is refused"):
        _by_archive(tmp_path, lzma.compress(plain, preset=0))
    assert list((tmp_path / "root").iterdir()) == []


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBERS", 20)
    with pytest.raises(PadimBenchError, match="more than 20 members"):
        _by_archive(tmp_path, _tar(*((_member(f"bottle/{i}.png"), b"x") for i in range(30))))


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_archives_of_every_compression_are_unpacked(tmp_path: Path, mode: str) -> None:
    root = _by_archive(tmp_path, _tar((_member("bottle/a.png"), b"x"), mode=mode))
    assert _files(root) == {"bottle/a.png": b"x"}


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_mutated_archives_are_refused_in_one_line_or_unpacked_inside_the_target(tmp_path: Path, mode: str) -> None:
    """What flips of bits, cuts and overwritten headers do: never a raw error, nothing outside, nothing left behind."""
    draw = random.Random(mode)
    long = _member("bottle/" + "b" * 150, pax_headers={"comment": "x" * 50})
    sound = _tar(
        (_member("bottle", type=tarfile.DIRTYPE), b""), (_member("bottle/a.png"), b"x" * 700), (long, b"y"), mode=mode
    )
    outside = sorted(p.name for p in tmp_path.parent.iterdir())
    deadline, tried = time.monotonic() + 10, 0
    for i in range(150):
        data = bytearray(sound)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(data))
            data[place] = draw.choice([data[place] ^ 1 << draw.randrange(8), 0, 255, ord("-"), ord("9"), ord("/")])
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        root = tmp_path / str(i)
        said = ""
        try:
            _by_archive(tmp_path, bytes(data), root)
        except PadimBenchError as error:
            said = str(error)
        assert "\n" not in said
        assert not (said and list(root.iterdir()))
        assert all(p.is_dir() or p.stat().st_size < 1000 for p in root.rglob("*"))
        tried += 1
        if time.monotonic() > deadline:
            break
    assert tried > 20
    assert sorted(p.name for p in tmp_path.parent.iterdir()) == outside


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -20])
def test_a_truncated_archive_is_named(tmp_path: Path, payload: bytes, keep: float) -> None:
    data = payload[: int(len(payload) * keep) if isinstance(keep, float) else keep]
    with pytest.raises(PadimBenchError, match=r"by_hand.tar.xz is truncated") as caught:
        _by_archive(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_corrupt_archive_is_named(tmp_path: Path, payload: bytes) -> None:
    middle = len(payload) // 2
    with pytest.raises(PadimBenchError, match=r"by_hand.tar.xz is truncated, damaged"):
        _by_archive(tmp_path, payload[:middle] + bytes(200) + payload[middle + 200 :])


def test_an_archive_without_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "readme.txt").write_text("no images\n")
    with pytest.raises(PadimBenchError, match="holds no category folder"):
        _by_archive(tmp_path, _pack(tmp_path / "flat"))


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, payload: bytes) -> None:
    root = tmp_path / "root"
    (root / "screw").mkdir(parents=True)
    (root / "screw" / "mine.txt").write_text("precious\n")
    with pytest.raises(PadimBenchError, match="screw exists and differs"):
        _by_archive(tmp_path, payload, root)
    assert _files(root) == {"screw/mine.txt": b"precious\n"}


def test_an_unpacking_that_was_cut_short_is_finished(tmp_path: Path, tree: Path, payload: bytes) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree / "bottle", root / "bottle")
    left = root / f".{FILENAME}.unpacking"
    (left / "zipper").mkdir(parents=True)
    _by_archive(tmp_path, payload, root)
    assert _files(root) == _files(tree)
    assert not left.exists()


def test_read_only_members_become_writable(tmp_path: Path, tree: Path) -> None:
    def read_only(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode = 0o6555 if member.isdir() else 0o4511
        return member

    root = _by_archive(tmp_path, _pack(tree, read_only))
    assert _files(root) == _files(tree)
    for path in (root / "bottle").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o600 == 0o600
        assert not mode & (stat.S_ISUID | stat.S_ISGID)
        assert path.is_dir() or not mode & 0o111


# A tree that is there already


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A complete tree of a dataset of two small categories."""
    _make_category(tmp_path, "bottle")
    _make_category(tmp_path, "screw", train=4, bad=1)
    two = {"bottle": Counts(3, 3, 2), "screw": Counts(4, 2, 1)}
    with patch.dict(MVTEC_AD, two, clear=True):  # which brings the order back too
        yield tmp_path


def test_the_source_names_its_terms() -> None:
    source = SOURCES["mvtec-ad"]
    assert isinstance(source, Source)
    assert re.fullmatch("[0-9a-f]{64}", source.sha256)
    assert source.url.endswith(source.filename)
    assert all(text in source.licence for text in ("CC BY-NC-SA 4.0", "non-commercial", "Bergmann"))


def test_a_finished_tree_is_not_fetched_again(small: Path, site: Site) -> None:
    assert download("mvtec-ad", small, url=site.url) == small
    assert site.asked == []


def test_an_unsound_tree_is_told_before_the_fetch(small: Path, site: Site) -> None:
    (small / "bottle/train/good/001.png").unlink()
    with pytest.raises(PadimBenchError, match=r"bottle exists and is not complete \(train: 2 images"):
        download("mvtec-ad", small, url=site.url)
    assert site.asked == []


def test_a_sound_part_of_the_tree_lets_the_rest_be_fetched(
    small: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.payload = _pack(small)
    before = _files(small)
    shutil.rmtree(small / "screw")
    source = replace(SOURCES["mvtec-ad"], sha256=_sha(site.payload), size=len(site.payload))
    monkeypatch.setitem(module.SOURCES, "mvtec-ad", source)
    download("mvtec-ad", small, url=site.url)
    assert _files(small) == before
