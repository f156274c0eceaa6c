"""What work takes of memory: told in a line before it starts, and refused in one where it cannot fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from padim_bench.errors import PadimBenchError
from padim_bench.machine.memory import available_memory, resident_memory
from padim_bench.padim.tiling import MEASURED

if TYPE_CHECKING:
    from padim_bench.padim.backbones import Backbone
    from padim_bench.padim.config import PaDiMConfig

# Blocks of memory that the C library keeps for itself once they are freed are of at most this many bytes.
_KEPT_BLOCK = 32 << 20
# Of a module's input and output, which a network takes while it runs: what is laid out anew, normalised, or added comes
# on top (1.6 to 1.7 of ResNet18 and EfficientNet-B4 at 224 and 448 pixels).
NETWORK_FACTOR = 1.65
NETWORK = "network and tiles"  # as the parts of a need call what is worked with
# Of the memory that is left, what may be taken: estimates were at or over what was measured, and others live here too.
SPARED = 0.9


@dataclass(frozen=True)
class Need:
    """Bytes of what is held at once when most is.

    Attributes:
        what: it is of, as "bottle, R18-Rd100 cholesky float32".
        parts: by name, as "features" and "state", beside what the process holds already.
        mends: what takes less, and all that it would take; None where that depends.
    """

    what: str
    parts: Mapping[str, int]
    mends: tuple[tuple[str, int | None], ...] = ()

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


def at_worst(what: str, *phases: Mapping[str, int]) -> Need:
    """The need of the phase that takes most; phases follow one another."""
    return Need(what, max(phases, key=lambda parts: sum(parts.values())))


@dataclass(frozen=True)
class Network:
    """What a network takes while it runs over some images.

    Attributes:
        bytes: at once.
        kept: of these what stays with the process afterwards, for whatever comes next.
    """

    bytes: int
    kept: int

    @classmethod
    def of(cls, working: int, batch_size: int) -> Network:
        """Of ``working`` bytes for the input and output of the largest module, of an image; as many at a time."""
        total = int(NETWORK_FACTOR * working * batch_size)
        # Larger blocks are the system's again at once; about a third of all is in smaller ones then.
        return cls(total, total if working * batch_size <= 2 * _KEPT_BLOCK else total // 3)

    def room(self, work: int) -> int:
        """What of ``work`` bytes comes on top of what stays: those are used again."""
        return max(self.kept, work)


def fit_work(n: int, d: int, threads: int) -> int:
    """Bytes that threads work with while Gaussians of n images in d dimensions are fitted: tiles, and what is read."""
    tile = max(MEASURED.fit_bytes, 8 * max(d * d, n * d))
    return threads * (3 * tile + MEASURED.read_bytes)


def model_need(
    what: str,
    backbone: Backbone,
    config: PaDiMConfig,
    n: int,
    *,
    limit: int,
    batch_size: int,
    at_once: int | None = None,
    folds: int | None = None,
    threads: int = 1,
) -> Need:
    """Of ``PaDiM.fit`` to n images of the protocol's size; ``save`` takes no more.

    Args:
        what: is fitted, for messages.
        backbone: that gives the features.
        config: of the model.
        n: training images.
        limit: the model's ``memory_limit``.
        batch_size: images of a batch when fitting.
        at_once: when scoring, where they are more.
        folds: of left-out images; None for none.
        threads: of torch.
    """
    from padim_bench.padim.half import multiplies
    from padim_bench.padim.model import COMPUTE_DTYPES
    from padim_bench.padim.paper import known_maps
    from padim_bench.padim.reduction import REDUCTIONS
    from padim_bench.padim.sharing import selected_bytes, share, sized_embedding, training_cost
    from padim_bench.padim.strategies import STORAGE_DTYPES, get_strategy

    size = config.protocol.size
    channels, grids = known_maps(backbone.weights.arch, backbone.layers, size) or (
        backbone.channels,
        backbone.grids(size),
    )
    embedding = sized_embedding(channels, grids, config.reduction, config.n_features, config.seed)
    network = Network.of(backbone.working_bytes(size), max(batch_size, at_once or 1))
    cost = training_cost(embedding, COMPUTE_DTYPES[config.compute_dtype], n, batch_size)
    (room,), used = share([cost], limit)
    work = {NETWORK: network.room(fit_work(n, embedding.n_features, threads))}
    whole = n * sum(4 * c * h * w for c, (h, w) in zip(channels, grids, strict=True))
    first = min(limit, whole) if REDUCTIONS[config.reduction].learned else 0

    def state_of(strategy: str, storage: str) -> int:
        stored = STORAGE_DTYPES[storage]
        native = multiplies(stored, backbone.get_buffer("mean").device)
        chosen = get_strategy(strategy, n, embedding.n_features, native=native)
        return embedding.n_positions * chosen.state_bytes(n, embedding.n_features, stored)

    def need(state: int) -> Need:
        if room is None:
            left_out = ceil(n / folds) * selected_bytes(embedding) if folds else 0
            return at_worst(
                what,
                {NETWORK: network.bytes, "features": max(first, cost.held)},
                work | {"features": cost.held + left_out, "state": state},
            )
        left_out = min(limit, cost.held // folds) if folds else 0
        return at_worst(
            what,
            {NETWORK: network.bytes, "features and moments": max(first, used)},
            work
            | {
                "features": left_out,
                "moments": cost.moments * (2 if folds else 1),
                "state": max(0, state - cost.moments),
            },
        )

    mends = [(how, need(state_of(*other)).bytes) for how, *other in smaller(config.strategy, config.storage)]
    found = need(state_of(config.strategy, config.storage))
    fewer = (("fewer --n-features", None), ("a smaller --crop", None), ("a lower --memory-limit", None))
    return replace(found, mends=(*(one for one in mends if one[1] < found.bytes), *fewer))


def smaller(strategy: str, storage: str) -> Iterator[tuple[str, str, str]]:
    """Other exact strategies, half storage, and both: as options, and what they choose."""
    from padim_bench.padim.strategies import STRATEGIES

    for other in dict.fromkeys((strategy, *(s.name for s in STRATEGIES.values() if s.exact))):
        for stored in dict.fromkeys((storage, "float16")):
            changed = [] if other == strategy else [f"--strategy {other}"]
            changed += [] if stored == storage else [f"--storage {stored}"]
            if changed:
                yield " ".join(changed), other, stored


def told(n_bytes: int) -> str:
    """Bytes for people."""
    if n_bytes >= 1 << 30:
        return f"{n_bytes / (1 << 30):.1f} GiB"
    if n_bytes < 1 << 10:
        return f"{n_bytes} bytes"
    mib = n_bytes / (1 << 20)
    return f"{mib:.0f} MiB" if mib >= 100 else f"{mib:.3g} MiB"


def statement(need: Need, processes: int = 1, *, device: str = "cpu", here: int | None = None) -> str:
    """The line that says what will be taken, with what this process, or each of several, holds without: ``here``."""
    parts = {name: n for name, n in need.parts.items() if n > need.bytes // 50}
    where = " of memory" if device == "cpu" else f" of the memory of {device}"
    if device == "cpu":
        parts = {"the program": resident_memory() if here is None else here} | parts
    each = f" in each of {processes} processes" if processes > 1 else ""
    listed = ", ".join(f"{name} {told(n)}" for name, n in parts.items())
    return f"{need.what}: about {told(sum(parts.values()))}{where}{each}: {listed}"


def left_on(device: str) -> int | None:
    """Bytes that can be taken there; None where nothing tells."""
    if device == "cpu":
        return available_memory()
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else None


def check_fits(need: Need, processes: int = 1, *, device: str = "cpu", available: int | None = None) -> None:
    """Raises PadimBenchError, with what takes less, where the machine has not so much left.

    Args:
        need: of one process.
        processes: as many beside this one, each with a need like it; 1 for this one alone.
        device: where features and states lie, which are most of it.
        available: bytes; None asks the machine, or the device.
    """
    left = left_on(device) if available is None else available
    wanted = need.bytes if processes == 1 else processes * (need.bytes + resident_memory())
    if left is None or wanted <= left * SPARED:
        return
    listed = ", ".join(f"{name} {told(n)}" for name, n in sorted(need.parts.items(), key=lambda part: -part[1])[:2])
    each = f" by {processes} processes" if processes > 1 else ""
    rest = wanted - processes * need.bytes
    fits = sorted((n, how) for how, n in need.mends if n is not None and processes * n + rest <= left * SPARED)
    least = [*[one for one in fits if "--storage" not in one[1]][:1], *fits[:1]]
    mends = [f"{how} takes {told(n)}" for n, how in dict.fromkeys(least)]
    mends += [how for how, n in need.mends if n is None] + ["fewer processes"] * (processes > 1)
    where = "on this machine" if device == "cpu" else f"on {device}"
    raise PadimBenchError(
        f"{need.what}: would take about {told(wanted)} of memory{each} ({listed}), but no more than "
        f"{told(int(left * SPARED))} can be had, {SPARED:.0%} of what is left {where}: "
        f"{', or '.join(mends) or 'free some'}"
    )
