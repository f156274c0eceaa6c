"""Runs that are on record are found without any network, whoever the network is of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import CommandLine
from torch import nn

from padim_bench.padim.backbones import Backbone, count_channels, create_backbone
from padim_bench.padim.layers import find_layers
from padim_bench.padim.paper import PAPER_BACKBONES, known_maps, layer_options
from padim_bench.runs.channels import Channels

# Of the paper's, another network of convolutions, and one whose positions have embeddings.
NETWORKS = {
    "resnet18": "paper",
    "test_resnet": "paper",
    "test_vit": "blocks.0+blocks.1",
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any parameter with storage, and any pass forward, is a failure."""
    set_parameter = nn.Module.register_parameter

    def without_storage(self: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and not value.is_meta:
            pytest.fail(f"{type(self).__name__}.{name} was given weights")
        set_parameter(self, name, value)

    def no_pass(_self: nn.Module, *inputs: object, **_: object) -> None:
        if any(isinstance(one, torch.Tensor) and not one.is_meta for one in inputs):
            pytest.fail("a pass forward")

    find_layers.cache_clear()  # what an earlier run found
    monkeypatch.setattr(nn.Module, "register_parameter", without_storage)
    monkeypatch.setattr(Backbone, "forward", no_pass)


@pytest.mark.parametrize("arch", NETWORKS)
def test_runs_on_record_are_found_without_any_network(
    cli: CommandLine, tiny: Path, tmp_path: Path, arch: str, request: pytest.FixtureRequest
) -> None:
    channels = count_channels(arch, NETWORKS[arch].split("+") if "+" in NETWORKS[arch] else NETWORKS[arch], 224)
    command = ("run", "--backbone", arch, "--layers", NETWORKS[arch], "--weights", "random", "--json")
    chosen = ("--n-features", f"8,{channels}", "--data", tiny, "--categories", "grid", "--results", tmp_path)
    first = cli(*command, *chosen)
    assert [run["config"]["model"]["n_features"] for run in first.runs] == [8, None]
    request.getfixturevalue("no_network")
    again = cli(*command, *chosen)
    assert [run["resumed"] for run in again.runs] == [True, True]
    assert [run["metrics"] for run in again.runs] == [run["metrics"] for run in first.runs]


def test_a_reproduction_on_record_builds_no_network(
    cli: CommandLine, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = ("reproduce", "table3", "--backbones", "resnet18", "--weights", "random", "--data", tiny, "--json")
    assert not any(run["resumed"] for run in cli(*command, "--results", tmp_path).runs)
    request.getfixturevalue("no_network")
    assert all(run["resumed"] for run in cli(*command, "--results", tmp_path).runs)


@pytest.mark.parametrize("arch", PAPER_BACKBONES)
def test_the_papers_networks_have_the_maps_that_the_registry_says(arch: str) -> None:
    layers = list(PAPER_BACKBONES[arch].maps)
    backbone = create_backbone(arch, "random", layers, fold=False)
    for size in (224, 255):
        assert known_maps(arch, layers, size) == (backbone.channels, backbone.grids(size))


def test_every_reading_of_the_papers_layers_is_counted_as_its_network_has_it() -> None:
    for reading in layer_options():
        backbone = create_backbone("tf_efficientnet_b5", "random", reading, fold=False)
        assert Channels().of("tf_efficientnet_b5", backbone.layers, 224) == sum(backbone.channels)
