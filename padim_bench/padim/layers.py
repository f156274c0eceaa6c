"""Which module gives a layer, and where in its output the cells of the map lie: known or checked, never guessed.

A network of convolutions gives (B, C, H, W), which two runs of zeros confirm. Any other is run with drawn
weights: a module that gives one of timm's own intermediate maps, in whatever order, has the layout of that
map; of any other it is tried where its output changes with a patch of the image. What passes neither is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from padim_bench.errors import PadimBenchError
from padim_bench.padim.paper import FAMILIES, PAPER_BACKBONES, layer_options
from padim_bench.padim.parallel import one_thread
from padim_bench.padim.untrained import fill_quickly, is_computed, seeded

Size = tuple[int, int]


class ModelFailsError(PadimBenchError):
    """What a timm model raised, in a line."""

    def __init__(self, arch: str, size: Size, error: Exception) -> None:
        self.reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        self.reason = self.reason[:200].rstrip(".")
        super().__init__(f"{arch} fails on images of {size[0]}x{size[1]} pixels ({self.reason}): choose another model")


@dataclass(frozen=True, eq=False)
class Layout:
    """Where in a module's output the channels and the cells of its map lie.

    Attributes:
        channels_last: whether the last axis is that of the channels; otherwise it is the second.
        grid: (h, w) of a map whose cells lie on one axis or in blocks; None where the output has axes of rows and
            columns, in that order.
        cells: with a grid, the places of its cells, row by row, among all tokens; None for all, as they come.
        part: of which of several outputs; None of the only one.
    """

    channels_last: bool
    grid: Size | None = None
    cells: slice | Tensor | None = None
    part: int | None = None

    def maps(self, output: Any) -> Tensor:
        """The maps (B, C, h, w), a view where one will do."""
        values: Tensor = output if self.part is None else output[self.part]
        if self.grid is None:
            return values.permute(0, 3, 1, 2) if self.channels_last else values
        tokens = values.reshape(len(values), -1, values.shape[-1]) if self.channels_last else values.flatten(2).mT
        cells = self.cells.to(values.device) if isinstance(self.cells, Tensor) else self.cells
        return tokens[:, slice(None) if cells is None else cells].mT.reshape(len(values), -1, *self.grid)


NCHW, NHWC = Layout(False), Layout(True)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer by the name it was asked for, the module that gives it, and how.

    ``copied``: whether the model writes to that output later, so that it is copied when it is given.
    """

    name: str
    module: str
    layout: Layout = NCHW
    copied: bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """Layers of a model for images of one size, and how timm builds the model for it.

    Attributes:
        layers: in the order asked for.
        channels: of each.
        options: of ``timm.create_model``; empty where the model takes images of that size as it is.
        called: names of the modules that are run for these layers.
    """

    layers: tuple[Layer, ...]
    channels: tuple[int, ...]
    options: dict[str, Any]
    called: frozenset[str]


class _AllSeen(Exception):
    pass


def feature_maps(arch: str, model: nn.Module, layers: Sequence[Layer], images: Tensor) -> list[Tensor]:
    """Maps (B, C_l, h_l, w_l) of the layers; ``model`` is run until the last has answered, and no further.

    Raises PadimBenchError for whatever the model raises.
    """
    given = _outputs(arch, model, {layer.module for layer in layers}, images, {x.module for x in layers if x.copied})
    return [layer.layout.maps(given[layer.module]) for layer in layers]


def _outputs(
    arch: str, model: nn.Module, modules: Collection[str], images: Tensor, copied: Collection[str] = ()
) -> dict[str, Any]:
    """What each module gives when it is first called; nothing of one that is not."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            if name in found:
                return
            found[name] = _copy(output) if name in copied else output
            if len(found) == len(modules):
                raise _AllSeen

        return hook

    with _hooked(model, modules, keep):
        _run(arch, model, images)
    return found


@contextmanager
def _hooked(model: nn.Module, names: Iterable[str], hook: Callable[[str], Any]) -> Iterator[None]:
    """Modules of these names have the hook that ``hook`` makes for each, and have it no more afterwards."""
    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(arch: str, model: nn.Module, images: Tensor) -> None:
    try:
        model(images)
    except _AllSeen:
        pass
    except (MemoryError, torch.OutOfMemoryError, PadimBenchError):
        raise
    except Exception as error:  # of timm's, whichever
        if "can't allocate memory" in str(error):
            raise
        raise ModelFailsError(arch, (int(images.shape[2]), int(images.shape[3])), error) from error


def _copy(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(map(_copy, output)) if type(output) in {tuple, list} else output


def _parts(output: Any, batch: int) -> Iterator[tuple[int | None, Tensor]]:
    """The tensors of an output that have something of each image, with their places among several."""
    parts = [(None, output)] if isinstance(output, Tensor) else list(enumerate(output)) if _several(output) else []
    for place, part in parts:
        if isinstance(part, Tensor) and part.ndim > 2 and len(part) == batch and part.is_floating_point():
            yield place, part


def _several(output: Any) -> bool:
    return isinstance(output, tuple | list)


# --- names


def paper_layers(arch: str, layers: str = "paper") -> tuple[str, ...]:
    """The paper's layers of an architecture (section IV-B), by timm module name.

    Raises PadimBenchError for an architecture that the paper does not speak of.
    """
    model: Any = None
    if arch in PAPER_BACKBONES:
        named = PAPER_BACKBONES[arch].layers
    else:
        model = empty_model(arch)
        alike = (f for f in FAMILIES if arch.startswith(f.prefixes) and hasattr(model, f.part))
        named = next((f.layers for f in alike if layers in f.layers), {})
    if layers in named:
        if any(_counted_back(name) for name in named[layers]) and model is None:
            model = empty_model(arch)
        return tuple(_counted(name, model) for name in named[layers])
    raise PadimBenchError(
        f"the paper names no {'' if layers == 'paper' else layers + ' '}layers of {arch}: "
        f"name them with --layers, e.g. from {_offered(arch, (224, 224))}"
    )


def _counted_back(name: str) -> bool:
    return name.rpartition(".")[2].startswith("-")


def _counted(name: str, model: Any) -> str:
    """The module's name, of a block that is counted from the end of its stage."""
    if not _counted_back(name):
        return name
    stage, _, block = name.rpartition(".")
    return f"{stage}.{int(block) % len(model.get_submodule(stage))}"


def layer_names(arch: str, layers: str | Sequence[str] = "paper") -> tuple[str, ...]:
    """timm module names of ``layers``: "paper", a named reading, names joined by "+", or names."""
    if isinstance(layers, str) and layers in layer_options():
        return paper_layers(arch, layers)
    return tuple(layers.split("+") if isinstance(layers, str) else layers)


def check_names(arch: str, model: nn.Module, names: Sequence[str], size: Size) -> None:
    """Raises PadimBenchError for none, for one named twice, and for those that ``model`` has not."""
    known = {*dict(model.named_modules()), *feature_names(model)} - {""}
    if unknown := [name for name in names if name not in known]:
        raise PadimBenchError(f"{arch} has no layer {unknown[0]!r}: choose from {_offered(arch, size)}")
    if not names or len(set(names)) != len(names):
        raise PadimBenchError(f"layers {tuple(names)}: name at least one, and none twice")


def feature_names(model: nn.Module) -> list[str]:
    """timm's names of its intermediate maps, in order; not all are modules, some stand there twice."""
    return [str(info.get("module", "")) for info in getattr(model, "feature_info", None) or []]


def _offered(arch: str, size: Size) -> str:
    """Those of timm's names that work, for a message."""

    def working(names: list[str]) -> list[str]:
        if not names:
            return []
        try:
            find_layers(arch, tuple(names), size)
        except PadimBenchError:
            half = len(names) // 2
            return working(names[:half]) + working(names[half:]) if half else []
        return names

    names = [name for name in dict.fromkeys(feature_names(empty_model(arch))) if name]
    return ", ".join(working(names)) or "its named_modules()"


# --- building


def empty_model(arch: str, options: dict[str, Any] | None = None) -> nn.Module:
    """timm's model without storage, and so without drawing its initial weights."""
    from padim_bench.padim.loading_timm import timm

    with torch.device("meta"), _Undrawn():
        model: nn.Module = timm.create_model(arch, pretrained=False, **(options or {}))
    return model.eval()


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are that would be drawn: without storage torch loads its compiler to draw nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_DRAWS = {Tensor.normal_, Tensor.uniform_}


def new_model(arch: str, options: dict[str, Any]) -> nn.Module:
    """timm's model: without storage, but where it computes buffers when it is built, which need some."""
    from padim_bench.padim.loading_timm import timm

    model = empty_model(arch, options)
    if any(is_computed(name) for name, _ in model.named_buffers()):
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(arch, pretrained=False, **options)
    return model.eval()


def prune(module: nn.Module, called: Collection[str], path: str = "") -> None:
    """Replaces every part that the forward pass never entered, so that it is neither loaded nor stored.

    What is only looped over is left, since what stands for it could not be.
    """
    for name, child in list(module.named_children()):
        full = f"{path}{name}"
        if full in called or isinstance(child, nn.ModuleList | nn.ModuleDict) or _within(full, called):
            prune(child, called, full + ".")
        elif not isinstance(child, nn.Identity):
            setattr(module, name, nn.Identity())


def _within(path: str, called: Collection[str]) -> bool:
    return any(name.startswith(path + ".") for name in called)


def called_modules(model: nn.Module) -> tuple[set[str], list[Any]]:
    """A set to which every module's name is added when it is called, and the hooks' handles."""
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda _module, _inputs: called.add(name)

    return called, [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]


# --- networks of convolutions


@torch.no_grad()
@one_thread()
def convolutional_layers(arch: str, model: nn.Module, names: Sequence[str], size: Size) -> Found | None:
    """Layers of a network without storage, which is pruned and all zero; None, and it is spoilt, if it is no plain one.

    Plain is a network whose every module that is run works on (B, C, H, W) and keeps places, if the layers' third
    axis follows the height of the image alone, and the fourth its width.
    """
    modules = dict(model.named_modules())
    if any(name not in modules for name in names):
        return None
    # One zero, seen from every place. Running without any values would load torch's compiler, which takes seconds.
    blank = {
        name: torch.zeros((), dtype=v.dtype, device="cpu").expand(v.shape) for name, v in model.state_dict().items()
    }
    model.load_state_dict(blank, assign=True)
    called, handles = called_modules(model)
    try:
        first, written = _outputs_and_written(arch, model, names, torch.zeros(1, 3, *size, device="cpu"))
        for handle in handles:
            handle.remove()
        if len(first) < len(names) or not all(_keeps_places(modules[name]) for name in called):
            return None
        prune(model, called)
        wide = _outputs(arch, model, names, torch.zeros(1, 3, size[0], 2 * size[1], device="cpu"))
    except PadimBenchError:
        return None
    if not all(name in wide and _follows(first[name], wide[name]) for name in names):
        return None
    layers = tuple(Layer(name, name, copied=name in written) for name in names)
    return Found(layers, tuple(int(first[name].shape[1]) for name in names), {}, frozenset(called))


def _follows(output: Any, wide: Any) -> bool:
    if not (isinstance(output, Tensor) and isinstance(wide, Tensor) and output.ndim == wide.ndim == 4):
        return False
    return output.shape[:3] == wide.shape[:3] and wide.shape[3] > output.shape[3]


_PLAIN_MODULES = tuple(f"torch.nn.modules.{part}" for part in ("activation", "dropout", "pooling", "padding"))
_PLAIN = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.Identity)


def _keeps_places(module: nn.Module) -> bool:
    """Whether a module is a two-dimensional convolution or the like, or made of other modules alone."""
    if isinstance(module, _PLAIN):
        return True
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if own or isinstance(module, nn.MultiheadAttention):
        return False
    if next(module.children(), None) is not None:
        return True
    where = type(module).__module__
    return where.startswith(_PLAIN_MODULES) or where.startswith(("timm.layers.activations", "timm.layers.drop"))


def _outputs_and_written(
    arch: str, model: nn.Module, modules: Collection[str], images: Tensor
) -> tuple[dict[str, Any], set[str]]:
    """Outputs as they were when given, and the names of those that the model wrote to afterwards."""
    given: dict[str, list[tuple[Tensor, int]]] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            parts = [output, *(output if _several(output) else ())]
            given.setdefault(name, [(part, part._version) for part in parts if isinstance(part, Tensor)])

        return hook

    with _hooked(model, modules, note):
        found = _outputs(arch, model, modules, images, modules)
    return found, {name for name, parts in given.items() if any(part._version != before for part, before in parts)}


# --- any other


@lru_cache(maxsize=64)
def find_layers(arch: str, names: tuple[str, ...], size: Size) -> Found:
    """Layers of a model for images of ``size`` (H, W), checked with drawn weights; modules named as in ``check_names``.

    Raises PadimBenchError where timm cannot build the model for that size, and for layers without a map, or of
    which it cannot be told where its cells lie.
    """
    failures: list[ModelFailsError] = []
    for options in _options(size):
        try:
            model = _drawn_model(arch, options, size)
            if model is not None:
                with torch.no_grad():
                    return _checked(arch, model, names, size, options)
        except ModelFailsError as error:
            failures.append(error)
    raise _refusal(arch, names, size, failures[0]) from failures[0]


def _options(size: Size) -> list[dict[str, Any]]:
    """What timm may need to be told of a size, in the order it is tried."""
    return [{}, {"img_size": size[0] if size[0] == size[1] else size}, {"dynamic_img_size": True}]


def _drawn_model(arch: str, options: dict[str, Any], size: Size) -> nn.Module | None:
    """The model with weights to try it with; None if it knows no such options."""
    try:
        model = new_model(arch, options)
    except Exception as error:  # of timm's, whichever
        if isinstance(error, TypeError) and "unexpected keyword" in str(error):
            return None
        raise ModelFailsError(arch, size, error) from error
    fill_quickly(model)
    return model.eval().requires_grad_(False)


def _refusal(arch: str, names: tuple[str, ...], size: Size, failure: ModelFailsError) -> PadimBenchError:
    """The size is named only if the model runs at another one."""
    sizes = [s for s in _other_sizes(arch, size) if _runs(arch, names, s)]
    if not sizes:
        return PadimBenchError(f"{arch} cannot be run up to {'+'.join(names)} ({failure.reason}): choose another model")
    told = ", ".join(f"{h}x{w}" for h, w in sizes)
    return PadimBenchError(
        f"{arch} does not take images of {size[0]}x{size[1]} pixels ({failure.reason}), but of {told}: "
        "choose a protocol of such a size, or another model"
    )


def _other_sizes(arch: str, size: Size) -> list[Size]:
    """Sizes that a model may take instead: multiples of its steps beside ``size``, and its own."""
    model: Any = empty_model(arch)
    reductions = [info.get("reduction") for info in getattr(model, "feature_info", None) or []]
    step = max((int(r) for r in reductions if r), default=32)
    tried = {tuple(side // s * s + more * s for side in size) for s in {step} for more in (0, 1)}
    own = model.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
    return sorted({(int(h), int(w)) for h, w in tried if h and w} | {(int(own[0]), int(own[1]))} - {size})


def _runs(arch: str, names: tuple[str, ...], size: Size) -> bool:
    for options in _options(size)[:2]:
        try:
            model = _drawn_model(arch, options, size)
            if model is not None:
                modules = [name for name in names if name in dict(model.named_modules())]
                with torch.no_grad():
                    _outputs(arch, model, modules, torch.zeros(1, 3, *size, device="cpu"))
                return True
        except PadimBenchError:
            continue
    return False


def _checked(arch: str, model: nn.Module, names: tuple[str, ...], size: Size, options: dict[str, Any]) -> Found:
    images = torch.randn(2, 3, *size, generator=seeded(0, "layout"))
    modules = dict(model.named_modules())
    features = feature_names(model)
    named = [name for name in names if name in modules]
    given, written = _outputs_and_written(arch, model, named, images) if named else ({}, set())
    theirs = _timms_maps(arch, model, images, names)
    layers: list[Layer] = []
    known: list[Layout] | None = None
    for name in names:
        if name in given and (layout := _layout_of(arch, name, given[name], [m for _, m in theirs])) is not None:
            layers.append(Layer(name, name, layout, name in written))
        elif features.count(name) == 1 and (own := [m for feature, m in theirs if feature == name]):
            layers.append(_giving(arch, model, name, own[0], images))
        elif name in given:
            if known is None:
                known = _orders(arch, model, [m for _, m in _timms_maps(arch, model, images, ())], images)
            layers.append(Layer(name, name, _tried(arch, model, name, size, known), name in written))
        else:
            raise PadimBenchError(f"{arch} never calls layer {name!r}: choose another")
    called, handles = called_modules(model)
    maps = feature_maps(arch, model, layers, images)
    for handle in handles:
        handle.remove()
    if small := [layer.name for layer, m in zip(layers, maps, strict=True) if min(m.shape[2:]) < 2]:
        raise PadimBenchError(
            f"layer {small[0]} of {arch} has no spatial grid for images of {size[0]}x{size[1]} pixels: choose another, "
            "or larger images"
        )
    return Found(tuple(layers), tuple(int(m.shape[1]) for m in maps), options, frozenset(called))


def _timms_maps(arch: str, model: Any, images: Tensor, names: Sequence[str]) -> list[tuple[str, Tensor]]:
    """timm's own intermediate maps (B, C, h, w) before any last normalisation, with timm's names of them."""
    features = feature_names(model)
    if not hasattr(model, "forward_intermediates"):
        return []
    wanted: dict[str, Any] = {}
    if names and all(features.count(name) == 1 for name in names):
        wanted = {"indices": sorted(features.index(name) for name in names), "stop_early": True}
    try:
        maps = model.forward_intermediates(images, output_fmt="NCHW", norm=False, intermediates_only=True, **wanted)
    except Exception as error:  # of timm's, whichever: modules can be tried, timm's own names cannot
        if all(name in dict(model.named_modules()) for name in names):
            return []
        raise ModelFailsError(arch, (int(images.shape[2]), int(images.shape[3])), error) from error
    told = [features[i] for i in wanted["indices"]] if wanted else features
    return list(zip(told, maps, strict=True)) if len(told) == len(maps) else [("", m) for m in maps]


def _layout_of(arch: str, name: str, output: Any, maps: Sequence[Tensor]) -> Layout | None:
    """How an output holds one of the maps; None if it holds none of them."""
    found: dict[int, Layout] = {}  # by map, since one may be given twice
    for place, part in _parts(output, 2):
        for n, m in enumerate(maps):
            if n not in found and (layout := _same(part, m)) is not None:
                found[n] = replace(layout, part=place)
                break
    if len({layout.part for layout in found.values()}) > 1:
        raise PadimBenchError(f"layer {name} of {arch} gives {len(found)} maps: choose a module within it")
    return next(iter(found.values()), None)


def _same(part: Tensor, maps: Tensor) -> Layout | None:
    """The layout by which ``part`` is ``maps`` (B, C, h, w), value for value."""
    if part.ndim == 4:
        for layout in (NCHW, NHWC):
            if part.numel() == maps.numel() and torch.equal(layout.maps(part), maps):
                return layout
    cells = maps.flatten(2).mT
    for channels_last in (True, False):
        if part.shape[-1 if channels_last else 1] != maps.shape[1]:
            continue
        tokens = part.reshape(len(part), -1, part.shape[-1]) if channels_last else part.flatten(2).mT
        if (places := _places(tokens, cells)) is not None:
            return Layout(channels_last, (int(maps.shape[2]), int(maps.shape[3])), places)
    return None


def _places(tokens: Tensor, cells: Tensor) -> slice | Tensor | None:
    """Where in ``tokens`` (B, N, C) each of ``cells`` (B, n, C) stands; None unless each does, at one place."""
    n, wanted = tokens.shape[1], cells.shape[1]
    if n < wanted or not bool((tokens[0] == cells[0, 0]).all(dim=1).any()):
        return None
    for first in dict.fromkeys((n - wanted, 0)):
        if torch.equal(tokens[:, first : first + wanted], cells):
            return slice(first, first + wanted)
    rows = [row.tobytes() for row in tokens[0].contiguous().numpy()]
    place_of = {row: place for place, row in enumerate(rows)}
    order = [place_of.get(row.tobytes(), -1) for row in cells[0].contiguous().numpy()]
    if min(order) < 0 or len(set(order)) < wanted or len(place_of) < n:
        return None
    if not torch.equal(tokens[:, order], cells):
        return None
    return slice(order[0], order[0] + wanted) if order == [*range(order[0], order[0] + wanted)] else torch.tensor(order)


def _givers(arch: str, model: nn.Module, maps: Sequence[Tensor], images: Tensor) -> list[list[Layer]]:
    """For each of timm's maps the modules that give it, in the order in which they are called."""
    found: list[list[Layer]] = [[] for _ in maps]
    seen: set[str] = set()

    def compare(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            if name in seen:
                return
            seen.add(name)
            for place, part in _parts(output, len(images)):
                for layers, m in zip(found, maps, strict=True):
                    if (layout := _same(part, m)) is not None:
                        layers.append(Layer(name, name, replace(layout, part=place)))

        return hook

    with _hooked(model, [name for name, _ in model.named_modules() if name], compare):
        _run(arch, model, images)
    return found


def _giving(arch: str, model: nn.Module, name: str, own: Tensor, images: Tensor) -> Layer:
    """The module that gives the map which timm calls ``name``, where no module of that name does."""
    givers = _givers(arch, model, [own], images)[0]
    if not givers:
        raise PadimBenchError(f"no module of {arch} gives the map that timm calls {name!r}: choose another layer")
    _, written = _outputs_and_written(arch, model, [givers[0].module], images)
    return replace(givers[0], name=name, copied=bool(written))


# Where a patch of the image is changed, in fourteenths of its height and width.
_PATCHES = ((2, 9), (5, 3), (8, 11), (11, 6), (3, 1), (10, 12))


def _tried(arch: str, model: nn.Module, name: str, size: Size, known: Sequence[Layout]) -> Layout:
    """The layout by which an output changes most where the image does, for each of several patches."""
    images = torch.randn(1, 3, *size, generator=seeded(0, "layout")).repeat(len(_PATCHES) + 1, 1, 1, 1)
    side = (size[0] / 14, size[1] / 14)
    for n, (row, column) in enumerate(_PATCHES):
        rows = slice(round(row * side[0]), round((row + 1) * side[0]))
        columns = slice(round(column * side[1]), round((column + 1) * side[1]))
        patch = images[n + 1, :, rows, columns]
        patch.copy_(torch.randn(patch.shape, generator=seeded(0, f"patch {n}")))
    output = _outputs(arch, model, [name], images)[name]
    found: list[tuple[float, int, Layout]] = []
    parts = list(_parts(output, len(images)))
    for place, part in parts:
        for layout in _possible(part, size, known, int(getattr(model, "num_prefix_tokens", 0) or 0)):
            if (off := _misplaced(layout.maps(part), size)) is not None:
                found.append((off, len(found), replace(layout, part=place)))
    found.sort(key=lambda one: one[:2])
    if found and (len(found) == 1 or found[0][0] < found[1][0]):
        return found[0][2]
    shapes = [tuple(p.shape) for p in (output if _several(output) else [output]) if isinstance(p, Tensor)]
    if parts:
        shape = " and ".join(str(tuple(part.shape[1:])) for _, part in parts)
        why = (
            f"shape {shape} an image, but does not change where the image does, so that its cells have no known places"
        )
    elif shapes and shapes[0][0] == len(images):
        why = f"shape {shapes[0][1:]} an image, no spatial grid"
    elif shapes:
        why = f"shape {shapes[0]} for {len(images)} images (windows, perhaps), no map of each"
    else:
        why = f"a {type(output).__name__}, no map"
    raise PadimBenchError(f"layer {name} of {arch} gives {why}: choose another, such as the block around it")


def _possible(part: Tensor, size: Size, known: Sequence[Layout], prefix: int) -> Iterator[Layout]:
    """Layouts that the shape of an output of several images allows."""
    if part.ndim == 4:
        yield NCHW
        yield NHWC
    for channels_last in (True, False) if part.ndim == 3 else ():
        n = part.shape[1 if channels_last else 2]
        for skipped in sorted({0, 1, 2, prefix}):
            yield from (
                Layout(channels_last, grid, slice(skipped, n)) for grid in _grids(n - skipped, size) if skipped < n
            )
    n = part.shape[1:-1].numel()
    for layout in known:  # timm's own, where they are in another order
        if isinstance(layout.cells, Tensor) and n > int(layout.cells.max()) and n < 2 * len(layout.cells):
            yield replace(layout, channels_last=True)


def _grids(n: int, size: Size) -> list[Size]:
    """(h, w) of ``n`` cells that are as high and wide as the image, to a cell."""
    found = [(h, n // h) for h in range(2, n // 2 + 1) if n % h == 0]
    return [(h, w) for h, w in found if abs(h * size[1] - w * size[0]) < max(size)]


def _misplaced(maps: Tensor, size: Size) -> float | None:
    """How far from each patch the first map changes most, on average, in pixels; None if too far for any."""
    h, w = int(maps.shape[2]), int(maps.shape[3])
    if min(h, w) < 2:
        return None
    total = 0.0
    for n, (row, column) in enumerate(_PATCHES):
        change = (maps[n + 1] - maps[0]).square().sum(dim=0)
        if not torch.isfinite(change).all() or not change.any():
            return None
        y, x = divmod(int(change.argmax()), w)
        off_y = abs((y + 0.5) / h - (row + 0.5) / 14) * size[0]
        off_x = abs((x + 0.5) / w - (column + 0.5) / 14) * size[1]
        # A cell and half a patch.
        if off_y > size[0] * (1 / h + 0.5 / 14) or off_x > size[1] * (1 / w + 0.5 / 14):
            return None
        total += off_y + off_x
    return total / len(_PATCHES)


def _orders(arch: str, model: nn.Module, maps: Sequence[Tensor], images: Tensor) -> list[Layout]:
    """The layouts in which modules give timm's maps."""
    return [layer.layout for layers in _givers(arch, model, maps, images) for layer in layers]
