"""A whole run whose edge never learns the key: its clients share it, nobody else comes to know it."""

import base64

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.privacy.keys import Key, KeyPair
from elsa.v1 import fleet_pb2
from services.client.keys import RunKeys

CLIENTS = ("ann", "bob", "cyd")


@pytest.fixture
def obtained(monkeypatch):
    """The keys of each client of the test's runs, and every secret that was made meanwhile."""
    found = {"keys": [], "secrets": set()}
    obtain, make, pair = RunKeys.obtain, Key.__init__, KeyPair.__init__

    def noted(self, layout, make_basis):
        got = obtain(self, layout, make_basis)
        found["keys"].append((self._client_id, *got))
        return got

    def made(self, secret):
        make(self, secret)
        found["secrets"].add(secret)

    def paired(self):
        pair(self)
        found["secrets"].add(self._private.private_bytes_raw())

    monkeypatch.setattr(RunKeys, "obtain", noted)
    monkeypatch.setattr(Key, "__init__", made)
    monkeypatch.setattr(KeyPair, "__init__", paired)
    return found


def spec_with(folder, **ssop):
    clients = {"min_clients": len(CLIENTS), "min_edges": 2, "enroll_timeout_s": 60}
    return spec_of(folder, privacy={"ssop": {"rank": 4, **ssop}}, fleet=clients)


def start_all(at, tmp_path):
    for edge in ("edge-1", "edge-2"):
        at.edge(edge, capacity=2)
    for seed, name in enumerate(CLIENTS):
        at.client(name, write_rows(tmp_path / f"{name}.jsonl", 24, seed))


def run_to_its_end(at, tmp_path, spec):
    """All that anyone may come to read of a run."""
    start_all(at, tmp_path)
    run_id = at.submit(spec)
    events = "".join(f"{event} {event.SerializeToString()!r}" for event in at.events(run_id))
    done = at.get(run_id)
    assert done.state == fleet_pb2.RUN_STATE_COMPLETED, done.reason
    return events + str(done), at.export(run_id)


def held_by_the_cloud(tmp_path):
    return b"".join(path.read_bytes() for path in sorted((tmp_path / "cloud").rglob("*")) if path.is_file())


def test_clients_of_a_blind_run_share_one_key_that_nobody_else_holds(tiny_bert, tmp_path, obtained, caplog):
    caplog.set_level("DEBUG")
    with system(tmp_path) as at:
        said, files = run_to_its_end(at, tmp_path, spec_with(tiny_bert, edge="blind", key="run"))
    assert sorted(name for name, _, _ in obtained["keys"]) == list(CLIENTS)
    (_, key, basis), *others = obtained["keys"]
    assert all(other == key and bool((same == basis).all()) for _, other, same in others)
    assert len(obtained["secrets"]) == 1 + len(CLIENTS), (
        "one key, a private key a client, and no key of anybody alone"
    )
    held = b"".join([held_by_the_cloud(tmp_path), said.encode(), caplog.text.encode(), *files.values()])
    for secret in obtained["secrets"]:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode()):
            assert form not in held
    assert basis.numpy().tobytes() in held, "what is looked through must be what was kept"


@pytest.mark.parametrize("ssop", [{"edge": "blind", "key": "client"}, {"edge": "keyed", "key": "run"}])
def test_clients_of_other_runs_share_no_key(tiny_bert, tmp_path, obtained, caplog, ssop):
    caplog.set_level("DEBUG")
    with system(tmp_path) as at:
        said, files = run_to_its_end(at, tmp_path, spec_with(tiny_bert, **ssop))
    assert not obtained["keys"] and len(obtained["secrets"]) >= 2 * len(CLIENTS)
    held = b"".join([held_by_the_cloud(tmp_path), said.encode(), caplog.text.encode(), *files.values()])
    assert not [secret for secret in obtained["secrets"] if secret in held or secret.hex().encode() in held]


def test_a_client_that_restarts_in_a_blind_run_leaves_it_and_says_why(tiny_bert, tmp_path):
    spec = spec_with(tiny_bert, edge="blind", key="run")
    with system(tmp_path) as at:
        start_all(at, tmp_path)
        run_id = at.submit(spec)
        at.wait(run_id, lambda event: event.state_changed.state == fleet_pb2.RUN_STATE_TRAINING)
        at.nodes["bob"].close()
        at.client("bob", tmp_path / "bob.jsonl")

        def bob_left(event):
            return event.node_joined.node_id == "bob" and not event.node_joined.accepted

        assert "in this client's memory alone" in at.wait(run_id, bob_left).node_joined.detail
        *_, last = at.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        assert list(at.get(run_id).client_ids) == ["ann", "cyd"]
