"""Folded batch normalisation is the same affine map, and what is not one stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from padim_bench import create_backbone
from padim_bench.padim import backbones
from padim_bench.padim.folding import fold_batch_norms

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
        if self.norm.running_mean is not None and self.norm.running_var is not None:
            self.norm.running_mean.copy_(torch.randn(4, generator=generator))
            self.norm.running_var.copy_(torch.rand(4, generator=generator) + 0.1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.conv(x)
        out: Tensor = self.norm(given)
        if self.how == "reused":
            return out + given
        return self.norm(out) if self.how == "twice" else out


def fold(net: nn.Module, layers: Sequence[str] = ()) -> float:
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
    assert fold(net) < 1e-6
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
        assert 0 <= fold(net) < 1e-6
        assert norms(net) == 0
        torch.testing.assert_close(net(IMAGE).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["reused", "twice", "no statistics", "wanted"])
def test_what_cannot_be_folded_is_left_bit_for_bit(how: str) -> None:
    net = Net(how, nn.BatchNorm2d(4, track_running_stats=False) if how == "no statistics" else None)
    with torch.no_grad():
        before, state = net(IMAGE), copy.deepcopy(net.state_dict())
        assert fold(net, ("conv",) if how == "wanted" else ()) == 0.0
        assert norms(net) == 1
        assert torch.equal(net(IMAGE), before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("resnet18", "paper"),
        ("tf_efficientnet_b0", "paper"),  # depthwise, with activations inside the normalisations
        ("densenet121", ("features.denseblock1",)),  # some normalise sums of convolutions
        ("resnetv2_50", ("stages.0",)),  # normalised before they are convolved
        ("resnet18", ("layer1.0.conv1", "layer1.0.bn1", "layer2")),
    ],
)
def test_backbones_are_as_exact_as_unfolded_ones(
    arch: str, layers: str | tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = create_backbone(arch, "random", layers)
    monkeypatch.setattr(backbones, "fold_batch_norms", lambda *_: 0.0)
    whole = create_backbone(arch, "random", layers)
    assert norms(folded.model) < norms(whole.model)
    assert 0 < folded.folding_error < 1e-4
    with torch.no_grad():
        model = copy.deepcopy(whole.model).double()
        exact = backbones._run(model, whole.layers, whole._prepare(IMAGE).double())
    for found, unfolded, right in zip(folded(IMAGE), whole(IMAGE), exact, strict=True):
        error, usual = (float((x.double() - right).norm() / right.norm()) for x in (found, unfolded))
        assert error < 2e-6 + 2 * usual
