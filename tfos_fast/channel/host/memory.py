"""How much memory this process may still use.

Only the standard library is needed, and nothing of this package: Spark tasks run these functions before it is known whether their
Python has this package (`tfos_fast.cluster.spark.probe`).
"""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> tuple[int, str]:
    """Bytes that this process may still use and where that figure comes from: its cgroup's limit or the machine's free memory."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    best = (int(meminfo["MemAvailable"].split()[0]) * 1024, "MemAvailable of /proc/meminfo")
    for limit_file, usage_file in _cgroup_files():
        try:
            limit, usage = limit_file.read_text().strip(), int(usage_file.read_text()) - _reclaimable(limit_file.parent)
        except (OSError, ValueError):
            continue
        if limit.isdigit() and int(limit) - usage < best[0]:
            best = (max(0, int(limit) - usage), str(limit_file))
    return best


def _reclaimable(group: Path) -> int:
    """Bytes of files that the kernel drops when memory is wanted; a cgroup's usage counts them."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _cgroup_files() -> list[tuple[Path, Path]]:
    root = Path("/sys/fs/cgroup")
    files = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            names, top = ("memory.max", "memory.current"), root
        elif "memory" in controllers.split(","):
            names, top = ("memory.limit_in_bytes", "memory.usage_in_bytes"), root / "memory"
        else:
            continue
        # A parent's limit binds too; inside a container the path may be the host's, then only the root exists.
        here = Path(path.lstrip("/"))
        files += [(top / level / names[0], top / level / names[1]) for level in (here, *here.parents)]
    return files
