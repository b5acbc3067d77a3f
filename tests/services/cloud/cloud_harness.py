"""A real cloud on port 0 and the nodes that tests make up, over real channels."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
import pytest

from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2, adapter_pb2_grpc, fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc
from elsa.wire.adapter import decode_adapter, encode_adapter, sha256
from elsa.wire.chunks import Assembler, split_chunks
from services.cloud.service import serving
from services.cloud.settings import CloudSettings
from services.rpc.channel import OPTIONS

EDGES = ("edge-1", "edge-2")
CLIENTS = ("client-1", "client-2", "client-3", "client-4")
CONFIG = adapter_pb2.AdapterConfig(
    rank=2,
    alpha=4,
    target_modules=["query", "value"],
    modules_to_save=["classifier"],
    task="classification",
    base_model="minilm",
    transposed=True,
)


@dataclass
class Clock:
    """Unix seconds that a test moves."""

    now: float = 1_000_000.0

    def __call__(self):
        return self.now


def spec(**parts):
    given = {
        "name": "trec",
        "data": {"name": "trec", "labels": ["a", "b"]},
        "fleet": {"min_clients": 4, "min_edges": 2, "enroll_timeout_s": 300},
        "training": {"rounds": 2},
        "rounds": {"quorum": 1.0, "deadline_s": 600},
        "clustering": {"method": "none"},
        "plan": {"method": "given"},
    }
    for name, part in parts.items():
        given[name] = {**given[name], **part} if name in given and isinstance(part, dict) else part
    return RunSpec.model_validate(given).to_yaml()


def adapter(value=0.0, size=8):
    names = ("base_model.model.encoder.layer.0.q.lora_A.weight", "base_model.model.encoder.layer.0.q.lora_B.weight")
    return encode_adapter({name: np.full((2, size), value, np.float32) for name in names})


@dataclass
class Site:
    """A cloud and a channel to it."""

    cloud: object
    clock: Clock
    channel: grpc.aio.Channel
    fleet: object = field(init=False)
    runs: object = field(init=False)
    adapters: object = field(init=False)

    def __post_init__(self):
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)
        self.runs = run_pb2_grpc.RunServiceStub(self.channel)
        self.adapters = adapter_pb2_grpc.AdapterServiceStub(self.channel)

    async def register(self, edges=EDGES, clients=CLIENTS, datasets=("trec",)):
        for port, edge in enumerate(edges, 9001):
            await self.fleet.RegisterEdge(
                fleet_pb2.RegisterEdgeRequest(edge_id=edge, address=f"127.0.0.1:{port}", capacity=8)
            )
        for client in clients:
            await self.fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id=client, datasets=datasets))

    async def heartbeat(self, node, **progress):
        shown = [fleet_pb2.Progress(**progress)] if progress else []
        await self.fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id=node, progress=shown))

    async def silence(self, *silent, seconds):
        """Let so much time pass in which all nodes but these are heard, the last time at its end."""
        for step in (*[3] * int(seconds // 3), seconds % 3):
            self.clock.now += step
            for node in (*EDGES, *CLIENTS):
                if node not in silent:
                    await self.heartbeat(node)

    async def submit(self, text=None):
        return (await self.runs.SubmitRun(run_pb2.SubmitRunRequest(spec=text or spec()))).run_id

    async def get(self, run):
        return (await self.runs.GetRun(run_pb2.GetRunRequest(run_id=run))).run

    async def wait_for_offer(self, run, node):
        call = self.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=node), timeout=30)
        async for message in call:
            if any(assignment.run_id == run for assignment in message.assignments):
                break
        call.cancel()

    async def join(self, run, node, room=2, near="edge-1", edges=EDGES):
        request = fleet_pb2.JoinRunRequest(run_id=run, node_id=node)
        if node.startswith("edge"):
            request.edge.room = room
        else:
            links = [fleet_pb2.LinkReport(edge_id=edge, latency_ms=1 if edge == near else 20) for edge in edges]
            offer = fleet_pb2.ClientOffer(train_rows=100, heldout_rows=3, links=links)
            request.client.CopyFrom(offer)
        await self.fleet.JoinRun(request)

    async def refuse(self, run, node, why):
        await self.fleet.JoinRun(fleet_pb2.JoinRunRequest(run_id=run, node_id=node, refusal=why))

    async def push(self, run, edge, data, version=0, rows=10, more=(), **header):
        """Push an adapter; `more` are lists of reports that follow the header."""
        given = {"total_bytes": len(data), "sha256": sha256(data), **header}
        if given.get("initial"):
            given["config"] = CONFIG
        head = adapter_pb2.AdapterHeader(run_id=run, node_id=edge, version=version, rows=rows, **given)

        async def messages():
            yield adapter_pb2.PushAdapterRequest(header=head)
            for reports in more:
                yield adapter_pb2.PushAdapterRequest(reports=adapter_pb2.ClientReports(reports=reports))
            for chunk in split_chunks(data):
                yield adapter_pb2.PushAdapterRequest(chunk=chunk)

        return (await self.adapters.PushAdapter(messages(), timeout=20)).stored

    async def pull(self, run, edge, version, wait_s=20.0, cluster=None):
        request = adapter_pb2.PullAdapterRequest(
            run_id=run, node_id=edge, version=version, wait_s=wait_s, cluster=cluster
        )
        call = self.adapters.PullAdapter(request, timeout=30)
        header, whole = None, None
        async for message in call:
            if header is None:
                header = message.header
                whole = Assembler(header.total_bytes, "adapter")
            else:
                whole.add(message.chunk)
        data = bytes(whole.result())
        assert sha256(data) == header.sha256
        return header.version, decode_adapter(data)

    async def evaluate(self, run, client, version, rows=3, loss=1.0, accuracy=0.5, own=None):
        evaluation = run_pb2.Evaluation(version=version, rows=rows, loss=loss, accuracy=accuracy)
        request = run_pb2.ReportEvaluationRequest(
            run_id=run, client_id=client, evaluation=evaluation, cluster_evaluation=own
        )
        await self.runs.ReportEvaluation(request)

    async def enroll(self, run, edges=EDGES, clients=CLIENTS, data=None):
        """Wait for the offer, give the first adapter and join with all; back when the run trains."""
        await self.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for edge in edges:
            await self.push(run, edge, data or adapter(), initial=True)
            await self.join(run, edge)
        for number, client in enumerate(clients):
            await self.join(run, client, near=EDGES[number % 2])
        await self.reach(run, fleet_pb2.RUN_STATE_TRAINING)

    async def started(self, text=None):
        """A run that trains."""
        await self.register()
        run = await self.submit(text)
        await self.enroll(run)
        return run

    async def events(self, run, after=0):
        """Events as they come, until the run has ended."""
        async for message in self.runs.WatchRun(run_pb2.WatchRunRequest(run_id=run, after=after), timeout=30):
            yield message.event

    async def wait(self, run, found, after=0):
        """The first event for which `found` is true."""
        async for event in self.events(run, after):
            if found(event):
                return event
        raise AssertionError("the run ended without that event")

    async def reach(self, run, state):
        return await self.wait(run, lambda event: event.state_changed.state == state)

    async def closed(self, run, version):
        return await self.wait(run, lambda event: event.round_closed.version == version)

    def later(self, seconds):
        """Let the clock jump and the cloud look at it."""
        self.clock.now += seconds
        self.cloud.engine.kick()


def settings(folder, **given):
    """Quiet settings: no timer helps, so that whatever happens was notified."""
    quiet = {"tick_s": 60, "heartbeat_s": 600, "gone_after_s": 100_000, "grace_s": 1, "port": 0}
    return CloudSettings(**{**quiet, "state": folder / "cloud", **given})


@asynccontextmanager
async def site(folder, clock=None, **given):
    clock = clock or Clock()
    async with (
        serving(settings(folder, **given), clock) as cloud,
        grpc.aio.insecure_channel(cloud.address, options=OPTIONS) as channel,
    ):
        yield Site(cloud=cloud, clock=clock, channel=channel)


@asynccontextmanager
async def refused(code, *words):
    """Expect a call to fail with a status code and a text that has all `words`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code() is code, caught.value
    for word in words:
        assert word in caught.value.details()


def run_async(test):
    """A test that is a coroutine function, run on a loop of its own."""

    def runner(tmp_path):
        asyncio.run(test(tmp_path))

    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    return runner
