"""Batch normalisation folded into the convolution before it: the same affine map with one pass less.

In inference both are linear in each channel, so the convolution takes the scale into its weights and the
shift into its bias. Which normalisation follows which convolution is seen by running the model, and whether
that was all is checked by running it again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# A layer's features, root mean square, relative: rounding is 1e-6 to 2e-5 after tens of layers.
FOLDING_LIMIT = 1e-4


@torch.no_grad()
def fold_batch_norms(model: nn.Module, layers: Sequence[str], features: Callable[[], list[Tensor]]) -> float:
    """Folds, in place, every batch normalisation that reads what a convolution gives.

    Args:
        model: in evaluation mode.
        layers: names of modules whose outputs are wanted, and stay what they were.
        features: runs ``model`` on some image and gives the outputs of ``layers``.

    Returns:
        The largest difference that this made to a layer's features, root mean square, relative. What would make
        one of more than ``FOLDING_LIMIT`` (a convolution that alters its weights on the way, say) is undone: 0.0.
    """
    pairs, before = _pairs(model, features)
    undo: list[tuple[str, nn.Module]] = []
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        left = _without_norm(norm)
        if left is None or conv_name in layers or any(name.startswith(f"{norm_name}.") for name in layers):
            continue
        undo += [(conv_name, conv), (norm_name, norm)]
        model.set_submodule(conv_name, _folded(conv, norm))
        model.set_submodule(norm_name, left)
    if not undo:
        return 0.0
    error = max(float((new - old).norm() / old.norm()) for new, old in zip(features(), before, strict=True))
    if error <= FOLDING_LIMIT:
        return error
    for name, module in undo:
        model.set_submodule(name, module)
    return 0.0


def _pairs(model: nn.Module, features: Callable[[], list[Tensor]]) -> tuple[list[tuple[str, str]], list[Tensor]]:
    """Names of convolutions and normalisations that were called once, one on the output of the other; features."""
    outputs: list[tuple[str, Tensor]] = []  # held, so that no two have one address
    inputs: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                outputs.append((name, output))
            else:
                inputs.append((name, given[0]))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        before = features()
    finally:
        for handle in handles:
            handle.remove()
    called = [name for name, _ in (*outputs, *inputs)]
    readers = {id(read): name for name, read in inputs}
    pairs = [(conv, readers[id(given)]) for conv, given in outputs if id(given) in readers]
    return [(conv, norm) for conv, norm in pairs if called.count(conv) == called.count(norm) == 1], before


def _without_norm(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What is left of a normalisation once its affine map is gone; None where that is not known."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    act, drop = getattr(norm, "act", None), getattr(norm, "drop", None)  # timm's BatchNormAct2d
    return act if isinstance(act, nn.Module) and isinstance(drop, nn.Identity) else None


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution with both maps, computed in float64. It shares nothing with ``conv`` that is written to."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale *= norm.weight.double()
    shift = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    shift *= scale
    if norm.bias is not None:
        shift += norm.bias.double()
    folded = copy.copy(conv)
    folded._parameters = dict(conv._parameters)
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    folded.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    return folded
