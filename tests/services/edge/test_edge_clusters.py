"""The laws of an edge whose clients are of several clusters: where each starts, what it makes, what it evaluates."""

import numpy as np
import pytest

from elsa.errors import NotFoundError, StaleRoundError
from elsa.wire.adapter import decode_adapter
from services.edge.delivery import Delivery, mean_of
from services.edge.parts import Report, Standing, Update
from services.edge.rounds import EdgeRounds

START = {"a": np.zeros((2, 3), np.float32)}
CLIENTS = {"ann": 0, "bob": 0, "cat": 2}
STANDINGS = {client: Standing(cluster=cluster) for client, cluster in CLIENTS.items()}


def opened():
    rounds = EdgeRounds(1.0)
    rounds.admit(CLIENTS, STANDINGS)
    rounds.open(3, 0, START)
    return rounds


def update(client, value, rows=1):
    report = Report(client=client, rows=rows, message=b"")
    return Update(report=report, tensors={"a": np.full((2, 3), value, np.float32)})


def deliver(rounds, place, **values):
    for client, value in values.items():
        rounds.add(*place, f"{place}{client}", update(client, value))
    return rounds.close(5)


def test_clusters_are_aggregated_apart():
    rounds = opened()
    closed = deliver(rounds, (3, 0), ann=1.0, bob=3.0, cat=7.0)
    assert {cluster: part.adapter["a"][0, 0] for cluster, part in closed.parts.items()} == {0: 2.0, 2: 7.0}
    assert {cluster: part.rows for cluster, part in closed.parts.items()} == {0: 2, 2: 1}
    assert [report.client for report in closed.parts[0].reports] == ["ann", "bob"]


def test_a_cluster_goes_on_from_its_own_within_a_version():
    rounds, delivery = opened(), Delivery(START)
    delivery.add(deliver(rounds, (3, 0), ann=1.0, bob=3.0, cat=7.0))
    rounds.open(3, 1, START, of_clusters=delivery.adapters)
    assert rounds.adapter_of("ann", 3, 1)["a"][0, 0] == 2.0
    assert rounds.adapter_of("cat", 3, 1)["a"][0, 0] == 7.0
    assert decode_adapter(rounds.wait_for("cat", 3, 1, 0).data)["a"][0, 0] == 7.0
    assert rounds.wait_for("cat", 3, 1, 0).cluster is None


def test_a_cluster_that_did_not_deliver_starts_from_the_version_and_is_pushed_by_what_it_made_last():
    rounds, delivery = EdgeRounds(0.5), Delivery(START)
    rounds.admit(CLIENTS, STANDINGS)
    rounds.open(3, 0, START)
    delivery.add(deliver(rounds, (3, 0), ann=1.0, bob=3.0))
    assert delivery.adapters.keys() == {0}
    rounds.open(3, 1, START, of_clusters=delivery.adapters)
    np.testing.assert_array_equal(rounds.adapter_of("cat", 3, 1)["a"], START["a"])
    delivery.add(deliver(rounds, (3, 1), ann=5.0, cat=7.0))
    assert {cluster: made["a"][0, 0] for cluster, made in delivery.adapters.items()} == {0: 5.0, 2: 7.0}
    (parcel,) = delivery.parcels()
    assert (parcel.cluster, parcel.rows, parcel.adapter["a"][0, 0], len(parcel.reports)) == (None, 2, 6.0, 4)


def test_a_whole_version_begins_from_the_run_s_adapter_and_shows_the_cluster_s_beside_it():
    rounds = opened()
    own = {2: {"a": np.full((2, 3), 9, np.float32)}}
    rounds.open(4, 0, START, of_clusters=own)
    assert rounds.adapter_of("cat", 4, 0) is START
    pulled = rounds.wait_for("cat", 4, 0, 0)
    assert (pulled.cluster, decode_adapter(pulled.data)["a"][0, 0]) == (2, 0.0)
    assert decode_adapter(rounds.of_cluster("cat", 4, 2).data)["a"][0, 0] == 9.0
    assert rounds.instead("cat", 2) is own[2] and rounds.instead("cat") is None
    assert rounds.wait_for("ann", 4, 0, 0).cluster is None  # its cluster has none


def test_nobody_gets_another_cluster_s_adapter_or_an_old_one():
    rounds = opened()
    rounds.open(4, 0, START, of_clusters={2: START})
    for client, cluster in (("ann", 2), ("ann", 0), ("cat", 1)):
        with pytest.raises(NotFoundError, match=f"cluster {cluster} has no adapter for {client}"):
            rounds.instead(client, cluster)
    with pytest.raises(StaleRoundError):
        rounds.of_cluster("cat", 3, 2)


def test_an_edge_that_is_told_of_no_clusters_has_none():
    rounds = EdgeRounds(1.0)
    rounds.admit(CLIENTS)
    rounds.open(1, 0, START, of_clusters={0: START})
    assert rounds.clusters() == ()
    assert rounds.wait_for("ann", 1, 0, 0).cluster is None
    assert deliver(rounds, (1, 0), ann=1.0, bob=3.0, cat=8.0).parts.keys() == {0}


def test_what_all_clusters_made_is_the_mean_of_all_clients():
    rounds = opened()
    closed = deliver(rounds, (3, 0), ann=1.0, bob=3.0, cat=8.0)
    np.testing.assert_allclose(mean_of(closed, START)[0]["a"], 4.0)
    rounds.open(3, 1, mean_of(closed, START)[0])
    for client in CLIENTS:
        np.testing.assert_allclose(rounds.adapter_of(client, 3, 1)["a"], 4.0)
    nobody = rounds.close(0.01)
    assert mean_of(nobody, START) == (START, 0)


def parcels_of(aside=(), **clusters):
    """What an edge pushes of clients that each made their number of one edge round."""
    rounds, delivery = EdgeRounds(1.0), Delivery(START)
    standings = {c: Standing(cluster=n, trust=float(c not in aside)) for c, n in clusters.items()}
    rounds.admit(clusters, standings)
    rounds.open(0, 0, START)
    delivery.add(deliver(rounds, (0, 0), **{client: float(ord(client) - ord("a")) for client in clusters}))
    return [(p.cluster, p.rows, float(p.adapter["a"][0, 0]), len(p.reports)) for p in delivery.parcels()]


def test_no_client_s_adapter_goes_to_the_cloud_alone_where_there_are_others():
    assert parcels_of(a=0, c=0, b=1, f=1) == [(0, 2, 1.0, 2), (1, 2, 3.0, 2)]
    assert parcels_of(a=0, c=0, b=1, f=1, d=2, h=3) == [(0, 2, 1.0, 2), (1, 2, 3.0, 2), (None, 2, 5.0, 2)]
    assert parcels_of(a=0, c=0, b=1, f=1, j=1, d=2) == [(1, 3, 5.0, 3), (None, 3, pytest.approx(5 / 3), 3)]
    assert parcels_of(a=0, c=1) == [(None, 2, 1.0, 2)]
    assert parcels_of(aside="b", a=0, c=0, b=1, f=1, j=2, l=2) == [
        (2, 2, 10.0, 2),
        (None, 3, pytest.approx(7 / 3), 4),
    ]
    assert parcels_of(c=4) == [(4, 1, 2.0, 1)]


def test_sets_aside_alone_are_reported_and_make_no_adapter():
    assert parcels_of(aside="b", b=1, f=2, j=3, l=3) == [(None, 3, pytest.approx(25 / 3), 4)]
    assert parcels_of(aside="bc", b=0, c=1) == [(None, 2, 0.0, 2)]


def test_who_leaves_after_its_push_counts_as_it_stood():
    rounds = EdgeRounds(1.0)
    rounds.admit(CLIENTS, {**STANDINGS, "bob": Standing(cluster=0, trust=0.0), "cat": Standing(cluster=2, trust=0.5)})
    rounds.open(3, 0, START)
    for client, value in (("bob", 1000.0), ("cat", 7.0)):
        rounds.add(3, 0, client, update(client, value, rows=10))
    rounds.admit(["ann"], {"ann": STANDINGS["ann"]})
    rounds.add(3, 0, "ann", update("ann", 1.0, rows=10))
    closed = rounds.close(5)
    assert {c: (part.rows, part.clients, float(part.adapter["a"][0, 0])) for c, part in closed.parts.items()} == {
        0: (10, 1, 1.0),
        2: (5, 1, 7.0),
    }
    rounds.open(4, 0, START)
    assert rounds._roster.standings.keys() == {"ann"}


def test_within_a_version_nobody_changes_its_cluster_and_trust_is_as_told_last():
    rounds, delivery = EdgeRounds(1.0), Delivery(START)
    rounds.admit(CLIENTS, STANDINGS, 0)
    rounds.open(3, 0, START)
    delivery.add(deliver(rounds, (3, 0), ann=1.0, bob=3.0, cat=7.0))
    rounds.admit(CLIENTS, {**STANDINGS, "bob": Standing(cluster=2, trust=0.0)}, 3)
    rounds.open(3, 1, START, of_clusters=delivery.adapters)
    assert rounds.adapter_of("bob", 3, 1)["a"][0, 0] == 2.0
    delivery.add(deliver(rounds, (3, 1), ann=5.0, bob=9.0, cat=7.0))
    assert (rounds.clusters_version, delivery.adapters[0]["a"][0, 0]) == (0, 5.0)
    rounds.open(4, 0, START)
    assert rounds.clusters_version == 3
    assert deliver(rounds, (4, 0), ann=1.0, bob=2.0, cat=3.0).parts[2].clients == 1
