"""What the processor multiplies as it is stored, and whose kernels do it: much of what decides how fast it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Names as processors are described by them: how Linux spells the flag.
INSTRUCTIONS = {
    "AVX512-BF16": "avx512_bf16",
    "AVX512-FP16": "avx512_fp16",
    "AMX-BF16": "amx_bf16",
    "AMX-INT8": "amx_int8",
    "AVX512-VNNI": "avx512_vnni",
}
PROBE_LIMIT_S = 120  # importing torch, on a machine with much else to do
_PROBE = "import torch; a = torch.ones(8, 8); a @ a"
_VERBOSE = "MKL_VERBOSE "
# Version, and what MKL takes the processor for: of its line what decides its speed.
_KERNEL = re.compile(r"(\S*MKL .*?) Product build \S+ for \S+ \d+ architecture (.*), \S+ [\d.]+GHz ")


def instructions_told(cpuinfo: str) -> list[str] | None:
    """Which of ``INSTRUCTIONS`` every processor of a text as /proc/cpuinfo has; None where it lists no flags."""
    flags = [
        set(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].rstrip() == "flags"
    ]
    if not flags:
        return None
    common = set.intersection(*flags)
    return [name for name, flag in INSTRUCTIONS.items() if flag in common]


@cache
def cpuinfo() -> str:
    """What Linux tells of the processors; "" elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def instructions() -> list[str] | None:
    """Which of ``INSTRUCTIONS`` this machine's processors have; None where the system does not tell as Linux does."""
    return instructions_told(cpuinfo())


def native_half() -> list[str] | None:
    """The half precisions that torch's oneDNN multiplies natively on this processor; None where torch does not tell."""
    import torch

    told = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    found = {name: getattr(torch.ops.mkldnn, asked, None) for name, asked in told.items()}
    if not all(found.values()):
        return None
    return [name for name, supported in found.items() if supported is not None and supported()]


def mkl_told(printed: str) -> str | None:
    """MKL's own description of itself and of the processor that it takes this one for, of what MKL_VERBOSE=1 prints."""
    for line in printed.splitlines():
        if line.startswith(_VERBOSE):
            return line.removeprefix(_VERBOSE).strip()
    return None


@cache
def mkl_kernel() -> str | None:
    """The line that a fresh process prints for one product with MKL_VERBOSE=1; None where there is no MKL.

    Takes as long as torch takes to import, and so is asked for where speed is measured, and in no run.
    """
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"MKL_VERBOSE": "1", "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, errors="replace",
            timeout=PROBE_LIMIT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return mkl_told(done.stdout)


def features_line(about: Mapping[str, Any]) -> str:
    """In a line, the features in a mapping as ``environment`` gives it; of what it does not hold, that it is unknown.

    MKL's line is one of its members, "mkl", if :func:`mkl_kernel` was asked.
    """
    said = [
        f"instructions for half precision and int8 {_listed(about.get('instructions'))}",
        f"torch's kernels {about.get('cpu_capability') or 'unknown'}",
        f"oneDNN multiplies natively {_listed(about.get('native_half'))}",
    ]
    if "mkl" in about:
        said.append(f"MKL: {_kernel(about['mkl']) if about['mkl'] else 'none'}")
    return "; ".join(said)


def _kernel(line: str) -> str:
    found = _KERNEL.match(line)
    return f"{found[1]} for {found[2]}" if found else line


def _listed(names: list[str] | None) -> str:
    return "unknown" if names is None else ", ".join(names) or "none"
