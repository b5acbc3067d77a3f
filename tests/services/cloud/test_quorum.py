"""A quorum is a share of the edges, rounded up: of three, a half is two."""

import pytest

from elsa.spec import RoundsSpec
from services.cloud.round_records import Update
from services.cloud.rounds import is_quorate


@pytest.mark.parametrize(
    ("edges", "quorum", "least"),
    [(1, 1.0, 1), (3, 0.5, 2), (4, 0.5, 2), (3, 2 / 3, 2), (3, 0.67, 3), (10, 0.7, 7), (3, 0.01, 1), (5, 1.0, 5)],
)
def test_a_round_has_its_quorum_once_that_share_of_its_edges_has_delivered_and_not_before(edges, quorum, least):
    names = [f"edge-{number}" for number in range(edges)]
    updates = [Update(run_id="r", version=0, edge_id=name, rows=1, sha256="") for name in names]
    enough = [is_quorate(RoundsSpec(quorum=quorum), names, updates[:came]) for came in range(edges + 1)]
    assert enough == [came >= least for came in range(edges + 1)]
