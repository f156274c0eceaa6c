"""What the units of one command share: images, features and backbones. It goes when the command is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from padim_bench.data.loading import LoadedCategory, Masks, load_category, split_digest
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.paper import known_maps
from padim_bench.padim.weights import Weights
from padim_bench.runs.features import Features

if TYPE_CHECKING:
    from padim_bench.records.config import RunConfig
    from padim_bench.runs.runner import Unit

BACKBONES = 4  # held at most
Stamps = tuple[tuple[int, int, int], ...]


class Session:
    """Images of the last category, features of the last units, and the last backbones.

    Attributes:
        masks: of the images at hand, by what of a protocol decides them.
        features: training and test, by weights and pixels: a protocol that changes nothing on these images costs no
            pass.
    """

    def __init__(self) -> None:
        self.masks: dict[tuple[object, ...], Masks | None] = {}
        self.features: dict[tuple[object, ...], tuple[Features, Features]] = {}
        self._loaded: LoadedCategory | None = None
        self._stamps: Stamps = ()
        self._digests: dict[Category, tuple[Stamps, str]] = {}
        self._backbones: dict[tuple[object, ...], Backbone] = {}

    def backbone_of(self, unit: Unit) -> Backbone:
        """The network that all of the unit's configurations share."""
        return self.backbone(unit.weights, unit.layers, unit.configs[0])

    def backbone(self, weights: Weights, layers: tuple[str, ...], config: RunConfig) -> Backbone:
        """The network for the images, the device and the dtype of a configuration; one for any size serves all.

        Raises PadimBenchError where it cannot be built.
        """
        device, dtype, size = config.execution.device, config.model.backbone_dtype, config.protocol.size
        shared: tuple[object, ...] = (weights, layers, device, dtype)
        for place in (shared, (*shared, size)):
            if place in self._backbones:
                self._backbones[place] = self._backbones.pop(place)  # the last to go
                return self._backbones[place]
        backbone = Backbone(weights, layers, dtype=dtype, image_size=size).to(device)
        while len(self._backbones) >= BACKBONES:
            del self._backbones[next(iter(self._backbones))]
        self._backbones[shared if backbone.any_size else (*shared, size)] = backbone
        return backbone

    def maps(self, unit: Unit) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Channels and grid (h, w) of each of the unit's layers; the backbone is asked where no registry says."""
        size = unit.configs[0].protocol.size
        if (known := known_maps(unit.weights.arch, unit.layers, size)) is not None:
            return known
        backbone = self.backbone_of(unit)
        return backbone.channels, backbone.grids(size)

    def load(self, unit: Unit, on_image: Callable[[], None]) -> LoadedCategory:
        """The unit's images, decoded now unless they are at hand and no file was touched since."""
        category, protocol, last = unit.category, unit.configs[0].protocol, self._loaded
        if (
            last is not None
            and last.category == category
            and last.protocol.images == protocol.images
            and self._stamps == _stamps(category)
        ):
            for _ in (*category.train, *category.test):
                on_image()
            return last
        self._loaded, self.masks, self._stamps = None, {}, _stamps(category)
        self._loaded = load_category(category, protocol, threads=unit.settings.execution.threads, on_image=on_image)
        self.masks = {protocol.mask_choices: self._loaded.masks}
        return self._loaded

    def digest(self, category: Category, threads: int) -> str:
        """The split's digest, from files that are read once unless they were touched since."""
        stamps = _stamps(category)
        if category not in self._digests or self._digests[category][0] != stamps:
            self._digests[category] = stamps, split_digest(category, threads=threads)
        return self._digests[category][1]

    def make_room(self, wanted: int, limit: int) -> None:
        """Lets go of the oldest features: one unit's may stay beside ``wanted`` bytes, within the limit."""
        while self.features and (
            len(self.features) > 1 or wanted + sum(f.nbytes for pair in self.features.values() for f in pair) > limit
        ):
            del self.features[next(iter(self.features))]

    def clear(self) -> None:
        """Lets go of images and features."""
        self._loaded = None
        self.masks = {}
        self.features.clear()


def _stamps(category: Category) -> Stamps:
    """Length, time of last change and inode of every file of the category."""
    found = []
    for sample in (*category.train, *category.test):
        for path in (sample.image, sample.mask):
            if path is not None:
                try:
                    status = path.stat()
                except OSError as error:
                    raise PadimBenchError(
                        f"cannot read {path}: {error.strerror}: check the file and its permissions"
                    ) from error
                found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
