"""Which units a command runs: its models over categories and scenes, grouped so that they share what can be shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from padim_bench.data.samples import Category
from padim_bench.data.stc import Scene
from padim_bench.errors import PadimBenchError
from padim_bench.maps.saving import SaveMaps
from padim_bench.padim.config import PADIM
from padim_bench.padim.layers import layer_names
from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT
from padim_bench.padim.reduction import REDUCTIONS, check_reduction
from padim_bench.padim.weights import Weights
from padim_bench.protocols import ImageChoices
from padim_bench.records.config import FUSIONS, Execution, RunConfig, Wanted
from padim_bench.runs import gallery
from padim_bench.runs.channels import Channels
from padim_bench.runs.images import ImageUnit
from padim_bench.runs.methods import has_maps, method_names
from padim_bench.runs.scenes import SceneUnit, dataset_name
from padim_bench.runs.unit import Unit


@dataclass(frozen=True)
class Settings:
    """What all runs of one command share.

    Attributes:
        execution: where they run.
        memory_limit: in bytes, of what grows with the number of images.
        maps: where anomaly maps of test images are written, of one model; None for nowhere.
        gallery: where pages of test images with their heat maps are written; None for nowhere.
    """

    execution: Execution = field(default_factory=Execution)
    memory_limit: int = DEFAULT_MEMORY_LIMIT
    maps: SaveMaps | None = None
    gallery: Path | None = None

    @property
    def wants_maps(self) -> bool:
        """Whether more than records comes of the runs, so that those on record are run again."""
        return self.maps is not None or self.gallery is not None

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that is written to beside records."""
        return (*(self.maps.folders if self.maps else ()), *((self.gallery,) if self.gallery else ()))

    def with_full_paths(self) -> Settings:
        """The same for a process whose working folder is another one."""
        maps = None if self.maps is None else self.maps.with_full_paths()
        return replace(self, maps=maps, gallery=None if self.gallery is None else self.gallery.absolute())


def plan(
    categories: Sequence[Category],
    models: Sequence[tuple[Wanted, Weights]],
    settings: Settings,
    *,
    results: Path | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Unit]:
    """All units, category by category, so that each category's images are decoded once. No network is built.

    Draws of training images that a category has too few for are left out, and said to be.

    Args:
        categories: those to run over.
        models: what to run with which weights, whose architecture is the model's.
        settings: of all runs.
        results: folder whose records may tell how many channels a network has that the registry does not know.
        on_message: told in a line what is left out.

    Raises PadimBenchError for layers or numbers of features that a backbone does not have, for draws that there
    cannot be, where all are left out, and where maps of several models, or maps in the dataset, are to be saved.
    """
    channels = Channels(results)
    groups: dict[tuple[ImageChoices, Weights, str, bool], dict[RunConfig, None]] = {}
    planned: set[tuple[RunConfig, str]] = set()
    for wanted, weights in models:
        config = model_config(wanted, weights, settings, channels)
        if (one := (replace(config, weights=""), weights.identity)) in planned:  # the same weights by two names
            continue
        planned.add(one)
        # Baselines apart: they ask for layers whose features PaDiM's runs would otherwise hold too.
        baseline = config.model.method != PADIM
        groups.setdefault((config.protocol.images, weights, config.model.backbone_dtype, baseline), {})[config] = None
    if settings.maps is not None and len(planned) > 1:
        raise PadimBenchError(
            f"maps of {len(planned)} models would lie in one folder, {settings.maps.folder}: save those of one "
            "method, backbone, number of features, seed, reduction, strategy and storage at a time"
        )
    for config, _ in planned if settings.wants_maps else ():
        if not has_maps(config):
            raise PadimBenchError(f"{config.model.method} scores images alone and has no maps: leave them out")
        if settings.maps is not None:
            settings.maps.check(config.protocol)
        if settings.gallery is not None:
            gallery.check(config)
    if settings.maps is not None:
        for category in categories:
            settings.maps.check_apart(category)
    # Image choices together, so that a second backbone finds the images of the first.
    order = list(dict.fromkeys(choices for choices, *_ in groups))
    ordered = sorted(groups.items(), key=lambda one: order.index(one[0][0]))
    units: list[Unit] = []
    for category in categories:
        for (_, weights, *_), group in ordered:
            here = [c for c in group if c.trained is None or c.trained.fits(len(category.train))]
            configs = tuple(replace(c, dataset=category.dataset, category=category.name) for c in here)
            units += [ImageUnit(category, weights, configs, settings)] if configs else []
    too_many = _too_many(categories, [wanted for wanted, _ in models])
    if too_many and not units:
        raise PadimBenchError(f"{'; '.join(too_many)}: a draw is of fewer images than there are for training")
    for line in too_many:
        on_message(f"{line}: left out, since that is all of them or more")
    return units


def _too_many(categories: Sequence[Category], models: Sequence[Wanted]) -> list[str]:
    """For each category that has no more training images than some draws ask for, how many they are."""
    lines = []
    for category in categories:
        n = len(category.train)
        asked = sorted({w.trained.count(n) for w in models if w.trained is not None and not w.trained.fits(n)})
        if asked:
            lines.append(f"{category.name} has {n} training images: draws of {', '.join(map(str, asked))}")
    return lines


def plan_scenes(
    scenes: Sequence[Scene], models: Sequence[tuple[Wanted, Weights]], settings: Settings, *, every: int = 1
) -> list[Unit]:
    """All units of video scenes, scene by scene: the models of one network that see the same frames and masks.

    Args:
        scenes: those to run over.
        models, settings: as for :func:`plan`.
        every: of each clip's frames, the first and then every so many; recorded.

    Raises PadimBenchError for models that need all features at once, and as :func:`plan` does of layers and features.
    """
    groups: dict[tuple[ImageChoices, tuple[object, ...], Weights, str], dict[RunConfig, None]] = {}
    for wanted, weights in models:
        if wanted.model.method != PADIM:
            raise PadimBenchError(f"--method {wanted.model.method}: video scenes are run with padim alone")
        if REDUCTIONS[wanted.model.reduction].learned or wanted.model.fusion != "concatenate":
            raise PadimBenchError("video scenes are read once, frame by frame: choose a reduction that learns nothing")
        if wanted.trained is not None:
            raise PadimBenchError("video scenes are read once, frame by frame: frames for training are not drawn")
        config = replace(model_config(wanted, weights, settings), every=every)
        protocol, dtype = config.protocol, config.model.backbone_dtype
        groups.setdefault((protocol.images, protocol.mask_choices, weights, dtype), {})[config] = None
    units: list[Unit] = []
    for scene in scenes:
        for (_, _, weights, _), group in groups.items():
            configs = tuple(replace(c, dataset=dataset_name(scene), category=scene.name) for c in group)
            units.append(SceneUnit(scene, weights, configs, settings))
    return units


def model_config(wanted: Wanted, weights: Weights, settings: Settings, channels: Channels | None = None) -> RunConfig:
    """The run of a model over no category yet. Raises as :func:`plan` does."""
    if wanted.model.method not in method_names():
        raise PadimBenchError(f"--method {wanted.model.method}: choose from {', '.join(method_names())}")
    model = replace(wanted.model, backbone=weights.arch, layers=layer_names(weights.arch, wanted.model.layers))
    config = RunConfig("", "", model, weights.label, settings.execution, wanted.extras, trained=wanted.trained)
    if wanted.trained is not None and (problem := wanted.trained.problem()):
        raise PadimBenchError(f"a draw of training images has {problem}")
    n_channels = (channels or Channels()).of(weights.arch, config.layers, model.protocol.size)
    if model.method != PADIM:
        return replace(config, model=model.normalised(n_channels))
    # Errors now, not after the first category.
    check_reduction(model.reduction, n_channels, model.n_features, model.seed)
    if model.fusion not in FUSIONS or (model.fusion == "sum" and model.n_features is not None):
        raise PadimBenchError(f"fusion {model.fusion!r}: choose concatenate, or sum with all features of each layer")
    return replace(config, model=model.normalised(n_channels))
