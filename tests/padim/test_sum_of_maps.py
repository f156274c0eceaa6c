"""Maps of several models added up, as the paper's Table I has it of the layers of ResNet18."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from padim_bench import PROTOCOLS, PaDiM, Protocol, create_backbone
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.model import score_features

PAPER = PROTOCOLS["paper"]
PLAIN = PAPER.vary(sigma=0.0, map_interpolation="bilinear")


def test_two_grids_added_by_hand() -> None:
    coarse = torch.tensor([[[10.0]], [[-1.0]]])
    fine = torch.tensor([[[0.0, 4.0], [8.0, 12.0]], [[1.0, 1.0], [1.0, 5.0]]])
    maps, scores = anomaly_maps([fine, coarse], (4, 4), PLAIN)
    # Centres of pixels lie at -1/4, 1/4, 3/4 and 5/4 of a cell's distance; beyond the outer centres nothing changes.
    first = [[10, 11, 13, 14], [12, 13, 15, 16], [16, 17, 19, 20], [18, 19, 21, 22]]
    corner = [[0, 0, 0, 0], [0, 0.25, 0.75, 1], [0, 0.75, 2.25, 3], [0, 1, 3, 4]]
    torch.testing.assert_close(maps, torch.tensor([first, corner], dtype=torch.float32))
    assert scores.tolist() == [22, 4]


def grids_of(seed: int, sides: list[tuple[int, int]], n: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, h, w, generator=generator) * 10 * (i + 1) for i, (h, w) in enumerate(sides)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4),
    st.sampled_from([*PROTOCOLS.values(), PAPER.vary(score_from="raw"), PLAIN]),
    st.integers(0, 2**32),
)
def test_a_sum_is_that_of_the_single_maps(sides: list[tuple[int, int]], protocol: Protocol, seed: int) -> None:
    grids, size = grids_of(seed, sides), (24, 17)
    singles = [anomaly_maps(grid, size, protocol)[0].double() for grid in grids]
    maps, scores = anomaly_maps(grids, size, protocol)
    assert (maps.dtype, maps.shape) == (torch.float32, (2, *size))
    torch.testing.assert_close(maps.double(), torch.stack(singles).sum(dim=0), rtol=1e-5, atol=1e-4)
    scored = maps if protocol.maps.score_from == "smoothed" else anomaly_maps(grids, size, protocol.vary(sigma=0.0))[0]
    assert torch.equal(scores, scored.amax(dim=(1, 2)))


def test_one_grid_in_a_list_is_that_grid() -> None:
    (grid,) = grids_of(0, [(7, 7)])
    for ours, theirs in zip(anomaly_maps([grid], (28, 28), PAPER), anomaly_maps(grid, (28, 28), PAPER), strict=True):
        assert torch.equal(ours, theirs)


def test_the_score_is_the_maximum_of_the_sum_not_the_sum_of_maxima() -> None:
    """Two peaks apart do not add up; two on one spot do."""
    left, right = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    left[0, 1, 1], right[0, 6, 6] = 10, 9
    alone = [float(anomaly_maps(one, (64, 64), PAPER)[1]) for one in (left, right)]
    assert float(anomaly_maps([left, right], (64, 64), PAPER)[1]) == pytest.approx(max(alone), rel=1e-2)
    assert float(anomaly_maps([left, left], (64, 64), PAPER)[1]) == pytest.approx(2 * alone[0], rel=1e-5)


def test_three_models_of_a_layer_each_score_as_the_sum_of_their_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randint(0, 256, (n, 3, 64, 64), dtype=torch.uint8, generator=generator) for n in (6, 3))
    models = [
        PaDiM(create_backbone("resnet18", "random", f"layer{i}"), n_features=None, protocol="anomalib").fit(train)
        for i in (1, 2, 3)
    ]
    assert [model.gaussians.embedding.grid for model in models] == [(16, 16), (8, 8), (4, 4)]
    pairs = [(m.gaussians, m.gaussians.embedding.select(m.backbone(test))) for m in models]
    maps, scores = score_features(pairs, (64, 64), PROTOCOLS["anomalib"])
    expected = sum(model.score(test)[0].double() for model in models)
    torch.testing.assert_close(maps.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(scores, maps.amax(dim=(1, 2)))
