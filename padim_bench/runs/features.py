"""Features of a category, computed once for every configuration that shares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from padim_bench.padim.backbones import Backbone
from padim_bench.padim.embedding import PatchEmbedding, take_channels


@dataclass(frozen=True)
class Features:
    """Feature maps (n, c, h, w) of some images, per layer, with only the channels that some run keeps."""

    layers: dict[str, Tensor]
    kept: dict[str, Tensor]  # per layer, the channels held, ascending

    def select(
        self, names: Sequence[str], embedding: PatchEmbedding, images: Sequence[int] | None = None
    ) -> list[Tensor]:
        """What ``embedding.select`` would give of the whole feature maps of the layers ``names``.

        Of all images, or of those that are named, as often as they are.
        """
        rows = None if images is None else torch.tensor(images)
        selected = []
        for name, wanted in zip(names, embedding.local_channels, strict=True):
            held = torch.searchsorted(self.kept[name], wanted)
            layer = self.layers[name].flatten(2)
            if rows is None:
                selected.append(take_channels(layer, held))
            else:
                selected.append(layer[rows.to(layer.device).unsqueeze(1), held.to(layer.device)])
        return embedding.project(selected)

    def images(self, start: int, stop: int) -> Features:
        """Those of some of the images, as views."""
        return Features({name: layer[start:stop] for name, layer in self.layers.items()}, self.kept)

    @property
    def n(self) -> int:
        return len(next(iter(self.layers.values())))

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers.values())

    def covers(self, kept: dict[str, Tensor]) -> bool:
        """Whether all of those channels are held."""
        return all(name in self.kept and bool(torch.isin(k, self.kept[name]).all()) for name, k in kept.items())


def union_of_channels(embeddings: Sequence[tuple[Sequence[str], PatchEmbedding]]) -> dict[str, Tensor]:
    """Per layer, the channels that any of (layer names, embedding) keeps."""
    wanted: dict[str, list[Tensor]] = {}
    for names, embedding in embeddings:
        for name, channels in zip(names, embedding.local_channels, strict=True):
            wanted.setdefault(name, []).append(channels)
    return {name: torch.unique(torch.cat(parts)) for name, parts in wanted.items()}


def extract(
    backbone: Backbone,
    batches: Iterable[Tensor],
    n: int,
    kept: dict[str, Tensor],
    *,
    on_images: Callable[[int], None] = lambda _: None,
) -> Features:
    """One backbone pass over ``n`` images, in batches (B, 3, S, S)."""
    out: dict[str, Tensor] = {}
    done = 0
    for batch in batches:
        for name, feature in zip(backbone.layers, backbone(batch), strict=True):
            if name not in kept:
                continue
            part = feature[:, kept[name].to(feature.device)]
            if name not in out:  # filled in place: a list and its concatenation would be held twice
                out[name] = part.new_empty(n, *part.shape[1:])
            out[name][done : done + len(batch)] = part
        done += len(batch)
        on_images(len(batch))
    return Features(out, kept)
