"""Pretrained CNNs as feature extractors, through timm (paper section III-A and IV-B)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from padim_bench.errors import PadimBenchError
from padim_bench.padim.folding import fold_batch_norms, relative_error
from padim_bench.padim.weights import Weights, resolve_weights

# The paper's "layers 7 (level 2), 20 (level 4), and 26 (level 5)" of EfficientNet-B5 fit no single way
# of counting blocks. Each reading: (stage, block of that stage), both counted from 0, -1 the last.
EFFICIENTNET_READINGS: dict[str, tuple[tuple[int, int], ...]] = {
    "levels": ((1, -1), (3, -1), (4, -1)),  # last blocks of stages 2, 4 and 5: 40 + 128 + 176 channels
    "from-zero": ((1, -1), (4, 0), (4, -1)),  # blocks 7, 20, 26 counted from 0: 40 + 176 + 176
    "from-one": ((1, -2), (3, -1), (4, -2)),  # blocks 7, 20, 26 counted from 1: 40 + 128 + 176
}
LAYER_OPTIONS = ("paper", *EFFICIENTNET_READINGS)
# Images at a time on a CPU: the activations of more leave the cache (ResNet18 7.0 ms an image, 9.7 by 32;
# EfficientNet-B4 16 and 33).
CPU_BATCH_SIZE = 8
BACKBONE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# bfloat16 keeps 8 bits; a trained network's features are then off by 0.5 to 2 per cent.
BACKBONE_ERROR_LIMIT = 0.05


class _AllLayersSeen(Exception):
    pass


class Backbone(nn.Module):
    """A timm model cut after the last layer in use, which returns the outputs of the named layers.

    Args:
        weights: what to load, from :func:`resolve_weights`.
        layers: names of timm modules, or "paper" (ResNets: layer1-3; EfficientNets: "levels"), or one
            of ``EFFICIENTNET_READINGS``.
        normalize: whether images are normalised with the weights' own mean and standard deviation.
        dtype: a name in ``BACKBONE_DTYPES``, of convolutions and products (torch's autocast); see :meth:`check_dtype`.
        fold: whether batch normalisations may be folded into convolutions; see :func:`fold_batch_norms`.

    Attributes:
        layers: the module names in use.
        channels: channels of each layer.
        folding_error: relative error of the features by folding; None where nothing was folded.

    Raises:
        PadimBenchError: unknown layers or dtype, layers without a spatial grid, or weights that do not fit.
    """

    def __init__(
        self,
        weights: Weights,
        layers: str | Sequence[str] = "paper",
        *,
        normalize: bool = True,
        dtype: str = "float32",
        fold: bool = True,
    ) -> None:
        super().__init__()
        if dtype not in BACKBONE_DTYPES:
            raise PadimBenchError(f"unknown backbone dtype {dtype!r}: choose one of {', '.join(BACKBONE_DTYPES)}")
        self.weights = weights
        self.normalize = normalize
        self.dtype = dtype
        self.model, self.layers, shapes = _build(weights.arch, layers)
        self.channels = tuple(shape[1] for shape in shapes)
        if weights.path is None:
            _fill_untrained(self.model, self.layers, weights.seed or 0)
        else:
            _load(self.model, weights)
        self.model.eval().requires_grad_(False)
        # The same sums in another order (1e-6 relative), in two thirds of the time (ResNet18) or half (B4).
        self.model.to(memory_format=torch.channels_last)
        # Folded, ResNet18 and WideResNet50-2 take 0.85 of the time, B4 0.65.
        noise = torch.randn(1, 3, 224, 224, generator=_generator(0, "folding"), device="cpu")
        run = partial(_run, self.model, self.layers, noise)
        self.folding_error = fold_batch_norms(self.model, self.layers, run) if fold else None
        self.register_buffer("mean", torch.tensor(weights.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(weights.std).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of a batch.

        Args:
            images: (B, 3, H, W) RGB, uint8 in 0..255 or floating point in 0..1, not yet normalised.

        Returns:
            One float32 tensor (B, C_l, H_l, W_l) per layer.

        Raises:
            ValueError: images of another shape, or floating-point values outside 0..1.
        """
        prepared = self._prepare(images)
        if self.dtype == "float32":
            return _run(self.model, self.layers, prepared)
        with torch.autocast(prepared.device.type, BACKBONE_DTYPES[self.dtype]):
            return [feature.float() for feature in _run(self.model, self.layers, prepared)]

    @torch.no_grad()
    def check_dtype(self, images: Tensor) -> float:
        """The largest error of a layer's features against float32, root mean square, relative.

        Raises PadimBenchError past ``BACKBONE_ERROR_LIMIT``.
        """
        if self.dtype == "float32":
            return 0.0
        exact = _run(self.model, self.layers, self._prepare(images))
        errors = [relative_error(feature, right) for feature, right in zip(self(images), exact, strict=True)]
        error = max(errors)
        if not all(e <= BACKBONE_ERROR_LIMIT for e in errors):  # NaN is not
            raise PadimBenchError(
                f"features of {self.weights.arch} in {self.dtype} are off by {error:.2g} relative to float32, "
                f"allowed {BACKBONE_ERROR_LIMIT:g}: use float32 (--backbone-dtype, backbone_dtype=)"
            )
        return error

    def grids(self, size: int) -> tuple[tuple[int, int], ...]:
        """(h, w) of each layer for square images of ``size`` pixels."""
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        return tuple((int(f.shape[2]), int(f.shape[3])) for f in self(blank))

    def _prepare(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if images.dtype == torch.uint8:
            images = images.to(mean.device, torch.float32) / 255
        else:
            images = images.to(mean.device, torch.float32)
            if self.normalize and not (images.min() >= 0 and images.max() <= 1):  # also catches NaN
                raise ValueError(
                    "floating-point images must lie in 0..1 (the model normalises them itself); "
                    "for images that are normalised already pass normalize=False"
                )
        return (images - mean) / std if self.normalize else images


def _run(model: nn.Module, layers: Sequence[str], x: Tensor) -> list[Tensor]:
    """Runs ``model`` until the last of ``layers`` has answered, and no further."""
    found: dict[str, Tensor] = {}
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[name] = _to_nchw(output, name, prefix, nhwc=nhwc)
            if len(found) == len(layers):
                raise _AllLayersSeen

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        model(x)
    except _AllLayersSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [found[name] for name in layers]


def _to_nchw(output: Any, layer: str, prefix_tokens: int, *, nhwc: bool) -> Tensor:
    """Square (B, C, H, W) from timm's three kinds of feature: NCHW, NHWC, tokens (B, N, C)."""
    if not isinstance(output, Tensor):
        raise PadimBenchError(f"layer {layer} gives a {type(output).__name__}, not a tensor: choose another")
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if nhwc else output
    if output.ndim == 3:
        for tokens in (output, output[:, prefix_tokens:]):  # patch_embed gives no class token yet
            side = math.isqrt(tokens.shape[1])
            if side * side == tokens.shape[1]:
                return tokens.mT.reshape(len(tokens), -1, side, side)
    raise PadimBenchError(f"layer {layer} gives shape {tuple(output.shape)}: choose one with a spatial grid")


def paper_layers(arch: str, layers: str = "paper") -> tuple[str, ...]:
    """The paper's layers of an architecture (section IV-B), by timm module name.

    Raises PadimBenchError for an architecture that the paper does not speak of.
    """
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(arch, pretrained=False)
    if hasattr(model, "layer3") and layers == "paper":
        return ("layer1", "layer2", "layer3")
    if arch.startswith(("tf_efficientnet", "efficientnet")) and hasattr(model, "blocks"):
        reading = EFFICIENTNET_READINGS["levels" if layers == "paper" else layers]
        return tuple(
            f"blocks.{stage}" if block == -1 else f"blocks.{stage}.{block % len(model.blocks[stage])}"
            for stage, block in reading
        )
    offered = ", ".join(info["module"] for info in getattr(model, "feature_info", []) if "module" in info)
    raise PadimBenchError(
        f"the paper names no {'' if layers == 'paper' else layers + ' '}layers of {arch}: "
        f"name them with --layers, e.g. from {offered or 'its named_modules()'}"
    )


def layer_names(arch: str, layers: str | Sequence[str] = "paper") -> tuple[str, ...]:
    """timm module names of ``layers``: "paper", a named reading, names joined by "+", or names."""
    if isinstance(layers, str) and layers in LAYER_OPTIONS:
        return paper_layers(arch, layers)
    return tuple(layers.split("+") if isinstance(layers, str) else layers)


def _build(arch: str, layers: str | Sequence[str]) -> tuple[nn.Module, tuple[str, ...], list[torch.Size]]:
    """The pruned architecture without storage, the layers' names and their output shapes at 224x224."""
    import timm

    names = layer_names(arch, layers)
    with torch.device("meta"):
        model: nn.Module = timm.create_model(arch, pretrained=False).eval()
    known = dict(model.named_modules())
    if unknown := [name for name in names if name not in known or not name]:
        offered = ", ".join(i["module"] for i in getattr(model, "feature_info", []) if "module" in i)
        raise PadimBenchError(f"{arch} has no layer {unknown[0]!r}: its stages are {offered or 'unknown'}")
    if not names or len(set(names)) != len(names):
        raise PadimBenchError(f"layers {names}: name at least one, and none twice")
    # Buffers outside the state dict are computed when a model is built, so those need a real one.
    stored = set(model.state_dict())
    if any(name not in stored for name, _ in model.named_buffers()):
        model = timm.create_model(arch, pretrained=False).eval()
        return model, names, _probe(arch, model, names, torch.zeros(1, 3, 224, 224))
    image = torch.empty(1, 3, 224, 224, device="meta")
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: called.add(name)) for name, module in known.items()
    ]
    try:
        _probe(arch, model, names, image)
    finally:
        for handle in handles:
            handle.remove()
    _prune(model, "", called)
    return model, names, _probe(arch, model, names, image)


def _probe(arch: str, model: nn.Module, names: Sequence[str], image: Tensor) -> list[torch.Size]:
    """Shapes of the layers' outputs; whatever a model raises on a 224x224 image is bad input."""
    try:
        with torch.no_grad():
            return [f.shape for f in _run(model, names, image)]
    except PadimBenchError:
        raise
    except KeyError as error:
        raise PadimBenchError(f"{arch} never calls layer {error}: choose another") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PadimBenchError(f"{arch} does not take 224x224 images ({reason[:200]}): choose another model") from error


def _prune(module: nn.Module, path: str, called: set[str]) -> None:
    """Replaces every part that the forward pass never entered, so that it is neither loaded nor stored."""
    for name, child in list(module.named_children()):
        full = f"{path}{name}"
        if full in called or any(c.startswith(full + ".") for c in called):
            _prune(child, full + ".", called)
        else:
            setattr(module, name, nn.Identity())


def _load(model: nn.Module, weights: Weights) -> None:
    """Fills the pruned model from a file, strictly for the layers in use."""
    from safetensors import safe_open

    assert weights.path is not None
    needed = model.state_dict()
    optional = {k for k in needed if k.endswith("num_batches_tracked")}
    with safe_open(weights.path, framework="pt") as file:
        present = set(file.keys())
        if missing := sorted(set(needed) - present - optional):
            raise PadimBenchError(
                f"weights {weights.path} do not fit {weights.arch}: {len(missing)} of {len(needed)} tensors are "
                f"missing, the first {missing[0]}: give a file of {weights.arch} in timm's names"
            )
        for name in needed:
            if name not in present:
                needed[name] = torch.zeros((), dtype=torch.int64)
                continue
            value = file.get_tensor(name)
            if value.shape != needed[name].shape:
                raise PadimBenchError(
                    f"weights {weights.path} do not fit {weights.arch}: {name} is {tuple(value.shape)}, "
                    f"expected {tuple(needed[name].shape)}: give a file of {weights.arch}"
                )
            if not torch.isfinite(value).all():
                raise PadimBenchError(f"weights {weights.path}: {name} has NaN or infinity: fetch the file again")
            needed[name] = value.to(torch.float32) if value.is_floating_point() else value
    model.load_state_dict(needed, strict=True, assign=True)


def _fill_untrained(model: nn.Module, layers: Sequence[str], seed: int) -> None:
    """Normal weights of variance 1 / fan-in from a seed.

    Batch normalisation is calibrated on one batch of seeded multi-scale noise, with a gain of 1/4:
    otherwise features shrink to nothing or grow to hundreds from stage to stage, and epsilon = 0.01
    means something else than it does for trained features.
    """
    state = model.state_dict()
    for name in state:
        shape = state[name].shape
        if not state[name].is_floating_point():
            state[name] = torch.zeros(shape, dtype=state[name].dtype)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=_generator(seed, name)) / math.sqrt(math.prod(shape[1:]))
        else:
            one = name.endswith(("weight", "running_var", "gamma"))
            state[name] = torch.full(shape, 1.0 if one else 0.0)
    model.load_state_dict(state, strict=True, assign=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.weight, 0.25)
        norm.momentum = None  # plain averages, of one batch
        norm.train()
    noise = torch.zeros(4, 3, 224, 224)
    for side in (7, 28, 56, 224):
        coarse = torch.randn(4, 3, side, side, generator=_generator(seed, f"noise {side}"))
        noise += nn.functional.interpolate(coarse, size=(224, 224)) / 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, whatever the caller's threads
    try:
        with torch.no_grad():
            _run(model, layers, noise)
    finally:
        torch.set_num_threads(threads)


def _generator(seed: int, name: str) -> torch.Generator:
    """Each tensor draws from its own stream, so that it is the same whichever layers are in use."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def create_backbone(
    name: str, weights: str | Path | None = None, layers: str | Sequence[str] = "paper", **options: Any
) -> Backbone:
    """A backbone by timm name; see :func:`resolve_weights` and :class:`Backbone`."""
    return Backbone(resolve_weights(name, weights), layers, **options)
