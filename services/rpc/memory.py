"""How much memory this process may still use: the control group's limit where there is one, else what is free."""

from pathlib import Path

CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")
CGROUP_USED = Path("/sys/fs/cgroup/memory.current")
CGROUP_STAT = Path("/sys/fs/cgroup/memory.stat")
MEMINFO = Path("/proc/meminfo")


def available_bytes(
    cgroup_max: Path = CGROUP_MAX,
    cgroup_used: Path = CGROUP_USED,
    cgroup_stat: Path = CGROUP_STAT,
    meminfo: Path = MEMINFO,
) -> int | None:
    """Bytes that may still be allocated; None on a system that tells neither."""
    limits = [_cgroup_left(cgroup_max, cgroup_used, cgroup_stat), _free(meminfo)]
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroup_left(limit: Path, used: Path, stat: Path) -> int | None:
    try:
        left = int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no limit
        return None
    cached = _figure(stat, "inactive_file") or 0  # counted as used, but given back to whoever asks
    return max(left + cached, 0)


def _free(meminfo: Path) -> int | None:
    kib = _figure(meminfo, "MemAvailable:")
    return None if kib is None else kib * 1024


def _figure(path: Path, name: str) -> int | None:
    """The number after `name` in a file of named figures."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[1]) for words in lines if words[:1] == [name]), None)
