"""Batch normalisation folded into the convolution before it.

In inference a batch normalisation scales and shifts every channel, which the convolution can do itself
with other weights and another bias. Which one follows which convolution is seen by running the model, and
whether nothing else read the convolution's output is checked by running it again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# A layer's features, root mean square, relative: rounding is 1e-6 to 5e-5 after tens of layers.
FOLDING_LIMIT = 1e-4

Features = Callable[[], list[Tensor]]


def relative_error(found: Tensor, right: Tensor) -> float:
    """Root mean square of the difference over that of ``right``; 0 where both are 0, NaN if either has NaN."""
    difference = float((found - right).norm())
    return difference / float(right.norm()) if difference else 0.0


@torch.no_grad()
def fold_batch_norms(model: nn.Module, layers: Sequence[str], features: Features) -> float | None:
    """Folds, in place, every batch normalisation that alone reads what a convolution gives.

    Args:
        model: in evaluation mode.
        layers: names of modules whose outputs are wanted, and stay what they were.
        features: runs ``model`` on some images and gives the outputs of ``layers``, tensors of any shape.

    Returns:
        The largest relative error of a layer's features by this; None if nothing was folded. All is undone
        if one exceeds ``FOLDING_LIMIT`` (a convolution that alters its weights when called, say).
    """
    before: list[Tensor] = []
    pairs = _pairs(model, lambda: before.extend(features()))
    replaced: dict[str, nn.Module] = {}
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        left = _without_norm(norm)
        if left is None or conv_name in layers or any(name.startswith(f"{norm_name}.") for name in layers):
            continue
        replaced |= {conv_name: conv, norm_name: norm}
        model.set_submodule(conv_name, _folded(conv, norm))
        model.set_submodule(norm_name, left)
    if not replaced:
        return None
    try:
        errors = [relative_error(new, old) for new, old in zip(features(), before, strict=True)]
    except Exception:  # a model that reads its normalisations' own attributes, and raises whatever it likes
        errors = [float("inf")]
    if all(error <= FOLDING_LIMIT for error in errors):  # NaN is not
        return max(errors)
    for name, module in replaced.items():
        model.set_submodule(name, module)
    return None


def _pairs(model: nn.Module, run: Callable[[], None]) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalisations that read their output, each called once in a run."""
    # Tensors by identity and by how often they were written to.
    given: dict[str, list[tuple[int, int]]] = {}  # outputs, by convolution
    read: dict[str, list[tuple[int, int]]] = {}  # inputs, by normalisation
    held: list[Tensor] = []  # so that no two have one identity

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                held.append(output)
                given.setdefault(name, []).append((id(output), output._version))
            else:
                held.extend(inputs[:1])
                read.setdefault(name, []).extend((id(x), x._version) for x in inputs[:1])

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    pairs = []
    for conv, outputs in given.items():
        readers = [norm for norm, inputs in read.items() if outputs[0][0] in {identity for identity, _ in inputs}]
        if len(outputs) == len(readers) == 1 and read[readers[0]] == outputs:
            pairs.append((conv, readers[0]))
    return pairs


def _without_norm(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What is left of a normalisation once scale and shift are gone; None where that is not known."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    act, drop = getattr(norm, "act", None), getattr(norm, "drop", None)  # timm's BatchNormAct2d
    return act if isinstance(act, nn.Module) and isinstance(drop, nn.Identity) else None


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution of the same kind that scales and shifts as well; weights computed in float64."""
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
