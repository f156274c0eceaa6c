"""Selecting channels, gathering embeddings, and both, beside upsampling and concatenating everything first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from work import EMBEDDINGS, Measure, features, nbytes

from padim_bench.padim.embedding import PatchEmbedding

shapes = pytest.mark.parametrize(("d", "batch"), [(d, batch) for d in EMBEDDINGS for batch in (1, 16, 32)], ids=str)


def kept_bytes(embedding: PatchEmbedding, batch: int) -> int:
    cells = zip(embedding.local_channels, embedding.layer_grids, strict=True)
    return 4 * batch * sum(len(kept) * h * w for kept, (h, w) in cells)


def by_concatenation(embedding: PatchEmbedding, maps: list[Tensor]) -> Tensor:
    """The definition: every layer at the largest grid, all channels in one tensor, then the kept ones."""
    upsampled = [functional.interpolate(m, size=embedding.grid, mode="nearest") for m in maps]
    return torch.cat(upsampled, dim=1)[:, list(embedding.channels)]


@shapes
def test_select(measure: Measure, d: int, batch: int, threads: int) -> None:
    embedding, maps = EMBEDDINGS[d], features(EMBEDDINGS[d], batch)
    moved = 2 * kept_bytes(embedding, batch)
    group = f"Select channels, d = {d}, batch {batch}"
    found = measure(embedding.select, maps, group=group, label="select", moved=moved)
    for part, layer, kept in zip(found, maps, embedding.local_channels, strict=True):
        assert torch.equal(part.permute(1, 2, 0), layer.flatten(2)[:, kept])


@shapes
def test_gather(measure: Measure, d: int, batch: int, threads: int) -> None:
    embedding = EMBEDDINGS[d]
    maps = features(embedding, batch)
    selected = embedding.select(maps)
    moved = nbytes(selected) + 4 * d * batch * embedding.n_positions
    group = f"Gather embeddings, d = {d}, batch {batch}"
    found = measure(embedding.gather, selected, slice(None), group=group, label="gather", moved=moved)
    assert torch.equal(found.permute(1, 2, 0), by_concatenation(embedding, maps).flatten(2))


@shapes
@pytest.mark.parametrize("name", ["select, then gather", "upsample and concatenate, then select"])
def test_embed(measure: Measure, d: int, batch: int, name: str, threads: int) -> None:
    embedding, maps = EMBEDDINGS[d], features(EMBEDDINGS[d], batch)

    def embed() -> Tensor:
        return embedding.embed(maps) if name.startswith("select") else by_concatenation(embedding, maps)

    moved = kept_bytes(embedding, batch) + 4 * d * batch * embedding.n_positions
    found = measure(embed, group=f"Embed, d = {d}, batch {batch}", label=name, moved=moved)
    assert torch.equal(found, by_concatenation(embedding, maps))
