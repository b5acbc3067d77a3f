"""Laws of every codec, whatever its stages: layout, rows, the wire, refusals, gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elsa.codecs import parse_codec
from elsa.errors import ElsaError, MalformedError, NotFiniteError
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_of
from elsa.wire.tensor import PayloadAssembler, payload_to_proto

FIRST = ["subspace(ratio=2)", "subspace(k=3)", "sketch(rows=3, ratio=2)", "sketch(rows=2, ratio=3, decode=mmse)"]
FURTHER = ["topk(fraction=0.5)", "topk(fraction=0.02)"]
LAST = ["bf16", "int8", "int4"]


@st.composite
def expressions(draw):
    """Any pipeline of at most four stages."""
    further = [[], *([one] for one in FURTHER), ["topk(fraction=0.8)", "topk(fraction=0.5)"]]
    stages = draw(st.lists(st.sampled_from(FIRST), max_size=1)) + draw(st.sampled_from(further))
    last = draw(st.sampled_from([[], *([one] for one in LAST)]))
    if last == ["int4"] and stages == ["subspace(k=3)"]:
        stages = ["subspace(k=4)"]
    return " | ".join(stages + last)


WIDTHS = st.integers(6, 40).map(lambda half: 2 * half)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ready(text, width):
    """The codec, calibrated on random values with a direction that stands out."""
    codec, moments = codec_of(parse_codec(text), width), Moments(width)
    moments.add(random(1, 50, width) + 3 * random(2, 50, 1) * random(3, width) + 1)
    return codec.calibrated(codec.fit(moments))


@given(expressions(), WIDTHS, st.integers(1, 6))
def test_layout_says_exactly_what_is_encoded(text, width, tokens):
    codec = ready(text, width)
    parts, layouts = codec.encode(random(4, tokens, width)), codec.layout(tokens)
    assert [(part.dtype, tuple(part.shape)) for part in parts] == [(one.dtype, one.shape) for one in layouts]
    assert all(layout.shape[0] == tokens for layout in layouts)
    payload, rest = payload_to_proto(parts)
    sent = len(payload.chunk.data) + sum(len(chunk.data) for chunk in rest)
    assert sent == sum(layout.payload_bytes for layout in layouts)


@given(expressions(), WIDTHS, st.integers(1, 6))
def test_the_wire_changes_nothing(text, width, tokens):
    codec, values = ready(text, width), random(4, tokens, width)
    payload, _ = payload_to_proto(codec.encode(values))
    assembler = PayloadAssembler(payload, codec.layout(tokens), "x")
    got = codec.decode(assembler.result())
    assert got.dtype == torch.float32 and got.shape == values.shape
    assert torch.equal(got, codec.decode(codec.encode(values)))


@given(expressions(), WIDTHS, st.data())
def test_rows_of_parts_can_be_cut_out_and_joined(text, width, data):
    codec, values = ready(text, width), random(4, 7, width)
    order = data.draw(st.permutations(range(7)))
    parts = codec.encode(values)
    moved = codec.decode([torch.cat([part[row : row + 1] for row in order]) for part in parts])
    assert torch.allclose(moved, codec.decode(parts)[order], rtol=1e-5, atol=1e-5)


@given(expressions(), WIDTHS)
def test_encoding_leaves_the_values_as_they_were(text, width):
    codec, values = ready(text, width), random(4, 3, width)
    kept = values.clone()
    parts = codec.encode(values)
    sent = [part.clone() for part in parts]
    codec.decode(parts)
    assert torch.equal(values, kept)
    assert all(torch.equal(part, was) for part, was in zip(parts, sent, strict=True))


@given(expressions(), WIDTHS, st.sampled_from([float("nan"), float("inf")]), st.integers(0, 7))
def test_a_value_that_is_not_finite_is_never_encoded(text, width, bad, column):
    codec, values = ready(text, width), random(4, 3, width)
    values[1, column] = bad
    with pytest.raises(NotFiniteError, match="holds NaN or infinity"):
        codec.encode(values)


@given(expressions(), WIDTHS, st.data())
def test_an_altered_payload_is_refused(text, width, data):
    codec = ready(text, width)
    payload, _ = payload_to_proto(codec.encode(random(4, 3, width)))
    part = data.draw(st.integers(0, len(payload.parts) - 1))
    fault = data.draw(st.sampled_from(["type", "shape", "short", "long", "less", "more", "bit"]))
    if fault == "type":
        payload.parts[part].dtype = payload.parts[part].dtype % 7 + 1
    elif fault == "shape":
        payload.parts[part].shape[-1] += 1
    elif fault == "less":
        del payload.parts[part]
    elif fault == "more":
        payload.parts.append(payload.parts[part])
    elif fault == "bit":
        payload.chunk.data = bytes([payload.chunk.data[0] ^ 1]) + payload.chunk.data[1:]
    else:
        payload.chunk.data = payload.chunk.data[:-1] if fault == "short" else payload.chunk.data + b"\0"
    with pytest.raises(ElsaError):
        codec.decode(PayloadAssembler(payload, codec.layout(3), "x").result())


@given(expressions(), WIDTHS, st.data())
def test_whatever_bytes_come_decoding_gives_finite_values_or_refuses(text, width, data):
    codec = ready(text, width)
    layouts = codec.layout(2)
    parts = []
    for layout in layouts:
        raw = data.draw(st.binary(min_size=layout.payload_bytes, max_size=layout.payload_bytes))
        parts.append(torch.frombuffer(bytearray(raw), dtype=layout.dtype).reshape(layout.shape))
    parts = [part.nan_to_num() if part.is_floating_point() else part for part in parts]  # the assembler refuses those
    try:
        got = codec.decode(parts)
    except MalformedError:
        return
    assert got.shape == (2, width) and bool(torch.isfinite(got).all())


@given(st.sampled_from([*FIRST, *FURTHER, *LAST, "", "topk(fraction=0.5) | int4"]), WIDTHS)
def test_the_plain_form_needs_no_calibration(text, width):
    codec = codec_of(parse_codec(text), width)
    plain = codec.plain()
    assert plain.calibration_layout() == [] and plain.fit(Moments(width)) == []
    assert plain.text == ("int8" if codec.calibration_layout() else codec.text)
    assert plain.decode(plain.encode(random(4, 3, width))).shape == (3, width)


@pytest.mark.parametrize("text", FIRST)
def test_before_its_calibration_a_codec_refuses(text):
    codec = codec_of(parse_codec(text), 8)
    for call in (codec.encode, codec.pullback, lambda values: codec.decode([values])):
        with pytest.raises(MalformedError, match="has no calibration yet"):
            call(torch.ones(2, 8))


@pytest.mark.parametrize("text", [*FIRST, "int8"])
def test_a_calibration_of_another_layout_is_refused(text):
    codec = codec_of(parse_codec(text), 8)
    good = [torch.zeros(layout.shape, dtype=layout.dtype) for layout in codec.calibration_layout()]
    with pytest.raises(MalformedError, match=f"a calibration of {len(good) + 1} tensors, expected"):
        codec.calibrated([*good, torch.zeros(8)])
    for index, tensor in enumerate(good):
        for bad, fault in [
            (torch.zeros(3, 9, dtype=torch.float16), rf"calibration\[{index}\] is .*\[3, 9\], expected"),
            (tensor.float(), rf"calibration\[{index}\] is torch.float32 .* expected torch.float16"),
            (tensor * float("nan"), rf"calibration\[{index}\] holds NaN or infinity"),
        ]:
            with pytest.raises(MalformedError, match=fault):
                codec.calibrated([*good[:index], bad, *good[index + 1 :]])


@pytest.mark.parametrize("text", FIRST)
def test_moments_that_are_not_finite_are_refused(text):
    moments = Moments(8)
    moments.add(torch.full((3, 8), float("nan")))
    with pytest.raises(NotFiniteError):
        codec_of(parse_codec(text), 8).fit(moments)


@pytest.mark.parametrize("text", FIRST)
@pytest.mark.parametrize(
    "values", [torch.zeros(0, 8), torch.zeros(3, 8), torch.ones(1, 8)], ids=["none", "zero", "one"]
)
def test_any_finite_moments_give_a_calibration(text, values):
    codec, moments = codec_of(parse_codec(text), 8), Moments(8)
    moments.add(values)
    codec = codec.calibrated(codec.fit(moments))
    assert bool(torch.isfinite(codec.decode(codec.encode(random(4, 3, 8)))).all())


@given(st.sampled_from([*FURTHER, *LAST, "", FIRST[2], f"{FIRST[2]} | int8"]), WIDTHS)
def test_a_codec_that_is_not_linear_passes_the_gradient_straight_through(text, width):
    gradient = random(4, 3, width)
    assert torch.equal(ready(text, width).pullback(gradient), gradient)


@given(
    st.sampled_from([FIRST[0], FIRST[1], FIRST[3]]), st.sampled_from(["", " | int8", " | topk(fraction=0.5)"]), WIDTHS
)
def test_the_gradient_of_a_linear_codec_is_its_transpose(first, rest, width):
    linear = ready(first, width)
    offset = linear.decode(linear.encode(torch.zeros(1, width)))
    values, gradient = random(5, 4, width).double(), random(6, 4, width).double()
    forward = (linear.decode(linear.encode(values.float())) - offset).double()
    backward = ready(first + rest, width).pullback(gradient.float()).double()
    scale = float(forward.norm() * gradient.norm())
    assert float((forward * gradient).sum()) == pytest.approx(float((values * backward).sum()), abs=1e-5 * scale)
