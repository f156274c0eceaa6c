"""padim-bench: benchmark and reproducibility suite for PaDiM (arXiv:2011.08785).

    from padim_bench import PaDiM, evaluate, load_images, mvtec

    bottle = mvtec("path/to/mvtec-ad", "bottle")
    model = PaDiM("resnet18.tv_in1k", n_features=100, seed=0).fit(load_images(bottle.train))
    print(evaluate(model, bottle))

Everything loads when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from padim_bench.data.datasets import DATASETS
    from padim_bench.data.folder import folder
    from padim_bench.data.mvtec import mvtec
    from padim_bench.demo.images import make_demo
    from padim_bench.errors import PadimBenchError, StrategyInvalidError
    from padim_bench.evaluation import evaluate, load_images
    from padim_bench.maps.saving import SaveMaps
    from padim_bench.maps.scoring import score_maps
    from padim_bench.metrics.pro import StreamingPRO, average_pro
    from padim_bench.metrics.roc import StreamingROC, detection_metrics
    from padim_bench.metrics.summary import METRICS, compute_metrics
    from padim_bench.padim.backbones import Backbone, create_backbone
    from padim_bench.padim.model import PaDiM
    from padim_bench.padim.paper import PAPER_BACKBONES
    from padim_bench.padim.reduction import REDUCTIONS
    from padim_bench.padim.strategies import STRATEGIES
    from padim_bench.protocols import PROTOCOLS, Protocol
    from padim_bench.records.frame import load_results
    from padim_bench.records.runs import RunRecord

__version__ = "0.1.0"

_HOMES = {
    "PaDiM": "padim.model",
    "Backbone": "padim.backbones",
    "create_backbone": "padim.backbones",
    "STRATEGIES": "padim.strategies",
    "REDUCTIONS": "padim.reduction",
    "PAPER_BACKBONES": "padim.paper",
    "DATASETS": "data.datasets",
    "METRICS": "metrics.summary",
    "Protocol": "protocols",
    "PROTOCOLS": "protocols",
    "evaluate": "evaluation",
    "compute_metrics": "metrics.summary",
    "load_images": "evaluation",
    "average_pro": "metrics.pro",
    "StreamingPRO": "metrics.pro",
    "StreamingROC": "metrics.roc",
    "detection_metrics": "metrics.roc",
    "load_results": "records.frame",
    "RunRecord": "records.runs",
    "mvtec": "data.mvtec",
    "folder": "data.folder",
    "make_demo": "demo.images",
    "SaveMaps": "maps.saving",
    "score_maps": "maps.scoring",
    "PadimBenchError": "errors",
    "StrategyInvalidError": "errors",
}

__all__ = [
    "DATASETS",
    "METRICS",
    "PAPER_BACKBONES",
    "PROTOCOLS",
    "REDUCTIONS",
    "STRATEGIES",
    "Backbone",
    "PaDiM",
    "PadimBenchError",
    "Protocol",
    "RunRecord",
    "SaveMaps",
    "StrategyInvalidError",
    "StreamingPRO",
    "StreamingROC",
    "average_pro",
    "compute_metrics",
    "create_backbone",
    "detection_metrics",
    "evaluate",
    "folder",
    "load_images",
    "load_results",
    "make_demo",
    "mvtec",
    "score_maps",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"padim_bench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
