"""timm without torch's compiler, which stays there for whoever asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def said_by(code: str) -> list[str]:
    """What a fresh interpreter prints in the end."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


LOADED = "\nimport sys; print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"


def test_networks_of_the_paper_are_built_and_run_without_torchs_compiler() -> None:
    code = """
import torch
from padim_bench import create_backbone
for arch in ("resnet18", "tf_efficientnet_b0"):
    create_backbone(arch, "random")(torch.zeros(1, 3, 64, 64))"""
    assert said_by(code + LOADED) == ["False", "False"]


@pytest.mark.parametrize(
    "asked",
    [
        "import torch; torch._dynamo.config",
        "import torch._dynamo.guards",
        "from torchvision.ops.roi_align import is_compile_supported; is_compile_supported('cpu')",
    ],
)
def test_whoever_asks_for_the_compiler_afterwards_gets_torchs_own(asked: str) -> None:
    code = f"""
from padim_bench.padim.loading_timm import timm
{asked}
import sys
print(*(bool(sys.modules[f"torch._dynamo{{part}}"].__file__) for part in ("", ".utils", ".eval_frame")))"""
    assert said_by(code) == ["True"] * 3


@pytest.mark.parametrize("asked", ["import torch._dynamo.guards", "from torch._dynamo.utils import counters"])
def test_a_timm_that_asks_for_more_of_it_while_it_loads_gets_torchs_own(asked: str, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text(f"import torch\n{asked}\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from padim_bench.padim.loading_timm import timm
print(*(bool(sys.modules[name].__file__) for name in ("torch._dynamo", "torch._dynamo.utils")), timm.__file__)"""
    assert said_by(code) == ["True", "True", str(tmp_path / "timm.py")]


def test_functions_that_timm_kept_from_the_compiler_still_run_and_compile() -> None:
    code = """
import torch
from padim_bench.padim.loading_timm import timm
from timm.layers.typing import disable_compiler
from timm.models.naflexvit import NaFlexRopeIterator
from torchvision.ops import roi_align
print(callable(NaFlexRopeIterator))
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
image = torch.arange(64.0).view(1, 1, 8, 8)
plain = roi_align(image, boxes, 2)
print(torch.equal(torch.compile(lambda x: roi_align(x, boxes, 2), backend="eager")(image), plain))"""
    assert said_by(code) == ["True", "True"]
