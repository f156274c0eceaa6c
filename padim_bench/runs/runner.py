"""Runs configurations over categories: features once, one record per run, resumable at any point."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_bench.data.datasets import official_split
from padim_bench.data.loading import sample_name
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import file_digest
from padim_bench.errors import PadimBenchError, StrategyInvalidError
from padim_bench.evaluation import Maps
from padim_bench.machine.environment import PeakMemory, environment, larger
from padim_bench.machine.files import check_writable
from padim_bench.machine.progress import Progress
from padim_bench.machine.torch_settings import full_precision, stopwatch, torch_threads
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.metrics.summary import f1_thresholds
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.layers import layer_names
from padim_bench.padim.model import DEFAULT_MEMORY_LIMIT, score_features
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.reduction import REDUCTIONS, check_reduction
from padim_bench.padim.weights import Weights
from padim_bench.protocols import ImageChoices
from padim_bench.records.config import FUSIONS, Execution, RunConfig, Wanted
from padim_bench.records.files import Record, as_read, read_records, write_record
from padim_bench.records.sealed import SCHEMA_VERSION
from padim_bench.runs.bank import HeldBank, StreamedBank, open_bank
from padim_bench.runs.budget import members, plan_unit, statements
from padim_bench.runs.channels import Channels
from padim_bench.runs.executors import done_elsewhere
from padim_bench.runs.features import Features
from padim_bench.runs.session import Session
from padim_bench.runs.travel import Failure, LostError, WorkerDiedError, worker_address


@dataclass(frozen=True)
class Settings:
    """What all runs of one command share; ``memory_limit`` in bytes, of what grows with the number of images."""

    execution: Execution = field(default_factory=Execution)
    memory_limit: int = DEFAULT_MEMORY_LIMIT


@dataclass(frozen=True)
class Unit:
    """The unit of work: the configurations that share the features of one backbone over one category.

    Their protocols prepare images alike, whatever they do with maps and masks.
    """

    category: Category
    weights: Weights
    configs: tuple[RunConfig, ...]
    settings: Settings

    @property
    def layers(self) -> tuple[str, ...]:
        """Of all its configurations, each once."""
        return tuple(dict.fromkeys(name for config in self.configs for name in config.layers))


@dataclass(frozen=True)
class Outcome:
    """A record, where it lies, and whether it was there before."""

    config: RunConfig
    path: Path
    record: Record
    resumed: bool


class Interrupted(KeyboardInterrupt):
    """Ctrl-C between or within runs; every finished run is on disk."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"{done} of {total} runs are finished and kept")


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
    for wanted, weights in models:
        config = model_config(wanted, weights, settings, channels)
        groups.setdefault((config.protocol.images, weights, config.model.backbone_dtype), {})[config] = None
    # Image choices together, so that a second backbone finds the images of the first.
    order = list(dict.fromkeys(choices for choices, _, _ in groups))
    ordered = sorted(groups.items(), key=lambda one: order.index(one[0][0]))
    units = []
    for category in categories:
        for (_, weights, _), group in ordered:
            configs = tuple(replace(c, dataset=category.dataset, category=category.name) for c in group)
            units.append(Unit(category, weights, configs, settings))
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


def run(
    units: Sequence[Unit],
    results: Path,
    *,
    executor: Executor | None = None,
    show_progress: bool | None = None,
    on_message: Callable[[str], None] = lambda _: None,
    writes: Sequence[str] = ("records",),
) -> list[Outcome]:
    """Runs what has no record yet and returns all outcomes in order of the units.

    Args:
        units: from :func:`plan`.
        results: folder whose ``records/`` is read and added to.
        executor: runs whole units elsewhere; None runs them here, writing each record as it is made.
        show_progress: None for "only on a terminal".
        on_message: told in a line what a user should know.
        writes: folders of ``results`` that must be writable if anything is to be run; nothing is written otherwise.

    Raises:
        PadimBenchError: unreadable images or records, unfit options, a folder that cannot be written.
        Interrupted: Ctrl-C; finished runs are kept.
    """
    session, existing = Session(), read_records(results)
    outcomes: dict[RunConfig, Outcome] = {}
    todo = []
    for unit in units:
        found = _finished(unit, existing, session)
        outcomes.update(found)
        if missing := tuple(c for c in unit.configs if c not in found):
            todo.append(Unit(unit.category, unit.weights, missing, unit.settings))
    for unit in todo:  # weights that do not fit are an error now, not after the first category
        session.backbone_of(unit)
    if todo:
        check_writable(*(results / name for name in writes))
    total = sum(len(u.configs) for u in units)
    if outcomes:
        rough = ""
        if n_rough := sum(_needlessly_rough(unit, outcomes, session) for unit in units):
            rough = (
                f"; {n_rough} of them with pixel metrics from histograms, within their error bounds: delete those "
                "records (that name error_bounds) to compute them exactly"
            )
        on_message(
            f"{len(outcomes)} of {total} runs are on record already in {results.as_posix()} and not repeated "
            f"(with --results and another folder they are){rough}"
        )

    said = {note for unit in units for note in unit.category.notes}  # when the folders were listed

    def keep(config: RunConfig, record: Record) -> None:
        read = as_read(record)  # first, so that an interruption never finds a record written and not counted
        outcomes[config] = Outcome(config, write_record(results, record), read, resumed=False)
        if record["status"] != "ok":
            on_message(f"{config.category} {config.model_name} {config.model.strategy}: INVALID: {record['reason']}")
        for note in read["dataset"]["notes"]:
            if note not in said:
                said.add(note)
                on_message(f"padim-bench: note: {config.category}: {note}")

    for line in dict.fromkeys(line for unit in todo for line in statements(unit, session)):
        on_message(line)
    try:
        with Progress(sum(_steps(u) for u in todo), enabled=show_progress) as progress:
            if executor is None:
                for unit in todo:
                    run_unit(unit, keep, progress, session)
            else:
                failures: dict[str, Exception] = {}
                away = [_with_full_paths(unit) for unit in todo]
                with closing(done_elsewhere(executor, _run_elsewhere, away, name=_name, on_message=on_message)) as done:
                    for unit, answer in done:
                        records, error = ([], answer) if isinstance(answer, Exception) else answer
                        if isinstance(error, Failure):
                            error = error.error()
                        for config, record in zip(unit.configs, records, strict=error is None):
                            keep(config, record)
                        if error is not None:
                            failures[_name(unit)] = error
                        progress.advance(_steps(unit))
                if failures:
                    raise _in_one(failures, f"{len(outcomes)} of {total} runs are finished and kept")
    except KeyboardInterrupt as error:
        raise Interrupted(len(outcomes), total) from error
    return [outcomes[config] for unit in units for config in unit.configs]


def _finished(unit: Unit, existing: dict[str, tuple[Path, Record]], session: Session) -> dict[RunConfig, Outcome]:
    """Outcomes of the unit's runs that are on record for these very images and weights."""
    described = {r["config"]["category"] for _, r in existing.values()}
    if unit.category.name not in described:  # no need to hash the images
        return {}
    digest = session.digest(unit.category, unit.settings.execution.threads)
    ids = {config: config.run_id(digest, unit.weights.sha256) for config in unit.configs}
    return {c: Outcome(c, *existing[i], resumed=True) for c, i in ids.items() if i in existing}


def _needlessly_rough(unit: Unit, outcomes: dict[RunConfig, Outcome], session: Session) -> int:
    """How many records of the unit's runs have pixel metrics from histograms, whose maps this limit would hold."""
    found = {c: outcomes[c].record for c in unit.configs if c in outcomes}
    bounded = {c: r for c, r in found.items() if (r["extra"] or {}).get("error_bounds")}
    rough = tuple(c for c, r in bounded.items() if r["memory"]["limit_bytes"] < unit.settings.memory_limit)
    if not rough:
        return 0
    exact = plan_unit(replace(unit, configs=rough), session).exact
    return sum(exact[config.protocol.mask_choices] for config in rough)


def _steps(unit: Unit) -> int:
    images = len(unit.category.train) + len(unit.category.test)
    return 2 * images + len(unit.configs) * images


def _name(unit: Unit) -> str:
    return f"{unit.category.name} {unit.weights.arch}"


def _with_full_paths(unit: Unit) -> Unit:
    """The unit for a worker whose working folder is another one. Records name images below the dataset's root."""

    def full(sample: Sample) -> Sample:
        mask = None if sample.mask is None else sample.mask.absolute()
        return replace(sample, image=sample.image.absolute(), mask=mask)

    category, weights = unit.category, unit.weights
    return replace(
        unit,
        category=replace(
            category,
            root=category.root.absolute(),
            train=tuple(map(full, category.train)),
            test=tuple(map(full, category.test)),
        ),
        weights=weights if weights.path is None else replace(weights, path=weights.path.absolute()),
    )


def _in_one(failures: dict[str, Exception], kept: str) -> Exception:
    """The error that tells of all units that failed: of faults of our own, the first."""
    if ours := [e for e in failures.values() if not isinstance(e, PadimBenchError)]:
        return ours[0]
    (name, first), *others = failures.items()
    text = f"{name}: {first}" if isinstance(first, WorkerDiedError) else str(first)
    if also := [n for n, e in others if str(e) != str(first) or isinstance(e, WorkerDiedError)]:
        text += f"; also failed: {', '.join(also)}"
    if isinstance(first, LostError) or others:
        text += f"; {kept}"
    if text == str(first):
        return first
    error = PadimBenchError(text)
    error.__cause__ = first
    return error


def _run_elsewhere(unit: Unit) -> tuple[list[Record], Failure | None]:
    """:func:`run_unit` in a worker: the records of the runs that were finished, and what ended the rest."""
    records: list[Record] = []
    try:
        if worker_address():
            _check_files(unit)
        run_unit(unit, lambda _, record: records.append(record))
    except Exception as error:  # it travels with what was finished, and is raised at the other end
        return records, Failure.of(error)
    return records, None


def _check_files(unit: Unit) -> None:
    """Another machine may have no such files, or other ones. Raises PadimBenchError; the images have a digest."""
    path = unit.weights.path
    if missing := [p for p in (unit.category.root, path) if p is not None and not p.exists()]:
        raise PadimBenchError(f"{missing[0]} is not there: Dask workers need images and weights at the command's paths")
    if path is not None and file_digest(path) != unit.weights.sha256:
        raise PadimBenchError(f"{path} holds other weights than the command's: copy the file to all machines")


# A Dask worker may run several units in threads of one process; torch's threads are the process's.
_one_unit = threading.Lock()


def run_unit(
    unit: Unit,
    keep: Callable[[RunConfig, Record], None] = lambda _config, _record: None,
    progress: Progress | None = None,
    session: Session | None = None,
) -> list[Record]:
    """Runs every configuration of the unit, from one backbone pass or as many as the memory limit asks for.

    Args:
        unit: what to run.
        keep: given each record as soon as it is made.
        progress: advanced by image and stage.
        session: what it shares with units that ran before; None for nothing.
    """
    settings, name = unit.settings, unit.category.name
    progress = progress or Progress(None, enabled=False)
    records = []
    with _one_unit, torch_threads(settings.execution.threads), full_precision():
        memory, timings = PeakMemory(settings.execution.device), dict[str, float]()
        session = session or Session()
        bank = open_bank(unit, plan_unit(unit, session), session, timings, progress)
        for configs in bank.groups():
            shared_peak = memory.read()
            for config in configs:
                progress.stage(name, f"{config.model_name} {config.model.strategy}")
                try:
                    result = _run_one(config, bank, settings)
                except PadimBenchError as error:  # the model knows no category
                    raise PadimBenchError(f"{name} {config.model_name} {config.model.strategy}: {error}") from error
                result.backbone_error, result.folding_error = bank.backbone_error, bank.folding_error
                result.resampled = bank.resampled
                record = _record(config, unit, bank, result, timings, shared_peak)
                del result  # its state is gigabytes, and the next run makes its own
                keep(config, record)
                records.append(record)
                progress.advance(len(unit.category.train) + len(unit.category.test))
            memory = PeakMemory(settings.execution.device)
    return records


@dataclass
class Result:
    """What one configuration gave, or why it gave nothing. ``gaussians`` are those of its members."""

    timings: dict[str, float]
    memory: dict[str, Any]
    embeddings: list[PatchEmbedding]
    gaussians: list[PatchGaussians] | None = None
    metrics: dict[str, float] | None = None
    extra: dict[str, Any] | None = None
    scores: Tensor | None = None
    reason: str | None = None
    backbone_error: float = 0.0  # of the features, relative to float32
    folding_error: float | None = None  # of the features, by folding batch normalisations
    resampled: tuple[str, ...] = ()  # names of weights that were resampled for the images' size


def _run_one(config: RunConfig, bank: HeldBank | StreamedBank, settings: Settings) -> Result:
    memory = PeakMemory(settings.execution.device)
    timings: dict[str, float] = {}
    embeddings: list[PatchEmbedding] = []
    fitted: list[PatchGaussians] = []
    try:
        embeddings += [bank.embedding(config, names) for names in members(config)]
        with stopwatch(timings, "fit", settings.execution.device):
            for names, embedding in zip(members(config), embeddings, strict=True):
                moments, last = bank.moments(config, names, embedding)
                fitted.append(fit_moments(config, moments, consume=last))
                del moments
    except StrategyInvalidError as error:
        return Result(timings, memory.read(), embeddings, reason=str(error))
    maps, parts = Maps(config.protocol, exact=bank.exact(config)), []
    for features, masks in bank.tested(config, timings):
        with stopwatch(timings, "score", settings.execution.device):
            found, scores = _score(config, fitted, embeddings, features)
            parts.append(scores)
        with stopwatch(timings, "metrics", settings.execution.device):
            maps.add(found, masks)
        del features, found
    scores = torch.cat(parts)
    with stopwatch(timings, "metrics", settings.execution.device):
        metrics, bounds = maps.metrics(bank.labels, scores.numpy())
    extra: dict[str, Any] = dict(f1_thresholds(bank.labels, scores.numpy()))
    if bounds:
        extra["error_bounds"] = bounds
    if "pro_variants" in config.extras and maps.masks:
        with stopwatch(timings, "extras", settings.execution.device):
            arrays = np.stack(maps.maps), np.stack(maps.masks)
            extra["pro_variants"] = {key: variant.function(*arrays) for key, variant in PRO_VARIANTS.items()}
    return Result(timings, memory.read(), embeddings, fitted, metrics, extra, scores)


def fit_moments(
    config: RunConfig,
    moments: TrainingMoments,
    *,
    consume: bool = True,
    on_positions: Callable[[int], None] = lambda _: None,
) -> PatchGaussians:
    """The Gaussians of a configuration from its training moments, by default used up; raises as ``fit_gaussians``."""
    return fit_gaussians(
        moments,
        epsilon=config.protocol.epsilon,
        strategy=config.model.strategy,
        storage=config.model.storage,
        consume=consume,
        on_positions=on_positions,
    )


def _score(
    config: RunConfig, fitted: Sequence[PatchGaussians], embeddings: Sequence[PatchEmbedding], features: Features
) -> tuple[Tensor, Tensor]:
    """Maps and scores of the images that ``features`` are of."""
    size = (config.protocol.size, config.protocol.size)
    selected = [features.select(names, e) for names, e in zip(members(config), embeddings, strict=True)]
    maps, scores = score_features(list(zip(fitted, selected, strict=True)), size, config.protocol)
    return maps.cpu(), scores.cpu()


def _record(
    config: RunConfig,
    unit: Unit,
    bank: HeldBank | StreamedBank,
    result: Result,
    shared_timings: dict[str, float],
    shared_peak: dict[str, Any],
) -> Record:
    category, facts = unit.category, bank.facts
    peaks = {k: larger(v, shared_peak[k]) if k.endswith("bytes") else v for k, v in result.memory.items()}
    dataset = {
        "name": category.dataset,
        "category": category.name,
        "kind": category.kind,
        "split_digest": facts.split_digest,
        "n_train": len(category.train),
        "n_test": len(category.test),
        "n_anomalous": int(facts.labels.sum()),
        "has_masks": category.has_masks,
        "official_split": official_split(category),
        "image_sizes": facts.image_sizes,
        "notes": [*category.notes, *facts.notes],
        "resolution": config.protocol.resolution,
    }
    names = [sample_name(category, s) for s in category.test]
    learned = REDUCTIONS[config.model.reduction].learned
    shared = {k: s for k, s in shared_timings.items() if k != "principal_components" or learned}
    result.timings = shared | result.timings
    result.memory = peaks | {
        "features_peak_rss_bytes": shared_peak["peak_rss_bytes"],
        "images": bank.how,
        "limit_bytes": unit.settings.memory_limit,
    }
    return make_record(config, unit.weights, dataset, result, names, facts.labels.tolist())


def make_record(
    config: RunConfig,
    weights: Weights,
    dataset: dict[str, Any],
    result: Result,
    names: Sequence[str],
    labels: Sequence[int],
) -> Record:
    """The record of a run, with the score of every test image (``names`` and ``labels``, in order)."""
    fitted, embeddings = result.gaussians, result.embeddings
    scores = [] if result.scores is None else result.scores.tolist()
    return {
        "schema": SCHEMA_VERSION,
        "id": config.run_id(dataset["split_digest"], weights.sha256),
        "status": "ok" if result.reason is None else "invalid",
        "reason": result.reason,
        "config": config.to_dict(),
        "dataset": dataset,
        "weights": weights.to_dict() | ({"resampled": list(result.resampled)} if result.resampled else {}),
        "embedding": {
            "n_channels": sum(sum(e.layer_channels) for e in embeddings),
            "n_features": sum(e.n_features for e in embeddings),
            "channels_sha256": embeddings[0].digest if len(embeddings) == 1 else [e.digest for e in embeddings],
            "grid": max(e.grid for e in embeddings),
        },
        "backbone_error": result.backbone_error,
        "folding_error": result.folding_error,
        "metrics": result.metrics,
        "extra": result.extra,
        "strategy_used": "+".join(dict.fromkeys(f.strategy.name for f in fitted)) if fitted else None,
        "computed_in": "+".join(dict.fromkeys(f.computed_in for f in fitted)) if fitted else None,
        "state_bytes": sum(f.state_bytes for f in fitted) if fitted else None,
        "residual": max(f.residual for f in fitted) if fitted else None,
        "clamped": sum(f.clamped for f in fitted) if fitted else None,
        "timings_s": result.timings,
        "memory": result.memory,
        "scores": [
            {"image": name, "label": int(label), "score": float(score)}
            for name, label, score in zip(names, labels, scores, strict=True)
        ]
        if scores
        else [],
        "environment": environment(config.execution.device),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


__all__ = ["Interrupted", "Outcome", "Settings", "Unit", "plan", "run", "run_unit"]
