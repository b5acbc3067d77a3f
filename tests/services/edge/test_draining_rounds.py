"""The rounds of a run at an edge that is to stop: what is waited for, and what is not begun any more."""

import threading

import numpy as np
import pytest

from elsa.errors import RoundGivenUpError
from services.edge.parts import Report, Update
from services.edge.rounds import EdgeRounds

ADAPTER = {"a": np.zeros(2, np.float32)}
CLIENTS = ("ann", "bob")


def rounds_of(quorum=1.0):
    """Rounds with the first one open, for two clients."""
    rounds = EdgeRounds(quorum)
    rounds.admit(CLIENTS)
    rounds.open(0, 0, ADAPTER)
    return rounds


def deliver(rounds, client):
    rounds.add(0, 0, client, Update(report=Report(client=client, rows=1, message=b""), tensors=ADAPTER))


def test_nothing_is_waited_for_before_a_round_and_before_a_client_begins():
    rounds = EdgeRounds(1.0)
    assert rounds.at_rest(())
    rounds.admit(CLIENTS)
    rounds.open(0, 0, ADAPTER)
    assert rounds.at_rest(())


def test_a_client_that_has_finished_is_waited_for_until_it_delivers():
    rounds = rounds_of()
    assert not rounds.at_rest(["ann"])
    deliver(rounds, "ann")
    assert rounds.at_rest(["ann"]) and not rounds.at_rest(["ann", "bob"])


def test_what_is_made_of_a_quorum_is_waited_for_until_the_next_round_or_the_cloud_is():
    rounds = rounds_of()
    for client in CLIENTS:
        deliver(rounds, client)
    assert not rounds.at_rest(CLIENTS)  # its round is about to close
    rounds.close(20)
    assert not rounds.at_rest(())  # and what came of it to be kept or pushed
    rounds.wait_for_clients()
    assert rounds.at_rest(())  # now the cloud is asked for the next version
    rounds.open(1, 0, ADAPTER)
    assert rounds.at_rest(())


def test_an_edge_that_drains_closes_the_round_that_is_open_and_opens_none():
    rounds = rounds_of(quorum=0.5)
    rounds.drain()
    deliver(rounds, "bob")
    assert rounds.close(20).missing == ("ann",)
    with pytest.raises(RoundGivenUpError, match="stopping"):
        rounds.open(0, 1, ADAPTER)
    assert rounds.place == (0, 0) and rounds.at_rest(())
    with pytest.raises(RoundGivenUpError, match="stopping"):
        rounds.wait_for_clients()


def test_an_edge_that_drains_does_not_wait_for_clients_to_come():
    rounds, refused = EdgeRounds(1.0), []

    def wait():
        try:
            rounds.wait_for_clients()
        except RoundGivenUpError as error:
            refused.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    rounds.drain()
    waiting.join(20)
    assert refused
