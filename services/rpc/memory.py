"""How much memory this process may still use: what its limits leave it, what is free, and what its owner allows.

And how it returns to the system what it does not need.
"""

import ctypes
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from elsa.errors import CapacityError
from elsa.plan.hardware import GROUPS, control_groups

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
OLD_GROUP = GROUPS / "memory"
"""Where control groups of version 1 bound memory; in a container, the container's own group."""
FIGURES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""What a group says its limit, its use and idle cached files are, in version 2 and in version 1."""

LARGE_BYTES = 512 << 10
"""Of a tensor that goes back to the system once it is freed; those of a step that weigh are larger."""
_MMAP_THRESHOLD = -3
"""How malloc.h names the size from which a block has pages of its own."""
_ARENA_MAX = -8
"""How malloc.h names the number of heaps among which threads are spread."""


def usable_bytes(max_memory_mib: int | None, there: int | None = None) -> int:
    """Bytes that this process may still allocate: its owner's cap, or what there is if that is less.

    Args:
        max_memory_mib: the cap; None without one.
        there: what there is; None asks the system.

    Raises:
        CapacityError: if neither is known.
    """
    limits = [available_bytes() if there is None else there]
    if max_memory_mib is not None:
        limits.append(max_memory_mib << 20)
    known = [limit for limit in limits if limit is not None]
    if not known:
        raise CapacityError(
            "this system does not tell how much memory is free; set max_memory_mib to what may be used"
        )
    return min(known)


def give_back() -> None:
    """Have the C library return what is free within this process to the system; it keeps much for later otherwise.

    Takes some tenths of a second for gigabytes. Nothing happens where the library has no such call, as glibc has.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def keep_little() -> None:
    """Have the C library return large blocks to the system once they are freed, and all threads share one heap.

    Otherwise it lets the first large block that is freed decide from which size on blocks are kept: then they leave
    holes between what stays, which later blocks fill badly. To be called as a process starts, before its threads do.
    Nothing happens where the library has no such call, as glibc has.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_ARENA_MAX, 1)


def available_bytes(groups: Sequence[Path] | None = None, meminfo: Path = MEMINFO, statm: Path = STATM) -> int | None:
    """Bytes that may still be allocated; None on a system that does not tell.

    The least of what the control groups that hold this process leave it, what is free, and what a limit on its
    address space leaves it.
    """
    folders = [*control_groups(), OLD_GROUP] if groups is None else groups
    limits = [*map(_group_left, folders), _free(meminfo), _address_space_left(statm)]
    return min((limit for limit in limits if limit is not None), default=None)


def _group_left(group: Path) -> int | None:
    for limit, used, idle in FIGURES:
        try:
            left = int((group / limit).read_text()) - int((group / used).read_text())
        except (OSError, ValueError):  # no group of this version here, or "max": no limit
            continue
        cached = _figure(group / "memory.stat", idle) or 0  # counted as used, but given back to whoever asks
        return max(left + cached, 0)
    return None


def _free(meminfo: Path) -> int | None:
    kib = _figure(meminfo, "MemAvailable:")
    return None if kib is None else kib * 1024


def _address_space_left(statm: Path) -> int | None:
    try:
        import resource  # not there on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(statm.read_text().split()[0])
    except (ImportError, OSError, ValueError, IndexError):
        return None
    return None if limit == resource.RLIM_INFINITY else max(limit - pages * resource.getpagesize(), 0)


def _figure(path: Path, name: str) -> int | None:
    """The number after `name` in a file of named figures."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[1]) for words in lines if words[:1] == [name]), None)
