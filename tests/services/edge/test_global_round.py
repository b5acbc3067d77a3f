"""A global round that a restarted edge goes on with ends as it would have: clusters, means, clients' own tensors."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from split_harness import spec_of

from elsa.errors import ElsaError, RoundGivenUpError, StaleRoundError
from elsa.v1 import adapter_pb2
from elsa.wire.adapter import encode_adapter
from services.edge.global_round import GlobalRound
from services.edge.own_trunks import none_of
from services.edge.parts import Report, Standing, Update
from services.edge.rounds import EdgeRounds
from services.edge.state import EdgeState
from services.edge.timetable import Timetable
from services.rpc.adapters import Pulled

RUN, VERSION, ROUNDS = "tiny-1", 3, 3
START = {"shared": np.zeros((2, 3), np.float32), "trunk": np.zeros(4, np.float32)}
CLUSTERS = {"ann": 0, "bob": 0, "cat": 2, "dan": 1}
STANDINGS = {client: Standing(cluster=cluster) for client, cluster in CLUSTERS.items()}


class NoSessions:
    def forget_round(self, run_id):
        pass


@dataclass
class RunHere:
    """A run at an edge that has just been started."""

    spec: object
    rounds: EdgeRounds
    run_id: str = RUN
    sessions: NoSessions = field(default_factory=NoSessions)
    timetable: Timetable = field(default_factory=lambda: Timetable(ROUNDS))


def run_here(spec, own=none_of, standings=STANDINGS, clients=tuple(CLUSTERS), version=3):
    rounds = EdgeRounds(1.0, own)
    rounds.admit(clients, standings, version)
    return RunHere(spec=spec, rounds=rounds)


def spec_for(edges="similar"):
    clustering = {"method": "none" if edges == "similar" else "spectral", "edges": edges}
    return spec_of("minilm", training={"rounds": 9, "edge_rounds": ROUNDS}, clustering=clustering)


def pulled(adapter=START, version=VERSION):
    return Pulled(version=version, data=encode_adapter(adapter))


def update(run, client, place):
    """What a client makes of where it starts: the same wherever and whenever it does."""
    start = run.rounds.adapter_of(client, *place)
    draw = np.random.default_rng([ord(client[0]), *place])
    tensors = {
        name: (values + draw.normal(size=values.shape)).astype(np.float32) for name, values in sorted(start.items())
    }
    told = adapter_pb2.ClientReport(client_id=client, edge_round=place[1], rows=5)
    report = Report(client=client, rows=5 + ord(client[0]) % 7, message=told.SerializeToString())
    return Update(report=report, tensors=tensors)


def serve(run, places):
    """Clients that deliver in these edge rounds, on a thread."""

    def work():
        for place in places:
            for client in CLUSTERS:
                while True:
                    try:
                        run.rounds.wait_for(client, *place, 5)
                        run.rounds.add(*place, f"{place}{client}", update(run, client, place))
                        break
                    except StaleRoundError:
                        return
        run.served = True

    thread = threading.Thread(target=work)
    thread.start()
    return thread


class Killed(BaseException):
    """The edge is dead."""


def begun(run, state, restarted):
    one = GlobalRound(run, state, pulled(), START)
    goes_on = restarted and one.resume()
    if not goes_on:
        run.rounds.open(VERSION, 0, START)
    return one, goes_on


def delivered(spec, folder, kills, own=none_of):
    """The parcels of a global round at an edge that is killed after these edge rounds, each once it is on disk."""
    state, first = EdgeState(folder, "edge-1"), 0
    for kill in (*kills, None):
        moved = {client: Standing(cluster=7) for client in CLUSTERS}  # what the cloud says by now
        run = run_here(spec, own, moved if first else STANDINGS, version=9 if first else 3)
        one, goes_on = begun(run, state, restarted=first > 0)
        assert goes_on == (first > 0)
        last = ROUNDS if kill is None else kill
        thread = serve(run, [(VERSION, edge_round) for edge_round in range(first, last)])
        put = state.put

        def putting(saved, kill=kill, put=put):
            put(saved)
            if saved.edge_rounds == kill:
                raise Killed

        state.put = putting
        try:
            found = one.close_all(90)
        except Killed:
            first = kill
        finally:
            state = EdgeState(folder, "edge-1")
            thread.join()
    return found.parcels(), run, one


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kills=st.sets(st.integers(1, ROUNDS)).map(sorted),
    edges=st.sampled_from(["similar", "balanced"]),
    keeps=st.booleans(),
)
def test_an_edge_that_is_killed_between_its_rounds_delivers_what_it_would_have(tmp_path_factory, kills, edges, keeps):
    own = (lambda names: frozenset({"trunk"})) if keeps else none_of
    folder, spec = tmp_path_factory.mktemp("state"), spec_for(edges)
    want, plain, _ = delivered(spec, folder / "plain", [], own)
    got, run, one = delivered(spec, folder / "killed", kills, own)
    assert [(p.cluster, p.rows, p.steps, p.reports) for p in got] == [
        (p.cluster, p.rows, p.steps, p.reports) for p in want
    ]
    for ours, theirs in zip(got, want, strict=True):
        for name in START:
            np.testing.assert_array_equal(ours.adapter[name], theirs.adapter[name])
    assert run.rounds.clusters_version == plain.rounds.clusters_version == 3
    for client in CLUSTERS:
        ours, theirs = run.rounds.instead(client), plain.rounds.instead(client)
        assert (ours is None) == (theirs is None) == (not keeps)
        if keeps:
            np.testing.assert_array_equal(ours["trunk"], theirs["trunk"])
    one.forget()
    assert len(list((folder / "killed").iterdir())) == (1 if keeps else 0)


def test_what_was_not_wanted_is_not_gone_on_with_and_clients_own_tensors_outlive_it(tmp_path):
    spec, own = spec_for(), lambda names: frozenset({"trunk"})
    _, before, one = delivered(spec, tmp_path, [], own)
    one.forget()
    run = run_here(spec, own, clients=("ann", "bob"))
    again = GlobalRound(run, EdgeState(tmp_path, "edge-1"), pulled(version=VERSION + 1), START)
    assert not again.resume()
    same = GlobalRound(run, EdgeState(tmp_path, "edge-1"), pulled(), START)
    assert not same.resume(), "nothing of it was wanted"
    for client in ("ann", "bob"):
        np.testing.assert_array_equal(run.rounds.instead(client)["trunk"], before.rounds.instead(client)["trunk"])
    with pytest.raises(ElsaError):
        run.rounds.check_member("cat")
    assert run.rounds.instead("cat") is None, "it is another edge's by now"


@pytest.mark.parametrize("edges", ["similar", "balanced"])
@pytest.mark.parametrize("kill", range(1, ROUNDS + 1))
@pytest.mark.parametrize("left", [("eve",), ("ann", "bob", "cat"), ("ann", "bob", "cat", "eve")])
def test_work_of_clients_that_are_another_edges_by_now_is_not_delivered(tmp_path, caplog, edges, kill, left):
    """They are trained there in the same version, and would count twice."""
    spec, state = spec_for(edges), EdgeState(tmp_path, "edge-1")
    own = lambda names: frozenset({"trunk"})  # noqa: E731
    run = run_here(spec, own)
    one, _ = begun(run, state, restarted=False)
    put = state.put

    def putting(saved):
        put(saved)
        if saved.edge_rounds == kill:
            raise Killed

    state.put = putting
    thread = serve(run, [(VERSION, edge_round) for edge_round in range(kill)])
    with pytest.raises(Killed):
        one.close_all(90)
    thread.join()
    kept = run.rounds.kept().own["ann"]

    run = run_here(spec, own, clients=left)
    again = GlobalRound(run, EdgeState(tmp_path, "edge-1"), pulled(), START)
    assert not again.resume(), "the version begins again with those who are here"
    assert again._delivery.parcels() == []
    assert "dan" in caplog.text
    if "ann" in left:
        np.testing.assert_array_equal(run.rounds.instead("ann")["trunk"], kept["trunk"])


def test_a_client_that_is_new_here_stops_no_edge_from_going_on(tmp_path):
    spec = spec_for()
    delivered(spec, tmp_path, [])
    run = run_here(spec, clients=(*CLUSTERS, "eve"))
    again = GlobalRound(run, EdgeState(tmp_path, "edge-1"), pulled(), START)
    assert again.resume()


@pytest.mark.parametrize("what", ["version", "start", "shape"])
def test_what_was_kept_of_another_version_or_model_is_not_gone_on_with(tmp_path, caplog, what):
    spec = spec_for()
    delivered(spec, tmp_path, [1])  # its last is kept too
    run = run_here(spec)
    adapter = START
    if what == "start":
        adapter = {**START, "trunk": np.ones(4, np.float32)}
    found = pulled(adapter, VERSION + (what == "version"))
    if what == "shape":
        adapter = {**START, "trunk": np.zeros(5, np.float32)}
    one = GlobalRound(run, EdgeState(tmp_path, "edge-1"), found, adapter)
    assert not one.resume()
    run.rounds.open(found.version, 0, adapter)
    run.rounds.end(RoundGivenUpError("the test is over"))
    with pytest.raises(RoundGivenUpError):
        one.close_all(9)
    assert ("is ignored" in caplog.text) == (what == "shape")
