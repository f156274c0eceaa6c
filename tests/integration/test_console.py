"""Streams that are closed, full or of any encoding, names that a terminal would obey, signals, and want of memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support
from support import CommandLine, assert_refused, record_files, start

from padim_bench.cli import main
from padim_bench.machine.console import can_start, memory_problem, printable

posix = pytest.mark.skipif(os.name != "posix", reason="a shell's redirections, and POSIX signals")
PADIM_BENCH = f"{sys.executable} -m padim_bench"
RUN = ("run", "--backbone", "resnet18", "--weights", "random", "--n-features", "10", "--threads", "1")
ENCODINGS: dict[str, dict[str, str]] = {
    **{f"{name} redirected": {"PYTHONIOENCODING": name} for name in ("cp932", "cp437", "latin-1", "ascii")},
    "POSIX without UTF-8 mode": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
KATAKANA = "ガスケット±"


def _shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("PADIM_BENCH_", "PYTHONIOENCODING", "LC_"))}
    return subprocess.run(
        ["/bin/bash", "-c", line], capture_output=True, check=False, timeout=240, env=settings | environment
    )


def _lines(stream: bytes) -> list[str]:
    return stream.decode("utf-8", "backslashreplace").splitlines()


@pytest.fixture(scope="module")
def oddly_named(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose category no narrow encoding can spell, and one that would colour a terminal."""
    root = tmp_path_factory.mktemp("odd") / "set"
    shutil.copytree(tiny / "bottle", root / KATAKANA)
    shutil.copytree(tiny / "bottle", root / "a\x1b[31m|b,c\n<i>_&amp;%$")
    return root


# Encodings


_ALL = """import json, sys
from padim_bench.cli import main
for arguments in json.loads(sys.argv[1]):
    print(main(arguments), file=sys.stderr)
"""


def _answers(encoding: str, *commands: tuple[str, ...]) -> tuple[str, list[str]]:
    """What the commands print, one after the other in one process, and the lines and exit codes on standard error."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("PADIM_BENCH_", "PYTHONIOENCODING", "LC_"))}
    command = [sys.executable, "-c", _ALL, json.dumps(commands, ensure_ascii=False)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=240, env=settings | ENCODINGS[encoding])
    return done.stdout.decode("utf-8", "replace"), _lines(done.stderr)


@posix
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_an_encoding_cannot_spell_is_replaced_and_never_a_fault(encoding: str, tmp_path: Path) -> None:
    odd = str(tmp_path / os.fsdecode(b"\xff\xc3\xa9") / KATAKANA)
    refused = [("run", "--data", odd, "--backbone", "resnet18"), (KATAKANA,), ("data", "verify", "--root", odd)]
    out, err = _answers(encoding, ("list", "protocols"), *refused, ("data", "demo", "--help"))
    assert "paper" in out
    assert [line for line in err if line.isdigit()] == ["0", "2", "2", "2", "0"]
    assert len(err) == 5 + len(refused), err  # each one line
    assert all("padim-bench: error: " in line or line.isdigit() for line in err)


@posix
@pytest.mark.parametrize("encoding", ["cp932 redirected", "POSIX without UTF-8 mode"])
def test_a_run_prints_what_an_encoding_can_spell_and_json_in_utf_8(
    encoding: str, oddly_named: Path, tmp_path: Path
) -> None:
    run = (*RUN, "--data", str(oddly_named), "--categories", KATAKANA, "--results", str(tmp_path / "r\xe9"))
    out, err = _answers(encoding, run, (*run, "--json"))
    assert [line for line in err if line.isdigit()] == ["0", "0"], err
    assert not any("Traceback" in line for line in err)
    (found,) = json.loads(out[out.index("{") :])["runs"]
    assert found["category"].encode("utf-8", "surrogateescape").decode() == KATAKANA
    assert found["resumed"]


def test_a_name_is_shown_and_not_obeyed(cli: CommandLine, oddly_named: Path, tmp_path: Path) -> None:
    (name,) = (p.name for p in oddly_named.iterdir() if p.name != KATAKANA)
    asked = ("--data", oddly_named, "--categories", name.replace(",", "\\,"), "--results", tmp_path)
    reply = cli(*RUN, *asked)
    assert reply.code == 0, reply.err
    assert "\x1b" not in reply.out + reply.err
    (row,) = [line for line in reply.out.splitlines() if "cholesky" in line]
    assert row.startswith("a\\x1b[31m|b,c\\n<i>_&amp;%$ ")
    (run,) = cli(*RUN, *asked, "--json").runs
    assert run["category"] == name
    assert_refused(cli(*RUN, *asked, "--categories", "\x1b[31m"), "\\x1b[31m")


def test_what_is_printable() -> None:
    assert printable("gear, ガス é±\\") == "gear, ガス é±\\"
    assert printable("\x1b[2J\r\n\t\x9b\u202e\udcff\x7f") == r"\x1b[2J\r\n\t\x9b\u202e\xff\x7f"
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"


# Streams


@posix
@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 2, "it is closed"),
        (">/dev/full", 2, "No space left on device"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 2, ""),
        (">/dev/full 2>/dev/full", 2, ""),
        ("<&- >&- 2>&-", 2, ""),
        ("<&-", 0, ""),
        ("| head -1", 0, ""),
        ("| true", 0, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_stream_that_cannot_be_written_is_said_where_a_line_can_go(redirected: str, code: int, said: str) -> None:
    done = _shell(f"set -o pipefail; {PADIM_BENCH} list protocols {redirected}")
    line = f"padim-bench: error: cannot write to standard output: {said}: what was done is done, and kept"
    assert (done.returncode, _lines(done.stderr)) == (code, [line] if said else [])


@posix
@pytest.mark.parametrize(("redirected", "code"), [(">&-", 2), ("--json >/dev/full 2>&- <&-", 2)])
def test_the_work_is_done_and_kept_whatever_becomes_of_the_output(
    tiny: Path, tmp_path: Path, redirected: str, code: int
) -> None:
    command = f"{PADIM_BENCH} {' '.join(RUN)} --data '{tiny}' --categories bottle --results '{tmp_path}'"
    done = _shell(f"{command} {redirected}")
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    (record,) = record_files(tmp_path)
    assert json.loads(record.read_text(encoding="utf-8"))["status"] == "ok"  # and nothing else got into the file


@posix
@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">/dev/full", "2>/dev/full"])
def test_errors_keep_their_exit_code_whatever_becomes_of_the_streams(redirected: str, tmp_path: Path) -> None:
    done = _shell(f"{PADIM_BENCH} run --backbone resnet18 --data '{tmp_path}/none' {redirected}")
    assert done.returncode == 2
    assert len(_lines(done.stderr)) == (0 if redirected.startswith("2") else 1)


def test_the_callers_own_streams_are_back_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["list", "strategies"]) == 0
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert "cholesky" in capsys.readouterr().out


# Signals


@posix
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (signal.SIGTERM, 143, "padim-bench: ended by SIGTERM: "),
        (signal.SIGHUP, 129, "padim-bench: ended by SIGHUP: "),
    ],
)
def test_a_signal_ends_a_run_in_a_line_and_keeps_what_is_finished(
    tiny: Path, tmp_path: Path, sent: signal.Signals, code: int, said: str
) -> None:
    process = start(*RUN, "--data", tiny, "--results", tmp_path, "--seed", "0,1,2,3,4,5,6,7")
    deadline = time.monotonic() + 200
    while not record_files(tmp_path):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for _ in range(2):  # as `timeout` does, which sends it to the process and to its group
        process.send_signal(sent)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (code, "")
    (line,) = support.lines_said(err)
    assert line.startswith(said)
    assert line.endswith("of 24 runs are finished and kept; the same command resumes")
    assert not list(tmp_path.rglob("*.tmp"))


_INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
_HIDDEN = """import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("cannot be imported") from None
"""


@posix
@pytest.mark.parametrize(
    ("module", "text"),
    [("argparse", _INTERRUPTED), ("torch", _INTERRUPTED), ("torch", _HIDDEN)],
    ids=["its own modules", "torch", "torch, which says that its import failed"],
)
def test_an_interruption_while_it_loads_is_no_traceback(tmp_path: Path, module: str, text: str) -> None:
    (tmp_path / f"{module}.py").write_text(text)
    root = Path(__file__).parents[2]
    done = _shell(f"trap - INT; {PADIM_BENCH} doctor", PYTHONPATH=f"{tmp_path}{os.pathsep}{root}")
    assert (done.returncode, support.lines_said(done.stderr.decode())) == (130, ["padim-bench: interrupted"])


@posix
def test_a_signal_that_native_code_does_not_let_through_ends_the_process_after_a_while() -> None:
    hung = (
        "import hashlib\nfrom padim_bench.machine.console import Signals\nwith Signals(grace_s=0.5):\n"
        "    print('ready', flush=True)\n    hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2**31 - 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", hung], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "padim-bench: ended while native code did not return\n")


# Options that no machine can meet


@pytest.mark.parametrize(
    ("options", "culprits"),
    [
        (("--threads", 3000), ("--threads 3000", "at most")),
        (("--threads", 10**30), ("--threads", "10000")),
        (("--batch-size", 10**30), ("--batch-size", "between 1 and")),
        (("--n-features", 10**30), ("--n-features", "between 1 and")),
        (("--n-features", "\uff11\uff12"), ("--n-features", "not a whole number")),
        (("--seed", "1" * 33), ("--seed", "1111")),
        (("--seed", "1" * 250), ("--seed", "250 characters")),
        (("--seed", "1" * 5000), ("--seed", "5000 characters")),
        (("--seed", "-1"), ("--seed", "-1")),
        (("--seed", "1_0"), ("--seed", "1_0")),
        (("--seed", "+5"), ("--seed", "+5")),
        (("--epsilon", "1_0"), ("--epsilon", "1_0")),
        (("--epsilon", "\uff11"), ("--epsilon", "not a number")),
        (("--sigma", "1e999"), ("sigma",)),
    ],
    ids=lambda value: " ".join(map(str, value))[:30],
)
def test_an_option_that_no_machine_can_meet_is_refused_in_a_line(
    cli: CommandLine, tiny: Path, tmp_path: Path, options: tuple[object, ...], culprits: tuple[str, ...]
) -> None:
    reply = cli(*RUN, "--data", tiny, "--results", tmp_path, *options)
    assert_refused(reply, *culprits)
    assert len(reply.err) < 300
    assert record_files(tmp_path) == []


def test_threads_are_counted_by_starting_them() -> None:
    assert can_start(1) == 1
    assert can_start(8) == 8


# Memory


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory (std::bad_alloc)"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
            "12",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "Tried to allocate 2 GiB"),
        (OSError(12, "Cannot allocate memory", "000.png"), "000.png"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "libtorch_cpu.so"),
        (RuntimeError("can't start new thread"), "lower --threads"),
    ],
)
def test_want_of_memory_is_known_by_whatever_words_and_wherever_it_began(error: Exception, said: str) -> None:
    line = memory_problem(error)
    assert line is not None
    assert said in line
    consequence = ValueError("a consequence")
    consequence.__cause__ = error
    assert memory_problem(consequence) == line
    assert memory_problem(ValueError("matrix of wrong size")) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v holds on Linux")
@pytest.mark.parametrize("gigabytes", [0.5, 2])
def test_a_small_address_space_is_one_line_that_names_the_limit(tiny: Path, tmp_path: Path, gigabytes: float) -> None:
    limit = f"ulimit -v {int(gigabytes * 2**20)}"
    done = _shell(f"{limit}; {PADIM_BENCH} {' '.join(RUN)} --data '{tiny}' --results '{tmp_path}'")
    (line,) = support.lines_said(done.stderr.decode())
    assert done.returncode == 2
    assert line.startswith("padim-bench: error: out of memory")
    assert f"limited to {gigabytes * 2**30 / 1e9:.1f} GB (ulimit -v)" in line
