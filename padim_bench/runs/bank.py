"""Features of a unit's images for its configurations: all held, or streamed past them within the memory limit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim_bench.data.drawn import Drawn
from padim_bench.data.loading import (
    CategoryReader,
    Masks,
    SplitFacts,
    load_masks,
)
from padim_bench.machine.progress import Progress
from padim_bench.machine.torch_settings import stopwatch
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.projection import ChannelMoments, principal_components
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.padim.sharing import NEVER
from padim_bench.protocols import Protocol
from padim_bench.records.config import RunConfig
from padim_bench.runs.budget import (
    SCORED_AT_ONCE,
    Group,
    Key,
    Layouts,
    Members,
    Plan,
    key,
    members,
)
from padim_bench.runs.features import Features, extract
from padim_bench.runs.methods import Seen, training
from padim_bench.runs.session import Session

if TYPE_CHECKING:
    from padim_bench.runs.images import ImageUnit


# What decides principal components: the layers, and of which images.
Learned = tuple[Members, Drawn | None]


class HeldBank:
    """All images of the unit and all features that its configurations need, from one backbone pass."""

    how = "held"

    def __init__(
        self, unit: ImageUnit, plan: Plan, session: Session, timings: dict[str, float], progress: Progress
    ) -> None:
        settings, name = unit.settings, unit.category.name
        self._unit, self._layouts, self._timings = unit, Layouts(unit, session), timings
        self._components: dict[Learned, Tensor] = {}
        progress.stage(name, "decode")
        with stopwatch(timings, "decode", settings.execution.device):
            self._loaded = loaded = session.load(unit, progress.advance)
        self.facts, self.labels = loaded.facts, loaded.labels
        self._masks = session.masks
        backbone = session.backbone(unit)
        self.backbone_error = backbone.check_dtype(torch.from_numpy(loaded.train[: settings.execution.batch_size]))
        self.folding_error, self.resampled = backbone.folding_error, backbone.resampled
        kept = self._layouts.kept(unit.configs)
        pixels = hashlib.sha256(loaded.train.data)
        pixels.update(loaded.test.data)
        place = (
            unit.weights.identity,
            settings.execution.device,
            unit.configs[0].model.backbone_dtype,
            loaded.protocol.size,
            pixels.hexdigest(),
        )
        found = session.features.get(place)
        if found is None or not (found[0].covers(kept) and found[1].covers(kept)):
            session.make_room(plan.whole, settings.memory_limit)
            parts = []
            for part, images in (("train", loaded.train), ("test", loaded.test)):
                progress.stage(name, f"{unit.weights.arch} {part}")
                with stopwatch(timings, f"backbone_{part}", settings.execution.device):
                    batches = torch.split(torch.from_numpy(images), settings.execution.batch_size)
                    parts.append(extract(backbone, batches, len(images), kept, on_images=progress.advance))
            found = session.features[place] = (parts[0], parts[1])
        else:
            progress.advance(len(loaded.train) + len(loaded.test))
        self._train, self._test = found

    def exact(self, _: RunConfig) -> bool:
        """Whether the anomaly maps of a configuration are held."""
        return True

    def groups(self) -> Iterator[tuple[RunConfig, ...]]:
        """Configurations that can be run now, then others: here all."""
        yield self._unit.configs

    def embedding(self, config: RunConfig, names: Members) -> PatchEmbedding:
        """The embedding of one member of a configuration; principal components are computed once per layers."""
        learned = names, config.trained
        if REDUCTIONS[config.model.reduction].learned and learned not in self._components:
            with stopwatch(self._timings, "principal_components"):
                moments = ChannelMoments(self._layouts.whole(names))
                moments.update(self._train.select(names, moments.embedding, self._drawn(config)))
                self._components[learned] = principal_components(moments)[0]
        return self._layouts.embedding(config, names, self._components.get(learned))

    def seen(self, config: RunConfig, names: Members, embedding: PatchEmbedding) -> tuple[Seen, bool]:
        """What has taken in its training images through that embedding, and whether nothing else will ask for it."""
        seen = training(config, embedding, NEVER)
        seen.update(self._train.select(names, embedding, self._drawn(config)))
        return seen, True

    def _drawn(self, config: RunConfig) -> Sequence[int] | None:
        """Which of the training images a configuration learns from; None for all."""
        return None if config.trained is None else config.trained.indices(self._train.n)

    def tested(
        self, config: RunConfig, timings: dict[str, float]
    ) -> Iterator[tuple[Features, Sequence[NDArray[np.bool_]] | None]]:
        """Features of the test images and their masks, some images at a time; its own time goes to ``timings``."""
        if (choices := config.protocol.mask_choices) not in self._masks:
            kept = load_masks(self._unit.category, config.protocol, threads=self._unit.settings.execution.threads)
            self._masks[choices] = kept if self._unit.category.has_masks else None
        masks = self._masks[choices]
        for start, stop in _chunks(self._test.n, config.execution.batch_size):
            yield self._test.images(start, stop), None if masks is None else masks[start:stop]


class StreamedBank:
    """Images decoded batch by batch and thrown away, as often as there are groups of configurations.

    Of the training images moments are kept, of the test images features where they fit, else nothing: they then
    pass once for each configuration. ``facts`` of the split are known after the first group.
    """

    how = "streamed"

    def __init__(
        self, unit: ImageUnit, plan: Plan, session: Session, timings: dict[str, float], progress: Progress
    ) -> None:
        self._unit, self._plan, self._timings, self._progress = unit, plan, timings, progress
        self._layouts = Layouts(unit, session)
        self._backbone = session.backbone(unit)
        self._reader = CategoryReader(unit.category, unit.configs[0].protocol, threads=unit.settings.execution.threads)
        self.labels = self._reader.labels
        self._components: dict[Learned, Tensor] = {}
        self._seen: dict[Key, Seen] = {}
        self._uses: dict[Key, int] = {}
        self._test: Features | None = None
        self._masks: dict[tuple[object, ...], Masks] = {}
        self._ahead = {"train": len(unit.category.train), "test": len(unit.category.test)}
        self.backbone_error = 0.0
        self._checked = False
        self.folding_error, self.resampled = self._backbone.folding_error, self._backbone.resampled

    @property
    def facts(self) -> SplitFacts:
        """What is known of the split; files that no pass has read yet are read now."""
        return self._reader.facts()

    def exact(self, config: RunConfig) -> bool:
        """Whether the anomaly maps of a configuration are held."""
        return self._plan.exact[config.protocol.mask_choices]

    def groups(self) -> Iterator[tuple[RunConfig, ...]]:
        """Configurations that can be run now, then others; each group costs a pass over the training images."""
        self._find_components()
        for i, group in enumerate(self._plan.groups):
            told = f", pass {i + 1} of {len(self._plan.groups)}" if len(self._plan.groups) > 1 else ""
            self._progress.stage(self._unit.category.name, f"{self._unit.weights.arch} train{told}")
            self._learn(group)
            if group.tested_held:
                self._progress.stage(self._unit.category.name, f"{self._unit.weights.arch} test{told}")
                self._test = self._hold_tested(group)
            yield group.configs
            self._seen, self._test = {}, None

    def embedding(self, config: RunConfig, names: Members) -> PatchEmbedding:
        """The embedding of one member of a configuration."""
        return self._layouts.embedding(config, names, self._components.get((names, config.trained)))

    def seen(self, config: RunConfig, names: Members, _: PatchEmbedding) -> tuple[Seen, bool]:
        """What has taken in all training images for a member, and whether nothing else will ask for it."""
        one = key(config, names)
        self._uses[one] -= 1
        return (self._seen[one], False) if self._uses[one] else (self._seen.pop(one), True)

    def tested(
        self, config: RunConfig, timings: dict[str, float]
    ) -> Iterator[tuple[Features, Sequence[NDArray[np.bool_]] | None]]:
        """Features of the test images and their masks, some images at a time; its own time goes to ``timings``."""
        category, protocol, threads = self._unit.category, config.protocol, self._unit.settings.execution.threads
        choices = protocol.mask_choices
        if self._test is None:
            kept = self._layouts.kept([config])
            yield from self._pass("test", max(SCORED_AT_ONCE, config.execution.batch_size), kept, protocol, timings)
            return
        if self._plan.exact[choices] and category.has_masks and choices not in self._masks:
            self._masks[choices] = load_masks(category, protocol, threads=threads)
        for start, stop in _chunks(self._test.n, config.execution.batch_size):
            found: Masks | None = None
            if choices in self._masks:
                found = self._masks[choices][start:stop]
            elif category.has_masks:
                found = load_masks(replace(category, test=category.test[start:stop]), protocol, threads=threads)
            yield self._test.images(start, stop), found

    def _find_components(self) -> None:
        """Principal components of all configurations that project onto them, in one pass."""
        learned = [c for c in self._unit.configs if REDUCTIONS[c.model.reduction].learned]
        wanted = dict.fromkeys((names, c.trained) for c in learned for names in members(c))
        if not wanted:
            return
        self._progress.stage(self._unit.category.name, f"{self._unit.weights.arch} principal components")
        found = {one: ChannelMoments(self._layouts.whole(one[0])) for one in wanted}
        for start, maps in self._trained():
            with stopwatch(self._timings, "principal_components"):
                for (names, drawn), moments in found.items():
                    self._fold(moments, names, maps, drawn, start)
        with stopwatch(self._timings, "principal_components"):
            self._components = {one: principal_components(moments)[0] for one, moments in found.items()}

    def _learn(self, group: Group) -> None:
        """What the group's configurations keep of the training images, from one pass over them."""
        for config in group.configs:
            for names in members(config):
                one = key(config, names)
                self._uses[one] = self._uses.get(one, 0) + 1
                if one not in self._seen:
                    room = group.room[one]
                    self._seen[one] = training(config, self.embedding(config, names), NEVER if room is None else room)
        for start, maps in self._trained():
            with stopwatch(self._timings, "fold", self._unit.settings.execution.device):
                for one, seen in self._seen.items():
                    self._fold(seen, one[0], maps, one[-1], start)

    def _fold(
        self,
        moments: Seen | ChannelMoments,
        names: Members,
        maps: dict[str, Tensor],
        drawn: Drawn | None,
        start: int,
    ) -> None:
        """Adds those of a batch, whose first image is ``start``, that were drawn, as often as they were."""
        chosen = [maps[name] for name in names]
        if drawn is not None:
            stop = start + len(chosen[0])
            here = [i - start for i in drawn.indices(len(self._unit.category.train)) if start <= i < stop]
            if not here:
                return
            chosen = [layer[here] for layer in chosen]
        moments.update(moments.embedding.select(chosen))

    def _trained(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Feature maps of the training images by layer, batch by batch, each with the number of its first image."""
        start = 0
        for images, _ in self._decoded(
            "train", self._unit.settings.execution.batch_size, self._reader.protocol, self._timings
        ):
            batch = torch.from_numpy(images)
            if not self._checked:
                self.backbone_error, self._checked = self._backbone.check_dtype(batch), True
            with stopwatch(self._timings, "backbone_train", self._unit.settings.execution.device):
                maps = dict(zip(self._backbone.layers, self._backbone(batch), strict=True))
            self._advance("train", len(batch))
            yield start, maps
            start += len(batch)

    def _hold_tested(self, group: Group) -> Features:
        """Features of all test images for the group; masks are kept where they are to be held."""
        protocol, n = group.configs[0].protocol, len(self._unit.category.test)
        masks: Masks = []
        whole: Features | None = None
        done = 0
        for features, found in self._pass(
            "test", self._unit.settings.execution.batch_size, self._layouts.kept(group.configs), protocol, self._timings
        ):
            if whole is None:
                layers = {name: part.new_empty(n, *part.shape[1:]) for name, part in features.layers.items()}
                whole = Features(layers, features.kept)
            for name, part in features.layers.items():
                whole.layers[name][done : done + len(part)] = part
            done += features.n
            if found is not None and self._plan.exact[protocol.mask_choices]:
                masks += found
        if masks:
            self._masks[protocol.mask_choices] = masks
        assert whole is not None
        return whole

    def _pass(
        self, part: str, at_once: int, kept: dict[str, Tensor], protocol: Protocol, timings: dict[str, float]
    ) -> Iterator[tuple[Features, Masks | None]]:
        """Features of ``at_once`` images at a time, and the masks of test images."""
        for images, masks in self._decoded(part, at_once, protocol, timings):
            with stopwatch(timings, f"backbone_{part}", self._unit.settings.execution.device):
                batches = torch.split(torch.from_numpy(images), self._unit.settings.execution.batch_size)
                features = extract(self._backbone, batches, len(images), kept)
            self._advance(part, len(images))
            yield features, masks

    def _decoded(
        self, part: str, at_once: int, protocol: Protocol, timings: dict[str, float]
    ) -> Iterator[tuple[NDArray[np.uint8], Masks | None]]:
        """Batches of the reader; the time spent waiting for them is that of "decode"."""
        with closing(self._reader.batches(part, at_once, protocol)) as batches:
            while True:
                with stopwatch(timings, "decode"):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

    def _advance(self, part: str, n: int) -> None:
        """Decoding and the backbone are two steps an image, counted once however many passes there are."""
        steps = min(n, self._ahead[part])
        self._ahead[part] -= steps
        self._progress.advance(2 * steps)


def open_bank(
    unit: ImageUnit, plan: Plan, session: Session, timings: dict[str, float], progress: Progress
) -> HeldBank | StreamedBank:
    """The unit's features as planned; where they are held they are made now, and timed."""
    if plan.held:
        return HeldBank(unit, plan, session, timings, progress)
    session.clear()
    return StreamedBank(unit, plan, session, timings, progress)


def _chunks(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    step = max(batch_size, SCORED_AT_ONCE)
    return ((start, min(start + step, n)) for start in range(0, n, step))
