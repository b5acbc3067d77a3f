"""Files are read again when they change in any way that shows, and while they cannot be used from time to time."""

import os

import pytest

from services.rpc.rereading import RETRY_S, Rereading


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.pem"
    path.write_text("one")
    return path


def replaced(path):
    aside = path.with_suffix(".new")
    aside.write_text("two")
    os.utime(aside, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    aside.replace(path)


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("longer"), lambda path: path.chmod(0o604), lambda path: path.unlink(), replaced],
)
def test_a_change_that_shows_is_due_at_once_and_once(path, change):
    rereading = Rereading((path,), lambda: 1e9)
    assert not rereading.is_due()
    change(path)
    assert rereading.is_due() and not rereading.is_due()


def test_what_cannot_be_used_is_due_every_few_seconds_until_it_can(path):
    now = [1e9]
    rereading = Rereading((path,), lambda: now[0])
    path.write_text("longer")
    due = []
    for _ in range(6):
        due.append(rereading.is_due())
        now[0] += RETRY_S / 2
    assert due == [True, False] * 3
    assert rereading.is_due()
    rereading.succeed()
    now[0] += 10 * RETRY_S
    assert not rereading.is_due()


@pytest.mark.parametrize("step_s", [-1e8, 1e8])
def test_a_clock_that_is_put_right_delays_no_reading(path, step_s):
    now = [1e9]
    rereading = Rereading((path,), lambda: now[0])
    path.write_text("longer")
    assert rereading.is_due()
    now[0] += step_s
    assert rereading.is_due()


def test_a_fault_is_told_again_when_files_change_or_it_comes_back(path):
    rereading = Rereading((path,), lambda: 1e9)
    assert [rereading.is_to_be_told(fault) for fault in ("", "a", "a", "b", "", "b")] == [
        False, True, False, True, False, True,
    ]  # fmt: skip
    path.write_text("longer")
    assert rereading.is_due() and rereading.is_to_be_told("b")
