"""Naming codecs: both sides build the same one, and what does not fit is refused with the field and the bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.codecs import KNOWN, CodecsSpec, parse_codec
from elsa.errors import MalformedError, SpecError
from elsa.presets import PRESETS
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.registry import codec_of, codec_set_from_proto, codec_set_to_proto

FIELDS = list(CodecsSpec.model_fields)
EXPRESSIONS = ["none", "bf16", "int8", "int4", "subspace(k=6) | int4", "subspace(ratio=2)"]


def codec(text, width=384):
    return codec_of(parse_codec(text), width)


def stages(*made):
    return pb.CodecSet(h1=pb.CodecSpec(stages=made))


@given(st.fixed_dictionaries({field: st.sampled_from(EXPRESSIONS) for field in FIELDS}))
def test_both_sides_build_the_same_codec_from_the_message(texts):
    message = codec_set_to_proto(CodecsSpec(**texts), 12)
    got = codec_set_from_proto(pb.CodecSet.FromString(message.SerializeToString()), 12)
    for field, text in texts.items():
        assert getattr(got, field).text == codec(text, 12).text
        assert getattr(got, field).layout(3) == codec(text, 12).layout(3)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("width", [16, 384, 768, 2048])
def test_every_preset_fits_the_widths_of_models(preset, width):
    spec = CodecsSpec(**PRESETS[preset].get("codecs", {}))
    codec_set_from_proto(codec_set_to_proto(spec, width), width)


@pytest.mark.parametrize(
    ("text", "width", "resolved"),
    [
        ("", 8, "none"),
        ("subspace(ratio=1.5) | int4", 384, "subspace(k=256) | int4"),
        ("subspace(ratio=3) | int4", 385, "subspace(k=128) | int4"),
        ("subspace(ratio=3)", 385, "subspace(k=128)"),
        ("subspace(ratio=1) | int4", 15, "subspace(k=14) | int4"),
        ("subspace(ratio=500) | int4", 384, "subspace(k=2) | int4"),
        ("subspace(ratio=500) | int8", 384, "subspace(k=1) | int8"),
        ("subspace(ratio=2) | bf16", 384, "subspace(k=192) | bf16"),
    ],
)
def test_ratios_become_whole_numbers(text, width, resolved):
    assert codec(text, width).text == resolved


@pytest.mark.parametrize(
    ("text", "width", "fault"),
    [
        ("subspace(k=400)", 384, "codec.subspace.k: 400 is more than the 384 columns that there are"),
        ("int4", 383, "codec.int4: int4 needs an even number of columns; here are 383"),
        ("subspace(k=5) | int4", 384, "codec.int4: int4 needs an even number of columns; here are 5"),
    ],
)
def test_an_expression_that_does_not_fit_the_width_is_refused(text, width, fault):
    with pytest.raises(SpecError, match=f"^{fault}".replace("(", r"\(")):
        codec(text, width)


def test_the_field_of_an_expression_is_named():
    with pytest.raises(SpecError, match=r"^codecs\.dh1\.subspace\.k: 5 "):
        codec_set_to_proto(CodecsSpec(dh1="subspace(k=5)"), 4)


INT8 = pb.CodecStage(int8=pb.Int8Codec())
INT4 = pb.CodecStage(int4=pb.Int4Codec())
SUBSPACE = pb.CodecStage(subspace=pb.SubspaceCodec(k=3))


@pytest.mark.parametrize(
    ("made", "width", "fault"),
    [
        ([INT8] * 5, 4, r"codecs\.h1\.stages: 5 stages; at most 4"),
        ([INT8, INT8], 4, r"codecs\.h1\.stages\[1\]: follows int8, which rounds and must be the last"),
        ([SUBSPACE, SUBSPACE], 4, r"codecs\.h1\.stages\[1\]: subspace is calibrated and must be the first"),
        ([SUBSPACE], 2, r"codecs\.h1\.stages\[0\]\.subspace\.k: 3, must be 1 to 2"),
        ([pb.CodecStage(subspace=pb.SubspaceCodec())], 2, r"subspace\.k: 0, must be 1 to 2"),
        ([SUBSPACE, INT4], 4, r"codecs\.h1\.stages\[1\]\.int4: int4 needs an even number of columns; here are 3"),
    ],
)
def test_a_message_out_of_bounds_is_refused(made, width, fault):
    with pytest.raises(MalformedError, match=fault):
        codec_set_from_proto(stages(*made), width)


@pytest.mark.parametrize("field", FIELDS)
def test_an_unknown_stage_is_refused_with_what_is_known(field):
    message = codec_set_to_proto(CodecsSpec(), 8)
    unknown = pb.CodecStage.FromString(bytes.fromhex("aa0600"))  # field 101, which no stage has
    getattr(message, field).stages.append(unknown)
    known = ", ".join(KNOWN)
    with pytest.raises(MalformedError, match=rf"codecs\.{field}\.stages\[0\]: unknown codec; known here: {known}"):
        codec_set_from_proto(message, 8)
