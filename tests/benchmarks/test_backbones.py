"""Backbones up to the last layer in use, untrained: how fast they are does not depend on the weights."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from work import Measure

from padim_bench.padim.backbones import Backbone, create_backbone


@lru_cache(maxsize=1)
def backbone(name: str) -> Backbone:
    return create_backbone(name, "random")


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "tf_efficientnet_b4", "tf_efficientnet_b5"])
def test_backbone(measure: Measure, name: str, batch: int, threads: int) -> None:
    model = backbone(name)
    images = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        maps = model(images)
    parameters = sum(p.nbytes for p in model.parameters())
    found = measure(
        model,
        images,
        group=f"Backbones to the last layer in use, 224x224, batch {batch}",
        label=name,
        flops=counter.get_total_flops(),
        moved=parameters + images.nbytes + sum(m.nbytes for m in maps),
    )
    assert [m.shape for m in found] == [m.shape for m in maps]
