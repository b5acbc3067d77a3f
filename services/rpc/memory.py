"""How much memory this process may still use: the control group's limit where there is one, else what is free."""

from pathlib import Path

CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")
CGROUP_USED = Path("/sys/fs/cgroup/memory.current")
MEMINFO = Path("/proc/meminfo")


def available_bytes(
    cgroup_max: Path = CGROUP_MAX, cgroup_used: Path = CGROUP_USED, meminfo: Path = MEMINFO
) -> int | None:
    """Bytes that may still be allocated; None on a system that tells neither."""
    limits = [limit for limit in (_cgroup_left(cgroup_max, cgroup_used), _free(meminfo)) if limit is not None]
    return min(limits, default=None)


def _cgroup_left(limit: Path, used: Path) -> int | None:
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no limit
        return None


def _free(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
