"""What a fleet needs: memory of each role by model and number of clients, what an edge's core trains, what nodes
cost.

Roles are processes of this machine with one compute thread each. Memory is resident, the most since the process
began; processor time is the process's own, so that it holds on a busy machine too.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio

from benchmarks.cluster_progress import say
from benchmarks.fleet import Fleet, table
from benchmarks.shapes import smollm2
from elsa.data.corpus import LABELS, corpus
from elsa.data.write import write_jsonl
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.v1 import fleet_pb2
from elsa.v1.adapter_pb2 import ClientReport
from elsa.v1.fleet_pb2_grpc import FleetServiceStub

STEPS, BATCH, TOKENS = 12, 16, 64
CROSSINGS, FLOAT32_BYTES = 4, 4
BEATS, REST_S = 5, 20.0
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def specification(model: str, ends: int, clients: int) -> RunSpec:
    """One round in which every client keeps `ends` blocks at each end."""
    return RunSpec.model_validate(
        {
            "name": "sizing",
            "model": {"source": model, "max_tokens": TOKENS},
            "data": {"labels": LABELS},
            "split": {"bottom": ends, "top": ends},
            "plan": {"method": "given"},
            "clustering": {"method": "none"},
            "fleet": {"min_clients": clients},
            "training": {"rounds": 1, "edge_rounds": 1, "local_steps": STEPS, "batch": BATCH},
        }
    )


def training(label: str, model: str, ends: int, clients: int, folder: Path) -> dict[str, object]:
    """A row of the table: a run of so many clients at one edge."""
    rows = corpus()[::4]
    width = Checkpoint.open(model).config("classification", len(LABELS)).hidden_size
    with tempfile.TemporaryDirectory(dir=folder) as name, Fleet(Path(name)) as fleet:
        fleet.edge("edge", clients)
        for number in range(clients):
            write_jsonl(folder / f"{number}.jsonl", rows[number::clients])
            fleet.client(f"client-{number}", str(folder / f"{number}.jsonl"))
        run_id = fleet.submit(specification(model, ends, clients))
        reports: list[ClientReport] = []
        peaks: dict[str, int] = {}
        for event in fleet.events(run_id):
            reports += event.update_received.reports
            peaks = {role: fleet.peak_bytes(role) for role in ("cloud", "edge", "client-0")}
    tokens = sum(report.float32_bytes for report in reports) / (CROSSINGS * FLOAT32_BYTES * width)
    trunk_s = sum(report.seconds.trunk for report in reports)
    say(f"{label}, {clients} clients measured")
    return {
        "model": label,
        "each client keeps": f"{ends} + {ends} blocks",
        "clients": clients,
        "cloud MiB": _mib(peaks["cloud"]),
        "edge MiB": _mib(peaks["edge"]),
        "client MiB": _mib(peaks["client-0"]),
        "tokens a second and core of the edge": f"{tokens / trunk_s:,.0f}",
    }


async def nodes(fleet: Fleet, pid: int, number: int) -> dict[str, object]:
    """A row of the table: so many clients, each with its connection and stream, and heartbeats of all."""
    async with AsyncExitStack() as stack:
        stubs = {}
        for index in range(number):
            channel = grpc.aio.insecure_channel(fleet.cloud, options=OWN_CONNECTION)
            stubs[f"node-{index}"] = FleetServiceStub(await stack.enter_async_context(channel))
        for name, stub in stubs.items():
            await stub.RegisterClient(fleet_pb2.RegisterClientRequest(client_id=name, datasets=["default"]))
            stream = stub.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=name))
            await stream.read()
            stack.callback(stream.cancel)
        at_rest = processor_s(pid)
        await asyncio.sleep(REST_S)
        at_rest = (processor_s(pid) - at_rest) / REST_S
        every_s = await beats(stubs)  # those who were silent come back
        cpu_s, began_s = processor_s(pid), time.monotonic()
        for _ in range(BEATS):
            await beats(stubs)
        took_s = time.monotonic() - began_s
        beat_s = (processor_s(pid) - cpu_s - at_rest * took_s) / (BEATS * number)
    return {
        "nodes": f"{number:,}",
        "cloud MiB": _mib(fleet.peak_bytes("cloud")),
        "of a core without heartbeats": f"{at_rest:.1%}",
        "processor ms a heartbeat": f"{1e3 * beat_s:.2f}",
        "each node's every": f"{every_s:.1f} s",
        "of a core with them": f"{at_rest + beat_s * number / every_s:.0%}",
    }


async def beats(stubs: Mapping[str, FleetServiceStub]) -> float:
    """A heartbeat of each node, one after another; the seconds after which the last is to send its next."""
    for name, stub in stubs.items():
        answer = await stub.Heartbeat(fleet_pb2.HeartbeatRequest(node_id=name))
    return float(answer.heartbeat_s)


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f}"


def print_training(clients: Sequence[int]) -> None:
    """Print what edges and clients need."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [
            ("MiniLM-L6, 23 million", "minilm", 1),
            ("shape of SmolLM2-135M", str(smollm2(folder / "model")), 2),
        ]
        rows = [training(label, model, ends, count, folder) for label, model, ends in models for count in clients]
    print(f"peak resident MiB; batches of {BATCH} rows of at most {TOKENS} tokens, float32\n\n{table(rows)}\n")


def print_nodes(numbers: Sequence[int]) -> None:
    """Print what nodes that wait cost the cloud."""
    rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as name, Fleet(Path(name)) as fleet:
            rows.append(asyncio.run(nodes(fleet, fleet.pid("cloud"), number)))
        say(f"{number} nodes measured")
    print(f"clients registered, each with its own connection and stream of assignments\n\n{table(rows)}\n")


def main() -> None:
    """Print both tables, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["training", "nodes"], help="both unless one is named")
    part = parser.parse_args().part
    if part != "nodes":
        print_training((1, 2, 4))
    if part != "training":
        print_nodes((100, 1000, 5000))


if __name__ == "__main__":
    main()
