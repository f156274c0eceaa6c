"""Scores of left-out training images, and the threshold they give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from padim_bench import PaDiM, PadimBenchError, create_backbone
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.digests import tensors_digest
from padim_bench.padim.equations import distances
from padim_bench.protocols import get_protocol

N, FOLDS = 23, 5
IMAGES = torch.randint(0, 256, (N, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def make(**more: object) -> PaDiM:
    backbone = create_backbone("resnet18", "random", ["layer1", "layer2"])
    return PaDiM(backbone, **{"n_features": 30} | more)  # type: ignore[arg-type]


def refitted_scores(model: PaDiM, images: Tensor, folds: int) -> list[float]:
    """By equations 1 and 2 in float64, every fold's Gaussians from the other images' embeddings."""
    embedding, protocol = model.gaussians.embedding, get_protocol("paper")
    x = embedding.embed(model.backbone(images)).flatten(2).numpy()
    scores = np.empty(len(images))
    for fold in range(folds):
        own = np.arange(len(images)) % folds == fold
        found = torch.from_numpy(distances(x[~own], x[own], protocol.epsilon)).reshape(-1, *embedding.grid)
        scores[own] = anomaly_maps(found, (32, 32), protocol)[1].numpy()
    return scores.tolist()


@pytest.mark.parametrize("strategy", ["cholesky", "woodbury"])
def test_scores_are_those_of_models_refitted_without_the_fold_in_float64(strategy: str) -> None:
    model = make(strategy=strategy).fit(IMAGES, folds=FOLDS)
    assert model.training_scores is not None
    assert model.training_scores.folds == FOLDS
    assert_allclose(model.training_scores.scores, refitted_scores(model, IMAGES, FOLDS), rtol=2e-5)


def test_where_features_were_folded_the_total_less_the_fold_gives_the_same_scores() -> None:
    many = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    limit = {"n_features": 4, "memory_limit": 12_000}
    model = make(**limit).fit(many.split(1), folds=2)
    assert model.training_scores is not None
    found = model.training_scores
    assert found.folds > 2  # as many as it takes to hold one
    assert_allclose(found.scores, refitted_scores(model, many, found.folds), rtol=2e-5)
    with pytest.raises(PadimBenchError, match=r"give fit\(\) a list or a DataLoader"):
        make(**limit).fit(iter(many.split(1)), folds=2)


def test_folds_change_nothing_of_the_model_itself() -> None:
    plain, folded = make().fit(IMAGES), make().fit(IMAGES, folds=3)
    assert torch.equal(plain.score(IMAGES[:2])[0], folded.score(IMAGES[:2])[0])
    with pytest.raises(PadimBenchError, match="no threshold: fit it with"):
        plain.threshold()


@pytest.mark.parametrize(("n", "folds"), [(23, 1), (4, 5), (2, 2)])
def test_folds_that_leave_too_little_are_refused(n: int, folds: int) -> None:
    with pytest.raises(PadimBenchError, match=f"{folds} folds of {n} training images"):
        make().fit(IMAGES[:n], folds=folds)


def test_a_file_keeps_the_scores_and_one_without_them_loads_without_a_threshold(tmp_path: Path) -> None:
    model = make().fit(IMAGES, folds=FOLDS)
    model.save(path := tmp_path / "model.safetensors")
    loaded = PaDiM.load(path)
    assert loaded.training_scores == model.training_scores
    assert loaded.threshold(0.5) == pytest.approx(np.median(model.training_scores.scores))  # type: ignore[union-attr]
    assert loaded.threshold(1) == max(model.training_scores.scores)  # type: ignore[union-attr]
    with pytest.raises(PadimBenchError, match=r"quantile is 1\.5"):
        loaded.threshold(1.5)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["padim_bench"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for change, said in ((None, ""), (0, "training_scores"), (-1.0, "training_scores")):
        other = {k: v for k, v in about.items() if k != "training_scores"}
        if change is not None:
            other["training_scores"] = {"folds": FOLDS, "scores": about["training_scores"]["scores"][1:]}
            other["training_scores"]["scores"] += [change] if change else []
        text = json.dumps(other)
        save_file(tensors, path, {"padim_bench": text, "sha256": tensors_digest(tensors, text)})
        if change is None:
            assert PaDiM.load(path).training_scores is None
        else:
            with pytest.raises(PadimBenchError, match=said):
                PaDiM.load(path)
