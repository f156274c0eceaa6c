"""Asks for measurements, each in a fresh process, and keeps them: what is measured on this machine is not repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Generic, TypeVar

from padim_bench.costs.fresh import in_fresh_process
from padim_bench.costs.work import Places, Subject, Work
from padim_bench.data.loading import split_digest
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.footprint import Need, check_fits, model_need, statement
from padim_bench.padim.layers import layer_names
from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT
from padim_bench.padim.weights import Weights
from padim_bench.records.config import Execution, RunConfig, Wanted
from padim_bench.records.costs import FAILED, OK, CostChoices, CostRecord, GrowthChoices, GrowthRecord, from_dict
from padim_bench.records.files import without_paths
from padim_bench.records.measurements import (
    COSTS,
    MEASUREMENTS,
    keep_measurement,
    measurement_path,
    read_kept,
    read_measurements,
)
from padim_bench.runs.channels import Channels
from padim_bench.runs.images import ImageUnit
from padim_bench.runs.plan import Settings, model_config
from padim_bench.runs.runner import Interrupted
from padim_bench.runs.session import Session

GROWTH_COUNTS = (10, 25, 50, 100, 200)
# All models of a growth series are held at once, since they are measured in turns.
GROWTH_BYTES = 8 << 30
# What is measured, with the weights that it has.
Model = tuple[PaDiMConfig, Weights]
R = TypeVar("R", CostRecord, GrowthRecord)


@dataclass(frozen=True)
class ProfileSettings:
    """What all configurations of one command share.

    Attributes:
        execution: device and threads; images at a time when fitting.
        batch_sizes: images scored at a time; 1, whose latency is reported, is always among those measured.
        n_images: timed at batch 1, and at least as many at every other size.
        timeout_s: for one configuration.
    """

    execution: Execution = field(default_factory=Execution)
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    n_images: int = 100
    timeout_s: float = 7200


@dataclass(frozen=True)
class _Kind(Generic[R]):
    """A kind of measurement: its name in records and titles, its record, the module that makes it, where it is kept."""

    name: str
    record: type[R]
    module: str
    place: str
    title: str = ""


_COST = _Kind("cost", CostRecord, "padim_bench.costs.worker", COSTS)
_GROWTH = _Kind("growth", GrowthRecord, "padim_bench.costs.growth", MEASUREMENTS, "growth")


@dataclass(frozen=True)
class Measured(Generic[R]):
    """The record of one configuration, where it lies, and whether it was there before."""

    path: Path
    record: R
    resumed: bool


def plan_profiles(
    shared: PaDiMConfig,
    weights: Sequence[Weights],
    n_features: Sequence[int | None],
    strategies: Sequence[str],
    storages: Sequence[str],
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Model]:
    """All combinations that exist; a number of features that a backbone does not have is left out, and said.

    Args:
        shared: what is the same in all.
        weights, n_features, strategies, storages: what differs; None for all features.
        on_message: told in a line what is left out.

    Raises PadimBenchError for weights that do not fit, or a number of features that no backbone has.
    """
    counted = Channels()
    channels = {
        one: counted.of(one.arch, layer_names(one.arch, shared.layers), shared.protocol.size)
        for one in dict.fromkeys(weights)
    }
    widest = max(channels.values())
    for n in n_features:
        if n is not None and n > widest:
            raise PadimBenchError(f"--n-features {n}: these backbones have at most {widest} channels")
    planned: dict[Model, None] = {}
    for one, n in product(channels, n_features):
        if n is not None and n > channels[one]:
            on_message(f"{one.arch} has {channels[one]} channels: {n} features left out")
            continue
        model = replace(shared, backbone=one.arch, n_features=n).normalised(channels[one])
        planned |= {(replace(model, strategy=s, storage=t), one): None for s, t in product(strategies, storages)}
    return list(planned)


def run_config(category: Category, model: PaDiMConfig, weights: Weights, execution: Execution) -> RunConfig:
    """The run of a model over a category, in one spelling. Raises PadimBenchError for what its backbone has not."""
    config = model_config(Wanted(model), weights, Settings(execution))
    return replace(config, dataset=category.dataset, category=category.name)


def check_needs(
    category: Category, models: Sequence[Model], settings: ProfileSettings, *, on_message: Callable[[str], None]
) -> None:
    """A line on the memory that the heaviest model will take. Raises PadimBenchError where it cannot fit here."""
    session, needs, execution = Session(), list[Need](), settings.execution
    for model, weights in models:
        config = run_config(category, model, weights, execution)
        unit = ImageUnit(category, weights, (config,), Settings(execution))
        needs.append(
            model_need(
                " ".join(_words(_COST, config)),
                session.backbone(unit),
                config.model,
                len(category.train),
                limit=DEFAULT_MEMORY_LIMIT,
                batch_size=execution.batch_size,
                at_once=max(settings.batch_sizes),
                threads=execution.threads,
            )
        )
    heaviest = max(needs, key=lambda need: need.bytes)
    check_fits(heaviest, device=execution.device)
    on_message(statement(heaviest, device=execution.device))


def measure_costs(
    category: Category,
    models: Sequence[Model],
    settings: ProfileSettings,
    results: Path,
    *,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Measured[CostRecord]]:
    """What every model costs, kept under ``results/profiles``.

    A model that cannot be measured is on record as failed, costs no other, and is tried again next time.

    Raises:
        PadimBenchError: unreadable images, fewer than 2 for training or none for testing, options that a backbone
            does not have, a folder that cannot be written, a record there that is not whole and sound.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    asked = CostChoices(tuple(sorted({1, *settings.batch_sizes})), settings.n_images)
    return _measure(_COST, asked, category, models, settings, results, on_message)


def measure_growth(
    category: Category,
    models: Sequence[Model],
    settings: ProfileSettings,
    results: Path,
    *,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Measured[GrowthRecord]]:
    """How every model's inference grows with n, kept under ``results/measurements``; as :func:`measure_costs`."""
    asked = GrowthChoices(settings.n_images, GROWTH_COUNTS, GROWTH_BYTES)
    return _measure(_GROWTH, asked, category, models, settings, results, on_message)


def _measure(
    kind: _Kind[R],
    asked: CostChoices | GrowthChoices,
    category: Category,
    models: Sequence[Model],
    settings: ProfileSettings,
    results: Path,
    on_message: Callable[[str], None],
) -> list[Measured[R]]:
    if len(category.train) < 2 or not category.test:
        raise PadimBenchError(
            f"{category.name} has {len(category.train)} training and {len(category.test)} test images: a profile needs "
            "at least 2 and 1"
        )
    read_measurements(results, kind.place)
    execution = settings.execution
    digest = split_digest(category, threads=execution.threads)
    done: list[Measured[R]] = []
    try:
        for i, (model, weights) in enumerate(models, start=1):
            config = run_config(category, model, weights, execution)
            work = Work(config, asked, Places.of(category, weights))
            subject = Subject(work, category, weights, digest)
            own_id, title = subject.id_of(kind.name), " ".join(_words(kind, config))
            name = "-".join(_words(kind, config)).replace(config.model_name, config.model_name.lower())
            path = measurement_path(results / kind.place, name, own_id, execution.device)
            what = f"{i} of {len(models)}: {title}"
            found = read_kept(path, kind.record, own_id)
            if found is not None and found.status != FAILED:
                on_message(f"{what}: measured before ({path.name}) and not repeated")
                done.append(Measured(path, found, resumed=True))
                continue
            check_writable(*(results / place for place in (kind.place, "tables", "figures", "")))
            on_message(f"{what}: measuring")
            try:
                with Progress(None, stage=what):
                    answer = in_fresh_process(kind.module, work.to_dict(), title, timeout_s=settings.timeout_s)
                answered = from_dict(answer)
                if not isinstance(answered, kind.record) or answered.id != own_id:
                    raise PadimBenchError("images or weights changed while it was measured: measure it again")
                record = answered
            except (PadimBenchError, ValueError) as error:
                reason = _without_paths(str(error), category, weights)
                record = kind.record(**subject.header(kind.name), status=FAILED, reason=reason)
            if record.status != OK:
                on_message(f"{what}: {record.status.upper()}: {record.reason}")
            done.append(Measured(path, keep_measurement(path, record), resumed=False))
    except KeyboardInterrupt as error:
        raise Interrupted(len(done), len(models)) from error
    return done


def _words(kind: _Kind[R], config: RunConfig) -> list[str]:
    """What a measurement is called, on the screen and as a file; the paper's protocol goes without saying."""
    model = config.model
    protocol = "" if model.protocol.name == "paper" else model.protocol.name
    words = [kind.title, config.category, config.model_name, model.strategy, model.storage, protocol]
    return [word for word in words if word]


def _without_paths(reason: str, category: Category, weights: Weights) -> str:
    """A record names no place on anybody's disk."""
    places = [(category.root, category.dataset)]
    if weights.path is not None:
        places.append((weights.path, weights.label))
    for place, name in places:
        reason = reason.replace(str(place.resolve()), name).replace(str(place), name)
    return without_paths(reason)
