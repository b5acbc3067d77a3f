"""The laws of an edge whose clients take different numbers of steps: what it makes of them and tells the cloud."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_harness import Trainee, edge_server, first_adapter, rows, spec_of

from elsa.aggregate.fednova import fednova
from elsa.cluster.summary import summary
from elsa.errors import MalformedError
from services.edge.delivery import Delivery, mean_of
from services.edge.parts import Report, Standing, Update
from services.edge.rounds import EdgeRounds

MOST = 20
START = {"a": np.full((2, 3), 1.0, np.float32)}
CLUSTERS = {"ann": 0, "bob": 0, "cat": 1, "dan": 1}
PROPORTIONAL = {"plan": {"method": "measured"}, "training": {"steps": "proportional", "local_steps": 4}}


def edge(quorum=1.0, most_steps=MOST, trust=None):
    rounds = EdgeRounds(quorum, most_steps=most_steps)
    trusts = trust or {}
    rounds.admit(CLUSTERS, {c: Standing(cluster=n, trust=trusts.get(c, 1.0)) for c, n in CLUSTERS.items()})
    rounds.open(3, 0, START)
    return rounds


def update(client, steps, value, rows_=1):
    report = Report(client=client, rows=rows_, steps=steps, message=b"")
    return Update(report=report, tensors={"a": np.full((2, 3), value, np.float32)})


def deliver(rounds, edge_round=0, **made):
    """What comes of clients' steps and values in an edge round."""
    for client, (steps, value) in made.items():
        rounds.add(3, edge_round, client, update(client, steps, value))
    return rounds.close(5 if len(made) == len(CLUSTERS) else 0.01)


def value_of(adapter):
    return float(adapter["a"][0, 0])


def nova(before, *made):
    """By hand: of (rows, steps, value)."""
    total = sum(rows for rows, _, _ in made)
    effective = sum(rows * steps for rows, steps, _ in made) / total
    way = sum(rows * (value - before) / steps for rows, steps, value in made) / total
    return pytest.approx(before + effective * way), pytest.approx(effective)


def test_a_part_is_evened_out_by_the_steps_of_its_clients():
    parts = deliver(edge(), ann=(4, 5.0), bob=(1, 2.0), cat=(2, 7.0), dan=(2, 3.0)).parts
    assert (value_of(parts[0].adapter), parts[0].steps) == nova(1.0, (1, 4, 5.0), (1, 1, 2.0))
    assert (value_of(parts[1].adapter), parts[1].steps) == (5.0, 2.0)


def test_where_all_take_as_many_steps_none_are_counted():
    rounds, delivery = edge(most_steps=None), Delivery(START)
    closed = deliver(rounds, ann=(4, 5.0), bob=(1, 2.0), cat=(0, 7.0), dan=(2, 3.0))
    assert [(value_of(part.adapter), part.steps) for part in closed.parts.values()] == [(3.5, 0), (5.0, 0)]
    delivery.add(closed)
    assert {parcel.steps for parcel in delivery.parcels()} == {0}


@pytest.mark.parametrize("steps", [0, MOST + 1])
def test_steps_that_nobody_is_asked_for_are_refused_and_do_not_count(steps):
    rounds = edge()
    with pytest.raises(MalformedError, match=f"steps of ann: {steps}; a client takes from 1 to {MOST}"):
        deliver(rounds, ann=(steps, 5.0))
    assert not rounds.close(0.01).parts


def test_trust_weighs_as_before():
    rounds = edge(trust={"ann": 0.5, "dan": 0.0})
    parts = deliver(rounds, ann=(4, 5.0), bob=(1, 2.0), cat=(3, 7.0), dan=(9, 1000.0)).parts
    assert (value_of(parts[0].adapter), parts[0].steps) == nova(1.0, (0.5, 4, 5.0), (1, 1, 2.0))
    assert (value_of(parts[1].adapter), parts[1].steps) == (7.0, 3.0)


def test_where_nobody_is_trusted_nothing_moves_and_as_few_steps_as_can_be_are_told():
    rounds, delivery = edge(trust=dict.fromkeys(CLUSTERS, 0.0)), Delivery(START, least_steps=1)
    closed = deliver(rounds, ann=(4, 5.0), bob=(1, 2.0), cat=(3, 7.0), dan=(9, 9.0))
    assert {part.steps for part in closed.parts.values()} == {0}
    delivery.add(closed)
    (parcel,) = delivery.parcels()
    assert (value_of(parcel.adapter), parcel.steps) == (1.0, 1)


def test_an_edge_round_in_which_nobody_is_trusted_adds_no_steps():
    rounds, delivery = edge(), Delivery(START, least_steps=1)
    delivery.add(deliver(rounds, 0, ann=(4, 5.0), bob=(1, 2.0), cat=(2, 7.0), dan=(2, 3.0)))
    begin, own = delivery.go_on()
    rounds.admit(CLUSTERS, {c: Standing(cluster=n, trust=float(n == 0)) for c, n in CLUSTERS.items()})
    rounds.open(3, 1, begin, of_clusters=own)
    delivery.add(deliver(rounds, 1, ann=(4, 5.0), bob=(4, 2.0), cat=(9, 9.0), dan=(9, 9.0)))
    assert delivery._steps == {0: 2.5 + 4, 1: 2.0}


def test_clusters_that_go_on_together_do_so_without_those_of_which_nobody_is_trusted():
    rounds, delivery = edge(trust={"cat": 0.0, "dan": 0.0}), Delivery(START, together=True, least_steps=1)
    delivery.add(deliver(rounds, ann=(4, 5.0), bob=(4, 2.0), cat=(3, 70.0), dan=(9, 90.0)))
    begin, _ = delivery.go_on()
    assert value_of(begin) == 3.5
    (parcel,) = delivery.parcels()
    assert (value_of(parcel.adapter), parcel.steps) == (3.5, 4)


def test_fewer_steps_than_can_be_evened_out_are_refused():
    rounds = edge(most_steps=1000)
    with pytest.raises(MalformedError, match="steps of ann: 9; a client takes from 10 to 1000"):
        deliver(rounds, ann=(9, 5.0))
    assert deliver(rounds, ann=(10, 5.0), bob=(1000, 2.0)).parts[0].steps == 505


def test_steps_of_a_cluster_that_goes_on_from_its_own_add_up():
    rounds, delivery = edge(), Delivery(START)
    delivery.add(deliver(rounds, 0, ann=(4, 5.0), bob=(1, 2.0), cat=(2, 7.0), dan=(2, 3.0)))
    begin, own = delivery.go_on()
    assert begin is START and own.keys() == {0, 1}
    begun = value_of(own[0])
    rounds.open(3, 1, begin, of_clusters=own)
    delivery.add(deliver(rounds, 1, ann=(2, 6.0), bob=(6, 4.0)))  # nobody of cluster 1
    first, second = delivery.parcels()
    value, steps = nova(begun, (1, 2, 6.0), (1, 6, 4.0))
    assert (value_of(first.adapter), first.steps - 2.5) == (value, steps)
    assert (value_of(second.adapter), second.steps) == (5.0, 2.0)


def test_steps_of_clusters_that_go_on_together_count_from_the_mean():
    rounds, delivery = edge(), Delivery(START, together=True)
    delivery.add(deliver(rounds, 0, ann=(4, 5.0), bob=(1, 2.0)))  # nobody of cluster 1
    begin, own = delivery.go_on()
    assert (value_of(begin), own) == (nova(1.0, (1, 4, 5.0), (1, 1, 2.0))[0], {})
    rounds.open(3, 1, begin)
    delivery.add(deliver(rounds, 1, ann=(4, 5.0), bob=(1, 2.0), cat=(2, 7.0), dan=(2, 3.0)))
    first, second = delivery.parcels()
    assert (first.steps, second.steps) == (2.5 + 2.5, 2.5 + 2.0)
    assert value_of(second.adapter) == 5.0


VALUES = st.floats(-10, 10, width=32)
MADE = st.fixed_dictionaries({client: st.tuples(st.integers(1, MOST), VALUES) for client in CLUSTERS})


@given(MADE)
def test_the_mean_of_clusters_is_that_of_all_clients(made):
    mean, steps = mean_of(deliver(edge(), **made), START)
    updates = {client: (1.0, own, update(client, own, value).tensors) for client, (own, value) in made.items()}
    expected, effective = fednova(START, updates)
    np.testing.assert_allclose(mean["a"], expected["a"], rtol=1e-4, atol=1e-3)
    assert steps == pytest.approx(effective)


@given(st.tuples(st.integers(1, MOST), VALUES), st.tuples(st.integers(1, MOST), VALUES))
def test_a_mixture_of_small_clusters_is_the_mean_of_their_clients_from_the_version(one, other):
    rounds, delivery = edge(), Delivery(START)
    delivery.add(deliver(rounds, ann=one, cat=other))
    (parcel,) = delivery.parcels()
    expected, effective = fednova(
        START, {n: (1.0, own, update("ann", own, value).tensors) for n, (own, value) in enumerate((one, other))}
    )
    np.testing.assert_allclose(parcel.adapter["a"], expected["a"], rtol=1e-4, atol=1e-3)
    assert (parcel.cluster, parcel.steps) == (None, pytest.approx(effective))


def test_a_mixture_of_clusters_that_went_on_together_is_evened_out_from_the_version():
    rounds, delivery = edge(), Delivery(START, together=True)
    delivery.add(deliver(rounds, 0, ann=(4, 5.0), cat=(2, 7.0)))
    begin, _ = delivery.go_on()
    rounds.open(3, 1, begin)
    delivery.add(deliver(rounds, 1, ann=(8, 6.0), cat=(1, 4.0)))
    (parcel,) = delivery.parcels()
    assert (value_of(parcel.adapter), parcel.steps) == nova(1.0, (1, 3 + 8, 6.0), (1, 3 + 1, 4.0))


def test_who_takes_fewer_steps_does_not_seem_to_fall_behind():
    parts = deliver(edge(), ann=(10, 11.0), bob=(1, 2.0), cat=(MOST, 3.0), dan=(MOST, 3.0)).parts
    moved = parts[0].moved
    np.testing.assert_allclose(moved["ann"], moved["bob"], rtol=1e-6)
    np.testing.assert_array_equal(parts[1].moved["cat"], summary(update("cat", 1, 3.0).tensors, START, 0))


def test_an_edge_counts_the_steps_that_it_has_applied_itself(tiny_bert):
    spec = spec_of(tiny_bert, **PROPORTIONAL)
    start, taken, updates = first_adapter(spec), {"ann": 1, "bob": 3}, {}
    with edge_server() as server:
        run = server.open_run(spec, start, list(taken))
        for seed, (name, steps) in enumerate(taken.items()):
            trainee = Trainee(spec, start, rows(20, seed), client=name, seed=(seed,)).connect(server).train(steps)
            updates[name] = (10.0, steps, trainee.finish(server) | trainee.own())
            trainee.push(server, steps=77)  # whatever it says
        (part,) = run.rounds.close(10).parts.values()
    expected, effective = fednova(start, updates)
    assert part.steps == effective == 2.0
    for name, values in expected.items():
        np.testing.assert_array_equal(part.adapter[name], values)


def test_an_edge_refuses_more_steps_than_the_run_has(tiny_bert):
    spec = spec_of(tiny_bert, **PROPORTIONAL)
    start = first_adapter(spec)
    with edge_server() as server:
        server.open_run(spec, start, ["ann"])
        trainee = Trainee(spec, start, rows(20, 1)).connect(server).train(5)
        trainee.finish(server)
        with pytest.raises(Exception, match="steps of ann: 5; a client takes from 1 to 4"):
            trainee.push(server, steps=4)
