"""A whole run: files of images to metrics, at preset ``anomalib``, in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from padim_bench.data.mvtec import mvtec
from padim_bench.padim.backbones import create_backbone
from padim_bench.padim.embedding import draw_channels
from padim_bench.padim.weights import ENVIRONMENT_VARIABLE, resolve_weights
from padim_bench.protocols import get_protocol
from tests.peers import theirs

DATA_VARIABLE = "PADIM_BENCH_DATA"
Inputs = dict[str, Any]


def inputs(size: dict[str, Any]) -> Inputs:
    if size["weights"] != "random" and not os.environ.get(ENVIRONMENT_VARIABLE):
        raise LookupError(f"{ENVIRONMENT_VARIABLE} is not set")
    if not os.environ.get(DATA_VARIABLE):
        raise LookupError(f"{DATA_VARIABLE} is not set")
    return {"root": Path(os.environ[DATA_VARIABLE]), **size}


def build(options: dict[str, Any], given: Inputs) -> Callable[[], Any]:
    return (lambda: _theirs(options, given)) if options["who"] == "anomalib" else (lambda: _ours(options, given))


def _theirs(options: dict[str, Any], given: Inputs) -> dict[str, float]:
    weights = resolve_weights(given["arch"], "random" if given["weights"] == "random" else None)
    if weights.path is None:
        state = create_backbone(given["arch"], "random", fold=False).model.state_dict()
    else:
        from safetensors.torch import load_file

        state = load_file(weights.path)
    return theirs.whole_run(
        given["root"],
        given["category"],
        state=state,
        backbone=given["arch"],
        channels=draw_channels(given["channels"], given["d"], 0),
        side=given["side"],
        bare=options["bare"],
    )


def _ours(options: dict[str, Any], given: Inputs) -> dict[str, float]:
    """What ``padim-bench run`` calls, with a new folder for its record."""
    from padim_bench.padim.config import PaDiMConfig
    from padim_bench.records.config import Execution, Wanted
    from padim_bench.runs.plan import Settings, plan
    from padim_bench.runs.runner import run

    weights = resolve_weights(given["arch"], "random" if given["weights"] == "random" else None)
    model = PaDiMConfig(
        given["arch"],
        n_features=given["d"],
        strategy=options["strategy"],
        compute_dtype=options["compute"],
        protocol=get_protocol("anomalib").vary(resize=given["side"]),
    )
    settings = Settings(Execution(threads=options["threads"]))
    with tempfile.TemporaryDirectory() as folder:
        (outcome,) = run(
            plan([mvtec(given["root"], given["category"])], [(Wanted(model), weights)], settings), Path(folder)
        )
    return {key: outcome.record.value(key) or 0.0 for key in ("image_auroc", "pixel_auroc", "pro")}


def compare(value: Any, options: dict[str, Any], given: Inputs) -> dict[str, Any]:
    """Only the values: nothing says what is right but the other side."""
    return {"values": value, "right": True}
