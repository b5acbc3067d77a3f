"""What a process that keeps little holds on to after it has freed it; each in a process of its own."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")

BEGIN = """
import ctypes, sys, threading
from services.rpc.memory import STATM, keep_little
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "little":
    keep_little()
"""

HOLES = """
def block(size):
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    return place

def resident():
    return int(STATM.read_text().split()[1]) * 4096

libc.free(block(16 << 20))  # by which the library raises the size from which it gives back
before = resident()
blocks = [(block(1 << 20), block(16 << 10)) for _ in range(64)]  # small ones stay, and pin the heap
for large, _ in blocks:
    libc.free(large)
print((resident() - before) >> 20)
"""

HEAPS = """
def hold():
    libc.free(libc.malloc(1000))
    met.wait()

met = threading.Barrier(6)
threads = [threading.Thread(target=hold) for _ in range(5)]
for thread in threads:
    thread.start()
met.wait()
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
out = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, out)
libc.fclose(out)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


def printed(program, how, *more):
    command = [sys.executable, "-c", BEGIN + program, how, *more]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def test_large_blocks_go_back_once_freed_though_small_ones_beside_them_stay():
    assert printed(HOLES, "as it is") >= 60
    assert printed(HOLES, "little") <= 4


def test_all_threads_share_one_heap(tmp_path):
    assert printed(HEAPS, "as it is", str(tmp_path / "info")) > 1
    assert printed(HEAPS, "little", str(tmp_path / "info")) == 1
