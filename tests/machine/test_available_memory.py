"""What memory is left: of the machine or of the tightest cgroup on the way up, and what is asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from padim_bench.errors import PadimBenchError
from padim_bench.machine.memory import available_memory, resident_memory
from padim_bench.padim.footprint import Need, at_worst, check_fits

GB = 10**9


def _system(root: Path, cgroup: str, groups: dict[str, tuple[object, int, str]]) -> Path:
    """A tree of ``proc`` and ``sys``: 16 GB are left, and each group has (limit, usage, line of its statistics)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {16 * GB // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for place, (limit, usage, stat) in groups.items():
        folder = root / "sys/fs/cgroup" / place
        folder.mkdir(parents=True)
        first = place.startswith("memory")
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{limit}\n")
        (folder / ("memory.usage_in_bytes" if first else "memory.current")).write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{stat}\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "groups", "left"),
    [
        (
            "0::/job/step\n",
            {"job": (4 * GB, GB, "inactive_file 3\nactive_file 4"), "job/step": ("max", GB, "")},
            3 * GB + 7,
        ),
        ("0::/job\n", {"job": (GB, 2 * GB, "inactive_file 0")}, 0),
        (
            "3:cpu:/x\n2:memory:/a/b\n",
            {"memory/a/b": (2 * GB, GB, "total_inactive_file 2\ntotal_active_file 3")},
            GB + 5,
        ),
        ("2:memory:/out/of/sight\n", {"memory": (2 * GB, GB, "total_inactive_file 0")}, GB),
        ("2:memory:/\n", {"memory": (9223372036854771712, GB, "total_inactive_file 0")}, 16 * GB // 1024 * 1024),
        ("0::/\n", {}, 16 * GB // 1024 * 1024),
    ],
)
def test_the_tightest_limit_counts(
    tmp_path: Path, cgroup: str, groups: dict[str, tuple[object, int, str]], left: int
) -> None:
    assert available_memory(_system(tmp_path, cgroup, groups)) == left


def test_this_machine_tells_something() -> None:
    assert (available_memory() or 0) > 0
    assert 10**7 < resident_memory() < 10**12


def test_what_does_not_fit_is_refused_with_what_does() -> None:
    mends = (("--strategy a", 9 * GB), ("--strategy b", 6 * GB), ("--storage c", 5 * GB), ("fewer of them", None))
    need = at_worst("bottle", {"state": 8 * GB, "features": 2 * GB}, {"features": 3 * GB})
    assert need.bytes == 10 * GB
    need = Need(need.what, need.parts, mends)
    check_fits(need, available=13 * GB)
    with pytest.raises(PadimBenchError) as refused:
        check_fits(need, available=8 * GB)
    assert str(refused.value) == (
        "bottle: would take about 9.3 GiB of memory (state 7.5 GiB, features 1.9 GiB), but no more than 6.7 GiB can be "
        "had, 90% of what is left on this machine: --strategy b takes 5.6 GiB, or --storage c takes 4.7 GiB, or fewer "
        "of them"
    )
    with pytest.raises(PadimBenchError, match=r"by 2 processes.*fewer processes"):
        check_fits(need, 2, available=20 * GB)
