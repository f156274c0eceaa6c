"""Sessions: what one makes for a unit depends on the unit alone."""

from __future__ import annotations

from pathlib import Path

import torch

from padim_bench.data.mvtec import mvtec
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.config import Wanted
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.session import Session


def test_the_error_of_folding_is_that_of_the_unit_s_threads_whatever_the_caller_s(images: Path) -> None:
    """A network is built before the first run here, and in the run elsewhere: records are the same."""
    wanted = Wanted(PaDiMConfig(layers=("blocks.1", "blocks.2"), n_features=8))
    (unit,) = plan([mvtec(images, "grid")], [(wanted, resolve_weights("mobilenetv3_small_050", "random"))], Settings())
    assert unit.settings.execution.threads == 1
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(Session().backbone(unit).folding_error)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
