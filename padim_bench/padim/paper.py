"""The paper's networks as data: what they are called, which weights they have, and which layers its names stand for.

To add one, enter it in ``PAPER_BACKBONES``: it is then listed, ``--layers paper`` finds its layers, and models over it
have its short name. Nothing here imports torch or timm, since tables ask what a network is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

# By name of a choice of layers, timm module names; a block below 0 is counted from the end of its stage.
NamedLayers = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """Networks whose layers are called alike, of which the paper names one (section IV-B).

    Attributes:
        part: a module that all of them have.
        prefixes: of their names; none for whatever has that module.
        layers: what its names of layers stand for.
    """

    part: str
    layers: NamedLayers
    prefixes: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class PaperBackbone:
    """A network of the paper's, or one that stands in for it.

    Attributes:
        arch: timm architecture.
        title: as the paper calls it.
        tag: of timm's weights that come closest to the paper's.
        layers: what its names of layers stand for; "paper" is one.
        short: what a model's name begins with, as R18-Rd100; "" for the architecture.
        stand_in_for: the architecture in whose place it runs where its weights cannot be had; "" for the paper's own.
        maps: channels and stride of the maps of its layers, by timm module name; timm is asked for those left out.
    """

    arch: str
    title: str
    tag: str
    layers: NamedLayers
    short: str = ""
    stand_in_for: str = ""
    maps: Mapping[str, tuple[int, int]] = field(default_factory=dict)


RESNETS = Family(
    "layer3",
    MappingProxyType(
        {"paper": ("layer1", "layer2", "layer3"), "all": ("layer1", "layer2", "layer3", "layer4")},
    ),
)
# The paper's "layers 7 (level 2), 20 (level 4), and 26 (level 5)" of EfficientNet-B5 fit no single way of counting
# blocks. The readings: the last blocks of stages 2, 4 and 5 (40 + 128 + 176 channels); blocks 7, 20, 26 counted from 0
# (40 + 176 + 176); the same counted from 1 (40 + 128 + 176).
EFFICIENTNETS = Family(
    "blocks",
    MappingProxyType(
        {
            "paper": ("blocks.1", "blocks.3", "blocks.4"),
            "levels": ("blocks.1", "blocks.3", "blocks.4"),
            "from-zero": ("blocks.1", "blocks.4.0", "blocks.4"),
            "from-one": ("blocks.1.-2", "blocks.3", "blocks.4.-2"),
            # Stem, seven stages and head, as MahalanobisAD (arXiv:2005.14140) has its nine levels.
            "all": ("bn1", *(f"blocks.{i}" for i in range(7)), "bn2"),
        }
    ),
    ("tf_efficientnet", "efficientnet"),
)
FAMILIES = (RESNETS, EFFICIENTNETS)


def _efficientnet_maps(*channels: int) -> dict[str, tuple[int, int]]:
    """Of the layers "all", from the stem on; the first block of a stage has its channels and stride."""
    strides = (2, 2, 4, 8, 16, 16, 32, 32, 32)
    maps = dict(zip(EFFICIENTNETS.layers["all"], zip(channels, strides, strict=True), strict=True))
    return maps | {"blocks.4.0": maps["blocks.4"]}


PAPER_BACKBONES: dict[str, PaperBackbone] = {
    b.arch: b
    for b in (
        PaperBackbone(
            "resnet18",
            "ResNet18",
            "tv_in1k",
            RESNETS.layers,
            short="R18",
            maps={"layer1": (64, 4), "layer2": (128, 8), "layer3": (256, 16), "layer4": (512, 32)},
        ),
        PaperBackbone(
            "wide_resnet50_2",
            "Wide ResNet-50-2",
            "tv_in1k",
            RESNETS.layers,
            short="WR50",
            maps={"layer1": (256, 4), "layer2": (512, 8), "layer3": (1024, 16), "layer4": (2048, 32)},
        ),
        PaperBackbone(
            "tf_efficientnet_b5",
            "EfficientNet-B5",
            "aa_in1k",
            EFFICIENTNETS.layers,
            maps=_efficientnet_maps(48, 24, 40, 64, 128, 176, 304, 512, 2048),
        ),
        PaperBackbone(
            "tf_efficientnet_b4",
            "EfficientNet-B4",
            "aa_in1k",
            EFFICIENTNETS.layers,
            stand_in_for="tf_efficientnet_b5",
            maps=_efficientnet_maps(48, 24, 32, 56, 112, 160, 272, 448, 1792),
        ),
    )
}


def short_name(arch: str) -> str:
    """What a model over that architecture is called: R18, or the architecture itself."""
    known = PAPER_BACKBONES.get(arch)
    return (known and known.short) or arch


def named_layers(arch: str, name: str = "paper") -> tuple[str, ...]:
    """timm module names of layers by what they are called, and the architecture's name alone: no network is built.

    Names that stand for no layers are timm's own, joined by "+". ``layers.layer_names`` says the same of a network that
    exists, and refuses those that the paper does not speak of.
    """
    family = EFFICIENTNETS if arch.startswith(EFFICIENTNETS.prefixes) else RESNETS
    known = PAPER_BACKBONES[arch].layers if arch in PAPER_BACKBONES else family.layers
    return known[name] if name in known else tuple(name.split("+"))


def known_maps(
    arch: str, layers: Sequence[str], size: int
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None:
    """Channels and grid (h, w) of each layer for images of ``size`` pixels; None where one is not entered here."""
    maps = PAPER_BACKBONES[arch].maps if arch in PAPER_BACKBONES else {}
    if any(name not in maps for name in layers):
        return None
    sides = [-(-size // maps[name][1]) for name in layers]
    return tuple(maps[name][0] for name in layers), tuple((side, side) for side in sides)


def layer_options() -> list[str]:
    """Every name that stands for layers of some network."""
    named = [b.layers for b in PAPER_BACKBONES.values()] + [f.layers for f in FAMILIES]
    return list(dict.fromkeys(name for layers in named for name in layers))


def weight_files() -> list[str]:
    """Names of the weights' files of the paper's networks, stand-ins left out."""
    return [f"{b.arch}.{b.tag}.safetensors" for b in PAPER_BACKBONES.values() if not b.stand_in_for]
