"""Gaussians from embeddings: n images' (n, d, h, w), to a mean and something inverse to the covariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.equations import mahalanobis
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import GATES
from tests.peers import inputs as made
from tests.peers import reference, scripts, theirs
from tests.peers.compare import difference

GATE = 1e-2  # relative, of the distance; for peers
OUR_GATES = {storage: gate / 2 for storage, gate in GATES.items()}  # of distances, half of what squared ones may
N_PROBES, N_SAMPLED = 4, 32
BATCH = 32
MEMORY_LIMIT = 2 << 30  # the default of PaDiM

Inputs = dict[str, Any]


def our_embedding(d: int, grid: int) -> PatchEmbedding:
    return PatchEmbedding((d,), ((grid, grid),), tuple(range(d)))


def our_moments(train: Tensor, compute: str) -> TrainingMoments:
    """As the model makes them: batch by batch."""
    moments = TrainingMoments(our_embedding(*train.shape[1:3]), getattr(torch, compute), MEMORY_LIMIT)
    for batch in train.split(BATCH):
        moments.update(moments.embedding.select([batch]))
    return moments


def inputs(size: dict[str, Any]) -> Inputs:
    n, d, grid = size["n"], size["d"], size["grid"]
    train = made.embeddings(n, d, grid, seed=0)
    sampled = torch.linspace(0, grid * grid - 1, min(N_SAMPLED, grid * grid)).long()
    probes = made.embeddings(N_PROBES, d, grid, seed=1).flatten(2)[:, :, sampled]
    return {"train": train, "sampled": sampled, "probes": probes, "train_sampled": train.flatten(2)[:, :, sampled]}


def build(options: dict[str, Any], given: Inputs) -> Callable[[], Any]:
    train: Tensor = given["train"]
    if options["who"] == "anomalib":
        gaussian = theirs.gaussian()

        def fit_theirs() -> Any:
            with torch.no_grad():
                return gaussian.fit(train)

        return fit_theirs
    if options["who"] == "script":
        return lambda: scripts.fit(train.numpy(), theirs.EPSILON)

    return lambda: fit_gaussians(
        our_moments(train, options["compute"]),
        epsilon=theirs.EPSILON,
        strategy=options["strategy"],
        storage="float32",
        consume=True,
    )


def compare(value: Any, options: dict[str, Any], given: Inputs) -> dict[str, Any]:
    """The fit alone: distances of probes in float64 with what was fitted, at sampled positions."""
    sampled, probes = given["sampled"], given["probes"].double()
    if options["who"] == "ours":
        delta = probes.permute(2, 1, 0) - value.mean[sampled].double().unsqueeze(2)
        state = {key: tensor[sampled].double() for key, tensor in value.state.items()}
        squared = value.strategy.apply(state, delta, theirs.EPSILON).T
    elif options["who"] == "script":
        mean, covariances = value
        found = [mahalanobis(probes[:, :, i], mean[:, p], covariances[p]) for i, p in enumerate(sampled)]
        squared = torch.from_numpy(np.stack(found, axis=1) ** 2)
    else:
        mean, inverse = value
        delta = (probes - mean[:, sampled].double()).permute(2, 1, 0)
        squared = (delta * (inverse[sampled].double() @ delta)).sum(dim=1).T
    exact = reference.squared_distances(given["train_sampled"], given["probes"], theirs.EPSILON)
    gate = OUR_GATES["float32"] if options["who"] == "ours" else GATE
    return difference(squared.clamp(min=0).sqrt(), exact.sqrt(), gate=gate)


def least_work(options: dict[str, Any], size: dict[str, Any]) -> dict[str, Any] | None:
    """Operations and bytes that no implementation of this representation does without."""
    from padim_bench.padim.strategies import get_strategy

    if options["who"] != "ours":
        return None
    n, d, positions = size["n"], size["d"], size["grid"] ** 2
    strategy = get_strategy(options["strategy"], n, d)
    flops = {
        "cholesky": n * d**2 + d**3 / 3,
        "whitening": n * d**2 + 2 * d**3 / 3,
        "woodbury": 2 * n**2 * d + n**3 / 3,
        "dual": n**2 * d + 2 * n**3 / 3,
    }.get(strategy.name)
    if flops is None:
        return None
    return {
        "flops": flops * positions,
        "dtype": "float32" if strategy.fits_in_float32(n, d) else options["compute"],
        "bytes": 4 * positions * (n * d + strategy.n_values(n, d)),
    }
