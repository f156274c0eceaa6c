"""What the units of one command share: images, features and backbones. It goes when the command is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from padim_bench.data.loading import LoadedCategory, Masks, load_category, split_digest
from padim_bench.data.samples import Category
from padim_bench.data.stc import Clip, Scene, count_frames, scene_digest, scene_files
from padim_bench.errors import PadimBenchError
from padim_bench.machine.torch_settings import torch_threads
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.paper import known_maps
from padim_bench.runs.features import Features
from padim_bench.runs.unit import Unit, layers_of

if TYPE_CHECKING:
    from padim_bench.runs.images import ImageUnit

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
        self._digests: dict[Category | Scene, tuple[Stamps, str]] = {}
        self._n_frames: dict[Clip, int] = {}
        self._backbones: dict[tuple[object, ...], Backbone] = {}

    def backbone(self, unit: Unit) -> Backbone:
        """The network that all of the unit's configurations share; one for images of any size serves other units too.

        Raises PadimBenchError where it cannot be built.
        """
        weights, layers, config = unit.weights, layers_of(unit), unit.configs[0]
        device, dtype, size = config.execution.device, config.model.backbone_dtype, config.protocol.size
        shared: tuple[object, ...] = (weights, layers, device, dtype)
        for place in (shared, (*shared, size)):
            if place in self._backbones:
                self._backbones[place] = self._backbones.pop(place)  # the last to go
                return self._backbones[place]
        # Its error by folding, which is recorded, is rounded as threads have it.
        with torch_threads(unit.settings.execution.threads):
            backbone = Backbone(weights, layers, dtype=dtype, image_size=size).to(device)
        while len(self._backbones) >= BACKBONES:
            del self._backbones[next(iter(self._backbones))]
        self._backbones[shared if backbone.any_size else (*shared, size)] = backbone
        return backbone

    def maps(self, unit: Unit) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Channels and grid (h, w) of each of the unit's layers; the backbone is asked where no registry says."""
        size = unit.configs[0].protocol.size
        if (known := known_maps(unit.weights.arch, layers_of(unit), size)) is not None:
            return known
        backbone = self.backbone(unit)
        return backbone.channels, backbone.grids(size)

    def load(self, unit: ImageUnit, on_image: Callable[[], None]) -> LoadedCategory:
        """The unit's images, decoded now unless they are at hand and no file was touched since."""
        category, protocol, last = unit.category, unit.configs[0].protocol, self._loaded
        if (
            last is not None
            and last.category == category
            and last.protocol.images == protocol.images
            and self._stamps == _stamps(_files(category))
        ):
            for _ in (*category.train, *category.test):
                on_image()
            return last
        self._loaded, self.masks, self._stamps = None, {}, _stamps(_files(category))
        self._loaded = load_category(category, protocol, threads=unit.settings.execution.threads, on_image=on_image)
        self.masks = {protocol.mask_choices: self._loaded.masks}
        return self._loaded

    def digest(self, category: Category, threads: int) -> str:
        """The split's digest, from files that are read once unless they were touched since."""
        return self._digested(category, _stamps(_files(category)), lambda: split_digest(category, threads=threads))

    def scene_digest(self, scene: Scene) -> str:
        """The scene's digest, from files that are read once unless they were touched since."""
        return self._digested(scene, _stamps(scene_files(scene)), lambda: scene_digest(scene))

    def n_frames(self, clips: Sequence[Clip], every: int) -> int:
        """Of each clip the first frame and then every so many; a video that does not say is decoded, once.

        Raises PadimBenchError for one that cannot be read.
        """
        for clip in clips:
            if clip not in self._n_frames:
                self._n_frames[clip] = count_frames(clip)
        return sum(-(-self._n_frames[clip] // every) for clip in clips)

    def _digested(self, what: Category | Scene, stamps: Stamps, digest: Callable[[], str]) -> str:
        if what not in self._digests or self._digests[what][0] != stamps:
            self._digests[what] = stamps, digest()
        return self._digests[what][1]

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


def _files(category: Category) -> list[Path]:
    samples = (*category.train, *category.test)
    return [path for sample in samples for path in (sample.image, sample.mask) if path is not None]


def _stamps(files: Sequence[Path]) -> Stamps:
    """Length, time of last change and inode of every file."""
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise PadimBenchError(
                f"cannot read {path}: {error.strerror}: check the file and its permissions"
            ) from error
        found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
