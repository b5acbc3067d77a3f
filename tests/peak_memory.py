"""How large a process becomes; figures of Linux."""

import ctypes
import gc
from pathlib import Path

import pytest

MIB = 1 << 20
_MMAP_THRESHOLD = -3
"""How malloc.h names the size from which memory is given back at once; this is its first value."""
needs_figures = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's figures")


def figure(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


class Peak:
    """Largest resident size within the context, above the one at its begin."""

    bytes: int

    def __enter__(self) -> "Peak":
        gc.collect()
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 128 << 10)  # else it grows with what is freed, and holes count as if used
        libc.malloc_trim(0)  # else what was freed before is used again and not seen
        Path("/proc/self/clear_refs").write_text("5")  # forgets the largest up to now
        self._before = figure("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = figure("VmHWM") - self._before
