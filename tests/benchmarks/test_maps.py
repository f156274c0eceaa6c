"""Upsampling and smoothing as one operator, beside torch's interpolation and scipy's filter one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from work import Measure

from padim_bench import PROTOCOLS
from padim_bench.padim.anomaly_map import anomaly_maps

CELLS, PIXELS = 56, 224


def step_by_step(distances: Tensor, protocol_name: str) -> Tensor:
    protocol = PROTOCOLS[protocol_name]
    assert protocol.maps.interpolation is not None
    upsampled = functional.interpolate(distances[:, None], size=(PIXELS, PIXELS), mode=protocol.maps.interpolation)
    smoothed = [
        ndimage.gaussian_filter(m, protocol.maps.sigma, mode=protocol.maps.border) for m in upsampled[:, 0].numpy()
    ]
    return torch.from_numpy(np.stack(smoothed))


def in_one(distances: Tensor, protocol_name: str) -> Tensor:
    return anomaly_maps(distances, (PIXELS, PIXELS), PROTOCOLS[protocol_name])[0]


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("protocol", ["paper", "anomalib"])
@pytest.mark.parametrize("name", ["one operator and the score", "interpolate, then gaussian_filter"])
def test_maps(measure: Measure, name: str, protocol: str, batch: int, threads: int) -> None:
    distances = torch.rand(batch, CELLS, CELLS, generator=torch.Generator().manual_seed(0)) * 20
    maps = measure(
        in_one if name.startswith("one") else step_by_step,
        distances,
        protocol,
        group=f"Maps from {CELLS}x{CELLS} to {PIXELS}x{PIXELS}, protocol {protocol}, batch {batch}",
        label=name,
        flops=2 * batch * PIXELS * CELLS * (CELLS + PIXELS),
        moved=4 * batch * (CELLS**2 + PIXELS**2),
    )
    torch.testing.assert_close(maps, step_by_step(distances, protocol), rtol=1e-4, atol=1e-4)
