"""How much memory is left, as the files of the system tell it and as an owner caps it."""

import platform
import resource
import subprocess
import sys

import pytest

from elsa.errors import CapacityError
from services.rpc import memory
from services.rpc.memory import available_bytes, give_back, usable_bytes

MIB = 1 << 20
FREE = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n"


@pytest.fixture
def left(tmp_path):
    """`left(maximum, used, stat, meminfo)`: each the text of a file, or None for one that is not there."""

    def ask(maximum=None, used=None, stat=None, meminfo=None):
        names = ("memory.max", "memory.current", "memory.stat", "meminfo")
        for name, text in zip(names, (maximum, used, stat, meminfo), strict=True):
            (tmp_path / name).unlink(missing_ok=True)
            if text is not None:
                (tmp_path / name).write_text(text)
        return available_bytes([tmp_path], tmp_path / "meminfo", tmp_path / "statm")

    return ask


def test_the_smaller_of_limit_and_free_memory_counts(left):
    assert left(meminfo=FREE) == 8 * MIB
    assert left(f"{10 * MIB}\n", f"{4 * MIB}\n", meminfo=FREE) == 6 * MIB
    assert left(f"{100 * MIB}\n", f"{4 * MIB}\n", meminfo=FREE) == 8 * MIB
    assert left(f"{10 * MIB}\n", f"{4 * MIB}\n") == 6 * MIB


def test_of_nested_groups_the_one_that_leaves_least_counts(tmp_path):
    for name, maximum in (("inner", 9), ("outer", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.max").write_text(f"{maximum * MIB}\n")
        (tmp_path / name / "memory.current").write_text(f"{2 * MIB}\n")
    groups = [tmp_path / "inner", tmp_path / "outer"]
    for order in (groups, groups[::-1]):
        assert available_bytes(order, tmp_path / "none", tmp_path / "none") == 5 * MIB


def test_no_limit_leaves_what_is_free(left):
    assert left("max\n", f"{4 * MIB}\n", meminfo=FREE) == 8 * MIB
    assert left(f"{10 * MIB}\n", None, meminfo=FREE) == 8 * MIB


def test_cached_files_are_not_in_the_way(left):
    stat = f"anon 123\nfile {5 * MIB}\ninactive_file {3 * MIB}\nactive_file {2 * MIB}\n"
    assert left(f"{10 * MIB}\n", f"{9 * MIB}\n", stat, FREE) == 4 * MIB


def test_groups_of_version_1_bound_memory_alike(tmp_path):
    (tmp_path / "memory.limit_in_bytes").write_text(f"{10 * MIB}\n")
    (tmp_path / "memory.usage_in_bytes").write_text(f"{9 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"inactive_file {MIB}\ntotal_inactive_file {3 * MIB}\n")
    assert available_bytes([tmp_path], tmp_path / "none", tmp_path / "none") == 4 * MIB


def test_nothing_is_left_past_the_limit(left):
    assert left(f"{4 * MIB}\n", f"{5 * MIB}\n", meminfo=FREE) == 0


def test_a_system_that_tells_nothing_says_so(left):
    assert left() is None
    assert left(meminfo="MemTotal: 16384 kB\n") is None


def test_this_machine_tells():
    assert (available_bytes() or 0) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file tells how large an address space is")
def test_a_limit_on_the_address_space_counts():
    code = f"""
import resource
from services.rpc.memory import available_bytes
resource.setrlimit(resource.RLIMIT_AS, ({512 * MIB}, {512 * MIB}))
print(available_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 512 * MIB


@pytest.mark.parametrize(("cap_mib", "usable"), [(None, 8), (6, 6), (9, 8), (8, 8)])
def test_a_cap_counts_where_less_is_not_there_anyway(cap_mib, usable):
    assert usable_bytes(cap_mib, 8 * MIB) == usable * MIB


def test_where_neither_cap_nor_system_tells_the_owner_is_asked(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert usable_bytes(7) == 7 * MIB
    with pytest.raises(CapacityError, match="set max_memory_mib"):
        usable_bytes(None)


def taken_and_given_back():
    """MiB by which this process grows with many small blocks, and of these what it gives back of them once freed."""

    def resident_mib():
        pages = int(memory.STATM.read_text().split()[1])
        return pages * resource.getpagesize() / MIB

    before = resident_mib()
    held = [bytes(100_000) for _ in range(1000)]  # too small for maps of their own
    last = held[-1]  # holds the end of the heap
    full = resident_mib()
    del held
    give_back()
    return full - before, full - resident_mib(), len(last)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back when asked")
def test_what_is_free_within_the_process_goes_back_to_the_system(apart):
    taken, given, _ = apart(taken_and_given_back)
    assert taken > 50
    assert given > 0.9 * taken
