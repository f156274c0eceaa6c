"""Fetching, unpacking and checking a dataset, against a real HTTP server on the loopback."""

from __future__ import annotations

import hashlib
import importlib
import io
import re
import shutil
import socket
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from padim_bench.data.download import SOURCES, Source, download
from padim_bench.data.mvtec import MVTEC_AD, Counts
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
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0
    url: str = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            site.asked.append(asked)
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
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            body = site.payload[start:]
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


def test_an_interrupt_leaves_the_part_for_the_next_call(
    site: Site, tmp_path: Path, tree: Path, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.payload = payload
    blocks = iter([payload[:500]])

    def read_once(_response: object) -> bytes:
        for block in blocks:
            return block
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_read", read_once)
        with pytest.raises(KeyboardInterrupt):
            _get(site, tmp_path)
    assert _files(tmp_path) == {f"{FILENAME}.part": payload[:500]}
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


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "nonsense"])
def test_only_http_links_are_followed(tmp_path: Path, url: str) -> None:
    with pytest.raises(PadimBenchError, match="not an http or https link"):
        download("mvtec-ad", tmp_path, url=url)


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
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A complete tree of a dataset of two small categories."""
    for name in [*MVTEC_AD]:
        monkeypatch.delitem(MVTEC_AD, name)
    monkeypatch.setitem(MVTEC_AD, "bottle", Counts(3, 3, 2))
    monkeypatch.setitem(MVTEC_AD, "screw", Counts(4, 2, 1))
    _make_category(tmp_path, "bottle")
    _make_category(tmp_path, "screw", train=4, bad=1)
    return tmp_path


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
