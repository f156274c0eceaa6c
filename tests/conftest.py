"""Where the real images and weights are, if they are at hand; no test sees the user's own settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads that wait for one another take the cores that the other processes need; read as the libraries are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy and SciPy, which the tests compare with

import torch
from hypothesis import settings

from padim_bench.machine import apart

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_FAULTY_LU = Path(__file__).resolve().parent / "faulty_lu"
_SETTINGS: dict[str, str | None] = dict.fromkeys(("PADIM_BENCH_DATA", "PADIM_BENCH_WEIGHTS"))


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return  # runs no test itself, and its workers are to read them
    for name in _SETTINGS:
        _SETTINGS[name] = os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes none is to begin what takes long when the others are done."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda one: (one.get_closest_marker("data") is None, one.path.parent.name != "integration"))


def _at_hand(variable: str, *needed: str) -> Path:
    if not (value := _SETTINGS[variable]):
        pytest.skip(f"{variable} is not set: no real data at hand")
    path = Path(value).resolve()
    if missing := [name for name in needed if not (path / name).exists()]:
        pytest.skip(f"{variable} has no {', '.join(missing)}")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """MVTec AD at 256x256 or more with the categories that the regression numbers are of."""
    return _at_hand("PADIM_BENCH_DATA", "bottle", "screw", "grid", "transistor")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    return _at_hand("PADIM_BENCH_WEIGHTS", "resnet18.safetensors")


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def lu_that(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """From now on, batched LU in a process of its own is faulty in the way named."""

    def set_up(how: str) -> None:
        apart.end()
        monkeypatch.setenv("FAULTY_LU", how)
        monkeypatch.syspath_prepend(_FAULTY_LU)  # which the process is given first

    yield set_up
    monkeypatch.undo()
    apart.end()
