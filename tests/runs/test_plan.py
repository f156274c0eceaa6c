"""Plans: what is run together, and what would be the same run twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from padim_bench import PadimBenchError
from padim_bench.data.mvtec import mvtec
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.protocols import PROTOCOLS
from padim_bench.records.config import Wanted
from padim_bench.runs.plan import Settings, plan


def test_the_same_weights_by_two_names_are_one_run(images: Path, tmp_path: Path) -> None:
    category = mvtec(images, "grid")
    for name in ("resnet18", "resnet18.tv_in1k"):
        save_file({"a": torch.zeros(3)}, tmp_path / f"{name}.safetensors", {"note": name})
    weights = [resolve_weights(name, tmp_path) for name in ("resnet18", "resnet18.tv_in1k")]
    assert weights[0].label != weights[1].label
    wanted = Wanted(PaDiMConfig())
    (unit,) = plan([category], [(wanted, one) for one in weights], Settings())
    assert len(unit.configs) == 1
    others = replace(weights[1], mean=(0.5, 0.5, 0.5))
    assert len(plan([category], [(wanted, weights[0]), (wanted, others)], Settings())) == 2


@pytest.mark.parametrize("name", ["sigmas", "image_resize", ""])
def test_a_choice_that_no_protocol_has_is_named(name: str) -> None:
    with pytest.raises(PadimBenchError, match=r"no choice of a protocol is called .*: choose from resize, crop, "):
        PROTOCOLS["paper"].vary(**{name: 1})
