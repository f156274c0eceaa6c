"""What a command reads: each image file once, whatever the number of networks, and nothing of it outlives the call."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from elsewhere import with_reads
from support import CommandLine

from padim_bench.data.mvtec import mvtec
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.config import Wanted
from padim_bench.runs.executors import n_workers, open_executor
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.runner import run
from padim_bench.runs.session import Session


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was read."""
    counted: Counter[Path] = Counter()
    read_bytes = Path.read_bytes

    def noted(self: Path) -> bytes:
        counted[self] += 1
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", noted)
    return counted


SETTINGS = ("--weights", "random", "--threads", 2, "--categories", "grid")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--backbone", "resnet18,test_resnet", "--n-features", "8", "--seed", "0,1"),
        ("reproduce", "table1", "table3", "--backbones", "resnet18,wide_resnet50_2"),
    ],
)
def test_each_image_is_read_once_for_two_networks(
    cli: CommandLine, tiny: Path, tmp_path: Path, reads: Counter[Path], command: tuple[object, ...]
) -> None:
    if command[0] == "run":
        command = (*command, "--layers", "layer1+layer2")
    reply = cli(*command, *SETTINGS, "--data", tiny, "--results", tmp_path, "--json")
    assert len({run["config"]["model"]["backbone"] for run in reply.runs}) == 2
    images = sorted((tiny / "grid").rglob("*.png"))
    assert {path: reads[path] for path in images} == dict.fromkeys(images, 1)


def test_finding_runs_of_two_networks_on_record_reads_each_image_once(
    cli: CommandLine, tiny: Path, tmp_path: Path, reads: Counter[Path]
) -> None:
    command = ("run", "--backbone", "resnet18,test_resnet", "--layers", "layer1", "--n-features", "8", *SETTINGS)
    assert cli(*command, "--data", tiny, "--results", tmp_path).code == 0
    reads.clear()
    assert all(run["resumed"] for run in cli(*command, "--data", tiny, "--results", tmp_path, "--json").runs)
    images = sorted((tiny / "grid").rglob("*.png"))
    assert {path: reads[path] for path in images} == dict.fromkeys(images, 1)


class Watched(Executor):
    """Another executor, with a log of the files that its workers read."""

    def __init__(self, executor: Executor, log: Path) -> None:
        self._executor, self._log = executor, log
        self.n_workers = n_workers(executor)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(with_reads, self._log, fn, *args)


@pytest.mark.parametrize(("categories", "times"), [(["bottle", "grid"], 1), (["grid"], 2)])
def test_each_image_is_read_once_for_two_networks_in_processes_unless_one_would_be_idle(
    tiny: Path, tmp_path: Path, categories: list[str], times: int
) -> None:
    networks = [resolve_weights(name, "random") for name in ("resnet18", "test_resnet")]
    wanted, log = Wanted(PaDiMConfig(layers=("layer1", "layer2"), n_features=8)), tmp_path / "log"
    units = plan([mvtec(tiny, name) for name in categories], [(wanted, network) for network in networks], Settings())
    with open_executor("processes:2") as pool:
        assert pool is not None
        run(units, tmp_path / "results", executor=Watched(pool, log))
    images = [path for name in categories for path in sorted((tiny / name).rglob("*.png"))]
    reads = Counter(Path(line) for line in log.read_text().splitlines())
    assert {path: reads[path] for path in images} == dict.fromkeys(images, times)


def test_no_network_or_image_outlives_the_command(cli: CommandLine, tiny: Path, tmp_path: Path) -> None:
    command = ("run", "--backbone", "resnet18", "--n-features", "8", *SETTINGS, "--data", tiny)
    gc.collect()
    before = {id(one) for one in gc.get_objects() if type(one) in {Backbone, Session}}
    assert cli(*command, "--results", tmp_path).code == 0
    gc.collect()
    assert [one for one in gc.get_objects() if type(one) in {Backbone, Session} and id(one) not in before] == []
