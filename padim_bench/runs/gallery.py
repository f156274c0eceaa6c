"""Draws the gallery of a run: its maps lie in files until all are scored, when their one scale of colours is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.gallery.drawing import Scored, draw, warnings_of
from padim_bench.machine.files import make_folder, shortened, temporary_folder
from padim_bench.maps.files import category_folder
from padim_bench.maps.saving import MapWriter, SaveMaps
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig


def check(config: RunConfig) -> None:
    """Raises PadimBenchError for a protocol whose maps have no place in the images as stored."""
    if config.protocol.images.rotation:
        raise PadimBenchError(
            f"protocol {config.protocol.name} turns images, which heat maps over them cannot follow: no --gallery"
        )


class GalleryWriter:
    """Draws the test images of one category as one configuration sees them; see :func:`gallery_of`."""

    def __init__(self, base: Path, maps: Path, category: Category, config: RunConfig, weights: Weights) -> None:
        self._base, self._maps, self._category = base, maps, category
        self._config, self._weights = config, weights
        self._writer = MapWriter(SaveMaps(maps, "protocol"), category, config.protocol)

    def add(self, maps: Tensor) -> None:
        """Takes the maps (B, S, S), float32, of the next test images."""
        self._writer.add(maps)

    def finish(self, scores: NDArray[np.float32], metrics: Mapping[str, float | None]) -> None:
        """Draws the page, once all maps are there, from the image scores (n,) and the metrics of the run."""
        config, weights = self._config, self._weights
        untrained = () if weights.trained else ("untrained random weights",)
        scored = Scored(
            self._category,
            self._maps,
            scores,
            metrics,
            config.protocol,
            "the run's own",
            title(config),
            (f"Backbone {weights.arch}, weights {weights.label}; protocol {config.protocol.name}.",),
            (*warnings_of(self._category), *untrained),
        )
        draw(scored, self._base, up="../..")


@contextmanager
def gallery_of(
    folder: Path | None, category: Category, config: RunConfig, weights: Weights
) -> Iterator[GalleryWriter | None]:
    """A writer of ``folder/MODEL/CATEGORY/index.html``; its maps are gone with the block. None of no folder."""
    if folder is None:
        yield None
        return
    base = category_folder(folder / model_folder(config, weights), category)
    make_folder(base)
    with temporary_folder(base, "maps") as maps:
        yield GalleryWriter(base, maps, category, config, weights)


def title(config: RunConfig) -> str:
    """What made the maps, as pages name it."""
    model = config.model
    parts = [model.strategy, model.storage, f"seed {model.seed}", *([config.trained.label] if config.trained else [])]
    return f"{config.model_name} ({', '.join(parts)})"


def model_folder(config: RunConfig, weights: Weights) -> str:
    """A configuration's folder: the same for all categories, and no other configuration's."""
    whole = {"config": repr(replace(config, dataset="", category="", weights="")), "weights": weights.identity}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return shortened([config.model_name, config.model.strategy, config.model.storage], ending=f"-{digest[:8]}")
