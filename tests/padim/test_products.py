"""The order of factors changes how fast a product is, and nothing else."""

from __future__ import annotations

import pytest
import torch

from padim_bench.padim.strategies.products import images_first, product


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first", [True, False])
def test_either_order_is_the_product(first: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_bench.padim.strategies.products.images_first", lambda: first)
    generator = torch.Generator().manual_seed(0)
    matrices, images = (torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((5, 7), (2, 7)))
    found = product(matrices.to(dtype), images.to(dtype).mT)
    assert (found.shape, found.dtype) == ((3, 5, 2), dtype)
    expected = torch.einsum("prd,pbd->prb", matrices, images)
    rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=rtol)


def test_one_machine_gives_one_order() -> None:
    assert images_first() is images_first()
