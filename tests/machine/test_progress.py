"""Progress without a terminal is plain lines now and then; on a terminal a bar; and none where it is not wanted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from padim_bench.machine.progress import INTERVAL_S, Progress


def _wait_for_lines(capfd: pytest.CaptureFixture[str], count: int) -> list[str]:
    lines: list[str] = []
    deadline = time.monotonic() + 60
    while len(lines) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)
        lines += capfd.readouterr().err.splitlines()
    return lines


def test_a_stage_without_any_step_still_says_a_line_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(300, interval_s=0.05) as progress:
        progress.stage("bottle", "a fit of minutes")
        lines = _wait_for_lines(capfd, 2)
    assert all(re.fullmatch(r"padim-bench: bottle: a fit of minutes: 0 of 300 img, \d:\d\d elapsed", x) for x in lines)
    capfd.readouterr()
    time.sleep(0.2)
    assert capfd.readouterr().err == ""  # once it is over


def test_a_line_tells_stage_steps_time_taken_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(200, enabled=False)
    progress.stage("grid", "R18-Rd100")
    progress.advance(50)
    now[0] += 75
    assert progress.line() == "grid: R18-Rd100: 50 of 200 img, 1:15 elapsed, about 3:45 left"
    progress.advance(150)
    now[0] += 7200
    assert progress.line() == "grid: R18-Rd100: 200 of 200 img, 2:01:15 elapsed, about 0:00 left"


def test_what_was_there_before_counts_for_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(0, enabled=False, unit="B", stage="archive.tar.xz")
    progress.reset(5_000_000_000, 4_000_000_000)
    now[0] += 60
    assert progress.line() == "archive.tar.xz: 4000 of 5000 MB, 1:00 elapsed"
    progress.advance(500_000_000)
    assert progress.line() == "archive.tar.xz: 4500 of 5000 MB, 1:00 elapsed, about 1:00 left"


def test_of_several_the_innermost_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(None, stage="reproduce", interval_s=0.03):
        with Progress(None, stage="measuring", interval_s=0.03):
            assert {line.split(": ")[1] for line in _wait_for_lines(capfd, 3)} == {"measuring"}
        capfd.readouterr()
        assert {line.split(": ")[1] for line in _wait_for_lines(capfd, 3)} == {"reproduce"}


def test_nothing_is_said_where_nothing_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(10, enabled=False, interval_s=0.01) as progress:
        progress.stage("bottle", "decode")
        progress.advance()
        time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


def test_names_in_a_line_are_shown_and_not_obeyed(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(10, interval_s=0.03) as progress:
        progress.stage("a\x1b[31m\nb", "decode")
        assert _wait_for_lines(capfd, 1)[0].startswith("padim-bench: a\\x1b[31m\\nb: decode: 0 of 10 img")


def test_by_default_it_is_half_a_minute() -> None:
    assert INTERVAL_S == 30


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_on_a_terminal_it_is_a_bar() -> None:
    import pty
    import termios

    code = (
        "import time\nfrom padim_bench.machine.progress import Progress\nwith Progress(4, interval_s=0.01) as p:\n"
        "    p.stage('bottle', 'decode')\n    p.advance(1)\n    time.sleep(0.2)\n    p.advance(2)"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    os.set_blocking(ours, False)
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=120)
    shown = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert "bottle: decode" in shown
    assert "3/4" in shown
    assert "elapsed" not in shown
