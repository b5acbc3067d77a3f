"""Laws of what a process says that it runs on."""

import pytest

from elsa.plan.hardware import control_groups, hardware_name

INTEL = "processor\t: 0\nmodel name\t: Big Processor @ 2 GHz\n"


@pytest.fixture
def machine(tmp_path):
    """`machine(cpu_info, membership, quotas)`: its name, from files with these texts; quotas by group."""

    def ask(cpu_info=INTEL, membership="0::/\n", quotas=None):
        (tmp_path / "cpuinfo").write_text(cpu_info)
        (tmp_path / "membership").write_text(membership)
        for group, quota in (quotas or {}).items():
            (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / group / "cpu.max").write_text(quota)
        return hardware_name(tmp_path / "cpuinfo", tmp_path / "membership", tmp_path / "groups")

    return ask


def test_a_name_is_one_line_that_stays_while_nothing_changes(machine):
    assert machine() == machine() and "\n" not in machine()
    assert machine().startswith("Big Processor @ 2 GHz; ")
    assert hardware_name() == hardware_name()


def test_another_processor_or_share_of_it_is_another_name(machine):
    names = [
        machine(),
        machine(cpu_info="model name\t: Small Processor\n"),
        machine(quotas={"": "50000 100000\n"}),
        machine(membership="9:memory:/a\n0::/inner\n", quotas={"inner": "20000 100000\n"}),
    ]
    assert len(set(names)) == len(names)
    assert "cpu.max 20000 100000, 50000 100000" in names[-1]


def test_a_group_without_a_quota_is_as_none(machine):
    assert machine(quotas={"": "max 100000\n"}) == machine()


def test_a_processor_that_the_kernel_does_not_name_is_named_all_the_same(machine):
    assert not machine(cpu_info="processor\t: 0\n").startswith(";")


@pytest.mark.parametrize(
    ("membership", "inside"),
    [
        ("0::/\n", [""]),
        ("3:cpu:/x\n0::/a/b\n", ["a/b", "a", ""]),
        ("3:cpu:/x\n", [""]),
        ("0::/../../a\n", [""]),
        ("", [""]),
    ],
)
def test_groups_are_told_from_the_own_one_outwards(tmp_path, membership, inside):
    (tmp_path / "cgroup").write_text(membership)
    assert control_groups(tmp_path / "cgroup", tmp_path) == [tmp_path / name for name in inside]


def test_a_system_without_groups_has_the_outermost_folder_alone(tmp_path):
    assert control_groups(tmp_path / "none", tmp_path) == [tmp_path]
