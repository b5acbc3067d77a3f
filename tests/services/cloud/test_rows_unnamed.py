"""Updates that name none of their clients share what all of an edge's clients offered."""

import pytest

from services.cloud.counting import counted
from services.cloud.records import Answer, Member, Role
from services.cloud.round_records import ClientReport, Update

MEMBERS = [
    Member(run_id="r", node_id=name, role=Role.CLIENT, answer=Answer.JOINED, edge_id="edge-1", train_rows=rows)
    for name, rows in (("ann", 100), ("bob", 50))
]


def rows_of(rows, others, reports=()):
    return counted("edge-1", rows, reports, {}, MEMBERS, others).rows


@pytest.mark.parametrize(("claimed", "left"), [(150, 1), (120, 30), (40, 110)])
def test_parts_that_name_nobody_count_together_for_what_all_clients_offered(claimed, left):
    first = rows_of(claimed, [])
    assert first == claimed
    assert rows_of(150, [update(rows=first)]) == left


def test_a_part_that_names_its_client_takes_what_others_without_names_have_left():
    assert rows_of(100, [update(rows=150)], reports=[report("ann", 100)]) == 1
    assert rows_of(100, [update(rows=100)], reports=[report("ann", 100)]) == 50


def test_what_another_edge_said_without_names_takes_nothing_from_this_one():
    assert rows_of(150, [update(rows=150, edge_id="edge-2")]) == 150


def update(rows, edge_id="edge-1"):
    return Update(run_id="r", version=0, edge_id=edge_id, rows=rows, sha256="ab" * 32)


def report(client, rows):
    return ClientReport(client_id=client, edge_round=0, rows=rows, steps=1, loss=1.0)
