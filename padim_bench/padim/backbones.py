"""Pretrained CNNs as feature extractors, through timm (paper section III-A and IV-B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from padim_bench.errors import PadimBenchError
from padim_bench.padim.folding import fold_batch_norms, relative_error
from padim_bench.padim.layers import (
    Found,
    Size,
    check_names,
    convolutional_layers,
    empty_model,
    feature_maps,
    find_layers,
    layer_names,
    new_model,
    prune,
)
from padim_bench.padim.paper import known_maps
from padim_bench.padim.untrained import fill_untrained, seeded
from padim_bench.padim.weights import Weights, resolve_weights

# Images at a time on a CPU: the activations of more leave the cache (ResNet18 7.0 ms an image, 9.7 by 32;
# EfficientNet-B4 16 and 33).
CPU_BATCH_SIZE = 8
BACKBONE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# bfloat16 keeps 8 bits; a trained network's features are then off by 0.5 to 2 per cent.
BACKBONE_ERROR_LIMIT = 0.05
_LARGEST_TRIED = 512  # pixels


class Backbone(nn.Module):
    """A timm model cut after the last layer in use, which returns the outputs of the named layers.

    Args:
        weights: what to load, from :func:`resolve_weights`.
        layers: names of timm modules or of its features, or "paper" (ResNets: layer1-3; EfficientNets: "levels"), or
            another of ``paper.layer_options()``.
        normalize: whether images are normalised with the weights' own mean and standard deviation.
        dtype: a name in ``BACKBONE_DTYPES``, of convolutions and products (torch's autocast); see :meth:`check_dtype`.
        fold: whether batch normalisations may be folded into convolutions; see :func:`fold_batch_norms`.
        image_size: side in pixels, or (H, W), of the images it is built for. Networks of convolutions take any other
            too; where positions have embeddings, these are resampled by timm for this size, if it can.

    Attributes:
        layers: the layers' names in use, as asked for.
        channels: channels of each layer.
        image_size: (H, W) it was built for.
        any_size: whether that makes no difference to it.
        folding_error: relative error of the features by folding; None where nothing was folded.
        resampled: names of the weights that were resampled for ``image_size``.

    Raises:
        PadimBenchError: unknown layers or dtype, layers of which it is not known where their cells lie, a size that
            the model does not take, or weights that do not fit.
    """

    def __init__(
        self,
        weights: Weights,
        layers: str | Sequence[str] = "paper",
        *,
        normalize: bool = True,
        dtype: str = "float32",
        fold: bool = True,
        image_size: int | Size = 224,
    ) -> None:
        super().__init__()
        if dtype not in BACKBONE_DTYPES:
            raise PadimBenchError(f"unknown backbone dtype {dtype!r}: choose one of {', '.join(BACKBONE_DTYPES)}")
        self.weights = weights
        self.normalize = normalize
        self.dtype = dtype
        self.layers = layer_names(weights.arch, layers)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.model, found, self.any_size = _build(weights.arch, self.layers, self.image_size)
        self._found, self._elsewhere = found, dict[Size, Found]()
        self._working: dict[Size, int] = {}
        self.channels = found.channels
        # What is drawn for networks that take any size is the same whatever they are built for.
        size = (224, 224) if self.any_size else self.image_size
        run = partial(feature_maps, weights.arch, self.model, found.layers)
        self.resampled: tuple[str, ...] = ()
        if weights.path is None:
            fill_untrained(self.model, run, weights.seed or 0, size)
        else:
            self.resampled = _load(self.model, weights, found.options)
        self.model.eval().requires_grad_(False)
        # The same sums in another order (1e-6 relative), in two thirds of the time (ResNet18) or half (B4).
        self.model.to(memory_format=torch.channels_last)
        # Folded, ResNet18 and WideResNet50-2 take 0.85 of the time, B4 0.65.
        noise = torch.randn(1, 3, *size, generator=seeded(0, "folding"), device="cpu")
        modules = [layer.module for layer in found.layers]
        self.folding_error = fold_batch_norms(self.model, modules, partial(run, noise)) if fold else None
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
            PadimBenchError: a size that the model was not built for and does not take, or whatever timm's model raises.
        """
        prepared = self._prepare(images)
        if self.dtype == "float32":
            return self._run(prepared)
        with torch.autocast(prepared.device.type, BACKBONE_DTYPES[self.dtype]):
            return [feature.float() for feature in self._run(prepared)]

    def _run(self, prepared: Tensor) -> list[Tensor]:
        layers = self._at((int(prepared.shape[2]), int(prepared.shape[3]))).layers
        return feature_maps(self.weights.arch, self.model, layers, prepared)

    def _at(self, size: Size) -> Found:
        """Where the layers' cells lie at a size. Raises PadimBenchError if the model does not take it."""
        if self.any_size or size == self.image_size:
            return self._found
        if size not in self._elsewhere:
            other = find_layers(self.weights.arch, self.layers, size)
            if other.options != self._found.options:
                built = "x".join(map(str, self.image_size))
                raise PadimBenchError(
                    f"{self.weights.arch} was built for images of {built} pixels, not {size[0]}x{size[1]}: resize "
                    "them, or build it for their size (image_size=, or a protocol of that size)"
                )
            self._elsewhere[size] = other
        return self._elsewhere[size]

    @torch.no_grad()
    def check_dtype(self, images: Tensor) -> float:
        """The largest error of a layer's features against float32, root mean square, relative.

        Raises PadimBenchError past ``BACKBONE_ERROR_LIMIT``.
        """
        if self.dtype == "float32":
            return 0.0
        exact = self._run(self._prepare(images))
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

    @torch.no_grad()
    def working_bytes(self, size: int) -> int:
        """Of a square image of ``size`` pixels, the bytes of input and output of the module that has most of both.

        Networks of any size are asked at 224 pixels, and the rest goes by the area.
        """
        side = 224 if self.any_size else size
        if (side, side) not in self._working:
            found = [0]

            def note(_module: nn.Module, inputs: Any, output: Any) -> None:
                tensors = [t for t in (*inputs, output) if isinstance(t, Tensor)]
                found.append(sum(t.nbytes for t in tensors))

            leaves = [module for module in self.model.modules() if next(module.children(), None) is None]
            hooks = [module.register_forward_hook(note) for module in leaves]
            try:
                self._run(self._prepare(torch.zeros(1, 3, side, side, dtype=torch.uint8)))
            finally:
                for hook in hooks:
                    hook.remove()
            self._working[side, side] = max(found)
        return self._working[side, side] * size**2 // side**2

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


def _build(arch: str, names: tuple[str, ...], size: Size) -> tuple[nn.Module, Found, bool]:
    """The pruned architecture, mostly without storage, its layers, and whether images of any size have that layout."""
    model = empty_model(arch)
    check_names(arch, model, names, size)
    plain = convolutional_layers(arch, model, names, _tried(size))
    if plain is not None:
        return model, plain, True
    found = find_layers(arch, names, size)
    model = new_model(arch, found.options)
    if all(value.is_meta for value in model.state_dict().values()):
        prune(model, found.called)
        try:
            feature_maps(arch, model, found.layers, torch.empty(1, 3, *size, device="meta"))
        except PadimBenchError:  # it reads what it does not call, or cannot be run without storage
            model = new_model(arch, found.options)
    return model, found, False


def _tried(size: Size) -> Size:
    """At which size a network of convolutions is looked at: no huge one, since its layers are the same at all."""
    return min(size[0], _LARGEST_TRIED), min(size[1], _LARGEST_TRIED)


def count_channels(arch: str, layers: Sequence[str], size: int) -> int:
    """Channels of all the layers together, for images of ``size`` pixels, without any weights.

    What the registry does not know, timm's model says: a network of convolutions without storage. Raises
    PadimBenchError as :class:`Backbone` does of layers and sizes.
    """
    names = layer_names(arch, layers)
    if (known := known_maps(arch, names, size)) is not None:
        return sum(known[0])
    model = empty_model(arch)
    check_names(arch, model, names, (size, size))
    plain = convolutional_layers(arch, model, names, _tried((size, size)))
    return sum((plain or find_layers(arch, names, (size, size))).channels)


def _load(model: nn.Module, weights: Weights, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Fills the pruned model from a file, strictly for the layers in use; gives the names of what was resampled."""
    from safetensors import safe_open

    assert weights.path is not None
    needed = model.state_dict()
    optional = {k for k in needed if k.endswith("num_batches_tracked")}
    resampled: dict[str, Tensor] = {}
    with safe_open(weights.path, framework="pt") as file:
        present = set(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in needed if name in present}
        if options and any(shape != tuple(needed[name].shape) for name, shape in shapes.items()):
            resampled = _resampled(weights, options, {name: file.get_tensor(name) for name in present})
        if missing := sorted(set(needed) - present - optional):
            raise PadimBenchError(
                f"weights {weights.path} do not fit {weights.arch}: {len(missing)} of {len(needed)} tensors are "
                f"missing, the first {missing[0]}: give a file of {weights.arch} in timm's names"
            )
        changed = []
        for name in needed:
            if name not in present:
                needed[name] = torch.zeros((), dtype=torch.int64)
                continue
            value = file.get_tensor(name)
            if value.shape != needed[name].shape and name in resampled:
                value = resampled[name]
                changed.append(name)
            if value.shape != needed[name].shape:
                raise PadimBenchError(
                    f"weights {weights.path} do not fit {weights.arch}: {name} is {tuple(value.shape)}, "
                    f"expected {tuple(needed[name].shape)}: give a file of {weights.arch}"
                )
            if not torch.isfinite(value).all():
                raise PadimBenchError(f"weights {weights.path}: {name} has NaN or infinity: fetch the file again")
            needed[name] = value.to(torch.float32) if value.is_floating_point() else value
    model.load_state_dict(needed, strict=True, assign=True)
    return tuple(changed)


def _resampled(weights: Weights, options: Mapping[str, Any], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's values in a model built with ``options``, position embeddings resampled as timm does it."""
    from padim_bench.padim.loading_timm import timm

    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(
                weights.arch,
                pretrained=True,
                pretrained_cfg_overlay={"state_dict": values, "custom_load": False},
                **options,
            )
    except Exception as error:  # of timm's, whichever
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PadimBenchError(
            f"weights {weights.path} cannot be resampled by timm for {weights.arch} with "
            f"{', '.join(f'{k}={v}' for k, v in options.items())} ({reason[:200]}): use images of the size they are for"
        ) from error
    found: dict[str, Tensor] = model.state_dict()
    return found


def create_backbone(
    name: str, weights: str | Path | None = None, layers: str | Sequence[str] = "paper", **options: Any
) -> Backbone:
    """A backbone by timm name.

    Args:
        name: timm architecture with its tag ("resnet18.tv_in1k"), or bare together with ``weights``.
        weights: safetensors file, directory of them, or "random"; None: the environment's, then the hub.
        layers: as of :class:`Backbone`.
        options: the others of :class:`Backbone`.

    Raises:
        PadimBenchError: an unknown name, weights that are not to be had, and whatever :class:`Backbone` raises.
    """
    return Backbone(resolve_weights(name, weights), layers, **options)
