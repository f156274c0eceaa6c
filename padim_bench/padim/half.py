"""State stored in half precision: multiplied as it lies, or widened first; which is faster is measured, once."""

from __future__ import annotations

import time
from functools import cache

import torch

from padim_bench.machine.features import instructions
from padim_bench.padim.strategies.base import State, Strategy, working_dtype
from padim_bench.padim.tiling import MEASURED, slices

HALF_DTYPES = (torch.float16, torch.bfloat16)

# The native product rounds the difference vector too: a gain within the noise of a measurement is not worth that.
_WORTH_IT = 1.1
_ROUNDS = 2
# A tile as it is scored by either way: fewer positions would measure what a call costs, not what a product does.
_NATIVE_BYTES, _WIDENED_BYTES = MEASURED.stored_bytes // 2, MEASURED.widened_bytes


# Of the processors that multiply each, any of these instructions.
_INSTRUCTIONS = {torch.bfloat16: {"AVX512-BF16", "AMX-BF16"}, torch.float16: {"AVX512-FP16"}}


def multiplies(storage: torch.dtype, device: torch.device) -> bool:
    """Whether the processor, or the GPU, has instructions for products in this half precision."""
    if storage not in HALF_DTYPES:
        return False
    return device.type == "cuda" or not _INSTRUCTIONS[storage].isdisjoint(instructions() or ())


def image_class(images: int) -> int:
    """Batches that are measured as one: up to the next power of two, and all from 32."""
    return min(32, 1 << max(0, images - 1).bit_length())


@cache
def native_is_faster(strategy: Strategy, n: int, d: int, storage: torch.dtype, images: int, device: str) -> bool:
    """Whether this process multiplies such a state faster as it lies than widened to float32, by a tenth at least.

    Processors with AVX512-BF16, AVX512-FP16 or AMX, and GPUs, do; others emulate the product, many times slower.
    A measurement on one thread of as many positions as take 32 MB, some tens of milliseconds the first time that it
    is asked for a shape: which way a process takes can therefore differ where both are as fast.

    Args:
        strategy: one that is ``native``.
        n, d: training images and dimensions, which decide the state's shapes.
        storage: float16 or bfloat16.
        images: of a batch, as :func:`image_class` gives it.
        device: of torch.
    """
    each = sum(torch.Size(shape).numel() for shape in strategy.shapes(n, d).values()) * storage.itemsize
    positions = max(1, _NATIVE_BYTES // each)
    tile = max(1, min(positions, _WIDENED_BYTES // (each * working_dtype(storage).itemsize // storage.itemsize)))
    state = {
        name: torch.full((positions, *shape), 0.5, dtype=storage, device=device)
        for name, (shape, _) in strategy.stored(n, d, storage).items()
    }
    delta = torch.full((positions, images, d), 0.5, device=device)
    wide = {name: torch.empty_like(t[:tile], dtype=working_dtype(storage)) for name, t in state.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = {True: float("inf"), False: float("inf")}
        for turn in range(2 * (_ROUNDS + 1)):
            native = turn % 2 == 0
            start = time.perf_counter()
            if native:
                strategy.apply(state, delta.to(storage).mT, 1.0)
            else:
                for here in slices(positions, tile):
                    widened: State = {k: wide[k][: len(t[here])].copy_(t[here]) for k, t in state.items()}
                    strategy.apply(widened, delta[here].mT, 1.0)
            if delta.is_cuda:
                torch.cuda.synchronize(device)
            if turn > 1:  # the first of each prepares kernels
                best[native] = min(best[native], time.perf_counter() - start)
            elif native and time.perf_counter() - start > _HOPELESS_S:
                return False
    finally:
        torch.set_num_threads(threads)
    return best[True] * _WORTH_IT < best[False]


_HOPELESS_S = 0.5  # of a product that takes a millisecond where it is native
