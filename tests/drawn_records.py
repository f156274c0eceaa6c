"""Records of runs and measurements as they are written, from numbers drawn here."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

from padim_bench.costs.work import Subject, Work
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.metrics.resampling import N_RESAMPLES, RESAMPLED
from padim_bench.padim.config import PaDiMConfig
from padim_bench.records.config import Execution, RunConfig
from padim_bench.records.costs import (
    Accuracy,
    AnalyticRow,
    CostChoices,
    CostMemory,
    CostRecord,
    FileTimes,
    FitTimes,
    GrowthChoices,
    GrowthPoint,
    GrowthRecord,
    Loads,
    MeasuredCost,
    MeasuredOn,
    Peaks,
    Percentiles,
    Scoring,
    ScoringTimes,
    SizesRecord,
    StoredRow,
    measurement_id,
)
from padim_bench.records.facts import Environment, WeightsUsed
from padim_bench.records.runs import Embedding, Extra, RunDataset, RunMemory, RunRecord, Score, TrainedOn

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", "pro_per_image")
WEIGHTS = WeightsUsed(
    arch="resnet18", label="resnet18.tv_in1k", sha256="a" * 64, tensors_sha256="f" * 64, trained=True,
    mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), tag="tv_in1k", seed=None, note="",
)  # fmt: skip
ENVIRONMENT = Environment(
    os="Linux x86_64", cpu="a CPU", cpu_count=2, threads=1, openmp={}, python="3.11.7",
    versions={"padim-bench": "0.1.0", "torch": "2.14.0", "timm": "1.0.0"}, commit=None, dirty=None,
)  # fmt: skip


def run_config(category: str = "bottle", seed: int = 0, **changes: Any) -> RunConfig:
    """A run of R18-Rd100 with some of the members of RunConfig, PaDiMConfig or Execution changed."""

    def chosen(kind: type[Any]) -> dict[str, Any]:
        return {f.name: changes.pop(f.name) for f in fields(kind) if f.name in changes}

    model = PaDiMConfig("resnet18", ("layer1", "layer2", "layer3"), seed=seed)
    model, execution = replace(model, **chosen(PaDiMConfig)), Execution(**chosen(Execution))
    config = RunConfig("mvtec-ad", category, model, "resnet18.tv_in1k", execution)
    return replace(config, **changes)


def run_record(config: RunConfig, *, invalid: str = "", n_test: int = 5, **changes: Any) -> RunRecord:
    """What such a run might leave, with some of its members changed; the id is that of what it says."""
    draw = random.Random(f"{config.category!a} {config.model.seed}")
    ok = not invalid
    scores = tuple(
        Score(f"{config.category}/test/x/{i:03d}.png", int(i > 1), draw.uniform(1, 30)) for i in range(n_test)
    )
    variants = {key: draw.random() for key in PRO_VARIANTS} if "pro_variants" in config.extras else None
    record = RunRecord(
        id="0" * 64,
        status="ok" if ok else "invalid",
        reason=invalid or None,
        config=config,
        dataset=RunDataset(
            name=config.dataset, category=config.category, kind="object", split_digest="b" * 64, n_train=209,
            n_test=n_test, n_anomalous=max(0, n_test - 2), has_masks=True, official_split=True,
            image_sizes=("900x900",), resolution=config.protocol.resolution,
        ),
        weights=WEIGHTS,
        embedding=Embedding(n_channels=448, n_features=100, channels_sha256="c" * 64, grid=(56, 56)),
        backbone_error=0.0,
        folding_error=1e-7,
        metrics={m: draw.uniform(0.8, 1) for m in METRICS} if ok else None,
        extra=Extra(pro_variants=variants if ok else None),
        strategy_used=config.model.strategy if ok else None,
        computed_in="float64" if ok else None,
        state_bytes=52183040 if ok else None,
        residual=1e-7 if ok else None,
        clamped=0 if ok else None,
        timings_s={"decode": 0.1, "fit": 0.2},
        memory=RunMemory(peak_rss_bytes=2071998464, peak_rss_scope="run", features_peak_rss_bytes=1),
        scores=scores if ok else (),
        environment=ENVIRONMENT,
        finished="2026-11-25T13:50:38+00:00",
    )  # fmt: skip
    record = replace(record, **changes)
    record = replace(record, trained_on=TrainedOn.of(config.trained, record.dataset.n_train))
    return replace(record, id=config.run_id(record.dataset.split_digest, record.weights.identity))


def with_resampled(record: RunRecord, spread: float = 0.01) -> RunRecord:
    """The record with resampled values around its own; those of an image draw alike in every run of its category."""
    values = {}
    for name in RESAMPLED:
        draw = random.Random(f"{record.dataset.category} {name}")
        value = (record.metrics or {})[name]
        assert value is not None
        values[name] = tuple(round(value + draw.gauss(0, spread), 6) for _ in range(N_RESAMPLES))
    return replace(record, extra=replace(record.extra, resampled=values))


def _header(kind: str, config: RunConfig, asked: CostChoices | GrowthChoices, *, trained: bool) -> dict[str, Any]:
    """What every measurement says of itself."""
    untrained = replace(WEIGHTS, trained=False, label="untrained random weights (seed 0)", tag=None, seed=0)
    weights = WEIGHTS if trained else untrained
    config = replace(config, weights=weights.label)
    return {
        "id": measurement_id(kind, config, asked, "b" * 64, weights.identity),
        "config": config,
        "asked": asked,
        "model_name": config.model_name,
        "dataset": MeasuredOn(
            name=config.dataset, category=config.category, kind="object", split_digest="b" * 64, n_train=209, n_test=83,
            official_split=True, resolution=config.protocol.resolution, has_masks=True, image_sizes=("900x900",),
        ),
        "weights": weights,
        "environment": ENVIRONMENT,
        "finished": "2026-11-25T13:50:38+00:00",
    }  # fmt: skip


def percentiles(seconds: float) -> Percentiles:
    """With that median and mean."""
    return Percentiles(seconds, 1.1 * seconds, 1.2 * seconds, seconds)


def cost(
    config: RunConfig,
    *,
    trained: bool = True,
    status: str = "ok",
    pro: float | None = 0.9,
    milliseconds: float = 20.0,
    megabytes: int | None = 1228,
) -> MeasuredCost:
    """What a measurement of a configuration might leave; latency from pixels and peak as given."""
    total = percentiles(milliseconds / 1e3)
    stage = percentiles(0.002)
    one = ScoringTimes(stage, stage, stage, stage, total)
    asked = CostChoices((1, 8), 100)
    metrics: dict[str, float | None] = {m: 0.9 + i / 100 for i, m in enumerate(METRICS)}
    peak = None if megabytes is None else megabytes * 10**6
    peaks = Peaks(757989376, 820867072, 1070301184, peak)
    return MeasuredCost(
        **_header("cost", config, asked, trained=trained),
        status=status,
        reason=None if status == "ok" else f"made {status}",
        strategy_used="whitening" if config.model.strategy == "auto" else config.model.strategy,
        accuracy=Accuracy(2.5e-6, 5e-8, 2e-5, 64, 83, "float64 Cholesky of the same features"),
        residual=1e-7,
        folding_error=0.0,
        clamped=0,
        load_average=Loads((0.9, 1.2, 1.5), None),
        metrics=metrics | {"pro": pro},
        fit_s=FitTimes(0.01, 0.02, 0.03, 1.3, 0.1, 0.2, 0.4, 2.06),
        scoring=tuple(Scoring(n, 9, 50.0, one) for n in (1, 8)),
        from_file_s=FileTimes(percentiles(0.0015), percentiles(milliseconds / 1e3 + 0.0015)),
        n_warmup=3,
        memory=CostMemory(peak_rss_bytes=peak, peak_rss_scope="run", peaks=peaks, scored_in_batches_of=8),
        state_bytes=83342336,
        file_bytes=126696592,
    )


def answered(asked: dict[str, Any]) -> MeasuredCost:
    """What a process might answer at once that is asked for a cost: of the images and weights that are there."""
    work = Work.from_dict(asked)
    return replace(cost(work.config, trained=False), **Subject.open(work).header("cost"))


def failed_cost(config: RunConfig, status: str = "failed") -> CostRecord:
    """What is left of a configuration that could not be measured."""
    header = _header("cost", config, CostChoices((1, 8), 100), trained=True)
    return CostRecord(**header, status=status, reason=f"made {status}")


def growth(config: RunConfig, *, trained: bool = True) -> GrowthRecord:
    """Series of two strategies at 10, 50 and 209 images, slower by a factor of 2 and of 4 in distance and map."""
    used = {"auto": "woodbury", "cholesky": "cholesky"}
    points = [
        GrowthPoint(strategy, used[strategy], n, 1000 * n, percentiles(0.010 * k), percentiles(0.001 * k * k))
        for strategy in used
        for n, k in ((10, 1), (50, 1.5), (209, 2))
    ]
    header = _header("growth", config, GrowthChoices(30, (10, 50), 1 << 33), trained=trained)
    return GrowthRecord(**header, status="ok", reason=None, n_warmup=3, n_timed=30, points=tuple(points))


def sizes() -> SizesRecord:
    """Bytes of one model by one rule and as one strategy stores them."""
    stored = StoredRow(
        model="R18-Rd100", dataset="MVTec AD", grid=56, category="bottle", n_train=209, strategy="auto",
        strategy_used="whitening", dtype="float32", bytes=83342336,
    )  # fmt: skip
    analytic = AnalyticRow(
        model="R18-Rd100", dataset="MVTec AD", grid=56, rule="gaussians", rule_title="Gaussians", unit="GB",
        bytes=126694400, value=0.1266944,
    )  # fmt: skip
    return SizesRecord(
        asked="d" * 64,
        strategies=("whitening",),
        analytic=(analytic,),
        states=(stored,),
        by_category=(stored,),
        environment=ENVIRONMENT,
        finished="2026-11-25T13:50:38+00:00",
    )
