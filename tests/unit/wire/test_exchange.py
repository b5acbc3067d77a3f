"""What a sender encodes its receiver decodes, message after message, and what it costs."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.codecs import parse_codec
from elsa.errors import MalformedError, NotFiniteError
from elsa.wire.calibrator import size
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_of
from elsa.wire.exchange import MOST_HELD, NAME_BYTES, Receiver, Sender
from elsa.wire.tensor import Layout

WIDTH = 16
CODED = ("subspace(ratio=2) | int4", "subspace(k=3) | int8", "sketch(rows=2, ratio=4, decode=mmse) | int8")
SAVING = (*CODED, "subspace(k=2) | int4", "sketch(rows=1, ratio=4, decode=median) | int4")


def codec(text):
    return codec_of(parse_codec(text), WIDTH)


def values_of(tokens, seed=0, directions=3, plane=0):
    """Values (tokens, width) near a plane of few directions, which `plane` chooses."""
    basis = torch.randn(directions, WIDTH, generator=torch.Generator().manual_seed(1000 + plane))
    draw = torch.Generator().manual_seed(seed)
    near = 0.02 * torch.randn(tokens, WIDTH, generator=draw)
    return torch.randn(tokens, directions, generator=draw) @ basis + near + 0.5


class Way:
    """A sender and its receiver: `pass_on` checks that what is decoded is what the sender's codec gives."""

    def __init__(self, text, **given):
        self.codec = codec(text)
        self.sender = Sender(self.codec, "h1", given.pop("moments", None) or Moments(WIDTH), **given)
        self.receiver = Receiver(self.codec, "h1")
        self.forms = []
        self.attached = []
        self.bytes = 0

    def pass_on(self, values, rows=()):
        encoded, used = self.sender.send(values, self.receiver.names, rows)
        layouts = self.receiver.layouts(len(values), encoded.calibration, encoded.attached, "x")
        assert layouts == [Layout(dtype=part.dtype, shape=tuple(part.shape)) for part in encoded.parts]
        got = self.receiver.receive(encoded, "x")
        assert torch.equal(got, used.decode(encoded.parts[-len(used.layout(1)) :]))
        self.forms.append("attached" if encoded.attached else "calibrated" if encoded.calibration else "plain")
        self.attached += [encoded.calibration] if encoded.attached else []
        self.bytes += size(layouts)
        return got


def loss(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("text", CODED)
def test_a_receiver_decodes_all_forms_and_a_calibration_is_attached_once(text):
    way = Way(text)
    for seed in range(60):
        values = values_of(9, seed)
        assert loss(way.pass_on(values), values) < 0.5
    first = way.forms.index("attached")
    assert set(way.forms[:first]) == {"plain"}
    assert "plain" not in way.forms[first:]
    assert len(set(way.attached)) == len(way.attached) <= 2


def test_a_calibration_that_the_receiver_named_is_not_attached_again():
    way = Way(CODED[0])
    while "attached" not in way.forms:
        way.pass_on(values_of(20, len(way.forms)))
    encoded, _ = way.sender.send(values_of(20), way.receiver.names)
    assert encoded.calibration in way.receiver.names and not encoded.attached
    encoded, _ = way.sender.send(values_of(20), ())
    assert encoded.attached, "a receiver that lost it is sent it again"


def test_traffic_that_changes_direction_is_calibrated_again_and_the_error_falls():
    way = Way("subspace(k=3) | int8")
    for seed in range(40):
        settled = loss(way.pass_on(values_of(9, seed)), values_of(9, seed))
    assert settled < 0.1
    worst = max(loss(way.pass_on(values_of(9, seed, plane=1)), values_of(9, seed, plane=1)) for seed in range(3))
    assert worst > 0.3
    for seed in range(40):
        turned = loss(way.pass_on(values_of(9, seed, plane=1)), values_of(9, seed, plane=1))
    assert turned < 0.1
    assert way.forms.count("attached") == 2


def test_a_calibration_at_once_sends_nothing_in_plain_form_and_stays():
    moments = Moments(WIDTH)
    moments.add(values_of(100))
    way = Way("subspace(k=3) | int8", moments=moments, at_once=True)
    assert loss(way.pass_on(values_of(2, 5)), values_of(2, 5)) < 0.1
    for seed in range(80):
        way.pass_on(values_of(9, seed, plane=1))
    assert way.forms == ["attached", *["calibrated"] * 80]


@pytest.mark.parametrize("text", ["sketch(rows=3, ratio=2, decode=median)", "subspace(k=16)"])
def test_a_codec_no_smaller_than_its_plain_form_is_used_all_the_same(text):
    way = Way(text)
    for seed in range(20):
        way.pass_on(values_of(8, seed))
    assert way.forms[-1] == "calibrated"


@settings(deadline=None, max_examples=40)
@given(text=st.sampled_from(SAVING), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_a_calibration_never_costs_more_than_it_saves(text, sizes):
    way = Way(text)
    for seed, tokens in enumerate(sizes):
        way.pass_on(values_of(tokens, seed))
    calibration = size(way.codec.calibration_layout())
    plain = sum(size(way.codec.plain().layout(tokens)) for tokens in sizes)
    coded = sum(size(way.codec.layout(tokens)) for tokens in sizes)
    saved = size(way.codec.plain().layout(1)) - size(way.codec.layout(1))
    attached = way.forms.count("attached")
    assert way.bytes <= plain + attached * calibration
    assert way.bytes <= coded + attached * calibration + max(calibration, 2 * WIDTH * saved)
    if not attached:
        assert way.bytes == plain


def calibrated(text=CODED[0]):
    """An encoded message with its calibration attached, and a receiver that has seen nothing."""
    sender = Sender(codec(text), "h1", Moments(WIDTH))
    for seed in range(100):
        encoded, _ = sender.send(values_of(9, seed), ())
        if encoded.attached:
            return encoded, Receiver(codec(text), "h1")
    raise AssertionError("it was never calibrated")


def test_a_calibration_that_is_not_held_is_refused_by_name():
    encoded, receiver = calibrated()
    bare = dataclasses.replace(encoded, parts=encoded.parts[2:], attached=False)
    with pytest.raises(MalformedError, match=f"there.calibration: {encoded.calibration.hex()} is not held"):
        receiver.receive(bare, "there")


def test_a_calibration_that_was_altered_is_refused_and_not_kept():
    encoded, receiver = calibrated()
    mean = encoded.parts[0].clone()
    mean[0] += 1
    with pytest.raises(MalformedError, match=r"there\.calibration: .* is not the digest"):
        receiver.receive(dataclasses.replace(encoded, parts=[mean, *encoded.parts[1:]]), "there")
    assert receiver.names == ()


def test_equal_calibrations_of_two_tensors_are_each_sent_to_their_own_receiver():
    known, sent = set(), {}
    for tensor in ("h1", "dh2"):  # both go up: one edge holds them, and names them together
        moments = Moments(WIDTH)
        moments.add(values_of(50))
        sent[tensor], _ = Sender(codec(CODED[0]), tensor, moments, at_once=True).send(values_of(3), known)
        known.add(sent[tensor].calibration)
        Receiver(codec(CODED[0]), tensor).receive(sent[tensor], "x")
    assert all(map(torch.equal, sent["h1"].parts, sent["dh2"].parts))
    assert len(known) == 2
    with pytest.raises(MalformedError, match="not the digest of what is attached for dh2"):
        Receiver(codec(CODED[0]), "dh2").receive(sent["h1"], "x")


@pytest.mark.parametrize(
    ("text", "name", "attached", "says"),
    [
        (CODED[0], b"short", True, "5 bytes"),
        (CODED[0], bytes(9), False, "9 bytes"),
        (CODED[0], b"", True, "0 bytes"),
        ("int8", bytes(NAME_BYTES), True, "takes none"),
    ],
)
def test_a_name_that_cannot_be_is_refused(text, name, attached, says):
    with pytest.raises(MalformedError, match=f"there.calibration: .*{says}"):
        Receiver(codec(text), "h1").layouts(3, name, attached, "there")


def test_a_receiver_holds_few_calibrations_and_the_latest_of_them():
    receiver, names = Receiver(codec(CODED[0]), "h1"), []
    for plane in range(MOST_HELD + 2):
        moments = Moments(WIDTH)
        moments.add(values_of(50, plane=plane))
        sender = Sender(codec(CODED[0]), "h1", moments, at_once=True)
        encoded, _ = sender.send(values_of(3, plane=plane), ())
        receiver.receive(encoded, "x")
        names.append(encoded.calibration)
    assert receiver.names == tuple(names[-MOST_HELD:])
    assert len(set(names)) == MOST_HELD + 2


@pytest.mark.parametrize("text", [*CODED, "int8", "none", "topk(fraction=0.25) | int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_never_sent(text, bad):
    values = values_of(4)
    values[2, 3] = bad
    with pytest.raises(NotFiniteError):
        Sender(codec(text), "h1", Moments(WIDTH)).send(values, ())


def test_feedback_lets_all_of_a_row_arrive_in_time():
    way = Way("topk(fraction=0.25) | int8", feedback=True)
    row = values_of(3, 1)
    arrived = sum(way.pass_on(row, [(7, 3)]) for _ in range(40))
    assert loss(arrived / 40, row) < 0.1
    alone = Way("topk(fraction=0.25) | int8", feedback=True)
    assert loss(sum(alone.pass_on(row) for _ in range(40)) / 40, row) > 0.3, "rows without numbers have no memory"


def test_what_a_calibrated_stage_cannot_carry_does_not_pile_up():
    way = Way("subspace(k=2) | topk(fraction=0.5)", feedback=True, moments=Moments(WIDTH, centred=False))
    for seed in range(100):
        got = way.pass_on(values_of(4, seed, directions=8), [(0, 4)])
        assert got.norm() < 3 * values_of(4, seed, directions=8).norm()


def test_a_calibration_that_is_attached_again_is_not_the_next_to_be_forgotten():
    receiver, sent = Receiver(codec(CODED[0]), "h1"), []
    for plane in range(MOST_HELD + 1):
        moments = Moments(WIDTH)
        moments.add(values_of(50, plane=plane))
        sent.append(Sender(codec(CODED[0]), "h1", moments, at_once=True).send(values_of(3, plane=plane), ())[0])
    for encoded in (*sent[:MOST_HELD], sent[0], sent[MOST_HELD]):
        receiver.receive(encoded, "x")
    assert sent[0].calibration in receiver.names and sent[1].calibration not in receiver.names
