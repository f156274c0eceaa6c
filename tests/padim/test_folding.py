"""Folded batch normalisation is the same affine map, and what is not one stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from padim_bench import create_backbone
from padim_bench.padim.folding import fold_batch_norms, relative_error
from padim_bench.padim.layers import Layer, feature_maps

IMAGE = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Net(nn.Module):
    """A convolution, its normalisation, and what ``forward`` is told to do with both."""

    def __init__(self, how: str = "plain", norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.how = how
        self.conv = nn.Conv2d(3, 4, 3, bias=how == "bias")
        self.conv.weight.data = torch.randn(4, 3, 3, 3, generator=generator)
        self.norm = nn.BatchNorm2d(4) if norm is None else norm
        if how == "reused where large":
            self.other = nn.BatchNorm2d(4)
        if self.norm.running_mean is not None and self.norm.running_var is not None:
            self.norm.running_mean.copy_(torch.randn(4, generator=generator))
            self.norm.running_var.copy_(torch.rand(4, generator=generator) + 0.1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.conv(x)
        if self.how == "written to":
            given.relu_()
        out: Tensor = self.norm(given)
        if self.how == "reused":
            return out + given
        if self.how == "reused where large":  # never, on the image that is tried
            return out + (self.other(given) - 1e4).relu()
        if self.how == "asked":
            return out * float(cast(Tensor, self.norm.running_var)[0])
        return self.norm(out) if self.how == "twice" else out


def fold(net: nn.Module, layers: Sequence[str] = ()) -> float | None:
    def features() -> list[Tensor]:
        with torch.no_grad():
            return [net(IMAGE)]

    return fold_batch_norms(net, layers, features)


def test_one_channel_by_hand() -> None:
    net = Net(norm=nn.BatchNorm2d(4, eps=0.0))
    with torch.no_grad():
        net.conv.weight.fill_(1.0)
        for name, value in (("running_mean", 3.0), ("running_var", 4.0), ("weight", 6.0), ("bias", 0.5)):
            getattr(net.norm, name).fill_(value)
    error = fold(net)
    assert error is not None
    assert error < 1e-6
    # (x - 3) / sqrt(4) * 6 + 0.5 = 3 x - 8.5
    assert torch.equal(net.conv.weight, torch.full((4, 3, 3, 3), 3.0))
    assert net.conv.bias is not None
    assert torch.equal(net.conv.bias, torch.full((4,), -8.5))
    assert norms(net) == 0


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, eps=0.3)])
@pytest.mark.parametrize("how", ["plain", "bias"])
def test_the_same_values_without_the_normalisation(how: str, norm: nn.BatchNorm2d | None) -> None:
    net = Net(how, copy.deepcopy(norm))
    with torch.no_grad():
        exact = copy.deepcopy(net).double()(IMAGE.double())
        error = fold(net)
        assert error is not None
        assert error < 1e-6
        assert norms(net) == 0
        torch.testing.assert_close(net(IMAGE).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "how", ["reused", "reused where large", "twice", "no statistics", "wanted", "written to", "asked"]
)
def test_what_cannot_be_folded_is_left_bit_for_bit(how: str) -> None:
    net = Net(how, nn.BatchNorm2d(4, track_running_stats=False) if how == "no statistics" else None)
    with torch.no_grad():
        before, state = net(IMAGE), copy.deepcopy(net.state_dict())
        assert fold(net, ("conv",) if how == "wanted" else ()) is None
        assert norms(net) == 1 + (how == "reused where large")
        assert torch.equal(net(IMAGE), before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("resnet18", "paper"),
        ("tf_efficientnet_b0", "paper"),  # depthwise, with activations inside the normalisations
        ("densenet121", ("features.denseblock1",)),  # some normalise sums of convolutions
        ("resnetv2_50", ("stages.0",)),  # normalised before they are convolved
        ("inception_next_atto", ("stages.0",)),  # whose normalisations read what lies where convolutions give later
        ("resnet18", ("layer1.0.conv1", "layer1.0.act1", "layer2")),
    ],
)
def test_backbones_are_as_exact_as_unfolded_ones(arch: str, layers: str | tuple[str, ...]) -> None:
    folded, whole = (create_backbone(arch, "random", layers, fold=fold) for fold in (True, False))
    assert norms(folded.model) < norms(whole.model)
    assert whole.folding_error is None
    assert folded.folding_error is not None
    assert 0 < folded.folding_error < 1e-4
    with torch.no_grad():
        model = copy.deepcopy(whole.model).double()
        layers = [Layer(name, name) for name in whole.layers]
        mean, std = whole.get_buffer("mean").double(), whole.get_buffer("std").double()
        exact = feature_maps(arch, model, layers, (IMAGE.double() - mean) / std)
    for found, unfolded, right in zip(folded(IMAGE), whole(IMAGE), exact, strict=True):
        error, usual = (relative_error(x.double(), right) for x in (found, unfolded))
        assert error < 2e-6 + 2 * usual


def test_relative_error_by_hand() -> None:
    right = torch.tensor([3.0, 4.0])
    assert relative_error(right + torch.tensor([0.0, 0.5]), right) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    for found, exact in ((right * float("nan"), right), (right, right * float("nan"))):
        assert not relative_error(found, exact) <= 1e9


def test_a_later_layer_of_nan_undoes_the_fold() -> None:
    net, calls = Net(), []

    def features() -> list[Tensor]:
        calls.append(1)
        with torch.no_grad():
            return [net(IMAGE), torch.full((2,), float("nan") if len(calls) > 1 else 1.0)]

    assert fold_batch_norms(net, (), features) is None
    assert norms(net) == 1
