"""How much memory is left, as the files of the system tell it."""

import pytest

from services.rpc.memory import available_bytes

MIB = 1 << 20
FREE = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n"


@pytest.fixture
def left(tmp_path):
    """`left(maximum, used, stat, meminfo)`: each the text of a file, or None for one that is not there."""

    def ask(maximum=None, used=None, stat=None, meminfo=None):
        paths = []
        for name, text in (("max", maximum), ("current", used), ("stat", stat), ("meminfo", meminfo)):
            paths.append(tmp_path / name)
            paths[-1].unlink(missing_ok=True)
            if text is not None:
                paths[-1].write_text(text)
        return available_bytes(*paths)

    return ask


def test_the_smaller_of_limit_and_free_memory_counts(left):
    assert left(meminfo=FREE) == 8 * MIB
    assert left(f"{10 * MIB}\n", f"{4 * MIB}\n", meminfo=FREE) == 6 * MIB
    assert left(f"{100 * MIB}\n", f"{4 * MIB}\n", meminfo=FREE) == 8 * MIB
    assert left(f"{10 * MIB}\n", f"{4 * MIB}\n") == 6 * MIB


def test_no_limit_leaves_what_is_free(left):
    assert left("max\n", f"{4 * MIB}\n", meminfo=FREE) == 8 * MIB
    assert left(f"{10 * MIB}\n", None, meminfo=FREE) == 8 * MIB


def test_cached_files_are_not_in_the_way(left):
    stat = f"anon 123\nfile {5 * MIB}\ninactive_file {3 * MIB}\nactive_file {2 * MIB}\n"
    assert left(f"{10 * MIB}\n", f"{9 * MIB}\n", stat, FREE) == 4 * MIB


def test_nothing_is_left_past_the_limit(left):
    assert left(f"{4 * MIB}\n", f"{5 * MIB}\n", meminfo=FREE) == 0


def test_a_system_that_tells_nothing_says_so(left):
    assert left() is None
    assert left(meminfo="MemTotal: 16384 kB\n") is None


def test_this_machine_tells(tmp_path):
    assert (available_bytes() or 0) > 0
