"""A client counts for as many rows as it offered when it joined, whatever it claims later."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_harness import Trainee, edge_server, first_adapter, rows, spec_of

from elsa.errors import MalformedError
from elsa.v1 import adapter_pb2, fleet_pb2
from services.edge.delivery import offered_rows_of
from services.edge.rounds import EdgeRounds


def test_what_a_client_claims_beyond_its_offer_does_not_count(tiny_bert):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as server:
        run = server.open_run(spec, start, ["ann"])
        run.rounds.admit(["ann"], offered_rows={"ann": 7})
        trainee = Trainee(spec, start, rows(20, 1)).connect(server).train(1)
        trainee.finish(server)
        trainee.push(server)
        (part,) = run.rounds.close(10).parts.values()
    told = adapter_pb2.ClientReport.FromString(part.reports[0].message)
    assert part.rows == told.rows == part.reports[0].rows == 7


@given(st.integers(1, 2**40), st.none() | st.integers(1, 2**31))
def test_rows_that_count_are_at_most_those_offered_and_those_claimed(claimed, offered):
    rounds = EdgeRounds(1.0)
    rounds.admit(["ann"], offered_rows={} if offered is None else {"ann": offered})
    assert rounds.counted_rows("ann", claimed) == (claimed if offered is None else min(claimed, offered))


def test_offers_are_one_a_client_or_none():
    assert offered_rows_of(fleet_pb2.Assignment(client_ids=["ann", "bob"])) == {}
    told = fleet_pb2.Assignment(client_ids=["ann", "bob"], train_rows=[3, 4])
    assert offered_rows_of(told) == {"ann": 3, "bob": 4}
    with pytest.raises(MalformedError, match="train_rows: 1 for 2 clients"):
        offered_rows_of(fleet_pb2.Assignment(client_ids=["ann", "bob"], train_rows=[3]))
