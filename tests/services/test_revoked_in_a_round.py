"""A client whose certificate is revoked while its run trains is not waited for, and the operator reads why."""

import time

import pytest
from certificates import Authority
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.v1 import fleet_pb2
from services.rpc.dial import Dialer
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.tls import Own

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
NAMES = ("ann", "bob")
REVOKED = "its certificate is revoked"
DEADLINE_S = 600
SOON_S = 60.0
"""Much less than the deadline, and than `gone_after_s` here."""


class Secured:
    """Certificates of a fleet, and the list of the revoked."""

    def __init__(self, folder):
        self.authority, self.crl = Authority(folder), folder / "crl.pem"
        self.issued = {}
        self.revoke()

    def revoke(self, *names):
        aside = self.crl.with_suffix(".new")
        aside.write_bytes(self.authority.crl([self.issued[name].serial for name in names]))
        aside.replace(self.crl)

    def given(self, role, name):
        """The settings of TLS of a role."""
        files = self.issued[name] = self.authority.issued(Identity(role, name))
        tls = {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}
        return tls if role == "client" else {**tls, "tls_crl": self.crl}

    def operator(self):
        files = self.authority.issued(Identity("admin", "ops"))
        return Dialer(own=Own(TlsFiles(ca=files.ca, certificate=files.certificate, key=files.key), "admin", "ops"))


@pytest.mark.parametrize("edge_rounds", [1, 3])
def test_a_round_closes_without_a_client_that_is_revoked_in_it(tiny_bert, tmp_path, edge_rounds):
    secured = Secured(tmp_path / "authority")
    spec = spec_of(
        tiny_bert,
        training={"rounds": 3, "edge_rounds": edge_rounds, "local_steps": 3},
        fleet={"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60},
        rounds={"quorum": 1.0, "deadline_s": DEADLINE_S},
    )
    given = {"gone_after_s": 500, **secured.given("cloud", "cloud")}
    with system(tmp_path, dialer=secured.operator(), **given) as at:
        at.edge("edge-1", **secured.given("edge", "edge-1"))
        for seed, name in enumerate(NAMES):
            at.client(name, write_rows(tmp_path / f"{name}.jsonl", 24, seed), **secured.given("client", name))
        run_id = at.submit(spec)
        at.wait(run_id, lambda event: event.HasField("round_closed"))
        secured.revoke("ann")
        begin = time.monotonic()
        events = list(at.events(run_id))
        assert time.monotonic() - begin < SOON_S
        run = at.get(run_id)
    assert run.state == COMPLETED, run.reason
    away = [node for event in events for node in event.presence_changed.first_away]
    assert [(node.node_id, node.detail) for node in away] == [("ann", REVOKED)]
    last = [event.round_closed for event in events if event.HasField("round_closed")][-1]
    assert [(each.client_id, each.detail) for each in last.absentees] == [("ann", REVOKED)]
    assert f"ann ({REVOKED})" in run.reason
