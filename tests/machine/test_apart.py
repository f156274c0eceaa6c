"""Calls in a process of their own: what they give, and that nothing they do reaches or outlives this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from padim_bench import STRATEGIES, StrategyInvalidError
from padim_bench.machine import apart, doctor
from padim_bench.padim.strategies import PositionChunk


def add(one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    return one + other, torch.tensor(torch.get_num_threads()), (one == other)


def raises(_: Tensor) -> Tensor:
    raise ValueError("no such thing\nand more of it")


def grows(one: Tensor) -> Tensor:
    return one.repeat(1000)


def ends(_: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return _


def sleeps(_: Tensor) -> Tensor:
    time.sleep(1000)
    return _


def pid(_: Tensor) -> Tensor:
    return torch.tensor(os.getpid())


def called(function: Callable[..., object], *tensors: Tensor, limit_s: float = 60, threads: int = 1) -> list[Tensor]:
    return apart.call(f"{__name__}:{function.__name__}", tensors, limit_s=limit_s, threads=threads)


def chunk(d: int = 20) -> PositionChunk:
    x = torch.randn(4, 50, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return PositionChunk(50, 0.01, centred=x - x.mean(dim=1, keepdim=True))


def test_a_call_gives_what_the_function_gives() -> None:
    one, other = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4).mT, torch.ones(2, 4, 3, dtype=torch.float64)
    total, threads, equal = called(add, one, other, threads=2)
    assert torch.equal(total, one + other)
    assert threads.item() == 2
    assert torch.equal(equal, one == other)


@pytest.mark.parametrize("size", [0, 1, 1_000_003])
def test_any_size_passes_after_any_other(size: int) -> None:
    for n in (7, size, 7):
        tensor = torch.randn(n)
        assert torch.equal(called(add, tensor, tensor)[0], 2 * tensor)


def test_what_raises_is_told_and_the_process_goes_on() -> None:
    first = called(pid, torch.ones(1))[0]
    with pytest.raises(apart.ApartError, match=r"raised 'no such thing'$"):
        called(raises, torch.ones(1))
    with pytest.raises(apart.ApartError, match="do not fit"):
        called(grows, torch.ones(100_000))
    assert called(pid, torch.ones(1))[0] == first


def test_a_call_that_ends_its_process_is_told_and_the_next_one_has_another() -> None:
    first = called(pid, torch.ones(1))[0]
    with pytest.raises(apart.ApartError, match="SIGKILL"):
        called(ends, torch.ones(1))
    assert called(pid, torch.ones(1))[0] != first


def test_a_call_past_its_limit_is_ended_with_its_process() -> None:
    process = int(called(pid, torch.ones(1))[0])
    with pytest.raises(apart.DidNotReturnError, match="did not return within 1 s"):
        called(sleeps, torch.ones(1), limit_s=1)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert torch.equal(called(add, torch.ones(2), torch.ones(2))[0], torch.full((2,), 2.0))


def test_the_other_process_ends_with_this_one_even_while_it_hangs(tmp_path: Path) -> None:
    """Killed, so that this one can tidy up nothing: no process and no shared file is left."""
    here = str(Path(__file__).resolve().parents[2])
    code = (
        "import torch; from tests.machine.test_apart import called, pid, sleeps\n"
        "print(int(called(pid, torch.ones(1))[0]), flush=True); called(sleeps, torch.ones(1))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path]), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("is wrong", r"left \|Sigma Sigma\^-1 - I\| = "),
        ("gives NaN", "= inf"),
        ("raises", "raised 'Pivots"),
        ("crashes", "ended its process"),
    ],
)
def test_a_faulty_inverse_makes_the_fit_invalid(lu_that: Callable[[str], None], how: str, told: str) -> None:
    lu_that(how)
    with pytest.raises(StrategyInvalidError, match=told) as raised:
        STRATEGIES["explicit-lu"].fit(chunk())
    assert "142815" in str(raised.value)


@pytest.mark.parametrize("how", ["prints", "writes beyond"])
def test_what_the_inverse_does_in_its_process_stays_there(
    lu_that: Callable[[str], None], how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lu_that(how)
    state = STRATEGIES["explicit-lu"].fit(chunk())
    torch.testing.assert_close(state["precision"], torch.cholesky_inverse(chunk().cholesky()), rtol=1e-9, atol=1e-9)
    assert capfd.readouterr() == ("", "")


def test_an_inverse_that_never_returns_makes_the_fit_invalid(lu_that: Callable[[str], None]) -> None:
    lu_that("hangs")
    with pytest.raises(StrategyInvalidError, match=r"did not return within 10 s; pytorch#142815"):
        STRATEGIES["explicit-lu"].fit(chunk())


def test_doctor_goes_on_past_an_operation_that_hangs_and_says_what_to_avoid(lu_that: Callable[[str], None]) -> None:
    lu_that("hangs")
    right = 3 * len(doctor.DIMENSIONS) * len(doctor.DTYPES)  # Cholesky, triangular solve, eigh
    found = list(islice(doctor.checks(1, budget_s=1e4), right + 3))
    assert all(row["right"] for row in found[:right])
    assert [row["operation"] for row in found[right:]] == 3 * ["batched LU"]
    assert [row["right"] for row in found[right:]] == [False, False, None]
    problems = ["did not return within 6 s"] * 2 + ["not tried: it did not return at d = 100"]
    assert [row["problem"] for row in found[right:]] == problems
    assert doctor.advice(found).startswith("Avoid here: --strategy explicit-lu (batched LU")


@pytest.mark.parametrize(
    ("wrong", "untried", "said"),
    [
        ([], [], "Nothing to avoid here: every operation that was tried is right."),
        (["batched eigh"], [], "Avoid here: --strategy woodbury (batched eigh)."),
        ([], ["batched LU"], "Nothing to avoid here: every operation that was tried is right; not judged: batched LU."),
        (["batched Cholesky"], [], "Avoid here: --strategy explicit, cholesky, whitening, dual (batched Cholesky)."),
    ],
)
def test_advice_is_one_line_on_strategies(wrong: list[str], untried: list[str], said: str) -> None:
    verdicts = dict.fromkeys(wrong, False) | dict.fromkeys(untried)
    found = [{"operation": o.name, "right": verdicts.get(o.name, True)} for o in doctor.OPERATIONS]
    assert doctor.advice(found) == said
