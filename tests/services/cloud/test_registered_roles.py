"""A name belongs to the role under which it is registered: who shows another role under it may call nothing."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from certificates import Authority
from cloud_harness import refused, settings

from elsa.v1 import adapter_pb2, adapter_pb2_grpc, fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc
from services.cloud.service import serving
from services.rpc.identity import CLOUD_HOST, Identity

WAIT_S = 20
EDGE, CLIENT = Identity("edge", "edge-1"), Identity("client", "ann")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


class Caller:
    """Calls the cloud under one identity, and names itself in all that it says."""

    def __init__(self, channel, name):
        self.name = name
        self.fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        self.runs = run_pb2_grpc.RunServiceStub(channel)
        self.adapters = adapter_pb2_grpc.AdapterServiceStub(channel)

    async def register_edge(self):
        request = fleet_pb2.RegisterEdgeRequest(edge_id=self.name, address="127.0.0.1:9001", capacity=8)
        await self.fleet.RegisterEdge(request, timeout=WAIT_S)

    async def register_client(self):
        await self.fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id=self.name), timeout=WAIT_S)

    async def heartbeat(self):
        await self.fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id=self.name), timeout=WAIT_S)

    async def leave_run(self):
        request = fleet_pb2.JoinRunRequest(run_id="trec-1", node_id=self.name, refusal="not mine")
        await self.fleet.JoinRun(request, timeout=WAIT_S)

    async def watch_assignment(self):
        call = self.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=self.name), timeout=WAIT_S)
        try:
            await anext(aiter(call))
        finally:
            call.cancel()

    async def pull(self):
        request = adapter_pb2.PullAdapterRequest(run_id="trec-1", node_id=self.name)
        await anext(aiter(self.adapters.PullAdapter(request, timeout=WAIT_S)))

    async def list_runs(self):
        await self.runs.ListRuns(run_pb2.ListRunsRequest(), timeout=WAIT_S)


@asynccontextmanager
async def secured(folder, authority):
    """A cloud under TLS; gives what calls it under an identity."""
    own = authority.issued(Identity("cloud", "main"))
    tls = {"tls_ca": own.ca, "tls_cert": own.certificate, "tls_key": own.key}
    async with serving(settings(folder, **tls)) as cloud:

        @asynccontextmanager
        async def calling(identity):
            files = authority.issued(identity)
            credentials = grpc.ssl_channel_credentials(files.ca_pem, files.key_pem, files.certificate_pem)
            options = [("grpc.ssl_target_name_override", CLOUD_HOST)]
            async with grpc.aio.secure_channel(cloud.address, credentials, options) as channel:
                yield Caller(channel, identity.name)

        yield calling


@asynccontextmanager
async def registered(folder, authority):
    """As `secured`; the cloud knows an edge and a client, and was started anew since."""
    async with secured(folder, authority) as calling, calling(EDGE) as edge, calling(CLIENT) as client:
        await edge.register_edge()
        await client.register_client()
    async with secured(folder, authority) as calling:
        yield calling


@pytest.mark.parametrize("call", ["heartbeat", "leave_run", "watch_assignment", "register_client"])
def test_a_client_does_nothing_under_the_name_of_an_edge(tmp_path, authority, call):
    async def test():
        async with (
            registered(tmp_path, authority) as calling,
            calling(Identity("client", EDGE.name)) as impostor,
            refused(grpc.StatusCode.PERMISSION_DENIED, "edge-1 is registered as edge"),
        ):
            await getattr(impostor, call)()

    asyncio.run(test())


@pytest.mark.parametrize("call", ["heartbeat", "leave_run", "watch_assignment", "register_edge", "pull"])
def test_an_edge_does_nothing_under_the_name_of_a_client(tmp_path, authority, call):
    async def test():
        async with (
            registered(tmp_path, authority) as calling,
            calling(Identity("edge", CLIENT.name)) as impostor,
            refused(grpc.StatusCode.PERMISSION_DENIED, "ann is registered as client"),
        ):
            await getattr(impostor, call)()

    asyncio.run(test())


def test_the_role_that_registered_acts_under_its_name_and_so_does_an_admin(tmp_path, authority):
    async def test():
        async with registered(tmp_path, authority) as calling:
            for identity in (EDGE, CLIENT):
                async with calling(identity) as node:
                    await node.heartbeat()
                    await node.watch_assignment()
            async with calling(Identity("admin", EDGE.name)) as admin:
                await admin.list_runs()

    asyncio.run(test())


def test_a_name_that_nobody_registered_is_free_for_either_role(tmp_path, authority):
    async def test():
        async with (
            secured(tmp_path, authority) as calling,
            calling(EDGE) as edge,
            calling(Identity("client", EDGE.name)) as client,
        ):
            await client.register_client()
            async with refused(grpc.StatusCode.PERMISSION_DENIED, "edge-1 is registered as client"):
                await edge.register_edge()

    asyncio.run(test())
