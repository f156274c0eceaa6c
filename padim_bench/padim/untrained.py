"""Weights of networks that were never trained: drawn from a seed, for runs without any file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from padim_bench.padim.parallel import one_thread

_BATCH_NORM = ("running_mean", "running_var", "num_batches_tracked")


def is_computed(buffer: str) -> bool:
    """Whether a buffer holds what a model computes when it is built, such as indices: not a statistic, never drawn."""
    return not buffer.endswith(_BATCH_NORM)


@torch.no_grad()
def fill_untrained(model: nn.Module, run: Callable[[Tensor], object], seed: int, size: tuple[int, int]) -> None:
    """Normal weights of variance 1 / fan-in from a seed.

    Batch normalisation is calibrated on one batch of seeded multi-scale noise, with a gain of 1/4:
    otherwise features shrink to nothing or grow to hundreds from stage to stage, and epsilon = 0.01
    means something else than it does for trained features.

    Args:
        model: with or without storage.
        run: runs ``model`` on images (B, 3, H, W) as far as it is in use.
        seed: of the weights.
        size: (H, W) of the noise.
    """
    state = model.state_dict()
    computed = {name for name, _ in model.named_buffers() if is_computed(name)}
    for name in state:
        shape = state[name].shape
        if name in computed:
            continue
        if not state[name].is_floating_point():
            state[name] = torch.zeros(shape, dtype=state[name].dtype)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=seeded(seed, name)) / math.sqrt(math.prod(shape[1:]))
        else:
            one = name.endswith(("weight", "running_var", "gamma"))
            state[name] = torch.full(shape, 1.0 if one else 0.0)
    model.load_state_dict(state, strict=True, assign=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.weight, 0.25)
        norm.momentum = None  # plain averages, of one batch
        norm.train()
    noise = torch.zeros(4, 3, *size)
    for side in (7, 28, 56, 224):
        coarse = torch.randn(4, 3, side, side, generator=seeded(seed, f"noise {side}"))
        noise += nn.functional.interpolate(coarse, size=size) / 2
    with one_thread():  # sums in one order, whatever the caller's threads
        run(noise)


def seeded(seed: int, name: str) -> torch.Generator:
    """Each tensor draws from its own stream, so that it is the same whichever layers are in use."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


@torch.no_grad()
def fill_quickly(model: nn.Module) -> None:
    """Any weights that let values through, in the time of copying them: for seeing how a model is laid out."""
    if any(p.is_meta for p in model.parameters()):
        model.to_empty(device="cpu")
    noise = torch.randn(1_000_003, generator=seeded(0, "layout"))
    for n, (name, weight) in enumerate(model.named_parameters()):
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        start, count = 7919 * n % len(noise), weight.numel()
        drawn = noise.repeat(-(-(start + count) // len(noise)))[start : start + count]
        weight.copy_(drawn.view(weight.shape) / math.sqrt(math.prod(weight.shape[1:])))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
