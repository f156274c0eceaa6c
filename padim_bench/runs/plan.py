"""Which units a command runs: its models over categories and scenes, grouped so that they share what can be shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from padim_bench.data.samples import Category
from padim_bench.data.stc import Scene
from padim_bench.errors import PadimBenchError
from padim_bench.padim.layers import layer_names
from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT
from padim_bench.padim.reduction import REDUCTIONS, check_reduction
from padim_bench.padim.weights import Weights
from padim_bench.protocols import ImageChoices
from padim_bench.records.config import FUSIONS, Execution, RunConfig, Wanted
from padim_bench.runs.channels import Channels
from padim_bench.runs.images import ImageUnit
from padim_bench.runs.scenes import SceneUnit, dataset_name
from padim_bench.runs.unit import Unit


@dataclass(frozen=True)
class Settings:
    """What all runs of one command share; ``memory_limit`` in bytes, of what grows with the number of images."""

    execution: Execution = field(default_factory=Execution)
    memory_limit: int = DEFAULT_MEMORY_LIMIT


def plan(
    categories: Sequence[Category],
    models: Sequence[tuple[Wanted, Weights]],
    settings: Settings,
    *,
    results: Path | None = None,
) -> list[Unit]:
    """All units, category by category, so that each category's images are decoded once. No network is built.

    Args:
        categories: those to run over.
        models: what to run with which weights, whose architecture is the model's.
        settings: of all runs.
        results: folder whose records may tell how many channels a network has that the registry does not know.

    Raises PadimBenchError for layers or numbers of features that a backbone does not have, and for a
    category with a single training image.
    """
    for category in categories:
        if len(category.train) < 2:
            raise PadimBenchError(
                f"{category.name} has {len(category.train)} training image, a covariance needs at least 2: add normal "
                f"images beside {category.train[0].image}"
            )
    channels = Channels(results)
    groups: dict[tuple[ImageChoices, Weights, str], dict[RunConfig, None]] = {}
    planned: set[tuple[RunConfig, str]] = set()
    for wanted, weights in models:
        config = model_config(wanted, weights, settings, channels)
        if (one := (replace(config, weights=""), weights.identity)) in planned:  # the same weights by two names
            continue
        planned.add(one)
        groups.setdefault((config.protocol.images, weights, config.model.backbone_dtype), {})[config] = None
    # Image choices together, so that a second backbone finds the images of the first.
    order = list(dict.fromkeys(choices for choices, _, _ in groups))
    ordered = sorted(groups.items(), key=lambda one: order.index(one[0][0]))
    units: list[Unit] = []
    for category in categories:
        for (_, weights, _), group in ordered:
            configs = tuple(replace(c, dataset=category.dataset, category=category.name) for c in group)
            units.append(ImageUnit(category, weights, configs, settings))
    return units


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
        if REDUCTIONS[wanted.model.reduction].learned or wanted.model.fusion != "concatenate":
            raise PadimBenchError("video scenes are read once, frame by frame: choose a reduction that learns nothing")
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
    model = replace(wanted.model, backbone=weights.arch, layers=layer_names(weights.arch, wanted.model.layers))
    config = RunConfig("", "", model, weights.label, settings.execution, wanted.extras)
    n_channels = (channels or Channels()).of(weights.arch, config.layers, model.protocol.size)
    # Errors now, not after the first category.
    check_reduction(model.reduction, n_channels, model.n_features, model.seed)
    if model.fusion not in FUSIONS or (model.fusion == "sum" and model.n_features is not None):
        raise PadimBenchError(f"fusion {model.fusion!r}: choose concatenate, or sum with all features of each layer")
    return replace(config, model=model.normalised(n_channels))
