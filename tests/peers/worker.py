"""A fresh process that measures what it is asked: ``python -m tests.peers.worker JSON``.

Jobs: "once" runs one contender once, for its seconds, its memory and its difference from the reference;
"alternate" runs all contenders of a row in turns, many times; "rates" measures this machine's floors.
Memory is the peak of resident memory while it ran, less what was resident when its inputs existed; of a
whole run it is the peak itself.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

MARK = "measured: "
BEGINS, ENDS = "begins: ", "ends"  # a call of a contender, which whoever waits for it may limit


def main() -> None:
    job = json.loads(sys.argv[1])
    import torch

    from tests.peers import theirs

    theirs.quietly()
    with suppress(OSError):  # where memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(job["threads"])
    answer = JOBS[job["job"]](job)
    print(f"\n{MARK}{json.dumps(answer)}", flush=True)


def once(job: dict[str, Any]) -> dict[str, Any]:
    from padim_bench.machine.environment import PeakMemory

    task = import_module(f"tests.peers.{job['task']}")
    try:
        given = task.inputs(job["size"])
    except LookupError as error:
        return {"status": "not measured", "message": str(error.args[0])}
    options = job["contender"]["options"]
    run = task.build(options, given)
    if hasattr(task, "settle"):
        task.settle(given, values=job["values"])
    _give_back_memory()
    memory = PeakMemory()
    before = memory.read()["peak_rss_bytes"]
    seconds, value, failure = _announced(job["contender"]["name"], run)
    peak = memory.read()
    if failure:
        return failure
    answer = {
        "status": "ok",
        "seconds": seconds,
        "peak_rss_bytes": peak["peak_rss_bytes"],
        # Where the peak cannot be reset it is the process's, of which its inputs may be the most.
        "extra_bytes": peak["peak_rss_bytes"] - before if peak["peak_rss_scope"] == "run" else None,
    }
    return answer | _about(task, value, options, given, job)


def alternate(job: dict[str, Any]) -> dict[str, Any]:
    """Contenders take turns, each repetition from another one on, so that other load strikes all alike.

    Each runs once before it is timed: threads that the one before left spinning, or asleep, are not on its account.
    """
    task = import_module(f"tests.peers.{job['task']}")
    given = task.inputs(job["size"])
    runs, answers = {}, {}
    for contender in job["contenders"]:
        runs[contender["name"]] = task.build(contender["options"], given)
    if hasattr(task, "settle"):
        task.settle(given, values=True)
    for contender in job["contenders"]:  # the warm-up, whose result is compared
        name = contender["name"]
        _, value, failure = _announced(name, runs[name])
        answers[name] = failure or {"status": "ok", "samples": []} | _about(
            task, value, contender["options"], given, job
        )
        if failure:
            del runs[name]
        del value
    order = list(runs)
    for repetition in range(job["repetitions"]):
        shift = repetition % len(order) if order else 0
        for name in order[shift:] + order[:shift]:
            runs[name]()
            seconds, _, failure = _announced(name, runs[name])
            if failure:
                raise RuntimeError(f"{name} ran once and then failed: {failure['message']}")
            answers[name]["samples"].append(seconds)
    return answers


def rates(job: dict[str, Any]) -> dict[str, Any]:
    """The best of several: bytes read per second, and FLOP/s of a matrix product in every precision that is native.

    And of the batched kernels that a fit at d = 100 is made of, a thread to a batch: covariances of 209 images and
    Cholesky factors, in float32. They lie in the cache, and no floor is computed from them.
    """
    import torch

    from padim_bench.machine.features import native_half
    from padim_bench.padim.parallel import for_each

    big = torch.ones(job["size"]["bytes"] // 4)
    found = {"read_bytes_per_s": big.nbytes / min(_timed(big.sum)[0] for _ in range(7))}
    side = job["size"]["side"]
    for name in ("float32", "float64", *(native_half() or ())):
        a = torch.randn(side, side).to(getattr(torch, name))
        best = min(_timed(lambda a=a: a @ a)[0] for _ in range(7))
        found[f"{name}_flops_per_s"] = 2 * side**3 / best
    n, d, batches = 209, 100, 16 * job["threads"]
    x = torch.randn(50, n, d)
    sigma = x.mT @ x / n + torch.eye(d)
    kernels = {
        "covariances_flops_per_s": (lambda _: torch.bmm(x.mT, x), 2 * n * d**2),
        "cholesky_flops_per_s": (lambda _: torch.linalg.cholesky(sigma), d**3 / 3),
    }
    for name, (kernel, flops) in kernels.items():
        best = min(_timed(lambda kernel=kernel: for_each(kernel, range(batches)))[0] for _ in range(7))
        found[name] = batches * len(x) * flops / best
    return {"status": "ok", **found}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"once": once, "alternate": alternate, "rates": rates}


def _timed(run: Callable[[], Any]) -> tuple[float, Any, dict[str, Any] | None]:
    """Seconds and the value, or what was raised."""
    start = time.perf_counter()
    try:
        value = run()
    except Exception as error:
        return 0.0, None, {"status": "raised", "message": told(error)}
    return time.perf_counter() - start, value, None


def _announced(name: str, run: Callable[[], Any]) -> tuple[float, Any, dict[str, Any] | None]:
    """:func:`_timed`, told on standard output when it begins and when it ends."""
    print(f"\n{BEGINS}{name}", flush=True)
    try:
        return _timed(run)
    finally:
        print(f"\n{ENDS}", flush=True)


def _about(task: Any, value: Any, options: dict[str, Any], given: Any, job: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {}
    if job["values"]:
        about["difference"] = task.compare(value, options, given)
    if hasattr(task, "least_work"):
        about["least_work"] = task.least_work(options, job["size"])
    return about


def told(error: BaseException) -> str:
    """One line without the paths of this machine."""
    from padim_bench.records.files import without_paths

    line = (str(error).strip().splitlines() or [""])[0]
    return without_paths(f"{type(error).__name__}: {line}")[:300]


def _give_back_memory() -> None:
    """What the inputs' making has freed is returned to the system, lest it hide what is taken next."""
    gc.collect()
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
