"""Codecs: decoding undoes encoding within the stated error, and both sides agree on what a name means."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from elsa.errors import MalformedError
from elsa.spec import CodecName, CodecsSpec
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.registry import KNOWN, codec_set_from_proto, codec_set_to_proto
from elsa.wire.tensor import PayloadAssembler, payload_to_proto

LARGEST = 2.0**126
SMALLEST = 2.0**-126  # below it float32 loses bits, and bfloat16 with it
WIDTHS = st.floats(-LARGEST, LARGEST, width=32).filter(lambda value: value == 0 or abs(value) >= SMALLEST)
STATES = arrays("float32", array_shapes(min_dims=2, max_dims=2, max_side=9), elements=WIDTHS).map(torch.from_numpy)
codecs = pytest.mark.parametrize("codec", [make() for make in KNOWN.values()], ids=list(KNOWN))


def test_every_codec_of_a_specification_is_known():
    assert set(KNOWN) == set(get_args(CodecName))
    assert all(make().name == name for name, make in KNOWN.items())


@codecs
@given(STATES)
def test_layout_says_exactly_what_is_encoded(codec, values):
    parts, layouts = codec.encode(values), codec.layout(*values.shape)
    assert [(part.dtype, tuple(part.shape)) for part in parts] == [(one.dtype, one.shape) for one in layouts]
    payload, rest = payload_to_proto(parts)
    sent = len(payload.chunk.data) + sum(len(chunk.data) for chunk in rest)
    assert sent == sum(layout.payload_bytes for layout in layouts)


@codecs
@given(STATES)
def test_decoding_keeps_shape_and_type_over_the_wire(codec, values):
    payload, rest = payload_to_proto(codec.encode(values))
    assembler = PayloadAssembler(payload, codec.layout(*values.shape), "x")
    for chunk in rest:
        assembler.add(chunk)
    got = codec.decode(assembler.result())
    assert got.dtype == torch.float32 and got.shape == values.shape
    assert torch.equal(got, codec.decode(codec.encode(values)))


@given(STATES)
def test_none_is_exact(values):
    codec = KNOWN["none"]()
    assert torch.equal(codec.decode(codec.encode(values)), values)


@given(STATES)
def test_bf16_errs_by_2_to_the_minus_8_at_most(values):
    codec = KNOWN["bf16"]()
    got = codec.decode(codec.encode(values))
    assert bool(((got.double() - values.double()).abs() <= values.double().abs() * 2**-8).all())


def test_bf16_rounds_to_nearest_even_and_not_down():
    codec = KNOWN["bf16"]()
    values = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, 1 + 1.5 * 2**-8, -(1 + 1.5 * 2**-8)]])
    want = torch.tensor([[1.0, 1 + 2**-6, 1 + 2**-7, -(1 + 2**-7)]])
    assert torch.equal(codec.decode(codec.encode(values)), want)


@codecs
def test_pullback_is_the_gradient_of_the_identity(codec):
    gradient = torch.rand(3, 4)
    assert torch.equal(codec.pullback(gradient), gradient)


@given(st.builds(CodecsSpec, **{field: st.sampled_from(list(KNOWN)) for field in ("h1", "h2", "dh2", "dh1")}))
def test_reading_inverts_naming(spec):
    message = pb.CodecSet.FromString(codec_set_to_proto(spec).SerializeToString())
    got = codec_set_from_proto(message)
    assert CodecsSpec(h1=got.h1.name, h2=got.h2.name, dh2=got.dh2.name, dh1=got.dh1.name) == spec


@pytest.mark.parametrize("field", ["h1", "h2", "dh2", "dh1"])
def test_an_unknown_stage_is_refused_with_what_is_known(field):
    message = codec_set_to_proto(CodecsSpec())
    unknown = pb.CodecStage.FromString(bytes.fromhex("aa0600"))  # field 101, which no stage has
    getattr(message, field).stages.append(unknown)
    with pytest.raises(MalformedError, match=rf"codecs\.{field}\.stages\[0\]: unknown codec; known here: none, bf16"):
        codec_set_from_proto(message)


def test_more_than_one_stage_is_refused():
    message = codec_set_to_proto(CodecsSpec(dh1="bf16"))
    message.dh1.stages.append(message.dh1.stages[0])
    with pytest.raises(MalformedError, match=r"codecs\.dh1\.stages: 2 stages"):
        codec_set_from_proto(message)
