"""The two ends of a step: what they say of values that are not finite, and of sessions that broke off."""

import pytest
import torch
from exchange_twins import HALF, WIDTH, codecs_of, ends_of

from elsa.errors import MalformedError, NotFiniteError
from elsa.train.parcel import Parcel
from elsa.train.reuse import Form, Row
from elsa.train.session import Position
from elsa.wire.exchange import Encoded

LENGTHS = (2, 3)
NUMBERS = (4, 9)


def at(step=0, micro_batch=0):
    return Position(step=step, micro_batch=micro_batch)


def values_of(seed=0, tokens=5):
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def broken(value=float("nan")):
    values = values_of()
    values[3, 1] = value
    return values


def forward(client, stream, position, values, answered=True, numbers=NUMBERS):
    """h1 as the edge sees it; the client hears of it only if `answered`."""
    arrived, kept = stream.forward(position, client.forward(position, values, LENGTHS, numbers))
    down = stream.forward_result(position, arrived)
    if answered:
        client.forward_result(position, down, kept=kept)
    return arrived


def begun(ends):
    client, edge = ends
    stream = edge.begin(HALF, client.calibrations)
    client.begin()
    client.opened(edge.calibrations, edge.kept_name)
    return stream


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_each_end_names_the_block_whose_values_are_not_finite(bad):
    client, edge = ends = ends_of(codecs_of(h1="int8"))
    stream = begun(ends)
    with pytest.raises(NotFiniteError, match="h1, what block 0 gives, holds NaN or infinity; lower"):
        client.forward(at(), broken(bad), LENGTHS, NUMBERS)
    forward(client, stream, at(), values_of())
    with pytest.raises(NotFiniteError, match="dL/dh2, the gradient of what block 1 gives,"):
        client.backward(at(), broken(bad))
    with pytest.raises(NotFiniteError, match="h2, what block 1 gives,"):
        stream.forward_result(at(0, 1), broken(bad))
    with pytest.raises(NotFiniteError, match="dL/dh1, the gradient of what block 0 gives,"):
        stream.backward_result(at(), broken(bad))
    assert edge.calibrations == ()


def test_a_frozen_row_whose_fate_is_not_known_goes_whole_in_the_next_session():
    client, _ = ends = ends_of(codecs_of(), reuse=True, frozen=True)
    stream = begun(ends)
    forward(client, stream, at(), values_of())
    forward(client, stream, at(1), values_of(1), answered=False, numbers=(1, 2))
    begun(ends)
    assert client.missing((*NUMBERS, 1, 2)) == [False, False, True, True]


def test_a_change_whose_answer_was_lost_is_not_built_upon():
    client, _ = ends = ends_of(codecs_of(), reuse=True)
    stream = begun(ends)
    forward(client, stream, at(), values_of(0))
    forward(client, stream, at(1), values_of(1), answered=False)
    stream = begun(ends)
    parcel = client.forward(at(), values_of(2), LENGTHS, NUMBERS)
    assert {row.form for row in parcel.rows} == {Form.WHOLE}
    torch.testing.assert_close(stream.forward(at(), parcel)[0], values_of(2))


def test_rows_kept_under_another_name_are_sent_again():
    client, edge = ends = ends_of(codecs_of(), reuse=True, frozen=True)
    stream = begun(ends)
    forward(client, stream, at(), values_of())
    assert client.missing(NUMBERS) == [False, False]
    edge.ended(stream)
    stream = begun(ends)
    assert client.missing(NUMBERS) == [True, True]
    forward(client, stream, at(), values_of())
    assert client.missing(NUMBERS) == [False, False]


def test_the_end_of_an_old_session_leaves_the_rows_of_the_next():
    client, edge = ends = ends_of(codecs_of(), reuse=True, frozen=True)
    old = begun(ends)
    forward(client, old, at(), values_of())
    begun(ends)
    edge.ended(old)
    client.opened(edge.calibrations, edge.kept_name)
    assert client.missing(NUMBERS) == [False, False]


def test_an_end_that_is_closed_keeps_nothing_of_a_session_that_goes_on():
    client, edge = ends = ends_of(codecs_of(), reuse=True, frozen=True)
    room = edge.rows._kept._shelf.memory_bytes
    stream = begun(ends)
    forward(client, stream, at(), values_of())
    assert edge.rows._kept._shelf.memory_bytes < room
    edge.close()
    forward(client, stream, at(1), values_of(), numbers=(1, 2))
    assert edge.rows._kept._shelf.memory_bytes == room
    assert client.missing((1, 2)) == [True, True]


def test_rows_that_are_kept_nowhere_are_refused():
    _, edge = ends = ends_of(codecs_of())
    stream = begun(ends)
    rows = (Row(number=0, tokens=5, form=Form.KEPT),)
    with pytest.raises(MalformedError, match=r"forward\.rows: the run has no reuse"):
        stream.forward(at(), Parcel(lengths=(5,), rows=rows))
    assert edge.rows is None


def test_a_gradient_comes_back_by_what_was_sent():
    client, _ = ends = ends_of(codecs_of(h1="subspace(k=4)"))
    stream = begun(ends)
    for step in range(40):
        position, values = at(step), values_of(step)
        parcel = client.forward(position, values, LENGTHS, NUMBERS)
        stream.forward(position, parcel)
        client.forward_result(position, stream.forward_result(position, values))
        codec = client._sent[position].whole
        got = client.backward_result(position, Encoded(parts=[values_of(99)]))
    assert parcel.whole.calibration, "it is calibrated by then"
    torch.testing.assert_close(got, codec.pullback(values_of(99)))
    assert torch.linalg.matrix_rank(got) == 4


def test_ends_whose_tensors_are_all_the_same_never_take_one_s_calibration_for_another_s():
    coded = "subspace(k=4) | int8"
    client, edge = ends = ends_of(codecs_of(h1=coded, h2=coded, dh2=coded, dh1=coded))
    stream = begun(ends)
    draw = torch.Generator().manual_seed(0)
    for step in range(100):
        half = torch.randint(-3, 4, (4, WIDTH), generator=draw).float()
        position, values = at(step), torch.cat([half, -half])  # no mean: centred or not is the same
        stream.forward(position, client.forward(position, values, (8,), (1,)))
        client.forward_result(position, stream.forward_result(position, values))
        stream.backward(position, client.backward(position, values))
        client.backward_result(position, stream.backward_result(position, values))
    inforce = [each._calibrator.inforce for each in (client._h1, client._dh2, edge._h2, edge._dh1)]
    assert all(
        torch.equal(*pair) for other in inforce for pair in zip(inforce[0].tensors, other.tensors, strict=True)
    )
    assert len({made.name for made in inforce}) == 4
