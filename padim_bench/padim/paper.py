"""The layers that the paper takes from its networks (section IV-B), by name alone: no network is built."""

from __future__ import annotations


def paper_layer_names(arch: str) -> tuple[str, ...]:
    """Module names in timm: of ResNets the first three stages, of EfficientNets the ends of levels 2, 4 and 5.

    ``layers.paper_layers`` says the same of a network that exists, and refuses the others.
    """
    return ("blocks.1", "blocks.3", "blocks.4") if "efficientnet" in arch else ("layer1", "layer2", "layer3")
