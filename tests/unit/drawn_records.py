"""Records of runs as they are written, from numbers drawn here."""

from __future__ import annotations

import random
from typing import Any

from padim_bench.harness.config import RunConfig
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.protocols import get_protocol

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
    chosen: dict[str, Any] = {
        "dataset": "mvtec-ad", "category": category, "backbone": "resnet18", "weights": "resnet18.tv_in1k",
        "layers": ("layer1", "layer2", "layer3"), "n_features": 100, "seed": seed, "strategy": "cholesky",
        "dtype": "float32", "protocol": get_protocol("paper"),
    }  # fmt: skip
    return RunConfig(**(chosen | changes))


def run_record(config: RunConfig, *, invalid: str = "", n_test: int = 5) -> dict[str, Any]:
    """What such a run might leave."""
    draw = random.Random(f"{config.category!a} {config.seed}")
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
        "strategy_used": config.strategy if ok else None,
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
