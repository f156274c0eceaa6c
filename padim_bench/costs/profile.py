"""``padim-bench profile``: which configurations, what makes a measurement of one valid, and where it is kept.

What happens inside the process that measures is :mod:`padim_bench.costs.profile_worker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from padim_bench.costs.fresh import in_fresh_process, named_again
from padim_bench.costs.timing import describe
from padim_bench.data.loading import split_digest
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.machine.environment import environment
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from padim_bench.padim.backbones import CPU_BATCH_SIZE, Backbone
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.layers import layer_names
from padim_bench.padim.reduction import WHOLE
from padim_bench.padim.weights import Weights
from padim_bench.protocols import get_protocol
from padim_bench.records.config import Execution, RunConfig
from padim_bench.records.files import Record, without_paths
from padim_bench.records.measurements import check_measurements, keep_measurement, measurement_path, read_measurement
from padim_bench.runs.runner import Interrupted

# Largest relative error of a squared distance against float64 that a storage dtype is allowed: rounding, and no
# more (DESIGN's tolerances, which the tests on real features hold every exact strategy to).
GATES = {"float64": 1e-9, "float32": 2e-5, "float16": 5e-3, "bfloat16": 5e-2}
FIT_BATCH = CPU_BATCH_SIZE  # images read and run through the backbone at a time when fitting
OK, LOSSY, VOID, FAILED = "ok", "lossy", "void", "failed"


@dataclass(frozen=True)
class ProfileSettings:
    """What all configurations of one command share.

    Attributes:
        protocol: a preset's name.
        seed: of the channels drawn.
        device, threads: of torch.
        batch_sizes: images scored at a time; 1, whose latency is reported, is always among those measured.
        n_images: timed at batch 1, and at least as many at every other size.
        timeout_s: for one configuration.
    """

    protocol: str = "paper"
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    n_images: int = 100
    timeout_s: float = 7200

    def choices(self) -> dict[str, Any]:
        """What decides the numbers beside the model, for the record's config."""
        return {"batch_sizes": sorted({1, *self.batch_sizes}), "n_images": self.n_images}


@dataclass(frozen=True)
class ProfileModel:
    """One configuration; ``n_features`` None for all channels."""

    weights: Weights
    n_features: int | None
    strategy: str
    dtype: str


@dataclass(frozen=True)
class Profile:
    """The record of one configuration, where it lies, and whether it was there before."""

    path: Path
    record: Record
    resumed: bool


def plan_profiles(
    weights: Sequence[Weights],
    n_features: Sequence[int | None],
    strategies: Sequence[str],
    dtypes: Sequence[str],
    on_message: Callable[[str], None] = lambda _: None,
) -> list[ProfileModel]:
    """All combinations that exist; a number of features that a backbone does not have is left out, and said.

    Raises PadimBenchError for weights that do not fit, or a number of features that no backbone has.
    """
    channels = {one: sum(Backbone(one).channels) for one in dict.fromkeys(weights)}
    widest = max(channels.values())
    for n in n_features:
        if n is not None and n > widest:
            raise PadimBenchError(f"--n-features {n}: these backbones have at most {widest} channels")
    planned: dict[ProfileModel, None] = {}
    for one, n in product(channels, n_features):
        if n is not None and n > channels[one]:
            on_message(f"{one.arch} has {channels[one]} channels: {n} features left out")
            continue
        kept = None if n == channels[one] else n
        planned |= {ProfileModel(one, kept, s, t): None for s, t in product(strategies, dtypes)}
    return list(planned)


def profile_config(category: Category, model: ProfileModel, settings: ProfileSettings) -> RunConfig:
    """The run of a configuration, in one spelling."""
    whole = model.n_features is None
    return RunConfig(
        dataset=category.dataset,
        category=category.name,
        model=PaDiMConfig(
            backbone=model.weights.arch,
            layers=layer_names(model.weights.arch, "paper"),
            n_features=model.n_features,
            seed=0 if whole else settings.seed,
            strategy=model.strategy,
            storage=model.dtype,
            protocol=get_protocol(settings.protocol),
            reduction=WHOLE if whole else "random",
        ),
        weights=model.weights.label,
        execution=Execution(settings.device, settings.threads, FIT_BATCH),
    )


def verdict(strategy: str, dtype: str, largest_error: float, *, exact: bool) -> tuple[str, str | None]:
    """Status of a configuration and, where it is not "ok", the reason.

    Args:
        strategy, dtype: names.
        largest_error: relative, of squared distances against float64.
        exact: whether the strategy claims equation 2 up to rounding.
    """
    if not exact:
        return LOSSY, f"{strategy} is an approximation: its distances are off by up to {largest_error:.2g}"
    if not largest_error <= GATES[dtype]:  # NaN too
        return VOID, f"distances are off by up to {largest_error:.2g} relative to float64, allowed {GATES[dtype]:g}"
    return OK, None


def profile(
    category: Category,
    models: Sequence[ProfileModel],
    settings: ProfileSettings,
    results: Path,
    *,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Profile]:
    """Measures every configuration in a fresh process, unless it is on disk already, under ``results/profiles``.

    A configuration that cannot be measured is on record as failed, costs no other, and is tried again next time.

    Raises:
        PadimBenchError: unreadable images, fewer than 2 for training or none for testing, a folder that cannot be
            written.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    if len(category.train) < 2 or not category.test:
        raise PadimBenchError(
            f"{category.name} has {len(category.train)} training and {len(category.test)} test images: a profile needs "
            "at least 2 and 1"
        )
    check_measurements(results / "profiles")
    digest = split_digest(category, threads=settings.threads)
    done: list[Profile] = []
    try:
        for i, model in enumerate(models, start=1):
            config = profile_config(category, model, settings)
            described = describe("profile", config, settings.choices(), category, model.weights, digest)
            name = f"{category.name}-{config.model_name.lower()}-{config.model.strategy}-{config.model.storage}"
            openmp = environment(settings.device)["openmp"]
            asked = {"id": described["id"], "openmp": openmp, "device": settings.device}
            path = measurement_path(results / "profiles", name, asked)
            stored = f"{config.model.strategy} {config.model.storage}"
            what = f"{i} of {len(models)}: {category.name} {config.model_name} {stored}"
            found = read_measurement(path, asked)
            if found is not None and found["status"] != FAILED:
                on_message(f"{what}: measured before ({path.name}) and not repeated")
                done.append(Profile(path, found, resumed=True))
                continue
            check_writable(*(results / name for name in ("profiles", "tables", "figures", "")))
            on_message(f"{what}: measuring")
            try:
                with Progress(None, stage=what):
                    record = _measure_one(category, model, settings, config)
            except PadimBenchError as error:
                record = described | {"status": FAILED, "reason": _without_paths(str(error), category, model)}
            if record["status"] != OK:
                on_message(f"{what}: {record['status'].upper()}: {record['reason']}")
            done.append(Profile(path, keep_measurement(path, record), resumed=False))
    except KeyboardInterrupt as error:
        raise Interrupted(len(done), len(models)) from error
    return done


def _measure_one(category: Category, model: ProfileModel, settings: ProfileSettings, config: RunConfig) -> Record:
    weights, backbone = named_again(model.weights.arch, model.weights)
    asked = {
        "root": str(category.root),
        "category": category.name,
        "dataset": category.dataset,
        "normal": list(category.normal),
        "backbone": backbone,
        "weights": weights,
        "n_features": model.n_features,
        "strategy": model.strategy,
        "dtype": model.dtype,
        "settings": vars(settings),
    }
    what = f"{category.name} {config.model_name} {config.model.strategy} {config.model.storage}"
    return in_fresh_process("padim_bench.costs.profile_worker", asked, what, timeout_s=settings.timeout_s)


def _without_paths(reason: str, category: Category, model: ProfileModel) -> str:
    """A record names no place on anybody's disk."""
    places = [(category.root, category.dataset)]
    if model.weights.path is not None:
        places.append((model.weights.path, model.weights.label))
    for place, name in places:
        reason = reason.replace(str(place.resolve()), name).replace(str(place), name)
    return without_paths(reason)
