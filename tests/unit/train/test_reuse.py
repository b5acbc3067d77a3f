"""What an edge takes of rows that it keeps, and what it refuses."""

import pytest
import torch
from exchange_twins import WIDTH

from elsa.codecs import parse_codec
from elsa.errors import MalformedError
from elsa.train.reuse import ClientRows, EdgeRows, Form, Row
from elsa.wire.codec.registry import codec_of
from elsa.wire.kept import KeptRows, Shelf

INT8 = codec_of(parse_codec("int8"), WIDTH)


def row(number, form=Form.WHOLE, tokens=2):
    return Row(number=number, tokens=tokens, form=form)


def values_of(tokens, seed=0):
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def edge_rows(frozen=False, memory=1 << 20, disk=0):
    kept = EdgeRows(KeptRows(Shelf(memory, disk)), WIDTH, frozen=frozen)
    joined, all_kept = kept.join([row(3), row(5)], (INT8, INT8.encode(values_of(4))), None)
    assert all_kept
    return kept, joined


@pytest.mark.parametrize(
    ("frozen", "bad", "says"),
    [
        (False, row(9, Form.KEPT), "row 9 is not kept here; send it whole"),
        (False, row(9, Form.CHANGE), "row 9 is not kept here; send it whole"),
        (True, row(3, Form.CHANGE), "a change, but the run's bottom does not change"),
        (True, row(3, Form.KEPT, tokens=7), "row 3 has 2 tokens here, 7 there"),
    ],
)
def test_a_row_that_is_not_kept_as_it_is_named_is_refused(frozen, bad, says):
    kept, _ = edge_rows(frozen)
    with pytest.raises(MalformedError, match=rf"forward\.rows\[1\]: {says}"):
        kept.check([row(5), bad])


@pytest.mark.parametrize("frozen", [False, True])
def test_all_forms_join_in_the_order_of_the_rows(frozen):
    kept, before = edge_rows(frozen)
    changes = None if frozen else values_of(2, 7)
    rows = [row(5, Form.KEPT), row(8, tokens=1), row(3, Form.KEPT if frozen else Form.CHANGE)]
    whole = INT8.encode(values_of(1, 6))
    joined, all_kept = kept.join(rows, (INT8, whole), changes)
    third = before[:2] if frozen else before[:2] + changes
    torch.testing.assert_close(joined, torch.cat([before[2:], INT8.decode(whole), third]), rtol=0, atol=0)
    assert all_kept
    again, _ = kept.join([row(3, Form.KEPT)], None, None)
    torch.testing.assert_close(again, third, rtol=0, atol=0)


def test_a_frozen_row_is_kept_in_as_many_bytes_as_it_came():
    shelf = Shelf(1000, 0)
    kept = EdgeRows(KeptRows(shelf), WIDTH, frozen=True)
    kept.join([row(1, tokens=4)], (INT8, INT8.encode(values_of(4))), None)
    assert 1000 - shelf.memory_bytes == 4 * (WIDTH + 2)


def test_an_edge_without_room_says_so_and_joins_all_the_same():
    kept = EdgeRows(KeptRows(Shelf(2 * (WIDTH + 2), 0)), WIDTH, frozen=True)
    joined, all_kept = kept.join([row(1), row(2)], (INT8, INT8.encode(values_of(4))), None)
    assert not all_kept and len(joined) == 4
    with pytest.raises(MalformedError, match="row 2 is not kept"):
        kept.check([row(2, Form.KEPT)])


def client_rows(threshold=0.0, room=1 << 20):
    rows = ClientRows(frozen=False, threshold=threshold, kept=KeptRows(Shelf(room, 0)))
    rows.confirmed(row(0), values_of(2), True)
    return rows


@pytest.mark.parametrize(
    ("moved", "form"), [(0.0, Form.KEPT), (0.09, Form.KEPT), (0.11, Form.CHANGE), (5.0, Form.CHANGE)]
)
def test_a_row_is_sent_once_it_moved_by_more_than_the_threshold(moved, form):
    values = values_of(2)
    step = torch.ones_like(values)
    step *= moved * values.norm() / step.norm()
    planned = client_rows(threshold=0.1).plan([0], [2], values + step)
    shares = step.norm() / (values + step).norm()
    assert planned[0].form is (Form.KEPT if shares < 0.1 else Form.CHANGE) is form


def test_a_client_without_room_of_its_own_sends_rows_whole():
    rows = client_rows(room=10)
    assert rows.plan([0], [2], values_of(2, 1))[0].form is Form.WHOLE


def test_rows_that_are_dropped_or_forgotten_go_whole():
    rows = client_rows()
    rows.drop([0, 7])
    assert rows.plan([0], [2], values_of(2, 1))[0].form is Form.WHOLE
    rows = client_rows()
    rows.forget()
    assert rows.plan([0], [2], values_of(2, 1))[0].form is Form.WHOLE
