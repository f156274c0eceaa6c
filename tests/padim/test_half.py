"""State in half precision multiplied as it lies: right wherever it runs, and chosen only where it may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim_bench import STRATEGIES, PaDiM, PadimBenchError, StrategyInvalidError
from padim_bench.padim import equations
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.half import image_class, multiplies, native_is_faster
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import GATES, get_strategy
from padim_bench.padim.tiling import MEASURED, Tiling

HALVES = ("float16", "bfloat16")


class Drawn:
    """Embeddings with a decaying spectrum, as features have: of n training and some test images."""

    def __init__(self, n: int, d: int, side: int, n_test: int, *, scale: float = 1.0, epsilon: float = 0.01) -> None:
        self.embedding = PatchEmbedding((d,), ((side, side),), tuple(range(d)))
        generator = torch.Generator().manual_seed(n + d)
        spread = scale * torch.logspace(0, -1.5, d).reshape(1, d, 1, 1)
        self.train, self.test = (torch.randn(k, d, side, side, generator=generator) * spread + 3 for k in (n, n_test))
        self.epsilon = epsilon

    def fitted(self, storage: str, half_products: str, strategy: str = "whitening") -> PatchGaussians:
        moments = TrainingMoments(self.embedding, torch.float64, 1 << 30)
        moments.update(self.embedding.select([self.train]))
        return fit_gaussians(
            moments, epsilon=self.epsilon, strategy=strategy, storage=storage, half_products=half_products
        )

    def squared(self, fitted: PatchGaussians, tiling: Tiling = MEASURED) -> Tensor:
        return fitted.squared_distances(self.embedding.select([self.test]), tiling=tiling)

    @property
    def exact(self) -> NDArray[np.float64]:
        return equations.distances(self.train.flatten(2), self.test.flatten(2), self.epsilon) ** 2


@pytest.mark.parametrize("storage", HALVES)
@pytest.mark.parametrize("tiling", [Tiling(together_bytes=0), MEASURED], ids=["a thread to a tile", "all on one"])
@pytest.mark.parametrize(
    ("n", "d", "side", "n_test"),
    [(209, 550, 1, 1), (30, 67, 3, 1), (131, 65, 3, 3), (66, 129, 2, 32), (9, 300, 7, 2), (2, 1, 1, 1)],
    ids=["one position", "one image", "batch 3", "batch 32", "groups of tiles", "least"],
)
def test_native_products_equal_float64_within_the_gate(
    n: int, d: int, side: int, n_test: int, tiling: Tiling, storage: str, threads: int
) -> None:
    drawn = Drawn(n, d, side, n_test)
    fitted = drawn.fitted(storage, "native")
    found = drawn.squared(fitted, tiling)
    assert (found.dtype, fitted.applied) == (torch.float32, {"native"})
    error = np.abs(found.double().numpy() - drawn.exact) / np.maximum(drawn.exact, 1)
    assert error.max() < GATES[storage]
    assert torch.get_num_threads() == threads


def test_what_overflows_half_precision_is_widened_and_right() -> None:
    """The mean's differences, 3e2, times a state of up to 1e3 pass float16's 65504; no entry does."""
    drawn = Drawn(20, 40, 2, 2, scale=0.01, epsilon=1e-6)
    drawn.test += 300
    fitted = drawn.fitted("float16", "native")
    assert fitted.may_be_native
    found = drawn.squared(fitted)
    assert fitted.applied == {"widened"}
    np.testing.assert_allclose(found.numpy(), drawn.exact, rtol=GATES["float16"])
    drawn.test -= 300
    drawn.squared(fitted)
    assert fitted.applied == {"native", "widened"}


def test_a_state_beyond_float16_is_refused_with_the_mend_and_bfloat16_holds_it() -> None:
    drawn = Drawn(20, 40, 2, 2, scale=1e-5, epsilon=1e-11)  # entries of up to 3e5
    with pytest.raises(StrategyInvalidError, match="65504, the largest number of float16: use bfloat16 or float32"):
        drawn.fitted("float16", "auto")
    assert torch.isfinite(drawn.squared(drawn.fitted("bfloat16", "native"))).all()


@pytest.mark.parametrize("storage", ["float32", "float64"])
def test_only_half_precision_has_a_choice(storage: str) -> None:
    drawn = Drawn(9, 20, 2, 1)
    fitted = drawn.fitted(storage, "native")
    assert torch.equal(drawn.squared(fitted), drawn.squared(drawn.fitted(storage, "widened")))
    assert (fitted.native_residual, fitted.applied) == (None, set())


@pytest.mark.parametrize("strategy", [name for name, s in STRATEGIES.items() if not s.native and name != "explicit-lu"])
def test_other_strategies_are_widened_whatever_is_asked(strategy: str) -> None:
    drawn = Drawn(9, 20, 2, 1)
    fitted = drawn.fitted("float16", "native", strategy)
    assert torch.equal(drawn.squared(fitted), drawn.squared(drawn.fitted("float16", "widened", strategy)))
    assert fitted.applied == {"widened"}


def test_a_native_product_that_fails_the_gate_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose half precision is broken."""
    right = STRATEGIES["whitening"]

    def wrong(state: dict[str, Tensor], delta: Tensor, epsilon: float) -> Tensor:
        return right.apply(state, delta, epsilon) * (1.1 if delta.dtype == torch.bfloat16 else 1)

    monkeypatch.setitem(STRATEGIES, "whitening", replace(right, apply=wrong))
    drawn = Drawn(9, 20, 2, 1)
    fitted = drawn.fitted("bfloat16", "native")
    assert not fitted.may_be_native
    np.testing.assert_allclose(drawn.squared(fitted).numpy(), drawn.exact, rtol=GATES["bfloat16"])
    assert fitted.applied == {"widened"}


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
def test_which_is_faster_is_measured_once_and_disturbs_nothing(storage: torch.dtype, threads: int) -> None:
    asked = STRATEGIES["whitening"], 209, 100, storage, 1, "cpu"
    found = native_is_faster(*asked)
    before = native_is_faster.cache_info()
    assert native_is_faster(*asked) is found
    assert native_is_faster.cache_info().misses == before.misses
    assert torch.get_num_threads() == threads


def test_batches_of_about_a_size_are_one_class() -> None:
    assert [image_class(n) for n in (1, 2, 3, 4, 5, 8, 9, 32, 33, 1000)] == [1, 2, 4, 4, 8, 8, 16, 32, 32, 32]


def test_auto_takes_the_native_form_within_its_factor_where_the_machine_has_it() -> None:
    # n = 209, d = 550: whitening stores 168,300 numbers, woodbury's 114,400 times 1.47.
    assert get_strategy("auto", 209, 550, native=True).name == "whitening"
    assert get_strategy("auto", 209, 550).name == "woodbury"
    assert get_strategy("auto", 60, 550, native=True).name == "woodbury"  # a fifth of it
    drawn = Drawn(38, 70, 2, 1)  # 1.35 times as much
    for storage in HALVES:
        native = multiplies(getattr(torch, storage), torch.device("cpu"))
        assert drawn.fitted(storage, "auto", "auto").strategy.name == ("whitening" if native else "woodbury")
        assert drawn.fitted(storage, "widened", "auto").strategy.name == "woodbury"
    assert not multiplies(torch.float32, torch.device("cpu"))


def test_an_unknown_way_is_refused_and_a_saved_model_keeps_its_own(tmp_path: Path) -> None:
    with pytest.raises(PadimBenchError, match="half_products 'fast': choose one of auto, native, widened"):
        PaDiM("resnet18", weights="random", half_products="fast")
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model = PaDiM(
        "resnet18", weights="random", n_features=20, strategy="whitening", storage="bfloat16", half_products="native"
    ).fit(images)
    maps, _ = model.score(images[:2])
    model.save(tmp_path / "m.safetensors")
    again = PaDiM.load(tmp_path / "m.safetensors")
    assert torch.equal(again.score(images[:2])[0], maps)
    assert again.gaussians.applied == model.gaussians.applied == {"native"}
