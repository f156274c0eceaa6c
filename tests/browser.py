"""A headless Chromium, driven over two pipes: what it shows, what it says in its console, and what it asks for."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMIT_S = 120.0  # of one answer, on a machine with much else to do
# Descriptors 3 and 4 are where Chromium reads and writes.
_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page, and all that it asked for, complained of or raised since it was opened."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._buffer, self._n, self._session = b"", 0, ""
        self.asked: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command's answer; raises where it has none in time."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._n:
            pass
        assert "error" not in answer, (method, answer)
        found: dict[str, Any] = answer["result"]
        return found

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + LIMIT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, until - time.monotonic()))
            read = os.read(self._reads, 1 << 20) if ready else b""
            assert read, f"Chromium did not answer within {LIMIT_S:g} s"
            self._buffer += read
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        told = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif message.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}:
            self.complaints.append(json.dumps(told))
        return message

    def open(self, path: Path, anchor: str = "") -> None:
        """A file as it is when it is opened anew."""
        self.call("Page.navigate", url="about:blank")
        self.asked.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + (f"#{anchor}" if anchor else ""))
        until = time.monotonic() + LIMIT_S
        while (
            self.run("location.href + document.readyState") in {"about:blankcomplete", ""}
            or self.run("document.readyState") != "complete"
        ):
            assert time.monotonic() < until, "the page was not loaded in time"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of an expression; raises where it raises."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def look(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """The window's size in pixels, and what its user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        chosen = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=chosen)

    def point(self, anchor: str, *, press: bool = False) -> None:
        """The mouse over the middle of an element, and a press of its button there."""
        self.run(f"{by_id(anchor)}.scrollIntoView({{block: 'center', inline: 'center'}})")
        at = f"{by_id(anchor)}.getBoundingClientRect()"
        box = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({at})")
        kinds = ["mouseMoved", *(["mousePressed", "mouseReleased"] if press else [])]
        for kind in kinds:
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self) -> bytes:
        """What is shown, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def by_id(anchor: str) -> str:
    return f"document.getElementById({json.dumps(anchor)})"


def chromium() -> str:
    """Its program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


@contextmanager
def started() -> Iterator[Browser]:
    """A Chromium with a profile of its own, ended with the block."""
    program = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--no-first-run", "--disable-background-networking", "--remote-debugging-pipe"]
        command = [sys.executable, "-c", _START, str(their_read), str(their_write), program, *flags]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"],
            pass_fds=(their_read, their_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=os.environ | {"HOME": profile},
        )  # fmt: skip
        os.close(their_read)
        os.close(their_write)
        try:
            yield Browser(our_read, our_write)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(our_read)
            os.close(our_write)
