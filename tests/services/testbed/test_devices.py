"""Unlike devices in a demo: what is told of them, what clients are started with, and what is refused."""

import math
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import InputError, SpecError
from elsa.parsing import parse
from elsa.presets import PRESETS
from services.client.settings import ClientSettings
from services.rpc.pace import Pace
from services.testbed.cgroup import Limits
from services.testbed.demo import Trained, _devices
from services.testbed.devices import Device, devices
from services.testbed.fleet import Fleet, described, kernel_groups
from services.testbed.report import Report
from services.testbed.settings import DemoSettings
from services.testbed.yardsticks import Yardsticks

SPEEDS = st.lists(st.floats(0.01, 10), max_size=8)
UNLIKE = {"speeds": "1,4", "memory_mib": "300,600", "latency_ms": "20", "mbit": "10,100"}
MARKS = Yardsticks(adapter=0.2, majority=0.3, frozen_head=0.6, frozen_head_rows=100, test_rows=50)


def told(**raw):
    return parse(DemoSettings, raw, "settings of the demo")


@given(SPEEDS, st.integers(1, 8))
def test_times_slower_are_to_each_other_as_the_speeds_in_turn_and_the_fastest_is_one(speeds, clients):
    found = devices(clients, speeds=speeds)
    assert len(found) == clients
    assert min(device.slower for device in found) == 1
    if speeds:
        products = {device.slower * speeds[number % len(speeds)] for number, device in enumerate(found)}
        assert max(products) == pytest.approx(min(products))


@given(SPEEDS)
def test_a_client_is_told_a_pace_that_it_reads_as_the_same(speeds):
    for device in devices(8, speeds=speeds):
        flags = device.flags(paced=True)
        assert Pace.parse(flags[1] if flags else "1").at(0) == device.slower
        assert "--pace" not in device.flags(paced=False)


def test_figures_that_are_fewer_than_clients_are_repeated_in_turn():
    found = told(clients=4, **UNLIKE).devices
    assert [device.memory_mib for device in found] == [300, 600, 300, 600]
    assert [device.mbit for device in found] == [10, 100, 10, 100]
    assert {device.latency_ms for device in found} == {20}
    assert [device.slower for device in found] == [4, 1, 4, 1]


@pytest.mark.parametrize("raw", ["1,2.5,4", [1, 2.5, 4], "1, 2.5 ,4"])
def test_figures_are_read_from_flags_and_from_files(raw):
    assert told(speeds=raw).speeds == (1, 2.5, 4)
    assert told(mbit=5).mbit == (5,)


def test_a_plain_demo_tells_nothing_of_devices_and_keeps_its_splits():
    plain = told()
    assert described(plain, None) == []
    assert [device.flags(paced=True) for device in plain.devices] == [[]] * 4
    assert plain.run_spec(("a", "b")).plan.method == "given"


@pytest.mark.parametrize(("raw", "method"), [({"speeds": "1,2"}, "measured"), ({"memory_mib": "300"}, "measured")])
def test_splits_are_planned_where_devices_compute_unlike_unless_they_are_given(raw, method):
    assert told(**raw).run_spec(("a", "b")).plan.method == method
    assert told(**raw, plan="given").run_spec(("a", "b")).plan.method == "given"
    assert told(mbit="10").plan_method == "given"
    assert told(plan="measured").plan_method == "measured"


@pytest.mark.parametrize("preset", PRESETS)
def test_unlike_devices_go_with_every_preset_and_are_planned_unless_it_turns_activations(preset):
    settings = told(speeds="1,2", preset=preset)
    spec = settings.run_spec(("a", "b"))
    assert spec.plans_splits == (spec.privacy.ssop is None)
    same = [line for line in described(settings, None) if "every client keeps the same blocks" in line]
    assert bool(same) == (not spec.plans_splits)
    assert all(f"--preset {preset} turns activations" in line for line in same)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_that_is_asked_for_is_made_or_refused_on_one_line_with_the_flags(preset):
    raw = {"speeds": "1,2", "plan": "measured", "preset": preset}
    if told(preset=preset).run_spec(("a", "b")).privacy.ssop is None:
        assert told(**raw).run_spec(("a", "b")).plans_splits
        return
    with pytest.raises(SpecError, match=rf"--plan measured .* --preset {preset} .*; leave --plan out") as raised:
        told(**raw)
    assert "\n" not in str(raised.value)
    assert "plan.method" not in str(raised.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"speeds": "1,x"}, r"speeds\.1: .*number"),
        ({"speeds": "1,,2"}, r"speeds\.1"),
        ({"speeds": "0"}, r"speeds\.0: .*greater than 0"),
        ({"speeds": "inf"}, r"speeds\.0: .*finite"),
        ({"speeds": "1,2000"}, "speeds: the slowest may be at most 1000 times slower"),
        ({"speeds": "1,2,3,4,5"}, "speeds: 5 figures for 4 clients; give one a client at most"),
        ({"memory_mib": "1.5"}, r"memory_mib\.0: .*integer"),
        ({"latency_ms": "-1"}, r"latency_ms\.0: .*greater than or equal to 0"),
        ({"mbit": "0"}, r"mbit\.0: .*greater than 0"),
        ({"plan": "auto"}, "plan: .*'measured' or 'given'"),
        ({"limits": "cgroup"}, "limits: nobody is limited; give --speeds or --memory-mib too"),
    ],
)
def test_figures_that_cannot_be_are_refused_on_one_line_with_the_setting(raw, said):
    with pytest.raises(SpecError, match=rf"^settings of the demo: {said}") as raised:
        told(**raw)
    assert "\n" not in str(raised.value)


def test_each_device_is_told_on_a_line_and_what_keeps_it():
    lines = described(told(clients=2, edges=1, **UNLIKE), None)
    assert (
        lines[0]
        == "  client-1: computes 4 times slower, 300 MiB for its part of the model, 20 ms and 10 Mbit/s to each edge"
    )
    assert "client-2: computes as fast as this machine" in lines[1]
    assert "kept by pace" in lines[2]
    assert "kept by control groups" in described(told(speeds="1,2"), object())[-1]
    assert not any("kept by" in line for line in described(told(mbit="10"), None))


def test_control_groups_that_are_not_allowed_are_told_and_pace_is_used(monkeypatch):
    def refuse(self):
        raise InputError("not allowed here")

    monkeypatch.setattr("services.testbed.cgroup.Groups.__enter__", refuse)
    said = []
    with ExitStack() as around:
        assert kernel_groups(told(speeds="1,2", limits="cgroup"), around, said.append) is None
        assert kernel_groups(told(speeds="1,2"), around, said.append) is None
    assert said == ["not allowed here; clients are kept by pace instead"]


def test_the_report_tells_devices_and_what_kept_them():
    settings = told(clients=2, edges=1, **UNLIKE)
    kept = _devices(settings, Trained(board=None, clusters=None, kept_by="cgroup"))
    device = {"slower": 4, "memory_mib": 300, "latency_ms": 20, "mbit": 10}
    assert kept[0] == {"client": "client-1", **device, "kept_by": "cgroup"}
    report = Report(settings={}, versions={}, yardsticks=MARKS, seconds=1, devices=kept)
    assert report.to_json()["devices"] == list(kept)
    assert _devices(told(), Trained(board=None, clusters=None, kept_by="pace")) == ()


class Started:
    """Roles that are written down, not started; each serves at once, an edge at an address of its own."""

    def __init__(self):
        self.commands = {}

    def start(self, name, command):
        self.commands[name] = command[command.index("--ready-file") + 2 :]
        return SimpleNamespace(name=name, process=SimpleNamespace(pid=len(self.commands)))

    def wait_ready(self, role, file, timeout_s):
        return f"127.0.0.1:{1000 + role.process.pid}"

    def flags(self, name):
        return list(zip(self.commands[name][::2], self.commands[name][1::2], strict=True))


def started(tmp_path, settings, groups=None):
    processes = Started()
    with ExitStack() as around:
        Fleet(settings, processes, tmp_path, around, groups).start()
    return processes


def test_a_client_behind_a_link_is_told_another_address_of_every_edge(tmp_path):
    processes = started(tmp_path, told(clients=3, edges=2, latency_ms="5", mbit="10"))
    for client in ("client-1", "client-2", "client-3"):
        ways = dict(value.split("=") for flag, value in processes.flags(client) if flag == "--edge-addresses")
        assert set(ways) == {"edge-1", "edge-2"}
        assert set(ways.values()).isdisjoint({"127.0.0.1:1002", "127.0.0.1:1003"})
        assert ClientSettings.load(edge_addresses=ways).edge_addresses == ways


def test_clients_are_started_as_their_devices_are(tmp_path):
    processes = started(tmp_path, told(clients=2, edges=1, speeds="1,4", memory_mib="300,600"))
    slow, fast = (dict(processes.flags(f"client-{number}")) for number in (1, 2))
    assert (slow["--pace"], slow["--max-memory-mib"]) == ("4.0", "300")
    assert "--pace" not in fast
    assert not {"--edge-addresses"} & {*slow, *fast}
    assert "--pace" not in dict(processes.flags("edge-1"))


def test_the_kernel_limits_clients_alone_and_they_are_not_paced_too(tmp_path):
    put = {}
    groups = SimpleNamespace(put=lambda name, pid, limits: put.__setitem__(name, (pid, limits)))
    settings = told(clients=2, edges=1, speeds="1,4", memory_mib="300,600", limits="cgroup", threads=2)
    processes = started(tmp_path, settings, groups)
    assert put == {
        "client-1": (3, Limits(cpus=0.5, memory_bytes=300 << 20)),
        "client-2": (4, Limits(cpus=2, memory_bytes=600 << 20)),
    }
    assert dict(processes.flags("client-1"))["--max-memory-mib"] == "300"
    assert "--pace" not in dict(processes.flags("client-1"))


def test_a_link_of_a_device_is_as_told_or_as_fast_as_the_machine():
    assert Device(mbit=8).bytes_per_s == 1e6
    assert Device(latency_ms=5).bytes_per_s == math.inf
    assert not Device(slower=2, memory_mib=1).has_link
    assert str(Device(latency_ms=5)).endswith("there is, 5 ms to each edge")
