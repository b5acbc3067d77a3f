"""A whole fleet that speaks TLS alone: its run is the one of a fleet without, and nobody else takes part in it."""

import asyncio

import grpc
import pytest
from certificates import Authority
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.errors import InputError, PermissionDeniedError, UnauthenticatedError, UnreachableError
from elsa.v1 import fleet_pb2, run_pb2
from elsa.v1.fleet_pb2_grpc import FleetServiceStub
from elsa.v1.run_pb2_grpc import RunServiceStub
from services.cli.__main__ import status
from services.cloud.service import serving
from services.cloud.settings import CloudSettings
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.identity import CLOUD_HOST, Identity
from services.rpc.keypair import TlsFiles
from services.rpc.status import translated
from services.rpc.tls import Own

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
NAMES = ("ann", "bob")
FLEET = {"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60}


class Certified:
    """An authority, and what is given to those who hold a certificate of it."""

    def __init__(self, folder):
        self.authority = Authority(folder)
        self.crl = folder / "crl.pem"
        self.revoke()
        self.serials = {}

    def revoke(self, *serials):
        aside = self.crl.with_suffix(".new")
        aside.write_bytes(self.authority.crl(serials))
        aside.replace(self.crl)

    def settings(self, role, name, crl=True):
        """The settings of TLS of a role."""
        issued = self.authority.issued(Identity(role, name))
        self.serials[name] = issued.serial
        given = {"tls_ca": issued.ca, "tls_cert": issued.certificate, "tls_key": issued.key}
        return {**given, "tls_crl": self.crl} if crl and role in ("cloud", "edge") else given

    def dialer(self, role, name):
        """How one of that identity calls others."""
        given = self.settings(role, name)
        files = TlsFiles(ca=given["tls_ca"], certificate=given["tls_cert"], key=given["tls_key"])
        return Dialer(own=Own(files, role, name))


@pytest.fixture
def certified(tmp_path):
    return Certified(tmp_path / "authority")


def secured(folder, certified):
    return system(folder, dialer=certified.dialer("admin", "ops"), **certified.settings("cloud", "cloud"))


def start_all(at, folder, certified=None, **given):
    """An edge and two clients, with certificates or without TLS."""
    tls = certified.settings if certified else lambda role, name: {}
    at.edge("edge-1", **tls("edge", "edge-1"))
    for seed, name in enumerate(NAMES):
        rows = write_rows(folder / f"{name}.jsonl", 24, seed)
        at.client(name, rows, cache=folder / "cache", **tls("client", name), **given)


def finished(at, spec):
    """The exported adapter and the evaluations of a run."""
    run_id = at.submit(spec)
    *_, last = at.events(run_id)
    assert last.state_changed.state == COMPLETED, last
    losses = [evaluation.loss for evaluation in at.get(run_id).evaluations]
    return at.export(run_id)["adapter_model.safetensors"], losses


def test_a_run_under_tls_equals_the_one_without(tiny_bert, tmp_path, certified):
    """With clusters and weights from the edge, so that every service of every role is called."""
    spec = spec_of(tiny_bert, fleet=FLEET, clustering={"method": "spectral", "warmup_steps": 2})
    found = {}
    for kind in ("plain", "secure"):
        folder = tmp_path / kind
        folder.mkdir()
        with secured(folder, certified) if kind == "secure" else system(folder) as at:
            start_all(at, folder, certified if kind == "secure" else None, weights="edge")
            found[kind] = finished(at, spec)
    assert found["secure"] == found["plain"]


def test_clients_share_their_key_under_tls(tiny_bert, tmp_path, certified):
    privacy = {"ssop": {"rank": 4, "edge": "blind", "key": "run"}}
    with secured(tmp_path, certified) as at:
        start_all(at, tmp_path, certified)
        finished(at, spec_of(tiny_bert, fleet=FLEET, privacy=privacy))


def test_nobody_does_what_its_certificate_does_not_say(tmp_path, certified, capsys):
    register = fleet_pb2.RegisterClientRequest(client_id="ann", datasets=["words"])
    with secured(tmp_path, certified) as at:
        edge = at.edge("edge-1", **certified.settings("edge", "edge-1"))
        with (
            LOOPBACK.connect(at.address, CLOUD_HOST) as plain,
            pytest.raises(UnreachableError, match="both sides use TLS or neither"),
            translated("cloud"),
        ):
            RunServiceStub(plain).ListRuns(run_pb2.ListRunsRequest(), timeout=10)
        with certified.dialer("client", "bob").connect(at.address, CLOUD_HOST) as bob, translated("cloud"):
            with pytest.raises(grpc.RpcError) as found:
                RunServiceStub(bob).ListRuns(run_pb2.ListRunsRequest(), timeout=10)
            assert found.value.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(PermissionDeniedError, match="bob"), translated("cloud"):
                FleetServiceStub(bob).RegisterClient(register, timeout=10)
        told = certified.settings("admin", "ann")
        flags = [f"--{name.replace('_', '-')}={path}" for name, path in told.items()]
        assert status(["run", "list", "--cloud", at.address, *flags]) == 0
        assert "no runs yet" in capsys.readouterr().out
        told = certified.settings("client", "cat")
        flags = [f"--{name.replace('_', '-')}={path}" for name, path in told.items()]
        assert status(["run", "list", "--cloud", at.address, *flags]) == 1
        assert "is of client cat, and this is admin;" in capsys.readouterr().err
        assert edge.failure is None


def test_a_role_does_not_start_with_the_certificate_of_another(tmp_path, certified):
    with secured(tmp_path, certified) as at:
        with pytest.raises(InputError, match="is of edge edge-2, and this is edge edge-1"):
            at.edge("edge-1", **certified.settings("edge", "edge-2"))
        with pytest.raises(InputError, match="is of edge ann, and this is client ann"):
            at.client("ann", tmp_path / "rows.jsonl", **certified.settings("edge", "ann", crl=False))
    with pytest.raises(InputError, match="is of edge cloud, and this is cloud;"):
        asyncio.run(started(CloudSettings(state=tmp_path / "other", **certified.settings("edge", "cloud"))))


async def started(settings):
    async with serving(settings):
        pass


def test_a_revoked_node_is_out_without_a_restart_of_anyone(tmp_path, certified):
    with secured(tmp_path, certified) as at:
        ann, bob = (
            at.client(name, write_rows(tmp_path / f"{name}.jsonl", 8, 1), **certified.settings("client", name))
            for name in NAMES
        )
        certified.revoke(certified.serials["ann"])
        ann.join()
        assert isinstance(ann.failure, UnauthenticatedError)
        assert "the certificate of client ann is revoked" in str(ann.failure)
        assert bob.failure is None
