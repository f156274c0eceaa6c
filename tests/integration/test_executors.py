"""Work elsewhere: processes and Dask clusters, real ones, that die, vanish, or never were there."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import timm
import torch
from elsewhere import die, die_of_bad, die_the_first_time, each, fail_oddly, fail_plainly
from safetensors.torch import save_file
from support import CommandLine, assert_refused, lines_said, record_files, start, strings

from padim_bench import PadimBenchError
from padim_bench.data.mvtec import mvtec
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.config import Wanted
from padim_bench.runs import runner
from padim_bench.runs.executors import done_elsewhere, n_workers, open_executor
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.travel import Failure, WorkerDiedError

RUN = ("run", "--backbone", "resnet18", "--n-features", 20, "--threads", 1)
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def answers(
    executor: Executor, function: Callable[[Any], Any], items: list[Any], said: list[str], *, together: bool = False
) -> dict[Any, Any]:
    groups = [tuple(items)] if together else [(item,) for item in items]
    return dict(done_elsewhere(executor, partial(each, function), groups, name=str, on_message=said.append))


def assert_bad_alone_died(found: dict[str, Any], said: list[str]) -> None:
    """Of what :func:`die_of_bad` was given together: the others have their answers, after a line for each."""
    assert isinstance(found.pop("bad"), WorkerDiedError)
    assert found == {"a": "a is done", "c": "c is done"}
    assert [line.partition(": ")[0] for line in said] == ["a", "bad", "c"]
    assert all("died" in line and line.endswith("it is tried once more, alone, after the others") for line in said)


# Processes


def in_session(leader: int) -> list[int]:
    """The living processes of a session, its leader not counted."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != leader and os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (OSError, psutil.Error):
            pass  # it has ended meanwhile
    return found


def assert_all_end(leader: int) -> None:
    deadline = time.monotonic() + 20
    while left := in_session(leader):
        assert time.monotonic() < deadline, [psutil.Process(pid).cmdline() for pid in left]
        time.sleep(0.02)


PARENT = """
import sys, time
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.executors import open_executor

if __name__ == "__main__":
    with open_executor("processes:2") as pool:
        for future in [pool.submit(time.sleep, 0.5) for _ in range(2)]:
            future.result()
        busy = [pool.submit(time.sleep, 3600), pool.submit(sum, range(10**13))]  # the second never lets go of the GIL
        while not all(future.running() for future in busy):
            time.sleep(0.01)
        print("busy", flush=True)
        busy[0].result()
"""


@posix
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
def test_processes_end_with_their_parent_however_that_ends(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "busy\n"
        assert len(in_session(parent.pid)) >= 2
        parent.send_signal(end)
        assert parent.wait(60) == -end
        assert_all_end(parent.pid)
    finally:
        parent.kill()
        parent.wait()


@posix
@pytest.mark.parametrize("started", [1, 3], ids=["during the start", "at work"])
def test_ctrl_c_twice_is_one_line_and_leaves_no_process(tiny: Path, tmp_path: Path, started: int) -> None:
    process = start(*RUN, "--weights", "random", "--data", tiny, "--results", tmp_path, "--executor", "processes:2")
    try:
        deadline = time.monotonic() + 120
        while len(in_session(process.pid)) < started and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(2):  # a terminal's goes to all
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
        _, err = process.communicate(timeout=60)
        assert_all_end(process.pid)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert [line.startswith("padim-bench: interrupted") for line in lines_said(err)] == [True], err


@posix
def test_what_died_with_its_process_is_tried_again_alone_and_takes_nothing_with_it(tmp_path: Path) -> None:
    said: list[str] = []
    items = [tmp_path / name for name in ("a", "b")]
    with open_executor("processes:2") as pool:
        assert pool is not None
        assert answers(pool, die_the_first_time, items, said) == dict.fromkeys(items, "done")
        assert len(said) == 2
        for item in items:
            assert any(f"{item}: " in line and "SIGKILL" in line and "once more" in line for line in said)
        found = answers(pool, die, ["always"], said)
        assert isinstance(found["always"], WorkerDiedError)
        assert answers(pool, math.sqrt, [4, 9], said) == {4: 2, 9: 3}
    assert multiprocessing.active_children() == []


@posix
def test_who_kills_its_process_is_found_among_those_that_travelled_with_it() -> None:
    said: list[str] = []
    with open_executor("processes:2") as pool:
        assert pool is not None
        found = answers(pool, die_of_bad, ["a", "bad", "c"], said, together=True)
    assert str(found["bad"]).endswith("and did so again when it ran alone")
    assert_bad_alone_died(found, said)


@posix
def test_units_whose_worker_dies_are_named_and_the_others_are_kept(tiny: Path, tmp_path: Path) -> None:
    networks = [resolve_weights(name, "random") for name in ("resnet18", "test_resnet")]
    categories = [mvtec(tiny, name) for name in ("bottle", "grid", "leather")]
    wanted = Wanted(PaDiMConfig(layers=("layer1", "layer2"), n_features=8))
    units = plan(categories, [(wanted, network) for network in networks], Settings())
    said: list[str] = []

    def kill_the_worker_after_the_first_record() -> None:
        while not record_files(tmp_path):
            time.sleep(0.002)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with open_executor("processes:1") as pool:
        thread = threading.Thread(target=kill_the_worker_after_the_first_record)
        thread.start()
        outcomes = runner.run(units, tmp_path, executor=pool, on_message=said.append)
        thread.join()
    assert [outcome.config.category for outcome in outcomes] == ["bottle"] * 2 + ["grid"] * 2 + ["leather"] * 2
    assert len(record_files(tmp_path)) == 6
    assert max(len(pickle.dumps(one)) for one in (*units, *outcomes)) < 20_000  # what travels, here and through Dask
    assert [line.partition(" (SIGKILL")[0] for line in lines_said("\n".join(said))] == [
        f"grid {network}: the process that ran it died" for network in ("resnet18", "test_resnet")
    ]


@posix
def test_a_unit_whose_workers_always_die_ends_in_one_line(tiny: Path, tmp_path: Path, cli: CommandLine) -> None:
    over = threading.Event()

    def kill_what_has_begun() -> None:
        while not over.wait(0.5):
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    thread = threading.Thread(target=kill_what_has_begun)
    thread.start()
    command = (*RUN, "--weights", "random", "--data", tiny, "--categories", "bottle", "--executor", "processes:1")
    reply = cli(*command, "--results", tmp_path)
    over.set()
    thread.join()
    assert reply.code == 2
    again, line = lines_said(reply.err)
    assert again.startswith("bottle resnet18: ")
    assert line.startswith("padim-bench: error: bottle resnet18: the process that ")
    assert line.endswith("0 of 1 runs are finished and kept")


@pytest.mark.parametrize("kind", ["odd", "local"])
def test_an_exception_that_cannot_travel_arrives_as_what_it_said(kind: str) -> None:
    with open_executor("processes:1") as pool:
        assert pool is not None
        error = answers(pool, fail_oddly, [kind], [])[kind]
    assert type(error) is RuntimeError
    assert str(error) == f"{'OddError' if kind == 'odd' else 'LocalError'}: here: so"
    assert "in fail_oddly" in str(error.__cause__)


def test_an_exception_that_can_travel_stays_what_it_is() -> None:
    with open_executor("processes:1") as pool:
        assert pool is not None
        assert isinstance(answers(pool, fail_plainly, ["bad"], [])["bad"], PadimBenchError)
        assert isinstance(answers(pool, json.loads, ["{"], [])["{"], json.JSONDecodeError)
    torch_error = Failure.of(torch.OutOfMemoryError("CUDA out of memory")).error()
    assert isinstance(torch_error, torch.OutOfMemoryError)


def test_one_bad_category_loses_none_of_the_others(cli: CommandLine, tiny: Path, bottle: Path, tmp_path: Path) -> None:
    (bottle.parent / "grid").symlink_to(tiny / "grid")
    image = bottle / "train" / "good" / "000.png"
    image.write_bytes(image.read_bytes()[:100])
    command = (*RUN, "--weights", "random", "--data", bottle.parent, "--results", tmp_path / "results")
    reply = cli(*command, "--executor", "processes:1")
    assert_refused(reply, image)
    assert [path.name.partition("-")[0] for path in record_files(tmp_path / "results")] == ["grid"]


@pytest.mark.parametrize(
    "where",
    ["cloud", "serial:1", "processes", "processes:", "processes:-1", "processes:1.5", "processes:0", "processes:00"]
    + ["processes:²", "processes:two", "processes:100000", f"processes:{'9' * 5000}", "dask", "dask:", "dask: "]
    + [f"dask:tcp://127.0.0.1:8786?{query}" for query in ("", "wait", "wait=", "wait=-1", "wait=nan", "stay=1")],
)
def test_another_spelling_is_refused(where: str) -> None:
    with pytest.raises(PadimBenchError, match="executor") as caught, open_executor(where):
        pass
    assert where[:20] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


# Dask


@pytest.mark.parametrize(
    "address",
    [f"{scheme}://127.0.0.1:9" for scheme in ("tls", "ucx", "inproc")]
    + [f"tcp://{place}" for place in ("", "127.0.0.1:port", "[::1")]
    + ["http://[", "what:ever:this", "scheduler.json", "127.0.0.1", "\udcff"],
)
def test_an_address_that_dask_cannot_use_is_refused(address: str) -> None:
    with pytest.raises(PadimBenchError, match="Dask cannot use") as caught, open_executor(f"dask:{address}"):
        pass
    assert repr(address) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scheduler_that_does_not_answer_is_named(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    where = "dask:tcp://127.0.0.1:9?wait=1"
    reply = cli(*RUN, "--weights", "random", "--data", tiny, "--results", tmp_path, "--executor", where)
    assert_refused(reply, "no Dask scheduler answers at tcp://127.0.0.1:9")


@contextmanager
def dask(folder: Path, *command: object, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """``dask COMMAND`` in a process of its own, in ``folder``, which keeps what it logs."""
    paths = os.pathsep.join([str(Path(runner.__file__).parents[2]), str(Path(__file__).parent)])
    with (folder / f"{command[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{command[0]}", *map(str, command[1:]), "--no-dashboard"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": paths} | settings,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def dask_scheduler(folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its address."""
    file = folder / "scheduler.json"
    with dask(folder, "scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file, **settings) as process:
        deadline = time.monotonic() + 60
        while True:
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, (folder / "scheduler.log").read_text()
            try:
                yield process, json.loads(file.read_text())["address"]
                return
            except (OSError, ValueError):
                time.sleep(0.02)


@contextmanager
def dask_worker(folder: Path, address: str, preload: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A worker of one thread and no nanny; ``preload`` is run in it first."""
    script = folder / "preload.py"
    script.write_text(preload)
    options = ("--nthreads", 1, "--no-nanny", "--preload", script, "--local-directory", folder)
    with dask(folder, "worker", address, *options) as process:
        yield process


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """Where schedulers and workers run: another folder than the command's."""
    folder = tmp_path / "away"
    folder.mkdir()
    return folder


def after_the_first_record(results: Path, act: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 200
        while not record_files(results) and time.monotonic() < deadline:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_relative_paths_are_found_by_a_worker_elsewhere_and_a_killed_worker_s_successor_does_the_rest(
    cli: CommandLine, tiny: Path, tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.safetensors")
    (tmp_path / "images").symlink_to(tiny)
    monkeypatch.chdir(tmp_path)
    paths = ("--data", "images", "--weights", "resnet18.safetensors", "--results", "kept")
    with dask_scheduler(away) as (_, address), dask_worker(away, address) as first, dask_worker(away, address):
        thread = after_the_first_record(tmp_path / "kept", first.kill)
        there = cli(*RUN, *paths, "--json", "--executor", f"dask:{address}")
        thread.join()
    assert sorted(run["category"] for run in there.runs) == ["bottle", "grid", "leather"]
    texts = [text for path in record_files(tmp_path / "kept") for text in strings(json.loads(path.read_text()))]
    assert not any(str(tmp_path) in text for text in texts)
    here = cli(*RUN, *paths[:-1], "again", "--json")
    assert [run["metrics"] for run in there.runs] == [run["metrics"] for run in here.runs]


def test_a_scheduler_that_is_killed_leaves_what_was_finished(
    cli: CommandLine, tiny: Path, tmp_path: Path, away: Path
) -> None:
    results = tmp_path / "results"
    with dask_scheduler(away) as (scheduler, address), dask_worker(away, address):
        thread = after_the_first_record(results, scheduler.kill)
        command = (*RUN, "--weights", "random", "--data", tiny, "--results", results)
        reply = cli(*command, "--executor", f"dask:{address}")
        thread.join()
    kept = len(record_files(results))
    assert kept >= 1
    assert_refused(reply, f"lost the Dask scheduler at {address}", f"{kept} of 3 runs are finished and kept")


def test_no_worker_is_said_and_waited_for_and_given_up(away: Path) -> None:
    said: list[str] = []
    with dask_scheduler(away) as (_, address):
        with open_executor(f"dask:{address}?wait=2", on_message=said.append) as cluster:
            assert cluster is not None
            with pytest.raises(PadimBenchError, match=r"no Dask worker is there at tcp://.*, waited for 2 s"):
                cluster.submit(math.sqrt, 4).result(60)
        assert len(said) == 1
        assert said[0].startswith(f"no Dask worker is there at {address}: waiting up to 1 s more")
        with open_executor(f"dask:{address}?wait=60") as cluster:
            assert cluster is not None
            found = cluster.submit(math.sqrt, 4)
            with dask_worker(away, address) as worker:
                assert found.result(60) == 2
                worker.kill()
                worker.wait()
                next_one = cluster.submit(math.sqrt, 9)
                with dask_worker(away, address):
                    assert next_one.result(60) == 3


@posix
def test_a_scheduler_that_hangs_is_given_up(away: Path) -> None:
    with dask_scheduler(away) as (scheduler, address), dask_worker(away, address):
        wait_for_a_worker(address)
        with open_executor(f"dask:{address}?wait=3") as cluster:
            assert cluster is not None
            waiting = cluster.submit(time.sleep, 3600)
            scheduler.send_signal(signal.SIGSTOP)
            with pytest.raises(PadimBenchError, match="no Dask scheduler answers"):
                waiting.result(60)


@posix
def test_a_call_that_kills_dask_workers_is_told_of_and_the_others_are_done(away: Path) -> None:
    with (
        dask_scheduler(away, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as (_, address),
        dask_worker(away, address),
        open_executor(f"dask:{address}?wait=60") as cluster,
    ):
        assert cluster is not None
        said: list[str] = []
        assert isinstance(answers(cluster, die, ["always"], said)["always"], WorkerDiedError)
        with dask_worker(away, address):
            assert answers(cluster, math.sqrt, [4, 9], said) == {4: 2, 9: 3}
        assert said == []


@posix
def test_who_kills_dask_workers_is_found_among_those_that_travelled_with_it(away: Path) -> None:
    with (
        dask_scheduler(away, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as (_, address),
        dask_worker(away, address),
        dask_worker(away, address),
        dask_worker(away, address),
        open_executor(f"dask:{address}?wait=60") as cluster,
    ):
        assert cluster is not None
        said: list[str] = []
        assert_bad_alone_died(answers(cluster, die_of_bad, ["a", "bad", "c"], said, together=True), said)


def test_executors_say_how_many_share_their_calls(away: Path) -> None:
    with open_executor("processes:3") as pool:
        assert pool is not None
        assert n_workers(pool) == 3
    with dask_scheduler(away) as (scheduler, address), open_executor(f"dask:{address}") as cluster:
        assert cluster is not None
        assert n_workers(cluster) == 1  # none yet; whichever comes does all
        with dask_worker(away, address), dask_worker(away, address):
            deadline = time.monotonic() + 60
            while n_workers(cluster) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        scheduler.kill()
        scheduler.wait()
        assert n_workers(cluster) == 1
    with ThreadPoolExecutor(5) as threads:
        assert n_workers(threads) == 1  # it does not say


@pytest.mark.parametrize(
    ("preload", "culprits"),
    [
        ("import sys; sys.modules['padim_bench'] = None", "ModuleNotFoundError.*install padim-bench"),
        ("import padim_bench; padim_bench.__version__ = '0.0.9'", "tcp://.*padim-bench 0.0.9.*the same"),
    ],
    ids=["without this package", "with another version of it"],
)
def test_a_worker_unlike_the_command_is_told_of_and_lives_on(away: Path, preload: str, culprits: str) -> None:
    with (
        dask_scheduler(away) as (_, address),
        dask_worker(away, address, preload) as worker,
        open_executor(f"dask:{address}?wait=60") as cluster,
    ):
        assert cluster is not None
        with pytest.raises(PadimBenchError, match=culprits) as caught:
            cluster.submit(math.sqrt, 4).result(60)
        assert "\n" not in str(caught.value)
        assert worker.poll() is None


def wait_for_a_worker(address: str) -> None:
    with open_executor(f"dask:{address}?wait=60") as cluster:
        assert cluster is not None
        assert cluster.submit(math.sqrt, 4).result(60) == 2


def test_versions_of_dask_s_own_packages_that_differ_are_a_note_of_one_line(tmp_path: Path, away: Path) -> None:
    described = away / "toolz-0.0.1.dist-info" / "METADATA"  # where the worker looks first
    described.parent.mkdir()
    described.write_text("Metadata-Version: 2.1\nName: toolz\nVersion: 0.0.1\n")
    said: list[str] = []
    with dask_scheduler(tmp_path) as (_, address), dask_worker(away, address):
        wait_for_a_worker(address)
        with open_executor(f"dask:{address}", on_message=said.append):
            pass
    (line,) = said
    assert line.startswith("padim-bench: note: versions differ in the Dask cluster: toolz: Client ")
    assert line.endswith("Workers 0.0.1")


two_folders = pytest.mark.skipif(
    not Path("/proc/self/cwd").exists(), reason="one path that is two files needs Linux's /proc"
)


@two_folders
def test_files_that_a_worker_lacks_or_has_otherwise_are_named(
    cli: CommandLine, tiny: Path, tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.safetensors")
    (tmp_path / "images").symlink_to(tiny)
    monkeypatch.chdir(tmp_path)
    here = Path("/proc/self/cwd")  # of whoever asks
    data, weights = here / "images", here / "resnet18.safetensors"
    with dask_scheduler(away) as (_, address), dask_worker(away, address):
        command = (*RUN, "--weights", weights, "--data", data, "--categories", "bottle", "--results", tmp_path / "kept")
        there = (*command, "--executor", f"dask:{address}?wait=60")
        assert_refused(cli(*there), f"{data} is not there", "on the worker tcp://")
        (away / "images").symlink_to(tiny)
        assert_refused(cli(*there), f"{weights} is not there", "on the worker tcp://")
        save_file(timm.create_model("resnet18").state_dict(), away / "resnet18.safetensors")
        assert_refused(cli(*there), f"{weights} holds other weights", "on the worker tcp://")
    assert record_files(tmp_path / "kept") == []


@two_folders
def test_weights_that_a_worker_lacks_cost_no_other_network_of_the_category(
    cli: CommandLine, tiny: Path, tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test_resnet", "resnet18"):
        save_file(timm.create_model(name).state_dict(), tmp_path / f"{name}.safetensors")
    (away / "resnet18.safetensors").write_bytes((tmp_path / "resnet18.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    here = Path("/proc/self/cwd")  # of whoever asks
    command = ("run", "--backbone", "test_resnet,resnet18", "--layers", "layer1", "--n-features", 8, "--threads", 1)
    paths = ("--weights", here, "--data", tiny, "--categories", "bottle", "--results", tmp_path / "kept")
    with dask_scheduler(away) as (_, address), dask_worker(away, address):
        reply = cli(*command, *paths, "--executor", f"dask:{address}?wait=60")
    assert_refused(reply, f"{here / 'test_resnet.safetensors'} is not there", "on the worker tcp://")
    (kept,) = record_files(tmp_path / "kept")
    assert json.loads(kept.read_text())["config"]["model"]["backbone"] == "resnet18"


@two_folders
def test_scenes_that_a_worker_lacks_are_named(
    cli: CommandLine, campus_frames: Path, tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "campus").symlink_to(campus_frames)
    monkeypatch.chdir(tmp_path)
    campus = Path("/proc/self/cwd/campus")  # of whoever asks
    command = ("reproduce", "table4", "--stc", campus, "--stc-every", 8, "--backbones", "resnet18", "--weights")
    options = ("random", "--threads", 1, "--results", tmp_path / "kept")
    with dask_scheduler(away) as (_, address), dask_worker(away, address):
        there = (*command, *options, "--executor", f"dask:{address}?wait=60")
        no_scene = cli(*there)
        shutil.copytree(campus_frames, away / "campus")
        shutil.rmtree(away / "campus" / "training" / "frames" / "01_002")
        no_clip = cli(*there)
    culprits = f"{campus} is not there", f"scene 01: cannot read {campus / 'training' / 'frames' / '01_002'}"
    for reply, culprit in zip((no_scene, no_clip), culprits, strict=True):
        assert reply.code == 2
        line = lines_said(reply.err)[-1]
        assert line.startswith("padim-bench: error: ")
        assert culprit in line
        assert "on the worker tcp://" in line
    (kept,) = record_files(tmp_path / "kept")
    assert json.loads(kept.read_text())["config"]["category"] == "02"
