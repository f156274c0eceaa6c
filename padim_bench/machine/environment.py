"""Where a run happened: enough to judge its numbers, nothing that names a person or a machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import padim_bench
from padim_bench.machine.features import cpuinfo, instructions, native_half

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "safetensors")
_OPENMP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def environment(device: str = "cpu") -> dict[str, Any]:
    """OS, processor and its half precision, threads, BLAS, GPU if used, versions and the commit of this code."""
    import torch

    found: dict[str, Any] = {
        "os": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": instructions(),
        "native_half": native_half(),
        "threads": torch.get_num_threads(),
        "openmp": {k: os.environ[k] for k in _OPENMP if k in os.environ},
        "blas": "mkl" if "BLAS_INFO=mkl" in torch.__config__.show() else "other",
        "python": platform.python_version(),
        "versions": versions(),
        **commit(),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["tf32"] = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return found


def versions() -> dict[str, str]:
    return {"padim-bench": padim_bench.__version__} | {name: metadata.version(name) for name in _PACKAGES}


@cache
def cpu_name() -> str:
    for line in cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def commit() -> dict[str, Any]:
    """Commit of the code in use and whether it was changed since; None outside a checkout of it."""
    folder = Path(__file__).resolve().parents[1]
    code = [str(folder), str(folder.parent / "reproduce"), str(folder.parent / "pyproject.toml")]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package installed below somebody else's checkout is not part of it.
    if not git("ls-files", "--error-unmatch", str(folder / "__init__.py")):
        return {"commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--", *[p for p in code if Path(p).exists()])
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


class PeakMemory:
    """Peak resident memory since it was made, where Linux lets it be reset; else since the process began.

    None where the system does not tell.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.scope = "process"
        self._read: int | None = 0
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.scope = "run"
        except OSError:
            pass
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, Any]:
        """{"peak_rss_bytes", "peak_rss_scope"} and, on a GPU, "peak_cuda_bytes"; none is below what was read before."""
        self._read = larger(self._read, peak_rss())  # Linux adds up its threads' pages late, and so may tell less again
        found: dict[str, Any] = {"peak_rss_bytes": self._read, "peak_rss_scope": self.scope}
        if self.device.startswith("cuda"):
            import torch

            found["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return found


def larger(one: int | None, other: int | None) -> int | None:
    """Of two peaks; None, not measured, where either is."""
    return None if one is None or other is None else max(one, other)


def peak_rss() -> int | None:
    """Bytes that were resident at most: of Linux's /proc, of Unix's ``resource``, of Windows; else None."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return _peak_working_set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_working_set() -> int | None:
    """What Windows keeps count of."""
    try:
        import psutil
    except ImportError:  # itself wants what this system lacks
        return None
    peak: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)
    return peak
