"""Video scenes of ShanghaiTech Campus (the paper's Table IV), in memory that does not grow with the frames.

Training frames stream once through the network into the moments of every configuration, which are folded past the
memory limit; test frames stream once into a histogram of scores for each. Nothing but the scores of frames is kept of
either. Configurations that do not fit the limit together take turns, with a pass each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from padim_bench.data.datasets import DATASETS
from padim_bench.data.stc import Clip, Frame, Scene, read_frames
from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.machine.environment import PeakMemory
from padim_bench.machine.progress import Progress
from padim_bench.machine.torch_settings import stopwatch
from padim_bench.metrics.roc import StreamingROC
from padim_bench.metrics.summary import compute_metrics
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.footprint import NETWORK, Need, at_worst, fit_work, told
from padim_bench.padim.model import COMPUTE_DTYPES
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.sharing import NEVER, Cost, share, training_cost
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig
from padim_bench.records.runs import Extra, RunDataset, RunRecord
from padim_bench.runs.budget import HISTOGRAM_BYTES, Group, Key, Layouts, consumed, in_groups, key, network_of
from padim_bench.runs.methods import fit, score
from padim_bench.runs.result import Result, make_record
from padim_bench.runs.session import Session
from padim_bench.runs.unit import Keep, with_full_path

if TYPE_CHECKING:
    from padim_bench.runs.plan import Settings


@dataclass(frozen=True)
class SceneUnit:
    """A :class:`~padim_bench.runs.unit.Unit` of one scene's clips: its configurations see the same frames and masks."""

    scene: Scene
    weights: Weights
    configs: tuple[RunConfig, ...]
    settings: Settings

    @property
    def place(self) -> str:
        return f"scene {self.scene.name}"

    @property
    def root(self) -> Path:
        return self.scene.root

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def digest(self, session: Session) -> str:
        return session.scene_digest(self.scene)

    def only(self, configs: tuple[RunConfig, ...]) -> SceneUnit:
        return replace(self, configs=configs)

    def with_full_paths(self) -> SceneUnit:
        """Records name clips alone, so that they do not change."""

        def full(clip: Clip) -> Clip:
            masks, labels = (p and p.absolute() for p in (clip.pixel_masks, clip.frame_labels))
            return Clip(clip.name, clip.source.absolute(), masks, labels)

        train, test = (tuple(map(full, clips)) for clips in (self.scene.train, self.scene.test))
        scene = Scene(self.scene.name, self.scene.root.absolute(), train, test)
        return replace(self, scene=scene, weights=with_full_path(self.weights))

    def steps(self, session: Session) -> int:
        """Each configuration is a step a frame."""
        try:
            return len(self.configs) * session.n_frames((*self.scene.train, *self.scene.test), self.configs[0].every)
        except PadimBenchError:
            return 0

    def statements(self, session: Session) -> list[str]:
        try:
            n = session.n_frames(self.scene.train, self.configs[0].every)
        except PadimBenchError:  # running it will say so
            return []
        groups = plan_scene(self, session)
        fold = any(room is not None for group in groups for room in group.room.values())
        how = ["folded into running moments"] if fold else []
        if len(groups) > 1:
            how.append(f"in {len(groups)} groups with a pass each")
        if not how:
            return []
        layouts = Layouts(self, session)
        whole = sum(cost.held for cost in _costs(self.configs, layouts, n).values())
        who, what = self.configs[0].model_name, f"features of {n:,} training frames"
        if len(self.configs) > 1:
            who, what = self.weights.arch, f"{what}, histograms and states of {len(self.configs)} models"
            whole += _tested_bytes(self.configs, layouts, n)
        needed, limit = max(group.needed for group in groups), self.settings.memory_limit
        return [
            f"{self.place}, {who}: {what} would take {told(whole)}, over the limit of {told(limit)} (--memory-limit): "
            f"{', '.join(how)}; about {told(needed)} needed beside the model"
        ]

    def need(self, session: Session, before: int) -> Need:
        try:
            n = session.n_frames(self.scene.train, self.configs[0].every)
        except PadimBenchError:  # running it will say so
            return Need(self.place, {})
        layouts, network = Layouts(self, session), network_of(self, session)
        threads = self.settings.execution.threads

        def need(group: Group) -> Need:
            states = {config: layouts.state_bytes(config, n) for config in group.configs}
            left = max(states.values()) - sum(consumed(group, layouts, c, state) for c, state in states.items())
            d = max(layouts.whole(config.layers).n_features for config in group.configs)
            beside = {"features, moments and states": group.needed + min(0, left)}
            work = {NETWORK: network.room(fit_work(1, d, threads))}
            what = f"{self.place}, {self.weights.arch}"
            return at_worst(what, beside | {NETWORK: network.bytes}, beside | work | {"state": max(0, left)})

        return replace(max(map(need, plan_scene(self, session)), key=lambda one: one.bytes), mends=_MENDS)

    def needlessly_rough(self, records: Mapping[RunConfig, RunRecord], session: Session) -> int:
        """None: a scene's pixels are always counted into histograms."""
        return 0

    def run(self, keep: Keep, progress: Progress, session: Session) -> None:
        """From one pass over the training frames and one over the test frames for each group that fits the limit."""
        with self._named():
            digest, groups = self.digest(session), plan_scene(self, session)
            session.clear()
            backbone, layouts = session.backbone(self), Layouts(self, session)
        for i, group in enumerate(groups):
            which = f", pass {i + 1} of {len(groups)}" if len(groups) > 1 else ""
            self._run_group(group, _Frames(self, backbone, progress, which), layouts, digest, keep)

    def _run_group(self, group: Group, frames: _Frames, layouts: Layouts, digest: str, keep: Keep) -> None:
        memory = PeakMemory(self.settings.execution.device)
        with self._named():
            results = _learn(group, frames, layouts)
            _score({config: result for config, result in results.items() if result.fitted}, frames)
        for config, result in results.items():
            result.memory = memory.read() | {"images": "streamed", "limit_bytes": self.settings.memory_limit}
            keep(config, frames.record(config, result, digest))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors inside name the scene: files and models know none."""
        try:
            yield
        except PadimBenchError as error:
            raise PadimBenchError(f"{self.place}: {error}") from error


_MENDS = (("fewer --n-features", None), ("a smaller --crop", None), ("a lower --memory-limit", None))


def dataset_name(scene: Scene) -> str:
    """ "stc", or that of the stamp in the scene's folder: "demo-stc" for the drawn one."""
    of_scenes = [d for d in DATASETS.values() if d.members == "scenes"]
    return next((d.name for d in of_scenes if d.stamp and (scene.root / d.stamp).is_file()), of_scenes[0].name)


# Memory.


def plan_scene(unit: SceneUnit, session: Session) -> tuple[Group, ...]:
    """Configurations that share their passes within the memory limit; where all fit, all do."""
    layouts, n = Layouts(unit, session), session.n_frames(unit.scene.train, unit.configs[0].every)

    def group(configs: Sequence[RunConfig]) -> Group:
        tested = _tested_bytes(configs, layouts, n)
        costs = _costs(configs, layouts, n)
        rooms, used = share(list(costs.values()), unit.settings.memory_limit - tested)
        return Group(tuple(configs), dict(zip(costs, rooms, strict=True)), tested_held=False, needed=used + tested)

    return in_groups(unit.configs, group, unit.settings.memory_limit)


def _tested_bytes(configs: Sequence[RunConfig], layouts: Layouts, n: int) -> int:
    """Of what is held until the last test frame: a histogram each, and all states, fitted to ``n`` frames, but one.

    The state of a configuration alone is not counted, as it is not elsewhere; nor is the largest beside others.
    """
    states = [layouts.state_bytes(config, n) for config in configs]
    return len(configs) * HISTOGRAM_BYTES + sum(states) - max(states)


def _key(config: RunConfig) -> Key:
    return key(config, config.layers)


def _costs(configs: Sequence[RunConfig], layouts: Layouts, n: int) -> dict[Key, Cost]:
    """Of the training moments of each embedding, from ``n`` frames."""
    keys = {_key(config): config for config in configs}
    return {
        one: training_cost(layouts.one(one), COMPUTE_DTYPES[config.model.compute_dtype], n, config.execution.batch_size)
        for one, config in keys.items()
    }


# Passes.


@dataclass
class _Frames:
    """The scene's frames on their way through the network, once for training and once for testing.

    Attributes:
        unit: whose clips they are.
        backbone: the unit's network.
        progress: advanced by frames and configurations.
        which: of several passes, for the progress.
        timings: seconds of decoding and of the network, which all configurations share.
        sizes: of the frames as stored, by part.
        names, labels: of the test frames.
        n_train: how many training frames there were.
        backbone_error: of the features, relative to float32.
    """

    unit: SceneUnit
    backbone: Backbone
    progress: Progress
    which: str
    timings: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "test": set()})
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    n_train: int = 0
    backbone_error: float = 0.0

    def features(self, part: str, n_configs: int) -> Iterator[tuple[list[Frame], dict[str, Tensor]]]:
        """Batches of a part, "train" or "test", and their feature maps by layer."""
        scene, first, device = self.unit.scene, self.unit.configs[0], self.unit.settings.execution.device
        clips = scene.train if part == "train" else scene.test
        frames = chain.from_iterable(read_frames(clip, first.protocol, every=first.every) for clip in clips)
        self.progress.stage(self.unit.place, f"{self.unit.weights.arch} {part}{self.which}")
        while True:
            with stopwatch(self.timings, part, device):
                if not (batch := list(islice(frames, first.execution.batch_size))):
                    return
                images = torch.from_numpy(np.stack([frame.image for frame in batch]))
                if part == "train" and not self.n_train:
                    self.backbone_error = self.backbone.check_dtype(images)
                with stopwatch(self.timings, f"backbone_{part}", device):
                    maps = dict(zip(self.backbone.layers, self.backbone(images), strict=True))
            self.sizes[part].update(frame.size for frame in batch)
            if part == "train":
                self.n_train += len(batch)
            else:
                self.names += [f"{frame.clip}/{frame.index}" for frame in batch]
                self.labels += [frame.label for frame in batch]
            self.progress.advance(len(batch) * n_configs)
            yield batch, maps

    def record(self, config: RunConfig, result: Result, digest: str) -> RunRecord:
        """The record of a configuration. Its times are those that it would have taken alone."""
        tested = result.reason is None
        names, labels = (self.names, self.labels) if tested else ([], [])
        for stage, seconds in self.timings.items():
            if tested or stage in {"train", "backbone_train"}:
                result.timings[stage] = result.timings.get(stage, 0.0) + seconds
        result.backbone_error, result.folding_error = self.backbone_error, self.backbone.folding_error
        result.resampled = self.backbone.resampled
        dataset = RunDataset(
            name=config.dataset,
            category=config.category,
            kind="scene",
            split_digest=digest,
            n_train=self.n_train,
            n_test=len(names),
            n_anomalous=sum(labels),
            has_masks=True,
            official_split=None,
            image_sizes=tuple(sorted(self.sizes["train"].union(self.sizes["test"] if tested else ()))),
            resolution=config.protocol.resolution,
        )
        return make_record(config, self.unit.weights, dataset, result, names, labels)


def _learn(group: Group, frames: _Frames, layouts: Layouts) -> dict[RunConfig, Result]:
    """The fitted Gaussians of each configuration, or why there are none, from one pass over the training frames."""
    device, uses = frames.unit.settings.execution.device, Counter(map(_key, group.configs))
    moments: dict[Key, TrainingMoments] = {}
    learning: dict[Key, dict[str, float]] = {one: {} for one in uses}
    for config in group.configs:
        if (one := _key(config)) not in moments:
            room = group.room[one]
            embedding = layouts.embedding(config, config.layers)
            moments[one] = TrainingMoments(
                embedding, COMPUTE_DTYPES[config.model.compute_dtype], NEVER if room is None else room
            )
    for _, maps in frames.features("train", len(group.configs)):
        for one, learned in moments.items():
            with stopwatch(learning[one], "train", device):
                learned.update(learned.embedding.select([maps[name] for name in one[0]]))
    if frames.n_train < 2:
        raise PadimBenchError(f"{frames.n_train} training frame: lower --stc-every or add clips")
    results: dict[RunConfig, Result] = {}
    for config in group.configs:
        one = _key(config)
        uses[one] -= 1
        learned = moments[one] if uses[one] else moments.pop(one)
        result = results[config] = Result(dict(learning[one]), {}, [learned.embedding])
        frames.progress.stage(frames.unit.place, f"{config.model_name} {config.model.strategy}")
        try:
            with stopwatch(result.timings, "fit", device):
                result.fitted = [fit(config, learned, consume=not uses[one])]
        except StrategyInvalidError as error:
            result.reason = str(error)
    return results


def _score(fitted: Mapping[RunConfig, Result], frames: _Frames) -> None:
    """Fills in metrics and scores, from one pass over the test frames. Pixel AUROC comes with its error bound."""
    if not fitted:
        return
    device, side = frames.unit.settings.execution.device, frames.unit.configs[0].protocol.size
    blank = np.zeros((side, side), dtype=bool)
    rocs = {config: StreamingROC() for config in fitted}
    parts: dict[RunConfig, list[Tensor]] = {config: [] for config in fitted}
    for batch, maps in frames.features("test", len(fitted)):
        masks = np.stack([blank if frame.mask is None else frame.mask for frame in batch])
        selected: dict[Key, list[Tensor]] = {}
        for config, result in fitted.items():
            assert result.fitted is not None
            (embedding,), one = result.embeddings, _key(config)
            with stopwatch(result.timings, "test", device):
                if one not in selected:
                    selected[one] = embedding.select([maps[name] for name in config.layers])
                score_maps, maxima = score(config, result.fitted, [selected[one]])
                assert score_maps is not None
                rocs[config].update(score_maps.numpy(), masks)
                parts[config].append(maxima)
    labels = np.array(frames.labels)
    for config, result in fitted.items():
        with stopwatch(result.timings, "test", device):
            result.scores = torch.cat(parts[config])
            streamed = rocs[config].compute()
            metrics: dict[str, Any] = compute_metrics(labels, result.scores.numpy())
            result.metrics = metrics | {"pixel_auroc": streamed.value}
            result.extra = Extra(error_bounds={"pixel_auroc": streamed.error_bound})
