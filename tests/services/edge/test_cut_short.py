"""An edge round that its deadline closed is told, through the delivery, to the cloud."""

import numpy as np
import pytest

from services.edge.delivery import Delivery
from services.edge.parts import Report, Update
from services.edge.rounds import EdgeRounds

START = {"a": np.zeros((2, 3), np.float32)}


def closed(clients, came, quorum=1.0):
    rounds = EdgeRounds(quorum)
    rounds.admit(clients)
    rounds.open(0, 0, START)
    for client in came:
        update = Update(report=Report(client=client, rows=1, message=b""), tensors=START)
        rounds.add(0, 0, client, update)
    return rounds.close(0.01)


@pytest.mark.parametrize(
    ("came", "quorum", "cut"),
    [(("ann", "bob"), 1.0, False), (("ann",), 1.0, True), (("ann",), 0.5, False), ((), 0.5, True)],
)
def test_a_round_is_cut_short_where_its_quorum_had_not_come(came, quorum, cut):
    assert closed(("ann", "bob"), came, quorum).cut_short == cut


def test_one_edge_round_that_was_cut_short_marks_the_whole_delivery():
    delivery = Delivery(START)
    for came in (("ann", "bob"), ("ann",), ("ann", "bob")):
        delivery.add(closed(("ann", "bob"), came))
    assert delivery.cut_short
    whole = Delivery(START)
    whole.add(closed(("ann", "bob"), ("ann", "bob")))
    assert not whole.cut_short
