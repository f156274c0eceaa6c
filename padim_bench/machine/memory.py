"""How much memory this process may still take, and how much it has: of the machine, and of the cgroups it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Of no limit cgroups of the first version say a number near 2^63.
_NO_LIMIT = 1 << 60


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that may be taken before others are starved or this process is killed; None where nothing tells.

    The least of what the machine has left and of what every cgroup has left that this process is in, as containers and
    batch systems limit it. What they hold of files can be given back and counts as left.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    left = [*_of_machine(root), *_of_groups(root)]
    return max(0, min(left)) if left else None


def resident_memory() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not tell."""
    with suppress(ImportError, OSError):
        import psutil

        with suppress(psutil.Error):
            return int(psutil.Process().memory_info().rss)
    return 0


def _of_machine(root: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):
        for line in (root / "proc" / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
                return
    if root == Path("/"):
        with suppress(ImportError, OSError):
            import psutil

            yield int(psutil.virtual_memory().available)


def _of_groups(root: Path) -> Iterator[int]:
    """Of the second version of cgroups, or of the first one's controller of memory, each up to the topmost."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "")
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            tops = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        for top in tops:
            here = top / place.strip("/")
            while here.is_relative_to(top):  # its own folder is out of sight within some containers
                yield from _of_group(here, *names)
                here = here.parent


def _of_group(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    """What one has left, if it has a limit; of files also those that are read often, as the machine's own count has."""
    with suppress(OSError, ValueError):
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= _NO_LIMIT:
            return
        held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = sum(int(held.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield int(most) - int((folder / usage).read_text()) + files
