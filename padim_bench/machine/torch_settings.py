"""Torch's settings for as long as some work takes, and its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """torch's intra-op threads inside the block, as they were after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32, by default used for a GPU's convolutions, which would carry errors of 1e-3."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def stopwatch(timings: dict[str, float], stage: str, device: str = "cpu") -> Iterator[None]:
    """Adds the seconds of the block to ``timings[stage]``, the device's work included."""
    start = time.perf_counter()
    try:
        yield
    finally:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
