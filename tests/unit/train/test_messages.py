"""Micro-batches as messages, and what is refused of them."""

import pytest
import torch
from exchange_twins import WIDTH, codecs_of, ends_of

from elsa.errors import MalformedError
from elsa.train.messages import feed_all, forward_to_proto, take_parcel
from elsa.train.parcel import Parcel
from elsa.train.reuse import Form, Row
from elsa.train.session import Position
from elsa.v1 import split_pb2 as pb
from elsa.wire.exchange import Encoded

LENGTHS = (2, 3, 1)
FORMS = (Form.WHOLE, Form.CHANGE, Form.KEPT)
AT = Position(step=3, micro_batch=1)


def encoded(tokens):
    return Encoded(parts=[torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(tokens))])


def parcel_of(lengths=LENGTHS, forms=FORMS):
    rows = tuple(
        Row(number=10 + place, tokens=tokens, form=form)
        for place, (tokens, form) in enumerate(zip(lengths, forms, strict=True))
    )
    tokens = {form: sum(row.tokens for row in rows if row.form is form) for form in Form}
    whole, changes = (encoded(tokens[form]) if tokens[form] else None for form in (Form.WHOLE, Form.CHANGE))
    return Parcel(lengths=lengths, rows=rows, whole=whole, changes=changes)


def edge(reuse=True):
    return ends_of(codecs_of(), reuse=reuse)[1]


def take(message, chunks=(), reuse=True, lengths=LENGTHS):
    return take_parcel(message, lengths, edge(reuse), feed_all(iter(chunks)))()


@pytest.mark.parametrize("lengths", [LENGTHS, (9000, 17_000, 1)], ids=["one message", "chunks"])
@pytest.mark.parametrize("forms", [FORMS, (Form.WHOLE,) * 3, (Form.CHANGE,) * 3, (Form.KEPT,) * 3])
def test_a_parcel_comes_back_from_its_messages(lengths, forms):
    want = parcel_of(lengths, forms)
    message, chunks = forward_to_proto(AT, want)
    assert (message.step, message.micro_batch) == (3, 1)
    got = take(pb.Forward.FromString(message.SerializeToString()), chunks, lengths=lengths)
    assert got.rows == want.rows and tuple(got.lengths) == lengths
    for one, other in ((got.whole, want.whole), (got.changes, want.changes)):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one.parts[0], other.parts[0])


def wrong(change):
    message, _ = forward_to_proto(AT, parcel_of())
    change(message)
    return message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.rows.pop(), r"forward\.rows: 2, expected one for each of 3"),
        (lambda m: setattr(m.rows[1], "row", 10), r"forward\.rows\[1\]: row 10 stands twice"),
        (lambda m: setattr(m.rows[2], "form", 0), r"forward\.rows\[2\]\.form: 0 is none"),
        (lambda m: setattr(m.rows[2], "form", 9), r"forward\.rows\[2\]\.form: 9 is none"),
        (lambda m: m.ClearField("activations"), r"forward\.activations: missing, but 2 tokens"),
        (lambda m: m.ClearField("changes"), r"forward\.changes: missing, but 3 tokens"),
        (lambda m: setattr(m.rows[1], "form", pb.ROW_FORM_KEPT), r"forward\.changes: set, but 0 tokens"),
        (lambda m: setattr(m.rows[0], "form", pb.ROW_FORM_KEPT), r"forward\.activations: set, but 0 tokens"),
        (lambda m: setattr(m.rows[2], "form", pb.ROW_FORM_WHOLE), r"forward\.activations\.parts\[0\]\.shape"),
        (lambda m: m.changes.MergeFrom(pb.Forward().changes.__class__(calibration=b"12345678")), "takes none"),
    ],
)
def test_rows_that_do_not_fit_what_travels_are_refused(change, says):
    with pytest.raises(MalformedError, match=says):
        take(wrong(change))


def test_rows_of_a_run_without_reuse_are_refused():
    with pytest.raises(MalformedError, match=r"forward\.rows: the run's specification has no reuse"):
        take(wrong(lambda m: None), reuse=False)


def test_rows_whose_gradient_is_fed_back_are_taken_without_reuse():
    _, end = ends_of(codecs_of(dh1="topk(fraction=0.5)"))
    parcel = parcel_of(forms=(Form.WHOLE,) * 3)
    message, chunks = forward_to_proto(AT, parcel)
    assert take_parcel(message, LENGTHS, end, feed_all(iter(chunks)))().rows == parcel.rows
