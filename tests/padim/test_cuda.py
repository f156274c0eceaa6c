"""On a GPU everything gives what it gives on the CPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from padim_bench import STRATEGIES, PaDiM, StrategyInvalidError
from padim_bench.machine.torch_settings import full_precision
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.equations import distances
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import GATES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("limit", [1 << 40, 0])  # features held, moments folded
@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize(("n", "d"), [(209, 100), (40, 550)])
def test_distances_are_those_of_the_cpu(n: int, d: int, strategy: str, storage: str, limit: int) -> None:
    embedding = PatchEmbedding((d,), ((6, 7),), tuple(range(d)))
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(count, d, 6, 7, generator=generator) for count in (n, 5))
    found = {}
    for device in ("cpu", "cuda"):
        moments = TrainingMoments(embedding, torch.float64, limit)
        for part in train.split(32):
            moments.update(embedding.select([part.to(device)]))
        try:
            fitted = fit_gaussians(moments, epsilon=0.01, strategy=strategy, storage=storage)
        except StrategyInvalidError:
            assert (device, strategy) == ("cpu", "explicit-lu")
            pytest.skip("batched LU is wrong on this CPU, and the guard says so")
        squared = fitted.squared_distances(embedding.select([test.to(device)]))
        assert squared.device.type == device
        found[device] = squared.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=2e-5 if storage == "float32" else 1e-2, atol=1e-4)


def test_a_model_fits_scores_saves_and_loads_on_either(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (12, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with full_precision():
        one, other = (
            PaDiM("resnet18", weights="random", n_features=50, device=device).fit(images) for device in ("cpu", "cuda")
        )
        maps, scores = one.score(images[:3])
        there_maps, there_scores = other.score(images[:3])
        torch.testing.assert_close(there_maps.cpu(), maps, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(there_scores.cpu(), scores, rtol=1e-3, atol=1e-3)
        other.save(tmp_path / "m.safetensors")
        again = PaDiM.load(tmp_path / "m.safetensors", device="cuda").score(images[:3])
        assert torch.equal(again[0], there_maps)
        moved = PaDiM.load(tmp_path / "m.safetensors").score(images[:3])
        torch.testing.assert_close(moved[0], there_maps.cpu(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", ["native", "widened", "auto"])
@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("n_test", [1, 33])
def test_half_precision_is_within_its_gate_whichever_way_it_is_applied(n_test: int, storage: str, way: str) -> None:
    n, d, side = 66, 203, 5
    embedding = PatchEmbedding((d,), ((side, side),), tuple(range(d)))
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -1.5, d).reshape(1, d, 1, 1)
    train, test = (torch.randn(k, d, side, side, generator=generator) * spread + 3 for k in (n, n_test))
    exact = distances(train.flatten(2), test.flatten(2), 0.01) ** 2
    moments = TrainingMoments(embedding, torch.float64, 1 << 30)
    moments.update(embedding.select([train.cuda()]))
    fitted = fit_gaussians(moments, epsilon=0.01, strategy="whitening", storage=storage, half_products=way)
    found = fitted.squared_distances(embedding.select([test.cuda()])).double().cpu().numpy()
    assert (abs(found - exact) / exact.clip(min=1)).max() < GATES[storage]
    assert fitted.applied <= {"native", "widened"}
    assert way == "auto" or fitted.applied == {way}
