"""Patch embeddings from three layers' feature maps: nearest upsampling, concatenation, 100 channels kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from tests.peers import inputs as made
from tests.peers import theirs
from tests.peers.compare import difference

Inputs = dict[str, Any]


def inputs(size: dict[str, Any]) -> Inputs:
    features = made.feature_maps(size["batch"], seed=0, grid=size["grid"])
    channels, grids = zip(*((f.shape[1], tuple(f.shape[2:])) for f in features.values()), strict=True)
    return {
        "features": features,
        "embedding": PatchEmbedding(channels, grids, draw_channels(sum(channels), size["d"], 0)),
    }


def build(options: dict[str, Any], given: Inputs) -> Callable[[], Any]:
    features, embedding = given["features"], given["embedding"]
    if options["who"] == "anomalib":
        model = theirs.model(embedding.channels)

        def theirs_() -> Any:
            with torch.no_grad():
                return model.generate_embedding(features)

        return theirs_
    made_by = embedding.embed if options["whole"] else embedding.select
    return lambda: made_by(list(features.values()))


def compare(value: Any, options: dict[str, Any], given: Inputs) -> dict[str, Any]:
    """Bit by bit: nothing is computed, only copied."""
    embedding = given["embedding"]
    kept = torch.tensor(embedding.channels)
    features = list(given["features"].values())
    grid = features[0].shape[2]
    whole = torch.cat(
        [f.repeat_interleave(grid // f.shape[2], 2).repeat_interleave(grid // f.shape[3], 3) for f in features], 1
    )
    exact = whole[:, kept]
    if options["who"] == "ours" and not options["whole"]:
        value = embedding.gather(value, slice(None)).permute(1, 2, 0).reshape(exact.shape)
    return difference(value, exact, gate=0.0, relative=False)
