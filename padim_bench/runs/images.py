"""Images of one category: features once for all configurations of a network, then one record per configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from padim_bench.data.loading import sample_name
from padim_bench.data.samples import Category, Sample
from padim_bench.errors import ONE_IMAGE, PadimBenchError, StrategyInvalidError
from padim_bench.evaluation import Maps
from padim_bench.machine.environment import PeakMemory, larger
from padim_bench.machine.progress import Progress
from padim_bench.machine.torch_settings import stopwatch
from padim_bench.maps.saving import MapWriter
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.metrics.summary import f1_thresholds
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.footprint import Need
from padim_bench.padim.reduction import REDUCTIONS
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig
from padim_bench.records.facts import used
from padim_bench.records.runs import Extra, RunDataset, RunRecord
from padim_bench.runs.bank import HeldBank, StreamedBank, open_bank
from padim_bench.runs.budget import members, need_of, plan_unit, statements
from padim_bench.runs.gallery import GalleryWriter, gallery_of
from padim_bench.runs.methods import Fitted, fit, has_maps, score
from padim_bench.runs.result import Result, make_record, rounded
from padim_bench.runs.session import Session
from padim_bench.runs.unit import Keep, with_full_path

if TYPE_CHECKING:
    from padim_bench.runs.plan import Settings


@dataclass(frozen=True)
class ImageUnit:
    """A :class:`~padim_bench.runs.unit.Unit` of the images of one category.

    Protocols of its configurations prepare images alike, whatever they do with maps and masks.
    """

    category: Category
    weights: Weights
    configs: tuple[RunConfig, ...]
    settings: Settings

    @property
    def place(self) -> str:
        return self.category.name

    @property
    def root(self) -> Path:
        return self.category.root

    @property
    def notes(self) -> tuple[str, ...]:
        return self.category.notes

    def digest(self, session: Session) -> str:
        return session.digest(self.category, self.settings.execution.threads)

    def only(self, configs: tuple[RunConfig, ...]) -> ImageUnit:
        return replace(self, configs=configs)

    def with_full_paths(self) -> ImageUnit:
        """Records name images below the dataset's root, so that they do not change."""

        def full(sample: Sample) -> Sample:
            mask = None if sample.mask is None else sample.mask.absolute()
            return replace(sample, image=sample.image.absolute(), mask=mask)

        category = replace(
            self.category,
            root=self.category.root.absolute(),
            train=tuple(map(full, self.category.train)),
            test=tuple(map(full, self.category.test)),
        )
        settings = self.settings.with_full_paths()
        return replace(self, category=category, weights=with_full_path(self.weights), settings=settings)

    def steps(self, session: Session) -> int:
        """Decoding, the network and each configuration are a step an image."""
        return (2 + len(self.configs)) * self._n_images

    def statements(self, session: Session) -> list[str]:
        alone = [f"{self.category.name}: {ONE_IMAGE}"] if len(self.category.train) == 1 else []
        if any(config.trained is not None and config.trained.n == 1 for config in self.configs):
            alone.append(f"draws of one image: {ONE_IMAGE}")
        return alone + statements(self, session)

    def need(self, session: Session, before: int) -> Need:
        return need_of(self, session, before)

    def needlessly_rough(self, records: Mapping[RunConfig, RunRecord], session: Session) -> int:
        """Of records with pixel metrics from histograms, those whose maps this limit would hold."""
        bounded = {c: r for c, r in records.items() if r.extra.error_bounds}
        rough = tuple(c for c, r in bounded.items() if (r.memory.limit_bytes or 0) < self.settings.memory_limit)
        if not rough:
            return 0
        exact = plan_unit(self.only(rough), session).exact
        return sum(exact[config.protocol.mask_choices] for config in rough)

    def run(self, keep: Keep, progress: Progress, session: Session) -> None:
        """From one backbone pass, or as many as the memory limit asks for."""
        settings, name = self.settings, self.category.name
        memory, timings = PeakMemory(settings.execution.device), dict[str, float]()
        bank = open_bank(self, plan_unit(self, session), session, timings, progress)
        for configs in bank.groups():
            shared_peak = memory.read()
            for config in configs:
                progress.stage(name, f"{config.model_name} {config.model.strategy}")
                with gallery_of(settings.gallery, self.category, config, self.weights) as gallery:
                    try:
                        result = _run_one(config, bank, self, gallery)
                    except PadimBenchError as error:  # the model knows no category
                        raise PadimBenchError(f"{name} {config.model_name} {config.model.strategy}: {error}") from error
                    result.backbone_error, result.folding_error = bank.backbone_error, bank.folding_error
                    result.resampled = bank.resampled
                    record, scores = _record(config, self, bank, result, timings, shared_peak), result.scores
                    del result  # its state is gigabytes, and the next run makes its own
                    keep(config, record)  # before anything is drawn, which a full disk may end
                    if gallery is not None and scores is not None:
                        gallery.finish(scores.numpy(), record.metrics or {})
                progress.advance(self._n_images)
            memory = PeakMemory(settings.execution.device)

    @property
    def _n_images(self) -> int:
        return len(self.category.train) + len(self.category.test)


def _run_one(
    config: RunConfig, bank: HeldBank | StreamedBank, unit: ImageUnit, gallery: GalleryWriter | None
) -> Result:
    settings = unit.settings
    memory = PeakMemory(settings.execution.device)
    timings: dict[str, float] = {}
    embeddings: list[PatchEmbedding] = []
    fitted: list[Fitted] = []
    try:
        embeddings += [bank.embedding(config, names) for names in members(config)]
        with stopwatch(timings, "fit", settings.execution.device):
            for names, embedding in zip(members(config), embeddings, strict=True):
                seen, last = bank.seen(config, names, embedding)
                fitted.append(fit(config, seen, consume=last))
                del seen
    except StrategyInvalidError as error:
        return Result(timings, memory.read(), embeddings, reason=str(error))
    maps, parts = Maps(config.protocol, exact=bank.exact(config) or not has_maps(config)), []
    writer = None if settings.maps is None else MapWriter(settings.maps, unit.category, config.protocol)
    writers = [one for one in (writer, gallery) if one is not None]
    for features, masks in bank.tested(config, timings):
        with stopwatch(timings, "score", settings.execution.device):
            selected = [features.select(names, e) for names, e in zip(members(config), embeddings, strict=True)]
            found, scores = score(config, fitted, selected)
            parts.append(scores)
        with stopwatch(timings, "metrics", settings.execution.device):
            if found is not None:
                maps.add(found, masks)
        if found is not None:
            for one in writers:
                one.add(found)
        del features, selected, found
    scores = torch.cat(parts)
    if writer is not None:
        writer.finish(scores.numpy())
    with stopwatch(timings, "metrics", settings.execution.device):
        metrics, bounds = maps.metrics(bank.labels, scores.numpy())
    variants: dict[str, float | None] | None = None
    if "pro_variants" in config.extras and maps.masks:
        with stopwatch(timings, "extras", settings.execution.device):
            arrays = np.stack(maps.maps), np.stack(maps.masks)
            variants = {key: variant.function(*arrays) for key, variant in PRO_VARIANTS.items()}
    with stopwatch(timings, "resampled", settings.execution.device):
        drawn = maps.resampled(bank.labels, scores.numpy(), bank.facts.split_digest)
    extra = Extra(
        **f1_thresholds(bank.labels, scores.numpy()),
        error_bounds=dict(bounds) or None,
        pro_variants=variants,
        resampled=rounded(drawn) or None,
    )
    return Result(timings, memory.read(), embeddings, fitted, dict(metrics), extra, scores)


def _record(
    config: RunConfig,
    unit: ImageUnit,
    bank: HeldBank | StreamedBank,
    result: Result,
    shared_timings: dict[str, float],
    shared_peak: dict[str, Any],
) -> RunRecord:
    category, facts = unit.category, bank.facts
    peaks = {k: larger(v, shared_peak[k]) if k.endswith("bytes") else v for k, v in result.memory.items()}
    dataset = RunDataset(
        **used(category, facts.split_digest, config),
        n_anomalous=int(facts.labels.sum()),
        image_sizes=tuple(facts.image_sizes),
        notes=(*category.notes, *facts.notes),
    )
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
