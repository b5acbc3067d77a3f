"""The roles of a demo: started in order, each client as its device is."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from elsa.errors import InputError
from services.cli.shards import file_name
from services.testbed.cgroup import Groups
from services.testbed.devices import Device
from services.testbed.link import Link
from services.testbed.processes import Processes, Role, elsa_command
from services.testbed.settings import DemoSettings

READY_S = 180.0
Say = Callable[[str], None]


class Fleet:
    """A cloud, edges, and clients with their devices.

    Args:
        processes: starts the roles, and ends them before `around` is closed.
        folder: of the demo; the clients' data lies there.
        around: where links are entered.
        groups: the kernel's limits; None where clients limit themselves.
    """

    def __init__(
        self, settings: DemoSettings, processes: Processes, folder: Path, around: ExitStack, groups: Groups | None
    ) -> None:
        self._settings, self._processes, self._around, self._groups = settings, processes, around, groups
        self._data, self._state, self._ready = folder / "data", folder / "cloud", folder / "ready"
        self._started: dict[str, tuple[Role, Path]] = {}

    def start(self) -> str:
        """Start every role and wait until all serve; the cloud's address. Raises RoleDiedError, InputError."""
        self._ready.mkdir()
        self._start(
            "cloud", "cloud", "--port", "0", "--state", str(self._state), "--tick-s", "0.2", "--heartbeat-s", "0.5"
        )
        address = self._address("cloud")
        common = ("--cloud", address, "--threads", str(self._settings.threads))
        of_edges = ("--capacity", str(self._settings.capacity), "--state", str(self._state))
        edges = [f"edge-{number}" for number in range(1, self._settings.edges + 1)]
        for name in edges:
            self._start("edge", name, *of_edges, *common)
        devices = self._settings.devices
        linked = any(device.has_link for device in devices)
        at = {name: self._address(name) for name in edges} if linked else {}
        for number, device in enumerate(devices, start=1):
            flags = [*device.flags(paced=self._groups is None), *self._ways(device, at)]
            self._start("client", f"client-{number}", "--data", str(self._data / file_name(number)), *flags, *common)
        for name in self._started:
            self._address(name)
        self._limit(devices)
        return address

    def _start(self, role: str, name: str, *flags: str) -> None:
        file = self._ready / f"{name}.json"
        named = () if role == "cloud" else ("--name", name)
        command = elsa_command(role, "--ready-file", str(file), *named, *flags)
        self._started[name] = (self._processes.start(name, command), file)

    def _address(self, name: str) -> str:
        """Where a role serves, once it does."""
        return self._processes.wait_ready(*self._started[name], READY_S)

    def _ways(self, device: Device, edges: Mapping[str, str]) -> list[str]:
        """What a client behind a link is told: where it reaches each edge."""
        flags = []
        for name, target in edges.items() if device.has_link else ():
            link = Link(target, device.latency_ms or 0.0, device.bytes_per_s, device.bytes_per_s)
            flags += ["--edge-addresses", f"{name}={self._around.enter_context(link)}"]
        return flags

    def _limit(self, devices: list[Device]) -> None:
        """Limit the clients that serve now: they start at full speed, and what they hold by now is not counted."""
        if self._groups is None:
            return
        for number, device in enumerate(devices, start=1):
            role, _ = self._started[f"client-{number}"]
            self._groups.put(role.name, role.process.pid, device.limits(self._settings.threads))


def kernel_groups(settings: DemoSettings, around: ExitStack, say: Say) -> Groups | None:
    """The kernel's limits if they are asked for and allowed; else None, and `say` is told why."""
    if settings.limits != "cgroup":
        return None
    try:
        return around.enter_context(Groups())
    except InputError as error:
        say(f"{error}; clients are kept by pace instead")
        return None


def described(settings: DemoSettings, groups: Groups | None) -> list[str]:
    """Each client's device on a line, and what keeps it to that; nothing where all are as this machine is."""
    if not settings.has_unlike_devices:
        return []
    lines = [f"  client-{number}: {device}" for number, device in enumerate(settings.devices, start=1)]
    if (settings.speeds or settings.memory_mib) and settings.plan_method == "given":
        why = "" if settings.plan else f": --preset {settings.preset} turns activations for one cut"
        lines.append(f"  every client keeps the same blocks{why}")
    if groups is not None:
        return [*lines, "  kept by control groups: the kernel's quota of time and bound on memory"]
    if settings.speeds or settings.memory_mib:
        lines.append(
            "  kept by pace: a client sleeps after it computes, and plans within its memory (max_memory_mib)"
        )
    return lines
