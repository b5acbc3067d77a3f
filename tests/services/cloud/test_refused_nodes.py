"""A node whose certificate is good no more is silent at once, and nobody but itself can make it so."""

import asyncio
import logging
from contextlib import asynccontextmanager

import grpc
import pytest
from certificates import Authority
from cloud_harness import Clock, settings

from elsa.v1 import fleet_pb2, fleet_pb2_grpc
from services.cloud.fleet import Fleet
from services.cloud.service import serving
from services.cloud.store import Store
from services.rpc.identity import CLOUD_HOST, Identity

OWN, STOLEN = 1, 2
WHY = "its certificate is revoked"
LATE_S = 100.0
"""Beyond three heartbeats."""


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fleet(tmp_path, clock):
    store = Store(f"sqlite:///{tmp_path / 'elsa.db'}")
    made = Fleet(store, pace=settings(tmp_path, heartbeat_s=10).pace, max_nodes=10, clock=clock)
    made.register_client("ann", ())
    yield made
    store.close()


def hear(fleet, serial):
    fleet.let_in("ann", serial)
    fleet.heartbeat("ann")


def test_who_shows_its_only_certificate_after_it_is_revoked_is_silent_at_once(fleet):
    hear(fleet, OWN)
    fleet.refuse("ann", "client", OWN, WHY)
    assert fleet.refusal("ann") == WHY
    assert not fleet.is_alive("ann")


def test_who_is_heard_with_a_new_certificate_is_there_again(fleet):
    hear(fleet, OWN)
    fleet.refuse("ann", "client", OWN, WHY)
    hear(fleet, OWN + 10)
    assert fleet.refusal("ann") == ""
    assert fleet.is_alive("ann")
    fleet.refuse("ann", "client", OWN, WHY)
    assert fleet.is_alive("ann")


@pytest.mark.parametrize("before", [(OWN,), (STOLEN, OWN), (OWN, STOLEN), ()])
def test_a_stolen_certificate_that_is_revoked_silences_nobody_who_is_heard(fleet, clock, before):
    for serial in before:
        hear(fleet, serial)
    for _ in range(3):
        fleet.refuse("ann", "client", STOLEN, WHY)
        assert fleet.is_alive("ann")
    clock.now += LATE_S
    fleet.refuse("ann", "client", STOLEN, WHY)
    assert fleet.refusal("ann") == WHY


@pytest.mark.parametrize(("name", "role"), [("ann", "edge"), ("ann", "admin"), ("bob", "client")])
def test_a_certificate_of_another_role_or_name_says_nothing_of_a_node(fleet, clock, name, role):
    clock.now += LATE_S
    fleet.refuse(name, role, OWN, WHY)
    assert fleet.refusal("ann") == fleet.refusal(name) == ""


@asynccontextmanager
async def calling(address, files):
    credentials = grpc.ssl_channel_credentials(files.ca_pem, files.key_pem, files.certificate_pem)
    options = [("grpc.ssl_target_name_override", CLOUD_HOST)]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        yield fleet_pb2_grpc.FleetServiceStub(channel)


async def is_refused(fleet):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id="edge-1"), timeout=20)
    return caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_refusal_by_the_guard_is_logged_with_its_reason(tmp_path, caplog):
    authority, crl = Authority(tmp_path / "authority"), tmp_path / "crl.pem"
    own, node = authority.issued(Identity("cloud", "main")), authority.issued(Identity("edge", "edge-1"))
    crl.write_bytes(authority.crl([node.serial]))
    tls = {"tls_ca": own.ca, "tls_cert": own.certificate, "tls_key": own.key, "tls_crl": crl}
    caplog.set_level(logging.WARNING)

    async def test():
        async with serving(settings(tmp_path, **tls)) as cloud, calling(cloud.address, node) as fleet:
            assert await is_refused(fleet)

    asyncio.run(test())
    assert "refused edge edge-1: /elsa.v1.FleetService/Heartbeat: its certificate is revoked" in caplog.text
    assert "UnauthenticatedError" not in caplog.text
