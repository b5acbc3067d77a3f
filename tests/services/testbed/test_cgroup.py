"""Control groups: a fake plays by the kernel's rules, the last test asks the kernel itself where it lets us."""

import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import InputError, SpecError
from services.testbed.cgroup import CONTROLLERS, Groups, Limits

OWN, ME, OTHER = Path("/groups/own"), 7, 8


class Kernel:
    """Control groups in memory: folders, members, and controllers passed down; only a root may hold processes too."""

    def __init__(self, members=(ME,), controllers=CONTROLLERS, passed=(), is_root=False):
        self.members, self.root = {OWN: set(members)}, OWN if is_root else None
        self.passed = {OWN: set(passed)}
        self.controllers, self.written, self.refused = set(controllers), {}, {}

    def state(self):
        return {group: set(pids) for group, pids in self.members.items()}, {g: set(p) for g, p in self.passed.items()}

    def refuse(self, name, code):
        """Answer what is done to a file or group of that name with an error."""
        self.refused[name] = code

    def read(self, file):
        self._check(file)
        group = file.parent
        texts = {
            "cgroup.controllers": " ".join(sorted(self._controllers(group))),
            "cgroup.subtree_control": " ".join(sorted(self.passed[group])),
            "cgroup.procs": "".join(f"{pid}\n" for pid in sorted(self.members[group])),
        }
        return texts[file.name]

    def write(self, file, text):
        self._check(file)
        group = file.parent
        if file.name == "cgroup.subtree_control":
            self._pass(group, text.split())
        elif file.name == "cgroup.procs":
            self._move(group, int(text))
        else:
            if file.name.split(".")[0] not in self._controllers(group):
                raise OSError(errno.ENOENT, "No such file or directory")
            self.written[file] = text

    def below(self, group):
        return [other for other in self.members if other.parent == group]

    def make(self, group):
        self._check(group)
        self.members[group], self.passed[group] = set(), set()

    def remove(self, group):
        self._check(group)
        if self.members[group]:
            raise OSError(errno.EBUSY, "Device or resource busy")
        del self.members[group], self.passed[group]

    def _check(self, file):
        if (code := self.refused.get(file.name)) is not None:
            raise OSError(code, os.strerror(code))

    def _controllers(self, group):
        return self.controllers if group == OWN else self.passed[group.parent]

    def _pass(self, group, signed):
        for each in signed:
            if each[0] == "+" and self.members[group] and group != self.root:
                raise OSError(errno.EBUSY, "Device or resource busy")
            (self.passed[group].add if each[0] == "+" else self.passed[group].discard)(each[1:])

    def _move(self, group, pid):
        if self.passed[group] and group != self.root:
            raise OSError(errno.EBUSY, "Device or resource busy")
        for members in self.members.values():
            members.discard(pid)
        self.members[group].add(pid)


def groups(kernel, pid=ME):
    return Groups(OWN, kernel, pid)


def end(kernel, pid):
    for members in kernel.members.values():
        members.discard(pid)


@pytest.mark.parametrize("passed", [(), CONTROLLERS])
def test_a_role_is_limited_within_and_all_is_as_before_afterwards(passed):
    kernel = Kernel(members=() if passed else (ME,), passed=passed)
    before = kernel.state()
    with groups(kernel) as own:
        own.put("client-1", 9, Limits(cpus=0.5, memory_bytes=300 << 20))
        group = OWN / "elsa-7-client-1"
        assert kernel.members[group] == {9}
        assert kernel.written == {group / "cpu.max": "2000 4000", group / "memory.max": str(300 << 20)}
        end(kernel, 9)
    assert kernel.state() == before


@pytest.mark.parametrize("limited", [False, True])
def test_who_ends_first_leaves_the_controllers_to_another_that_has_limits_or_is_about_to(limited, caplog):
    kernel = Kernel(members=(ME, OTHER), is_root=True)
    with ExitStack() as later:
        with groups(kernel):
            other = later.enter_context(groups(kernel, OTHER))  # finds the controllers passed down
            if limited:
                other.put("client-1", 9, Limits(cpus=0.5))
        assert kernel.passed[OWN] == {*CONTROLLERS}
        assert "keeps its controllers passed down: elsa-8-" in caplog.text
        end(kernel, 9)


def test_what_is_not_limited_is_not_written():
    kernel = Kernel()
    with groups(kernel) as own:
        own.put("client-1", 9, Limits(cpus=2))
        assert [file.name for file in kernel.written] == ["cpu.max"]
        end(kernel, 9)


def test_processes_of_others_are_never_moved():
    kernel = Kernel(members=(ME, OTHER))
    before = kernel.state()
    with pytest.raises(InputError, match=r"holds other processes.*Delegate=yes"), groups(kernel):
        pass
    assert kernel.state() == before


@pytest.mark.parametrize("name", ["cgroup.subtree_control", "cgroup.procs", "elsa-7-self", "elsa-7-here"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_whatever_is_refused_is_told_with_the_reason_and_undone(name, code):
    kernel = Kernel()
    before = kernel.state()
    kernel.refuse(name, code)
    with pytest.raises(InputError, match=f"{os.strerror(code)}.*choose --limits pace"), groups(kernel):
        pass
    assert kernel.state() == before


def test_a_group_without_the_controllers_is_refused():
    kernel = Kernel(controllers=["hugetlb"])
    with pytest.raises(InputError, match="has no controller cpu nor memory"), groups(kernel):
        pass


def test_a_system_without_version_2_is_refused(tmp_path):
    with pytest.raises(InputError, match="no control groups of version 2; choose --limits pace"), Groups(tmp_path):
        pass


def test_a_role_that_does_not_end_is_told_at_the_end(caplog):
    with groups(Kernel()) as own:
        own.put("client-1", 9, Limits(cpus=1))
    assert "elsa-7-client-1 could not be put back as it was: Device or resource busy" in caplog.text


@given(st.floats(0.001, 4096))
def test_the_quota_is_the_share_asked_for_in_short_pieces(cpus):
    ((_, text),) = Limits(cpus=cpus).files()
    quota_us, period_us = map(int, text.split())
    assert quota_us / period_us == pytest.approx(cpus, rel=0.001)
    assert quota_us >= 1000
    assert 1000 <= period_us <= 1_000_000


@pytest.mark.parametrize("limits", [{"cpus": 0}, {"cpus": 1e9}, {"cpus": float("nan")}, {"memory_bytes": 0}])
def test_limits_that_the_kernel_cannot_keep_are_refused(limits):
    with pytest.raises(SpecError, match=r"^limit of"):
        Limits(**limits)


BUSY = """
import sys, time
sys.stdin.readline()
begin, cpu = time.monotonic(), time.process_time()
while time.monotonic() - begin < 2:
    pass
print((time.process_time() - cpu) / (time.monotonic() - begin))
"""


@pytest.fixture
def real_groups():
    with ExitStack() as stack:
        try:
            own = stack.enter_context(Groups())
        except InputError as error:
            pytest.skip(str(error))
        yield own


def test_the_kernel_keeps_a_role_to_its_quota(real_groups):
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        real_groups.put("busy", child.pid, Limits(cpus=0.25, memory_bytes=256 << 20))
        out, _ = child.communicate(b"\n", timeout=60)
        assert float(out) == pytest.approx(0.25, rel=0.2)
