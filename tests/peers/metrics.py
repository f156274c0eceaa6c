"""PRO and pixel AUROC of a category's maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from padim_bench.metrics.pro import StreamingPRO, average_pro
from padim_bench.metrics.roc import detection_metrics
from tests.peers import inputs as made
from tests.peers import reference, theirs
from tests.peers.compare import difference

GATE = 1e-4  # absolute: a hundredth of a point; for peers
OUR_GATE = 1e-9
Inputs = dict[str, Any]


def inputs(size: dict[str, Any]) -> Inputs:
    maps, masks = made.maps_and_masks(size["maps"], size["side"], tied=size["tied"])
    return {"maps": maps, "masks": masks, "metric": size["metric"]}


def _streamed(maps: Any, masks: Any) -> Any:
    pro = StreamingPRO()
    for score_map, mask in zip(maps, masks, strict=True):
        pro.update(score_map, mask)
    return pro.compute()


def build(options: dict[str, Any], given: Inputs) -> Callable[[], Any]:
    maps, masks, how = given["maps"], given["masks"], options["how"]
    if how == "anomalib":
        metric = theirs.metric(given["metric"])
        tensors = torch.from_numpy(maps), torch.from_numpy(masks).int()
        return lambda: metric(*tensors)
    if how == "sklearn":
        from sklearn.metrics import roc_auc_score

        return lambda: roc_auc_score(masks.ravel(), maps.ravel())
    return {
        "argsort": lambda: reference.pro_by_global_argsort(maps, masks),
        "exact": lambda: average_pro(maps, masks),
        "streaming": lambda: _streamed(maps, masks),
        "detection": lambda: detection_metrics(masks, maps),
    }[how]


def compare(value: Any, options: dict[str, Any], given: Inputs) -> dict[str, Any]:
    maps, masks = given["maps"], given["masks"]
    if given["metric"] == "auroc":
        exact = reference.auroc(masks.ravel(), maps.ravel())
        found = getattr(value, "auroc", value)
    else:
        exact = reference.pro_by_global_argsort(maps, masks)
        found = getattr(value, "value", value)
    gate = OUR_GATE if options["how"] in {"exact", "detection"} else getattr(value, "error_bound", GATE)
    judged = difference([found], [exact], gate=gate, relative=False)
    bound = {"error_bound": value.error_bound} if hasattr(value, "error_bound") else {}
    return judged | {"values": {"value": float(found), "reference": exact, **bound}}
