"""A cloud, edges and clients as processes of this machine, for a benchmark to submit runs to."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from elsa.spec import RunSpec
from elsa.v1 import run_pb2
from elsa.v1.fleet_pb2 import RunState
from elsa.v1.run_pb2_grpc import RunServiceStub
from services.rpc.channel import connect
from services.testbed.processes import Processes, elsa_command

READY_S = 60.0
RUN_S = 1800.0
CORES = len(os.sched_getaffinity(0))


class Fleet:
    """Roles under `folder`; leaving the context stops them.

    Args:
        threads: compute threads of each role.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self._folder = folder
        self._threads = threads
        self._processes = Processes(folder / "logs", threads=threads)
        self._pids: dict[str, int] = {}
        self.cloud = self._start("cloud", "--port", "0", "--state", str(folder / "cloud"))
        self.runs = RunServiceStub(connect(self.cloud))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()

    def edge(self, name: str, capacity: int, *flags: str) -> None:
        """Start an edge, with further flags."""
        self._start("edge", "--name", name, "--cloud", self.cloud, "--capacity", str(capacity), *flags, threads=True)

    def client(self, name: str, source: str, *flags: str) -> None:
        """Start a client that offers `source` as its data set, with further flags."""
        self._start("client", "--name", name, "--cloud", self.cloud, "--data", source, *flags, threads=True)

    def pid(self, name: str) -> int:
        """The process of a role."""
        return self._pids[name]

    def peak_bytes(self, name: str) -> int:
        """The most memory that a role has had, resident, up to now."""
        return peak_bytes(str(self._pids[name]))

    def submit(self, spec: RunSpec) -> str:
        """Submit a run; its id."""
        return self.runs.SubmitRun(run_pb2.SubmitRunRequest(spec=spec.to_yaml()), timeout=10).run_id

    def events(self, run_id: str) -> Iterator[run_pb2.RunEvent]:
        """The run's kept events to its end. Raises RuntimeError if it did not complete."""
        state, reason = RunState.RUN_STATE_UNSPECIFIED, ""
        for message in self.runs.WatchRun(run_pb2.WatchRunRequest(run_id=run_id), timeout=RUN_S):
            self._processes.check()
            if message.event.HasField("state_changed"):
                state, reason = message.event.state_changed.state, message.event.state_changed.reason
            if not message.event.HasField("node_progress"):
                yield message.event
        if state != RunState.RUN_STATE_COMPLETED:
            raise RuntimeError(f"the run ended {RunState.Name(state)}: {reason}; see {self._folder / 'logs'}")

    def exported(self, run_id: str, version: int) -> Path:
        """The PEFT folder of a completed run, where the cloud wrote it."""
        return self._folder / "cloud" / "exports" / run_id / f"version-{version}"

    def _start(self, role: str, *flags: str, threads: bool = False) -> str:
        name = flags[flags.index("--name") + 1] if "--name" in flags else role
        ready = self._folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        more = ["--threads", str(self._threads)] if threads else []
        started = self._processes.start(name, elsa_command(role, *flags, *more, "--ready-file", str(ready)))
        self._pids[name] = started.process.pid
        return self._processes.wait_ready(started, ready, READY_S)


def peak_bytes(process: str) -> int:
    """The most memory that a process, by number or `self`, has had, resident, up to now (VmHWM of Linux).

    Not `ru_maxrss`, which a child takes over from the process that started it.
    """
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def table(rows: list[Mapping[str, object]]) -> str:
    """`rows` as an aligned table."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def dump(path: Path, value: object) -> None:
    """Keep a result as JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")
