"""Distances and maps of a batch of embeddings: equation 2, upsampling to pixels, smoothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.half import multiplies
from padim_bench.padim.strategies import STORAGE_DTYPES, get_strategy
from padim_bench.protocols import get_protocol
from tests.peers import inputs as made
from tests.peers import reference, scripts, theirs
from tests.peers.compare import difference
from tests.peers.fit import GATE, OUR_GATES, our_moments

Inputs = dict[str, Any]


def inputs(size: dict[str, Any]) -> Inputs:
    n, d, grid = size["n"], size["d"], size["grid"]
    return {
        "train": made.embeddings(n, d, grid, seed=0),
        "images": made.embeddings(size["batch"], d, grid, seed=1),
        "side": 4 * grid,
        "border": size["border"],
    }


def _fitted(given: Inputs, strategy: str, storage: str) -> PatchGaussians:
    return fit_gaussians(
        our_moments(given["train"], "float64"), epsilon=theirs.EPSILON, strategy=strategy, storage=storage, consume=True
    )


def build(options: dict[str, Any], given: Inputs) -> Callable[[], Any]:
    images, side = given["images"], given["side"]
    if options["who"] == "anomalib":
        # An inverse that is right, whatever its own fit gives here, so that the time is of right work.
        exact = _fitted(given, "explicit", "float32")
        mean, inverse = exact.mean.T.contiguous(), exact.state["precision"]
        generator = theirs.map_generator()

        def theirs_() -> Any:
            with torch.no_grad():
                return generator(embedding=images, mean=mean, inv_covariance=inverse, image_size=(side, side))[:, 0]

        return theirs_
    if options["who"] == "script":
        gaussians = scripts.fit(given["train"].numpy(), theirs.EPSILON)
        return lambda: scripts.maps(scripts.distances(images.numpy(), gaussians), side, sigma=4.0)

    fitted = _fitted(given, options["strategy"], options["storage"])
    given.setdefault("applied", {})[options["strategy"], options["storage"]] = fitted.applied
    protocol = get_protocol("anomalib").vary(border=given["border"])

    def ours() -> Any:
        with torch.no_grad():
            squared = fitted.squared_distances(fitted.embedding.select([images]))
            distances = squared.sqrt_().reshape(-1, *fitted.embedding.grid)
            return anomaly_maps(distances, (side, side), protocol)[0]

    return ours


def settle(given: Inputs, *, values: bool) -> None:
    """The reference, once every contender is built; then the training embeddings are let go."""
    train = given.pop("train")
    if values:
        images = given["images"]
        squared = reference.squared_distances(train.flatten(2), images.flatten(2), theirs.EPSILON)
        distances = squared.sqrt().reshape(len(images), *images.shape[2:])
        given["exact"] = reference.anomaly_maps(distances, given["side"], sigma=4.0, border=given["border"])


def compare(value: Any, options: dict[str, Any], given: Inputs) -> dict[str, Any]:
    ours = options["who"] == "ours"
    found = difference(np.asarray(value), given["exact"], gate=OUR_GATES[options["storage"]] if ours else GATE)
    applied = sorted(given["applied"][options["strategy"], options["storage"]]) if ours else []
    return found | ({"applied": applied} if applied else {})


def least_work(options: dict[str, Any], size: dict[str, Any]) -> dict[str, Any] | None:
    """One pass over the state, as it is stored, and the products with it, in float32 or as it is stored."""
    if options["who"] != "ours":
        return None
    n, d, positions, batch = size["n"], size["d"], size["grid"] ** 2, size["batch"]
    native = multiplies(STORAGE_DTYPES[options["storage"]], torch.device("cpu"))
    strategy = get_strategy(options["strategy"], n, d, native=native)
    values = strategy.n_values(n, d)
    width = getattr(torch, options["storage"]).itemsize
    return {
        "flops": reference.FLOPS_PER_VALUE.get(strategy.name, 2) * values * positions * batch,
        "dtype": options["storage"],
        "bytes": positions * (width * values + 4 * d * (batch + 1)),
    }
