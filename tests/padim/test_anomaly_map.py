from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from padim_bench import PROTOCOLS, Protocol
from padim_bench.padim.anomaly_map import anomaly_maps

PAPER = PROTOCOLS["paper"]


@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=list(PROTOCOLS))
@pytest.mark.parametrize(("grid", "size"), [((56, 56), (224, 224)), ((7, 9), (50, 33)), ((1, 1), (8, 8))])
def test_maps_equal_torch_upsampling_then_scipy_smoothing(
    protocol: Protocol, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    distances = torch.rand(3, *grid) * 20
    upsampled = functional.interpolate(
        distances[:, None].double(), size=size, mode=protocol.maps.interpolation, align_corners=False
    )[:, 0].numpy()
    expected = np.stack([ndimage.gaussian_filter(m, protocol.maps.sigma, mode=protocol.maps.border) for m in upsampled])
    maps, scores = anomaly_maps(distances, size, protocol)
    assert (maps.dtype, maps.shape) == (torch.float32, (3, *size))
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(scores, maps.amax(dim=(1, 2)))


def test_without_smoothing_a_map_is_its_upsampling_and_a_constant_stays_constant() -> None:
    distances = torch.rand(2, 14, 14)
    maps, _ = anomaly_maps(distances, (56, 56), PAPER.vary(sigma=0.0))
    expected = functional.interpolate(distances[:, None], size=(56, 56), mode="bicubic")[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-6)
    flat, scores = anomaly_maps(torch.full((1, 14, 14), 3.5), (56, 56), PAPER)
    torch.testing.assert_close(flat, torch.full_like(flat, 3.5))
    assert scores.item() == pytest.approx(3.5)


def test_score_from_the_raw_map_is_its_maximum_before_smoothing() -> None:
    distances = torch.zeros(1, 56, 56)
    distances[0, 20, 20] = 10
    _, smoothed = anomaly_maps(distances, (224, 224), PAPER)
    _, raw = anomaly_maps(distances, (224, 224), PAPER.vary(score_from="raw"))
    upsampled = functional.interpolate(distances[:, None], size=(224, 224), mode="bicubic")
    assert raw.item() == pytest.approx(float(upsampled.max()), rel=1e-5)
    assert smoothed.item() < raw.item() / 2


def test_borders_differ_only_within_the_filter_of_the_edge() -> None:
    distances = torch.rand(1, 56, 56)
    ours, _ = anomaly_maps(distances, (224, 224), PAPER)
    theirs, _ = anomaly_maps(distances, (224, 224), PAPER.vary(border="mirror"))
    assert torch.equal(ours[:, 17:-17, 17:-17], theirs[:, 17:-17, 17:-17])
    assert not torch.allclose(ours, theirs)
