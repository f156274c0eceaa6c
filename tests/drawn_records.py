"""Records of runs and measurements as they are written, from numbers drawn here."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.padim.config import PaDiMConfig
from padim_bench.records.config import Execution, RunConfig
from padim_bench.records.measurements import measurement_id

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro")
WEIGHTS = {
    "arch": "resnet18", "label": "resnet18.tv_in1k", "sha256": "a" * 64, "trained": True, "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2], "tag": "tv_in1k", "seed": None, "note": "",
}  # fmt: skip
ENVIRONMENT = {
    "os": "Linux x86_64", "cpu": "a CPU", "cpu_count": 2, "threads": 1, "openmp": {}, "python": "3.11.7",
    "versions": {"padim-bench": "0.1.0", "torch": "2.14.0", "timm": "1.0.0"}, "commit": None, "dirty": None,
}  # fmt: skip


def run_config(category: str = "bottle", seed: int = 0, **changes: Any) -> RunConfig:
    """A run of R18-Rd100 with some of the members of RunConfig, PaDiMConfig or Execution changed."""

    def chosen(kind: type[Any]) -> dict[str, Any]:
        return {f.name: changes.pop(f.name) for f in fields(kind) if f.name in changes}

    model = PaDiMConfig("resnet18", ("layer1", "layer2", "layer3"), seed=seed)
    model, execution = replace(model, **chosen(PaDiMConfig)), Execution(**chosen(Execution))
    config = RunConfig("mvtec-ad", category, model, "resnet18.tv_in1k", execution)
    return replace(config, **changes)


def run_record(config: RunConfig, *, invalid: str = "", n_test: int = 5) -> dict[str, Any]:
    """What such a run might leave."""
    draw = random.Random(f"{config.category!a} {config.model.seed}")
    ok = not invalid
    scores = [
        {"image": f"{config.category}/test/x/{i:03d}.png", "label": int(i > 1), "score": draw.uniform(1, 30)}
        for i in range(n_test)
    ]
    extra = {"pro_variants": {key: draw.random() for key in PRO_VARIANTS}} if "pro_variants" in config.extras else {}
    return {
        "schema": 2,
        "id": config.run_id("b" * 64, "a" * 64),
        "status": "ok" if ok else "invalid",
        "reason": invalid or None,
        "config": config.to_dict(),
        "dataset": {
            "name": config.dataset, "category": config.category, "kind": "object", "split_digest": "b" * 64,
            "n_train": 209, "n_test": n_test, "n_anomalous": max(0, n_test - 2), "has_masks": True,
            "official_split": True, "image_sizes": ["900x900"], "notes": [], "resolution": config.protocol.resolution,
        },
        "weights": WEIGHTS,
        "embedding": {"n_channels": 448, "n_features": 100, "channels_sha256": "c" * 64, "grid": [56, 56]},
        "backbone_error": 0.0,
        "folding_error": 1e-7,
        "metrics": {m: draw.uniform(0.8, 1) for m in METRICS} if ok else None,
        "extra": extra if ok else None,
        "strategy_used": config.model.strategy if ok else None,
        "computed_in": "float64" if ok else None,
        "state_bytes": 52183040 if ok else None,
        "residual": 1e-7 if ok else None,
        "clamped": 0 if ok else None,
        "timings_s": {"decode": 0.1, "fit": 0.2},
        "memory": {"peak_rss_bytes": 2071998464, "peak_rss_scope": "run", "features_peak_rss_bytes": 1},
        "scores": scores if ok else [],
        "environment": ENVIRONMENT,
        "finished": "2026-11-25T13:50:38+00:00",
    }  # fmt: skip


def measurement(kind: str, config: RunConfig, chosen: dict[str, Any], **found: Any) -> dict[str, Any]:
    """What a measurement of ``kind`` might leave, with what it ``found``."""
    return {
        "schema": 2,
        "kind": kind,
        "id": measurement_id(kind, config, chosen, "b" * 64, "a" * 64),
        "status": "ok",
        "config": config.to_dict() | chosen,
        "model_name": config.model_name,
        "dataset": {
            "name": config.dataset, "category": config.category, "split_digest": "b" * 64, "n_train": 209,
            "n_test": 83, "official_split": True, "image_sizes": ["900x900"],
        },
        "weights": WEIGHTS,
        "environment": ENVIRONMENT,
        "strategy_used": "whitening",
        "state_bytes": 83342336,
        "finished": "2026-11-25T13:50:38+00:00",
    } | found  # fmt: skip


def timing(config: RunConfig) -> dict[str, Any]:
    def summary(seconds: float) -> dict[str, float]:
        return {"median": seconds, "p90": 1.1 * seconds}

    points = [
        {
            "strategy": strategy, "strategy_used": "whitening", "n_train": n, "state_bytes": 1000 * n,
            "total_s": summary(0.01 + n / 1e5), "distance_map_s": summary(0.005 + n / 1e5),
        }
        for strategy in ("auto", "cholesky")
        for n in (10, 50, 209)
    ]  # fmt: skip
    return measurement(
        "timing",
        config,
        {"n_images": 30, "growth": [10, 50], "growth_bytes": 1 << 33},
        training_s={"read": 0.2, "backbone": 1.3, "fit": 0.4, "total": 1.9},
        inference_s={stage: summary(0.002) for stage in ("read", "backbone", "distance", "map", "total")},
        n_timed=30,
        n_warmup=3,
        growth=points,
    )


def memory(config: RunConfig) -> dict[str, Any]:
    peaks = {"imports": 753168384, "backbone": 818741248, "end": 1090998272}
    return measurement("memory", config, {"n_scored": 16}, n_train=209, peaks=peaks)


def profile(config: RunConfig) -> dict[str, Any]:
    stages = ("backbone", "embed", "distance", "map", "total")
    fit = ("read", "decode", "resize", "backbone", "embed", "moments", "factorise", "total")
    times = {s: {"p50": 0.01, "p90": 0.011, "p99": 0.012, "mean": 0.01} for s in stages}
    return measurement(
        "profile",
        config,
        {"batch_sizes": [1, 8], "n_images": 100},
        reason=None,
        accuracy={
            "largest_error": 2.5e-6, "median_error": 5e-8, "gate": 2e-5, "n_positions": 64, "n_images": 83,
            "reference": "float64 Cholesky of the same features",
        },
        residual=1e-7,
        folding_error=0.0,
        clamped=0,
        metrics={m: 0.9 + i / 100 for i, m in enumerate(METRICS)},
        fit_s=dict.fromkeys(fit, 0.1),
        scoring=[{"batch_size": n, "n_batches": 9, "images_per_s": 50.0, "per_image_s": times} for n in (1, 8)],
        n_warmup=3,
        memory={
            "peak_rss_bytes": 1228582912, "peak_rss_scope": "run", "scored_in_batches_of": 8,
            "peaks": {"imports": 757989376, "backbone": 820867072, "fit": 1070301184, "score": 1228582912},
        },
        file_bytes=126696592,
        load_average={"before": [0.9, 1.2, 1.5], "after": None},
    )  # fmt: skip
