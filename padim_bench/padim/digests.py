"""Digests of tensors and weights: the same numbers under the same names have the same, whatever file they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_HASHED_AT_ONCE = 16 << 20
# Of ImageNet, per RGB channel on a 0..1 scale: what networks are normalised with unless their tag says otherwise.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_identity(tensors_sha256: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """What weights are known by in ids: their tensors, and the normalisation that they are used with.

    Where it is ImageNet's it goes without saying.
    """
    if (tuple(mean), tuple(std)) == (IMAGENET_MEAN, IMAGENET_STD):
        return tensors_sha256
    return f"{tensors_sha256} mean {list(mean)} std {list(std)}"


def tensors_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Of CPU tensors by name, in any order, and of a text that belongs to them.

    Of each its name, dtype, shape, and the sha256 of every 16 MiB, which several threads compute.
    """
    import torch

    from padim_bench.padim.parallel import for_each

    views = {
        name: tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
        for name, tensor in sorted(tensors.items())
    }
    pieces = [(name, start) for name, view in views.items() for start in range(0, len(view), _HASHED_AT_ONCE)]
    parts: dict[tuple[str, int], str] = {}

    def add(piece: tuple[str, int]) -> None:
        name, start = piece
        parts[piece] = hashlib.sha256(views[name][start : start + _HASHED_AT_ONCE]).hexdigest()

    for_each(add, pieces)
    listed = [f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}" for name in views]
    return hashlib.sha256("\n".join([text, *listed, *(parts[piece] for piece in pieces)]).encode()).hexdigest()
