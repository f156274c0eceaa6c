"""Starts the processes that measure, and gathers what they answer into one result per row."""

from __future__ import annotations

import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from padim_bench.machine import apart
from padim_bench.records.files import without_paths
from tests.peers.rows import Contender, Row
from tests.peers.worker import BEGINS, ENDS, MARK

ROOT = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
INVERTED = 8  # matrices of a batch that tells whether a batched inverse returns
Result = dict[str, Any]
Say = Callable[[str], None]


def ask(job: dict[str, Any], timeout_s: float, call_limit_s: float | None = None) -> Result:
    """The answer of a fresh process, with its wall time; or how it failed, in the words of "status" and "message".

    A call of a contender that takes ``call_limit_s`` ends the process: "who" then names the contender.
    """
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(job["threads"]))
    command = [sys.executable, "-m", "tests.peers.worker", json.dumps(job)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=pipe, stderr=complaints, text=True, errors="replace"
        ) as child:
            answer = _heard(child, start + timeout_s, call_limit_s)
            if isinstance(answer, str) and answer.startswith(BEGINS):
                child.kill()
                who = answer.removeprefix(BEGINS)
                message = f"{who} did not return within {call_limit_s:g} s"
                return {"status": "did not return", "message": message, "who": who}
            if answer is _TIMEOUT:
                child.kill()
                return {"status": "timeout", "message": f"not done after {timeout_s:g} s"}
        wall = time.perf_counter() - start
        complaints.seek(0)
        lines = [line for line in complaints if line.strip()]
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return {"status": "killed", "message": f"ended by {name}" + " (out of memory?)" * (name == "SIGKILL")}
    if child.returncode or not isinstance(answer, dict):
        last = (lines or [f"exit code {child.returncode}"])[-1].strip()
        return {"status": "failed", "message": without_paths(last)[:300]}
    return {**answer, "wall_s": wall} if job["job"] == "once" else answer


_TIMEOUT = object()


def _heard(child: subprocess.Popen[str], until: float, call_limit_s: float | None) -> Any:
    """The answer of a process; the line that began a call that did not return; or that time is up; None at its end."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    answer, call, call_until = None, None, float("inf")
    while True:
        try:
            line = lines.get(timeout=max(0, min(until, call_until) - time.perf_counter()))
        except queue.Empty:
            return call if call_until < until else _TIMEOUT
        if line is None:
            return answer
        if line.startswith(BEGINS):
            call, call_until = line, time.perf_counter() + (call_limit_s or float("inf"))
        elif line == ENDS:
            call, call_until = None, float("inf")
        elif line.startswith(MARK):
            answer = json.loads(line.removeprefix(MARK))


def _cannot_return(contender: Contender) -> str:
    """Why a contender is not started: its batched inverse never returns on this machine. Empty if it does."""
    if not contender.inverts:
        return ""
    matrices = torch.eye(contender.inverts).expand(INVERTED, -1, -1)
    limit_s = apart.time_limit(2 * INVERTED * contender.inverts**3)
    try:
        apart.call("padim_bench.machine.doctor:run_inverse", [matrices], limit_s=limit_s, threads=contender.threads)
    except apart.DidNotReturnError as error:
        return f"batched torch.linalg.inv of {INVERTED} matrices of side {contender.inverts} {error}"
    except apart.ApartError:  # wrong or raising is for the row to show
        pass
    return ""


def measure(row: Row, say: Say) -> Result:
    """One row: every contender's samples, memory, difference and verdict. A contender's failure is its own."""
    before, start = os.getloadavg(), time.perf_counter()
    sides = {c.name: _side(c) for c in row.contenders}
    for contender in row.contenders:
        if why := _cannot_return(contender):
            sides[contender.name] |= {"status": "did not return", "message": why}
            say(f"  {contender.name}: did not return: {why}")
    apart.end()  # nothing but the contenders while they are timed
    if row.mode == "alternate":
        _alternate(row, sides, say)
    else:
        _fresh(row, sides, say)
    for side in sides.values():
        _judge(side)
    if row.values_like:
        _judge_by_values(sides, row.values_like)
    return {
        "name": row.name,
        "work": row.work,
        "size": row.size,
        "mode": row.mode,
        "baseline": row.baseline,
        "targets": [vars(t) for t in row.targets],
        "notes": list(row.notes),
        "sides": list(sides.values()),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.perf_counter() - start, 1),
        "load_average": {"before": [round(v, 2) for v in before], "after": [round(v, 2) for v in os.getloadavg()]},
    }


def _side(contender: Contender) -> Result:
    return {
        "name": contender.name,
        "peer": contender.peer,
        "threads": contender.threads,
        "options": contender.options,
        "note": contender.note,
        "status": "ok",
        "message": "",
        "samples_s": [],
        "samples_bytes": [],
        "difference": None,
        "least_work": None,
    }


def _job(row: Row, kind: str, threads: int, **more: Any) -> dict[str, Any]:
    return {"job": kind, "task": row.task, "size": row.size, "threads": threads, "values": True, **more}


def _fresh(row: Row, sides: dict[str, Result], say: Say) -> None:
    """Every sample from a process of its own, contenders in turns."""
    for repetition in range(row.repetitions):
        for contender in row.contenders:
            side = sides[contender.name]
            if side["status"] != "ok" or repetition >= (contender.repetitions or row.repetitions):
                continue
            job = _job(row, "once", contender.threads, contender=vars(contender))
            answer = ask(job, row.timeout_s, row.call_limit_s)
            side["status"], side["message"] = answer["status"], answer.get("message", "")
            if answer["status"] != "ok":
                say(f"  {contender.name}: {answer['status']}: {side['message']}")
                continue
            side["samples_s"].append(answer["wall_s" if row.mode == "process" else "seconds"])
            if row.mode == "process":
                side.setdefault("inside_s", []).append(answer["seconds"])
            extra = answer["peak_rss_bytes" if row.mode == "process" else "extra_bytes"]
            if extra is not None:
                side["samples_bytes"].append(extra)
            side["difference"] = _worse(side["difference"], answer["difference"])
            side["least_work"] = answer.get("least_work")
            say(f"  {contender.name}: {side['samples_s'][-1]:.3f} s")


def _alternate(row: Row, sides: dict[str, Result], say: Say) -> None:
    """Times from one process, in turns; memory from one process each."""
    threads = row.contenders[0].threads
    going = [c for c in row.contenders if sides[c.name]["status"] == "ok"]
    while True:
        job = _job(row, "alternate", threads, contenders=[vars(c) for c in going], repetitions=row.repetitions)
        answers = ask(job, row.timeout_s, row.call_limit_s)
        if answers.get("status") != "did not return":
            break
        sides[answers["who"]] |= {"status": "did not return", "message": answers["message"]}
        say(f"  {answers['message']}")
        going = [c for c in going if c.name != answers["who"]]
    failed = answers if "status" in answers else None
    for contender in going:
        side = sides[contender.name]
        answer = failed or answers[contender.name]
        side["status"], side["message"] = answer["status"], answer.get("message", "")
        if answer["status"] != "ok":
            say(f"  {contender.name}: {answer['status']}: {side['message']}")
            continue
        side["samples_s"], side["difference"] = answer["samples"], answer.get("difference")
        side["least_work"] = answer.get("least_work")
        say(f"  {contender.name}: {statistics.median(side['samples_s']):.4f} s")
        if row.memory:
            job = _job(row, "once", threads, contender=vars(contender)) | {"values": False}
            answer = ask(job, row.timeout_s, row.call_limit_s)
            if answer.get("extra_bytes") is not None:
                side["samples_bytes"].append(answer["extra_bytes"])


def _worse(one: Result | None, other: Result) -> Result:
    if one is None or "max_rel" not in other:
        return other
    return max(one, other, key=lambda d: (not d["right"], d["max_rel"]))


def _judge(side: Result) -> None:
    for unit in ("s", "bytes"):
        samples = side[f"samples_{unit}"]
        side[f"median_{unit}"] = statistics.median(samples) if samples else None
        side[f"min_{unit}"] = min(samples, default=None)
    if side["status"] == "ok":
        side["status"] = "right" if side["difference"]["right"] else "wrong"


def _judge_by_values(sides: dict[str, Result], like: tuple[str, float]) -> None:
    """Whole runs have no reference: those that do not agree with a named contender only differ from it."""
    name, gate = like
    if sides[name]["status"] != "right":
        for side in sides.values():
            if side["status"] == "right":
                side["status"] = "unjudged"
        return
    exact = sides[name]["difference"]["values"]
    for side in sides.values():
        if side["status"] == "right":
            found = side["difference"]["values"]
            apart = max(abs(found[key] - exact[key]) for key in exact)
            side["difference"] |= {"max_abs": apart, "gate": gate, "gate_on": "absolute", "right": apart <= gate}
            side["status"] = "right" if apart <= gate else "differs"


def better(earlier: Result | None, now: Result) -> Result:
    """Rates of one machine, measured twice: what it reached is what it can, and rows of both times have one floor."""
    if not earlier or earlier["status"] != "ok":
        return now
    if now["status"] != "ok":
        return earlier
    return now | {key: max(rate, now.get(key, rate)) for key, rate in earlier.items() if key != "status"}


def rates(threads: int, *, quick: bool) -> Result:
    size = {"bytes": 1 << (24 if quick else 30), "side": 256 if quick else 2048}
    return ask({"job": "rates", "size": size, "threads": threads}, 300)
