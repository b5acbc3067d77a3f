"""When a codec is calibrated: not before it pays, of what passed, and again where that is clearly better."""

import hashlib

import torch

from elsa.codecs import parse_codec
from elsa.wire.calibrator import WARM_WIDTHS, Calibrator, error, name_of, size
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_of

WIDTH = 16


def codec(text):
    return codec_of(parse_codec(text), WIDTH)


def values_of(tokens, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, WIDTH, generator=draw) * torch.linspace(2, 0.05, WIDTH)


def first_calibrated(calibrator, tokens=4):
    """Tokens that passed before there was a calibration."""
    for passed in range(0, 10_000, tokens):
        calibrator.pass_by(values_of(tokens, passed))
        if calibrator.inforce is not None:
            return passed
    raise AssertionError("never calibrated")


def test_it_is_calibrated_once_plain_form_has_cost_as_much():
    subject = codec("subspace(k=8) | int8")
    saved = size(subject.plain().layout(1)) - size(subject.layout(1))
    wait = size(subject.calibration_layout()) / saved
    assert wait > WARM_WIDTHS * WIDTH
    passed = first_calibrated(Calibrator(subject, "h1", Moments(WIDTH), at_once=False))
    assert wait - 4 <= passed < wait


def test_it_waits_for_two_widths_of_tokens_however_cheap_it_is():
    subject = codec("subspace(k=1) | int8")
    passed = first_calibrated(Calibrator(subject, "h1", Moments(WIDTH), at_once=False))
    assert WARM_WIDTHS * WIDTH - 4 <= passed < WARM_WIDTHS * WIDTH


def test_public_probes_warm_it_up():
    subject, probes = codec("subspace(k=1) | int8"), Moments(WIDTH)
    probes.add(values_of(200, 1))
    assert first_calibrated(Calibrator(subject, "h1", probes, at_once=False)) < WARM_WIDTHS * WIDTH / 2


def test_a_calibration_is_what_its_name_says_and_loses_little():
    calibrator = Calibrator(codec("subspace(k=8) | int8"), "h1", Moments(WIDTH), at_once=False)
    first_calibrated(calibrator)
    made = calibrator.inforce
    assert made.name == name_of("h1", made.tensors) and len(made.name) == 8
    assert error(made.codec, values_of(50, 77)) < 0.3
    assert "tensor" not in repr(made)


def test_a_name_is_the_digest_that_other_implementations_are_told_of():
    mean, decoder = torch.tensor([1.0, -2.0]).half(), torch.tensor([[0.5, 0.0]]).half()
    raw = bytes.fromhex("003c00c000380000")
    assert name_of("dh2", [mean, decoder]) == hashlib.sha256(b"dh2\x00" + raw).digest()[:8]


def test_looks_become_rare_while_nothing_changes(monkeypatch):
    fits = []
    subject = codec("subspace(k=4) | int8")
    monkeypatch.setattr(type(subject), "fit", counted(type(subject).fit, fits))
    calibrator = Calibrator(subject, "h1", Moments(WIDTH), at_once=False)
    first_calibrated(calibrator, 16)
    kept = calibrator.inforce
    for seed in range(400):
        calibrator.pass_by(values_of(16, seed))
    assert calibrator.inforce is kept
    assert len(fits) <= 5


def counted(fit, calls):
    def counting(self, moments):
        calls.append(moments.count)
        return fit(self, moments)

    return counting


def test_nothing_of_the_traffic_is_gathered_between_looks():
    calibrator = Calibrator(codec("subspace(k=4) | int8"), "h1", Moments(WIDTH), at_once=False)
    first_calibrated(calibrator, 16)
    assert calibrator._window is None
    once = Calibrator(codec("subspace(k=4) | int8"), "h1", filled(), at_once=True)
    for seed in range(100):
        once.pass_by(values_of(16, seed))
    assert once._window is None


def filled():
    moments = Moments(WIDTH)
    moments.add(values_of(100, 1))
    return moments
