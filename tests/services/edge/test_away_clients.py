"""Clients that the cloud says are not waited for: the quorum is of the others, and what they deliver counts."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import MalformedError
from elsa.v1 import fleet_pb2
from services.edge.delivery import away_of
from services.edge.parts import Report, Update
from services.edge.rounds import EdgeRounds

CLIENTS = ("ann", "bob", "cat")
START = {"a": np.zeros((2, 3), np.float32)}
LONG_S = 60.0


def rounds_of(away=(), quorum=1.0, clients=CLIENTS):
    rounds = EdgeRounds(quorum)
    rounds.admit(clients, away=away)
    rounds.open(0, 0, START)
    return rounds


def deliver(rounds, *clients):
    for client in clients:
        update = Update(report=Report(client=client, rows=1, message=b""), tensors=START)
        rounds.add(*rounds.place, client, update)


def is_closed_by_quorum(rounds):
    return not rounds.close(0.0).cut_short


def closing(rounds):
    """A thread that closes the round, once it waits; with what came of it."""
    closed, waits, real = [], threading.Event(), rounds._changed.wait_for

    def wait_for(*given, **named):
        waits.set()
        return real(*given, **named)

    rounds._changed.wait_for = wait_for
    thread = threading.Thread(target=lambda: closed.append(rounds.close(LONG_S)))
    thread.start()
    assert waits.wait(5)
    return thread, closed


def test_an_open_round_closes_as_soon_as_the_only_one_who_is_missing_is_not_waited_for():
    rounds = rounds_of()
    deliver(rounds, "ann", "bob")
    thread, closed = closing(rounds)
    rounds.admit(CLIENTS, away=("cat",))
    thread.join(LONG_S / 6)
    assert [(each.missing, each.cut_short) for each in closed] == [(("cat",), False)]


def test_who_comes_back_is_waited_for_again():
    rounds = rounds_of(away=("cat",))
    rounds.admit(CLIENTS)
    deliver(rounds, "ann", "bob")
    thread, closed = closing(rounds)
    assert not closed
    deliver(rounds, "cat")
    thread.join(LONG_S / 6)
    assert [(each.missing, each.cut_short) for each in closed] == [((), False)]


def test_an_update_of_one_who_is_not_waited_for_counts():
    rounds = rounds_of(away=("cat",))
    deliver(rounds, "cat", "ann", "bob")
    assert [report.client for report in rounds.close(0.0).parts[0].reports] == list(CLIENTS)


def test_with_nobody_to_wait_for_a_round_lasts_to_its_deadline():
    assert not is_closed_by_quorum(rounds_of(away=CLIENTS))


def test_a_round_whose_clients_all_left_off_after_some_delivered_closes_with_those():
    rounds = rounds_of()
    deliver(rounds, "ann")
    rounds.admit(CLIENTS, away=CLIENTS)
    assert is_closed_by_quorum(rounds)


NAMES = st.sets(st.sampled_from("abcdefgh"))


@given(clients=NAMES.filter(bool), away=NAMES, delivered=NAMES, quorum=st.floats(0.05, 1.0))
def test_the_quorum_is_of_those_who_delivered_or_are_waited_for(clients, away, delivered, quorum):
    rounds = rounds_of(clients=tuple(clients), quorum=quorum)
    deliver(rounds, *sorted(delivered & clients))
    rounds.admit(clients, away=away)
    there = (clients - away) | (clients & delivered)
    needed = math.ceil(quorum * len(there or clients) - 1e-9)
    assert is_closed_by_quorum(rounds) == (len(clients & delivered) >= needed)


def test_the_assignment_says_of_each_client_whether_it_is_away_or_of_none():
    assert away_of(fleet_pb2.Assignment(client_ids=["ann", "bob"], away=[False, True])) == {"bob"}
    assert away_of(fleet_pb2.Assignment(client_ids=["ann", "bob"])) == set()
    with pytest.raises(MalformedError, match=r"assignment.away: 1 for 2 clients"):
        away_of(fleet_pb2.Assignment(client_ids=["ann", "bob"], away=[True]))
