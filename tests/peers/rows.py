"""What is measured: work, sizes, contenders and the targets that are to be reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.peers.inputs import N_TRAIN

STRATEGIES = ("auto", "dual", "cholesky")
UNFIT = {("dual", 100)}  # made for fewer images than dimensions
THREADS = (1, 2)
ANOMALIB = "anomalib"
# A call that takes so long does not return, where ours takes less than ten seconds.
CALL_LIMIT_S = 120.0
HALF = ("float16", "bfloat16")
BARE = "no validation and no normalised scores: torchmetrics' sigmoid then ties all distances above 16.6"
BATCHED_LU = "torch.linalg.inv of a batch is wrong on several threads (pytorch#142815)"


@dataclass(frozen=True)
class Contender:
    """One implementation of a row's work.

    Attributes:
        name: as in the tables.
        peer: whether it is not ours.
        threads: of torch and of the BLAS behind NumPy.
        options: for the task.
        library: what must be installed for it.
        repetitions: fewer than the row's, for what takes minutes.
        note: what a reader should know.
        inverts: side of the matrices whose batched inverse it computes on the CPU, 0 for none. Where that never
            returns, which a small batch tells in seconds, the contender is not started.
    """

    name: str
    peer: bool
    threads: int
    options: dict[str, Any]
    library: str = ""
    repetitions: int | None = None
    note: str = ""
    inverts: int = 0


@dataclass(frozen=True)
class Target:
    """The row's baseline over ours, in ``measure`` ("s" or "bytes"), at least ``at_least``.

    ``ours`` names the contender that must reach it; by default any that is right may, or with ``storages`` any that is
    right and keeps its state in one of these.
    """

    measure: str
    at_least: float
    what: str
    ours: str = ""
    storages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Work that several contenders do.

    Attributes:
        name: for ``--only``, by this or by what it begins with.
        task: a module of this package.
        work: in words.
        size: for the task.
        mode: "fresh" (every sample from a new process), "alternate" (samples in turns in one process), or
            "process" (a whole run: wall time and peak memory of the process).
        contenders: in the order of the table.
        baseline: the contender that ratios are of.
        repetitions: samples each.
        memory: whether it is measured too (in mode "alternate", by a process each).
        timeout_s: for all that one process does.
        call_limit_s: for one call of one contender, which then did not return; the others go on without it.
        values_like: for whole runs, the contender whose metrics are the yardstick, and how far others may be.
    """

    name: str
    task: str
    work: str
    size: dict[str, Any]
    mode: str
    contenders: tuple[Contender, ...]
    baseline: str
    repetitions: int
    targets: tuple[Target, ...] = ()
    memory: bool = True
    timeout_s: float = 1800
    call_limit_s: float = CALL_LIMIT_S
    values_like: tuple[str, float] | None = None
    notes: tuple[str, ...] = field(default=())


def all_rows(strategies: Sequence[str] = STRATEGIES, *, quick: bool = False) -> list[Row]:
    return [
        *_fit(strategies, quick),
        *_distance(strategies, quick),
        *_embedding(quick),
        *_metrics(quick),
        *_scripts(strategies, quick),
        *_runs(strategies, quick),
    ]


def _fit(strategies: Sequence[str], quick: bool) -> list[Row]:
    rows = []
    for d, faster, leaner in ((100, 8, None), (550, 30, 8)):
        big = d > 200
        theirs = [
            Contender(
                f"anomalib, {_threads(t)}", True, t, {"who": "anomalib"}, ANOMALIB, repetitions=1 if big else None,
                note=BATCHED_LU if t > 1 and big else "", inverts=d,
            )
            for t in THREADS
        ]  # fmt: skip
        ours = [
            Contender(f"{s}, {c}, {_threads(t)}", False, t, {"who": "ours", "strategy": s, "compute": c})
            for t in THREADS
            for s in strategies
            for c in ("float64",) + (() if big else ("float32",))
            if (s, d) not in UNFIT
        ]
        base = 1 if big else 2  # on 2 threads its inverse of large matrices is wrong
        baseline = f"anomalib, {_threads(base)}"
        what = f"fit from embeddings, d = {d}, against anomalib on {_threads(base)}"
        targets = [Target("s", faster, what)] + ([Target("bytes", leaner, f"{what}: extra memory")] if leaner else [])
        rows.append(
            Row(
                f"fit-d{d}", "fit", "Gaussian fit from embeddings; state in float32",
                {"n": N_TRAIN, "d": d, "grid": (4 if big else 8) if quick else 56}, "fresh",
                (*theirs, *ours), baseline, repetitions=1 if quick or big else 3, targets=tuple(targets),
                call_limit_s=(5 if big else 1) * CALL_LIMIT_S,  # of theirs 98 s were measured, of ours 18
                notes=("Difference: of probes' distances, computed in float64 with what was fitted.",),
            )
        )  # fmt: skip
    return rows


def _distance(strategies: Sequence[str], quick: bool) -> list[Row]:
    rows = []
    needed = {(100, 1): 2, (100, 8): 2.5, (550, 1): 4, (550, 8): 4}
    # On all cores of a machine that multiplies half precision natively.
    fast = {(100, 1): Target("s", 5, ""), (550, 1): Target("s", 3.5, "", storages=HALF)}
    fast[550, 8] = Target("s", 6, "", storages=HALF)
    for (d, batch), faster in needed.items():
        for threads in THREADS:
            ours = [
                Contender(f"{s}, {dtype}", False, threads, {"who": "ours", "strategy": s, "storage": dtype})
                for s in strategies
                for dtype in ("float32", *HALF)
                if s != "cholesky" or dtype not in HALF  # its triangles are widened whole; no use and much memory
                if (s, dtype) != ("dual", "bfloat16")  # widened too, and so as float16
                if (s, d) not in UNFIT
            ]
            theirs = Contender("anomalib", True, threads, {"who": "anomalib"}, ANOMALIB)
            what = f"distance and map, d = {d}, batch {batch}"
            each = f"{_threads(threads)} each"
            targets = [Target("s", faster, f"{what}, {each}")]
            if threads == max(THREADS) and (more := fast.get((d, batch))):
                half = ", state in half precision" if more.storages else ""
                targets.append(replace(more, what=f"{what}{half}, {each}"))
            rows.append(
                Row(
                    f"distance-d{d}-b{batch}-t{threads}", "distance", "Distances and maps of a batch of embeddings",
                    {
                        "n": N_TRAIN, "d": d, "grid": (5 if d > 200 else 8) if quick else 56, "batch": batch,
                        "border": "mirror",
                    },
                    "alternate", (theirs, *ours), "anomalib", repetitions=3 if quick else 15,
                    targets=tuple(targets),
                    memory=threads == max(THREADS),
                    notes=(
                        "anomalib is given an inverse that we computed in float64, since its own may be wrong here.",
                        "Both start from embeddings (B, d, h, w).",
                    ),
                )
            )  # fmt: skip
    return rows


def _embedding(quick: bool) -> list[Row]:
    return [
        Row(
            f"embedding-b{batch}-t{threads}", "embedding", "Embeddings of ResNet-18's layers 1 to 3, 100 channels kept",
            {"batch": batch, "d": 100, "grid": 8 if quick else 56}, "alternate",
            (
                Contender("anomalib", True, threads, {"who": "anomalib"}, ANOMALIB),
                Contender("embed", False, threads, {"who": "ours", "whole": True},
                          note="the same embeddings, (B, d, h, w)"),
                Contender("select", False, threads, {"who": "ours", "whole": False},
                          note="what the model computes: kept channels on their own grids, read tile by tile later"),
            ),
            "anomalib", repetitions=3 if quick else 15, memory=threads == max(THREADS),
            targets=(
                Target("s", 6, f"embedding, the same tensor, batch {batch}, {_threads(threads)}", ours="embed"),
                Target("s", 6, f"selection alone, the rest being part of fit and distance, batch {batch}, "
                       f"{_threads(threads)}", ours="select"),
            ) if batch > 1 else (),
        )
        for batch in (1, 16, 32)
        for threads in THREADS
    ]  # fmt: skip


def _metrics(quick: bool) -> list[Row]:
    rows = []
    size = {"maps": 12, "side": 40} if quick else {"maps": 117, "side": 224}
    repetitions, threads = 2 if quick else 5, max(THREADS)
    pixels = f"{size['maps']} maps of {size['side']}x{size['side']}"
    for tied in (False, True):
        suffix, with_ = ("-ties", ", rounded scores") if tied else ("", "")
        argsort = "argsort by the definition"
        rows.append(
            Row(
                f"pro{suffix}", "metrics", f"PRO of {pixels}{with_}", {"metric": "pro", "tied": tied, **size},
                "alternate",
                (
                    Contender(argsort, True, threads, {"how": "argsort"}),
                    Contender("anomalib AUPRO", True, threads, {"how": "anomalib"}, ANOMALIB),
                    Contender("average_pro", False, threads, {"how": "exact"}),
                    Contender("StreamingPRO", False, threads, {"how": "streaming"}, note="right within its own bound"),
                ),
                argsort, repetitions,
                targets=(
                    Target("s", 6, f"PRO{with_}, exact, against {argsort}", ours="average_pro"),
                    Target("s", 10, f"PRO{with_}, streaming, against {argsort}", ours="StreamingPRO"),
                ),
            )
        )  # fmt: skip
    for tied in (False, True):
        suffix, with_ = ("-ties", ", rounded scores") if tied else ("", "")
        rows.append(
            Row(
                f"auroc{suffix}", "metrics", f"Pixel AUROC of {pixels}{with_}",
                {"metric": "auroc", "tied": tied, **size}, "alternate",
                (
                    Contender("scikit-learn", True, threads, {"how": "sklearn"}, "scikit-learn"),
                    Contender("anomalib AUROC", True, threads, {"how": "anomalib"}, ANOMALIB),
                    Contender("detection_metrics", False, threads, {"how": "detection"}, note="AP and best F1 as well"),
                ),
                "scikit-learn", repetitions,
                targets=(Target("s", 3, f"pixel AUROC{with_}, against scikit-learn"),),
            )
        )  # fmt: skip
    return rows


def _scripts(strategies: Sequence[str], quick: bool) -> list[Row]:
    rows = []
    threads = max(THREADS)
    script = Contender("NumPy, as popular scripts", True, threads, {"who": "script"})
    for d, grid, batch in ((100, 8 if quick else 56, 2), (550, 3 if quick else 8, 2)):
        size = {"n": N_TRAIN, "d": d, "grid": grid}
        part = () if grid == 56 else (f"{grid * grid} of the 3136 positions, for both sides; nothing is scaled up.",)
        ours = [
            Contender(f"{s}, float64", False, threads, {"who": "ours", "strategy": s, "compute": "float64"})
            for s in strategies
            if (s, d) not in UNFIT
        ]
        rows.append(
            Row(
                f"script-fit-d{d}", "fit", "Covariances at every position (and our factorisation of them)",
                size, "fresh",
                (script, *ours), script.name, repetitions=1 if quick else 3, notes=part,
            )
        )  # fmt: skip
        ours = [
            Contender(f"{s}, float32", False, threads, {"who": "ours", "strategy": s, "storage": "float32"})
            for s in strategies
            if (s, d) not in UNFIT
        ]
        rows.append(
            Row(
                f"script-score-d{d}", "distance", f"Distances and maps of {batch} images of embeddings",
                {**size, "batch": batch, "border": "reflect"}, "alternate", (script, *ours), script.name,
                repetitions=1 if quick else 3,
                notes=("The script inverts every covariance anew for every image.", *part),
            )
        )  # fmt: skip
    return rows


def _runs(strategies: Sequence[str], quick: bool) -> list[Row]:
    def row(
        name: str, what: str, category: str, arch: str, channels: int, d: int, side: int, threads: int, *,
        repetitions: int, targets: tuple[Target, ...],
        limit_s: float, notes: tuple[str, ...] = (), **size: Any,
    ) -> Row:  # fmt: skip
        ours = [
            Contender(
                f"padim-bench, {s}", False, threads,
                {"who": "ours", "strategy": s, "compute": "float64", "threads": threads},
            )
            for s in strategies
            if (s, d) not in {*UNFIT, ("cholesky", 550)}
        ]  # fmt: skip
        theirs = [
            Contender(
                f"anomalib, {kind}", True, threads, {"who": "anomalib", "bare": kind == "bare"}, ANOMALIB,
                note=BARE if kind == "bare" else "validates on the test set, as by default", inverts=d,
            )
            for kind in ("bare", "defaults")
            if kind == "defaults" or d == 100  # bare, its metrics of d = 550 are void
        ]  # fmt: skip
        return Row(
            name, "runs", what,
            {"category": category, "arch": arch, "channels": channels, "d": d, "side": side, **size}, "process",
            (*theirs, *ours), theirs[0].name, repetitions, targets, timeout_s=2400, call_limit_s=limit_s,
            values_like=(ours[0].name, 0.05 if quick else 0.01),
            notes=(
                "anomalib's engine, without pictures; it writes a checkpoint.",
                "Seconds: the process from start to end; memory: its peak. No workers load data.",
                *notes,
            ),
        )  # fmt: skip

    side = 64 if quick else 256
    rows = [
        row(
            f"run-{category}-r18", f"Whole run, R18-Rd100, {category}: images to metrics", category, "resnet18", 448,
            100, side, 2, repetitions=1 if quick else 3, weights="real",
            targets=tuple(Target("s", goal, f"whole run, R18-Rd100, {category}") for goal in goals),
            limit_s=2 * CALL_LIMIT_S,  # theirs took 29 and 44 s, and 99 on a machine with much else to do
        )
        for category, goals in (("bottle", (3, 3.5)), ("screw", (3,)))
    ]  # fmt: skip
    untrained = "Untrained weights, the same on both sides: time and memory do not depend on them, the metrics do."
    # At 256 pixels (64x64 positions) anomalib may need more memory than there is, so 224 stands beside it.
    for pixels in (64,) if quick else (224, 256):
        rows.append(
            row(
                f"run-bottle-wr50-{pixels}", f"Whole run, WR50-Rd550, bottle, {pixels} pixels: images to metrics",
                "bottle", "wide_resnet50_2", 1792, 550, pixels, 1, repetitions=1,
                weights="random", limit_s=10 * CALL_LIMIT_S,  # theirs took 218 s, ours 57
                targets=(Target("bytes", 5, f"peak memory of a whole run, WR50-Rd550, bottle, {pixels} pixels"),),
                notes=(untrained, "One thread, since anomalib's inverse is wrong on two."),
            )
        )  # fmt: skip
    return rows


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"
