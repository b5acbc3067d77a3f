"""The laws of an edge's rounds: what closes them, what is late, who waits, what the aggregate is."""

import itertools
import threading

import numpy as np
import pytest

from elsa.cluster.summary import summary
from elsa.errors import DrainingError, MalformedError, PermissionDeniedError, RoundGivenUpError, StaleRoundError
from elsa.wire.adapter import decode_adapter
from services.edge.parts import Report, Standing, Update
from services.edge.rounds import EdgeRounds

CLIENTS = ("ann", "bob", "cat")
START = {"a": np.zeros((2, 3), np.float32), "b": np.ones((4,), np.float32)}


def rounds_of(clients=CLIENTS, quorum=1.0, place=(0, 0)):
    rounds = EdgeRounds(quorum)
    rounds.admit(clients)
    rounds.open(*place, START)
    return rounds


def update(client, seed=0, rows=1, **tensors):
    draw = np.random.default_rng([seed, *client.encode()])
    values = {name: draw.normal(size=value.shape).astype(np.float32) for name, value in START.items()}
    return Update(report=Report(client=client, rows=rows, message=b""), tensors={**values, **tensors})


def waiting(rounds, target, *args):
    """A thread in `target`, once it waits; with what came of it."""
    results = []

    def run():
        try:
            results.append(target(*args))
        except Exception as error:  # noqa: BLE001 - handed to the test
            results.append(error)

    registered, condition = threading.Event(), rounds._changed
    real = condition.wait_for

    def wait_for(*given, **named):
        registered.set()
        return real(*given, **named)

    condition.wait_for = wait_for
    thread = threading.Thread(target=run)
    thread.start()
    assert registered.wait(5)
    return thread, results


def test_trust_multiplies_rows_and_none_at_all_counts_for_nothing():
    given = {client: update(client, rows=10) for client in CLIENTS}
    for trust, weights in (
        ({"bob": 0.5}, (10, 5, 10)),
        ({"ann": 0.0}, (0, 10, 10)),
        ({"ann": 0.0, "bob": 0.0}, (0, 0, 10)),
    ):
        rounds = rounds_of()
        rounds.admit(CLIENTS, {client: Standing(trust=share) for client, share in trust.items()})
        for client in CLIENTS:
            rounds.add(0, 0, client, given[client])
        made = rounds.close(5).parts[0]
        assert made.rows == sum(weights)
        assert len(made.reports) == len(CLIENTS)
        for name in START:
            stacked = np.stack([given[client].tensors[name] for client in CLIENTS]).astype(np.float64)
            mean = np.average(stacked, axis=0, weights=weights)
            np.testing.assert_allclose(made.adapter[name], mean, rtol=1e-5, atol=1e-6)


def test_what_moved_is_told_of_clients_that_are_weighed_alone():
    rounds = rounds_of()
    rounds.admit(CLIENTS, {"ann": Standing()})
    given = {client: update(client) for client in CLIENTS}
    for client in CLIENTS:
        rounds.add(0, 0, client, given[client])
    made = rounds.close(5).parts[0]
    assert list(made.moved) == ["ann"]
    np.testing.assert_allclose(made.moved["ann"], summary(given["ann"].tensors, START, 0))
    quiet = EdgeRounds(1.0, seed=None)
    quiet.admit(["ann"], {"ann": Standing()})
    quiet.open(0, 0, START)
    quiet.add(0, 0, "ann", given["ann"])
    assert not quiet.close(5).parts[0].moved


def test_the_adapter_stays_where_nobody_is_trusted():
    rounds = rounds_of(["ann"])
    rounds.admit(["ann"], {"ann": Standing(trust=0.0)})
    rounds.add(0, 0, "d", update("ann"))
    closed = rounds.close(5)
    assert (closed.parts[0].adapter is rounds._serving.served.adapter, closed.parts[0].rows, closed.missing) == (
        True,
        1,
        (),
    )


def test_one_client_is_identity():
    rounds = rounds_of(["ann"])
    given = update("ann", rows=7)
    assert rounds.add(0, 0, "d", given)
    closed = rounds.close(5)
    for name, values in given.tensors.items():
        np.testing.assert_array_equal(closed.parts[0].adapter[name], values)
    made = closed.parts[0]
    assert (made.rows, closed.missing, [report.client for report in made.reports]) == (7, (), ["ann"])


def test_order_is_irrelevant_and_rows_are_weights():
    updates = [update("ann", rows=1), update("bob", rows=2), update("cat", rows=5)]
    results = []
    for order in itertools.permutations(updates):
        rounds = rounds_of()
        for given in order:
            rounds.add(0, 0, given.report.client, given)
        results.append(rounds.close(5).parts[0].adapter)
    want = sum(given.report.rows * given.tensors["a"].astype(np.float64) for given in updates) / 8
    np.testing.assert_allclose(results[0]["a"], want, atol=1e-6)
    for other in results[1:]:
        for name in START:
            np.testing.assert_array_equal(other[name], results[0][name])


@pytest.mark.parametrize(("quorum", "clients", "wanted"), [(0.5, 3, 2), (0.07, 100, 7), (0.34, 3, 2), (1.0, 3, 3)])
def test_the_quorum_closes_a_round_at_once(quorum, clients, wanted):
    names = [f"c{number:03}" for number in range(clients)]
    rounds = rounds_of(names, quorum)
    thread, results = waiting(rounds, rounds.close, 60)
    for name in names[:wanted]:
        assert not results
        rounds.add(0, 0, name, update(name))
    thread.join(5)
    assert (results[0].parts[0].rows, results[0].missing) == (wanted, tuple(names[wanted:]))
    with pytest.raises(StaleRoundError, match="closed"):
        rounds.add(0, 0, "late", update(names[-1]))


def test_the_deadline_closes_with_what_came_and_nobody_keeps_the_adapter():
    rounds = rounds_of()
    rounds.add(0, 0, "d", update("bob"))
    closed = rounds.close(0.01)
    assert (closed.parts[0].rows, closed.missing) == (1, ("ann", "cat"))
    rounds.open(0, 1, START, of_clusters={0: closed.parts[0].adapter})
    again = rounds.close(0.01)
    assert not again.parts


def test_a_closed_round_takes_no_session_and_no_update_until_the_next_opens():
    rounds = rounds_of()
    rounds.add(0, 0, "d", update("ann"))
    closed = rounds.close(0.01)
    for refused in (lambda: rounds.adapter_of("ann", 0, 0), lambda: rounds.add(0, 0, "e", update("bob"))):
        with pytest.raises(StaleRoundError, match="version 0, edge round 0 is closed"):
            refused()
    rounds.open(0, 1, START, of_clusters={0: closed.parts[0].adapter})
    with pytest.raises(StaleRoundError):
        rounds.add(0, 0, "e", update("bob"))
    assert rounds.adapter_of("bob", 0, 1) is closed.parts[0].adapter


def test_the_same_push_twice_is_one_also_after_its_round():
    rounds = rounds_of(["ann"])
    assert rounds.add(0, 0, "d", update("ann"))
    assert rounds.add(0, 0, "d", update("ann")) is False
    closed = rounds.close(5)
    rounds.open(0, 1, START, of_clusters={0: closed.parts[0].adapter})
    assert rounds.has("ann", 0, 0, "d") and rounds.add(0, 0, "d", update("ann")) is False
    assert rounds.add(0, 1, "d", update("ann")) is True  # the same bytes in another round are another update


def test_a_second_update_of_a_client_replaces_its_first():
    rounds = rounds_of(["ann"])
    rounds.add(0, 0, "d", update("ann", seed=1))
    last = update("ann", seed=2)
    assert rounds.add(0, 0, "e", last)
    np.testing.assert_array_equal(rounds.close(5).parts[0].adapter["a"], last.tensors["a"])


def test_names_and_shapes_are_those_of_the_model():
    rounds = rounds_of()
    for odd, word in (
        (update("ann", a=np.zeros((3, 2), np.float32)), "a is"),
        (update("ann", c=np.zeros(1, np.float32)), "c is not part"),
    ):
        with pytest.raises(MalformedError, match=word):
            rounds.add(0, 0, "d", odd)
    short = update("ann")
    with pytest.raises(MalformedError, match="b is missing"):
        rounds.add(0, 0, "d", Update(report=short.report, tensors={"a": short.tensors["a"]}))
    assert not rounds._taken.updates and not rounds._taken.digests


def test_another_edges_client_is_refused():
    rounds = rounds_of()
    for refused in (
        lambda: rounds.adapter_of("eve", 0, 0),
        lambda: rounds.add(0, 0, "d", update("eve")),
        lambda: rounds.check_version("eve", 0),
        lambda: rounds.wait_for("eve", 0, 0, 0),
    ):
        with pytest.raises(PermissionDeniedError, match="eve"):
            refused()


def test_a_pull_waits_for_its_round_and_gets_the_newest():
    rounds = rounds_of(place=(1, 0))
    assert rounds.wait_for("ann", 0, 0, 0).version == 1
    rounds.add(1, 0, "d", update("ann"))
    with pytest.raises(DrainingError, match="version 1, edge round 1"):
        rounds.wait_for("ann", 1, 1, 0.01)
    thread, results = waiting(rounds, rounds.wait_for, "ann", 1, 1, 30)
    new = update("ann").tensors
    rounds.open(2, 0, new)
    thread.join(5)
    assert (results[0].version, results[0].edge_round) == (2, 0)
    np.testing.assert_array_equal(decode_adapter(results[0].data)["a"], new["a"])


def test_the_runs_end_answers_every_wait_now_and_later():
    rounds = rounds_of()
    rounds.add(0, 0, "d", update("ann"))
    first = waiting(rounds, rounds.wait_for, "ann", 5, 0, 30)
    second = waiting(rounds, rounds.close, 30)
    rounds.end(RoundGivenUpError("cancelled"))
    for thread, results in (first, second):
        thread.join(5)
        assert isinstance(results[0], RoundGivenUpError) and "cancelled" in str(results[0])
    for refused in (
        lambda: rounds.close(1),
        lambda: rounds.wait_for("ann", 0, 0, 1),
        lambda: rounds.adapter_of("ann", 0, 0),
        lambda: rounds.check_version("ann", 0),
        lambda: rounds.add(0, 0, "d", update("bob")),
    ):
        with pytest.raises(RoundGivenUpError):
            refused()


def test_a_wait_ends_when_its_caller_leaves_or_asks_again():
    rounds = rounds_of()
    for client in ("ann", "bob"):
        rounds.add(0, 0, client, update(client))
    first, got = waiting(rounds, rounds.wait_for, "ann", 5, 0, 30)
    second, newer = waiting(rounds, rounds.wait_for, "ann", 5, 0, 30)
    first.join(5)
    assert isinstance(got[0], DrainingError) and "asked again" in str(got[0]) and not newer
    gone = []
    left, answers = waiting(rounds, rounds.wait_for, "bob", 5, 0, 30, lambda: not gone)
    rounds.wake()
    assert left.is_alive() and not answers
    gone.append(True)
    rounds.wake()
    left.join(5)
    assert isinstance(answers[0], DrainingError)
    rounds.open(5, 0, START)
    second.join(5)
    assert newer[0].version == 5 and not rounds._waits.clients


def test_who_is_no_member_waits_for_nothing():
    rounds = EdgeRounds(1.0)
    with pytest.raises(DrainingError, match="does not know yet"):
        rounds.wait_for("ann", 0, 0, 30)
    rounds.admit(CLIENTS)
    with pytest.raises(PermissionDeniedError, match="eve"):
        rounds.wait_for("eve", 0, 0, 30)
    thread, results = waiting(rounds, rounds.wait_for, "cat", 0, 0, 30)
    rounds.admit(["ann", "bob"])
    thread.join(5)
    assert isinstance(results[0], PermissionDeniedError)


def test_a_member_that_leaves_is_not_waited_for():
    rounds = rounds_of()
    thread, results = waiting(rounds, rounds.close, 60)
    rounds.add(0, 0, "d", update("ann"))
    rounds.add(0, 0, "e", update("cat"))
    assert not results
    rounds.admit(["ann", "cat"])
    thread.join(5)
    assert (results[0].parts[0].rows, results[0].missing) == (2, ())


def test_the_quorum_is_of_members_alone():
    rounds = rounds_of(quorum=0.5)
    rounds.add(0, 0, "d", update("ann"))
    rounds.admit(["bob", "cat"])
    thread, results = waiting(rounds, rounds.close, 60)
    assert not results
    rounds.add(0, 0, "e", update("bob"))
    thread.join(5)
    assert results[0].parts[0].rows == 2  # what the other had delivered before it left is kept


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused(value):
    rounds = rounds_of()
    odd = np.zeros((2, 3), np.float32)
    odd[1, 1] = value
    with pytest.raises(MalformedError, match="a holds values that are not finite"):
        rounds.add(0, 0, "d", update("ann", a=odd))
    assert not rounds._taken.updates


@pytest.mark.parametrize("error", [DrainingError("this edge is stopping"), RoundGivenUpError("run r has ended")])
def test_an_end_says_what_its_clients_are_to_do(error):
    rounds = rounds_of()
    rounds.add(0, 0, "d", update("ann"))
    thread, results = waiting(rounds, rounds.wait_for, "ann", 5, 0, 30)
    rounds.end(error)
    thread.join(5)
    assert (type(results[0]), str(results[0])) == (type(error), str(error))


def test_digests_of_old_rounds_are_forgotten():
    rounds = rounds_of()
    for version in range(5):
        rounds.open(version, 0, START)
        for client in CLIENTS:
            rounds.add(version, 0, f"{client}{version}", update(client))
        assert len(rounds._taken.digests) <= 2 * len(CLIENTS)
        rounds.close(5)


def test_a_version_that_is_made_again_counts_the_same_bytes_again():
    rounds = rounds_of(["ann"])
    for places in ([(0, 0)], [(0, 0)], [(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 1)]):
        for place in places:
            rounds.open(*place, START)
            assert rounds.add(*place, "d", update("ann"))
            assert list(rounds.close(0.01).parts) == [0]


def test_of_a_client_that_leaves_while_its_round_is_aggregated_nothing_is_kept():
    def names(tensors):
        if leaving:
            rounds.admit(["ann"])
        return frozenset({"b"})

    rounds, leaving = EdgeRounds(1.0, names), []
    rounds.admit(["ann", "bob"])
    rounds.open(0, 0, START)
    for client in ("ann", "bob"):
        rounds.add(0, 0, client, update(client))
    leaving.append(True)
    assert len(rounds.close(5).parts[0].reports) == 2
    assert list(rounds.kept().own) == ["ann"]


def test_an_update_comes_either_into_a_round_or_too_late():
    """Pushes race with the close of their round: each is in the aggregate or refused, never lost."""
    for attempt in range(30):
        clients = [f"c{number}" for number in range(6)]
        rounds = rounds_of(clients, quorum=0.5)
        taken, start = [], threading.Barrier(len(clients) + 1)

        def push(client, rounds=rounds, taken=taken, start=start):
            start.wait()
            try:
                rounds.add(0, 0, client, update(client))
                taken.append(client)
            except StaleRoundError:
                pass

        threads = [threading.Thread(target=push, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        start.wait()
        closed = rounds.close(10)
        for thread in threads:
            thread.join()
        assert sorted(taken) == [report.client for report in closed.parts[0].reports], attempt
        assert len(taken) >= 3


def test_values_that_cannot_be_summed_are_refused():
    rounds = rounds_of()
    with pytest.raises(MalformedError, match="a holds 2e"):
        rounds.add(0, 0, "d", update("ann", a=np.full((2, 3), -2e38, np.float32)))
    rounds.add(0, 0, "d", update("ann", a=np.full((2, 3), 1e6, np.float32)))


def test_who_asks_for_what_follows_a_round_that_has_nothing_of_it_is_sent_back():
    rounds = rounds_of(place=(3, 0))
    for place in ((3, 1), (4, 0)):
        with pytest.raises(StaleRoundError, match="nothing of ann is here"):
            rounds.wait_for("ann", *place, 30)
    rounds.add(3, 0, "d", update("ann"))
    with pytest.raises(DrainingError):
        rounds.wait_for("ann", 3, 1, 0)
    rounds.open(3, 1, START)
    assert rounds.wait_for("ann", 3, 1, 0).edge_round == 1
