"""What every benchmark needs: threads, measured ceilings, and timing that reports both."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from work import best_time

from padim_bench.machine.environment import commit, environment
from padim_bench.machine.features import features_line, mkl_kernel
from padim_bench.report.benchmarks import published

_MOST_ROUNDS = 50


class Ceilings(dict[int, dict[str, float]]):
    """By threads, measured when first asked for: GFLOP/s of products, GB/s (read and written) of a copy."""

    def __missing__(self, threads: int) -> dict[str, float]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        found = {}
        for dtype in (torch.float32, torch.float64):
            name = str(dtype).removeprefix("torch.")
            a = torch.rand(2048, 2048, dtype=dtype)
            out = torch.empty_like(a)
            found[f"gemm_{name}"] = 2e-9 * 2048**3 / best_time(lambda a=a, out=out: torch.mm(a, a, out=out))
            b = torch.rand(16, 448, 448, dtype=dtype)
            found[f"bmm_{name}"] = 2e-9 * 16 * 448**3 / best_time(lambda b=b: torch.bmm(b, b))
        source = torch.rand(64 << 20)
        target = torch.empty_like(source)
        found["copy"] = 2e-9 * source.nbytes / best_time(lambda: target.copy_(source))
        torch.set_num_threads(before)
        self[threads] = {k: round(v, 2) for k, v in found.items()}
        return self[threads]


CEILINGS = Ceilings()
INVALID: list[str] = []
LOAD: list[float] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    default = "1,2" if (os.cpu_count() or 1) > 1 else "1"
    parser.addoption("--threads", default=default, help=f"thread counts to compare, comma-separated ({default})")


def pytest_sessionstart(session: pytest.Session) -> None:
    LOAD.append(os.getloadavg()[0])
    if saved := session.config.getoption("benchmark_json"):
        Path(saved).parent.mkdir(parents=True, exist_ok=True)  # else a whole run is lost at its end


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in inspect.signature(metafunc.function).parameters:
        counts = [int(count) for count in metafunc.config.getoption("--threads").split(",")]
        metafunc.parametrize("threads", counts, indirect=True, ids=lambda count: f"{count}t")


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch's threads: as asked for where a benchmark takes ``threads``, else one."""
    before, count = torch.get_num_threads(), getattr(request, "param", 1)
    torch.set_num_threads(count)
    yield count
    torch.set_num_threads(before)


@pytest.fixture
def measure(benchmark: BenchmarkFixture, threads: int, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Times ``function(*args)`` for about ``--benchmark-max-time``, three rounds at least, and gives its value.

    ``flops`` and ``moved`` (bytes) are what the work needs; ``floor`` names and times what else bounds it;
    ``lossy`` work is no measure for the rest of its group.
    """
    seconds = float(request.config.getoption("benchmark_max_time"))

    def run(
        function: Callable[..., Any],
        *args: Any,
        group: str,
        label: str,
        flops: float = 0,
        moved: float = 0,
        dtype: str = "float32",
        floor: dict[str, float] | None = None,
        lossy: bool = False,
        **more: Any,
    ) -> Any:
        start = time.perf_counter()
        value = function(*args)  # warms up too
        once = time.perf_counter() - start
        rounds, iterations = max(3, min(_MOST_ROUNDS, int(seconds / once))), max(1, int(1e-3 / once))
        benchmark.group = f"{group}, {threads} thread{'s' * (threads > 1)}"
        benchmark.pedantic(function, args=args, rounds=rounds, iterations=iterations)
        median = benchmark.stats.stats.median
        ceilings = CEILINGS[threads]
        rate = max(ceilings[f"gemm_{dtype}"], ceilings[f"bmm_{dtype}"])
        computed = {"flops": flops / rate * 1e-9, "bytes": moved / ceilings["copy"] * 1e-9}
        floors = floor or computed
        bound = max(floors, key=lambda name: floors[name])
        about = {
            "label": label,
            "lossy": lossy or None,
            "threads": threads,
            "flops": flops or None,
            "bytes": moved or None,
            "gflop_per_s": flops / median * 1e-9 if flops else None,
            "gb_per_s": moved / median * 1e-9 if moved else None,
            "floor_s": floors[bound],
            "bound": bound,
            "share": floors[bound] / median,
            **more,
        }
        known = {k: v for k, v in about.items() if v is not None}
        benchmark.extra_info.update({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in known.items()})
        return value

    return run


@pytest.fixture
def invalid(threads: int) -> Callable[[str, Exception], NoReturn]:
    """Skips a benchmark whose result would be wrong, and says so in what is saved."""

    def record(what: str, error: Exception) -> NoReturn:
        INVALID.append(f"{what}, {threads} thread{'s' * (threads > 1)}: {error}")
        pytest.skip(str(error))

    return record


def pytest_report_header() -> str:
    return f"machine: {_features()}"


def _features() -> str:
    return features_line(environment() | {"mkl": mkl_kernel()})


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    about = {k: v for k, v in environment().items() if k not in ("threads", "commit", "dirty")}
    return about | {"features": _features()}


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_commit_info() -> dict[str, Any]:
    found = commit()
    return {"id": found["commit"] or "unknown", "dirty": found["dirty"]}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    kept = published(
        output_json,
        ceilings={str(threads): found for threads, found in sorted(CEILINGS.items())},
        load_average=[*LOAD, os.getloadavg()[0]],
        invalid=list(dict.fromkeys(INVALID)),
    )
    output_json.clear()
    output_json.update(kept)
