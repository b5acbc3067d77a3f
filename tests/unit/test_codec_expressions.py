"""Expressions that name codecs: what is written is what is meant, and what cannot be meant is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elsa.codecs import (
    MOST_CHARACTERS,
    Bf16,
    CodecsSpec,
    Int4,
    Int8,
    Sketch,
    Subspace,
    TopK,
    codec_text,
    parse_codec,
)
from elsa.parsing import describe

RATIOS = st.floats(1, 65536)
FIRST = st.one_of(
    st.builds(
        Sketch,
        rows=st.integers(1, 16),
        ratio=RATIOS,
        decode=st.sampled_from(["median", "mmse"]),
        seed=st.integers(0, 2**63 - 1),
    ),
    st.builds(Subspace, k=st.integers(1, 65536)),
    st.builds(Subspace, ratio=RATIOS),
)
TOPS = st.builds(TopK, fraction=st.floats(0, 1, exclude_min=True))
LAST = st.sampled_from([Bf16(), Int8(), Int4()])
STAGES = st.tuples(st.lists(FIRST, max_size=1), st.lists(TOPS, max_size=2), st.lists(LAST, max_size=1)).map(
    lambda parts: tuple(stage for part in parts for stage in part)
)


def refusal_of(text: object) -> str:
    with pytest.raises(ValidationError) as caught:
        CodecsSpec(h1=text)
    said = describe(caught.value)
    assert said.startswith("h1: ")
    assert "\n" not in said and "Value error" not in said and len(said) < 400
    return said


@given(STAGES)
def test_parsing_inverts_writing(stages):
    assert parse_codec(codec_text(stages)) == stages
    assert CodecsSpec(h1=codec_text(stages)).h1 == stages


@given(STAGES)
def test_a_specification_writes_its_codecs_as_expressions_that_read_back(stages):
    spec = CodecsSpec(h1=stages, change=stages)
    dumped = spec.model_dump(mode="json")
    assert dumped["h1"] == codec_text(stages) and dumped["h2"] == "none"
    assert CodecsSpec.model_validate(dumped) == spec


@given(STAGES, st.sampled_from(["", " ", "   "]))
def test_blanks_mean_nothing(stages, blank):
    text = codec_text(stages)
    for sign in "|(,=)":
        text = text.replace(sign, f"{blank}{sign}{blank}")
    assert parse_codec(f"{blank}{text}{blank}") == stages


@pytest.mark.parametrize("text", ["", "  ", "none", " none "])
def test_none_has_no_stage(text):
    assert parse_codec(text) == ()


def test_parameters_that_are_left_out_have_their_defaults():
    assert parse_codec("sketch") == parse_codec("sketch()") == (Sketch(rows=3, ratio=2, decode="median", seed=0),)


@given(st.text(alphabet="abint48sketchopkn (),=|.0-9_\n", max_size=60))
def test_any_text_is_read_or_refused_with_a_reason(text):
    try:
        stages = parse_codec(text)
    except ValueError as error:
        assert str(error) and len(str(error)) < 400
        return
    assert parse_codec(codec_text(stages)) == stages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zip", "h1: no codec 'zip'; there are none, bf16, int8, int4, sketch, subspace, topk"),
        ("INT4", "h1: no codec 'INT4'; there are"),
        ("sketch(rows=0)", "h1: sketch rows: Input should be greater than or equal to 1 (got '0')"),
        ("sketch(rows=17)", "h1: sketch rows: Input should be less than or equal to 16 (got '17')"),
        ("sketch(rows=2.5)", "h1: sketch rows: Input should be a valid integer"),
        ("sketch(ratio=0.9)", "h1: sketch ratio: Input should be greater than or equal to 1 (got '0.9')"),
        ("sketch(ratio=nan)", "h1: sketch ratio: Input should be a finite number (got 'nan')"),
        ("sketch(ratio=1e999)", "h1: sketch ratio: Input should be a finite number"),
        ("sketch(decode=mean)", "h1: sketch decode: Input should be 'median' or 'mmse' (got 'mean')"),
        ("sketch(seed=-1)", "h1: sketch seed: Input should be greater than or equal to 0 (got '-1')"),
        ("sketch(row=3)", "h1: sketch row: unknown field; check its spelling (got '3')"),
        ("sketch(rows=0, ratio=0)", "(got '0'); sketch ratio: Input should be"),
        ("sketch(rows=3, rows=4)", "h1: sketch rows: given twice"),
        ("sketch(name=int4)", "h1: sketch name: unknown field"),
        ("sketch(3)", "h1: sketch: '3' is not parameter=value"),
        ("sketch(rows=)", "h1: sketch: 'rows=' is not parameter=value"),
        ("sketch(rows=1,)", "h1: sketch: '' is not parameter=value"),
        ("sketch(rows=1=2)", "h1: sketch: 'rows=1=2' is not parameter=value"),
        ("sketch(rows=1", "h1: 'sketch(rows=1' is not a stage; write name or name(parameter=value), joined by |"),
        ("int4(bits=3)", "h1: int4 bits: unknown field"),
        ("subspace", "h1: subspace: takes k or ratio, one of them"),
        ("subspace(k=4, ratio=2)", "h1: subspace: takes k or ratio, one of them"),
        ("subspace(k=0)", "h1: subspace k: Input should be greater than or equal to 1 (got '0')"),
        ("subspace(ratio=0.5)", "h1: subspace ratio: Input should be greater than or equal to 1 (got '0.5')"),
        ("topk", "h1: topk fraction: missing; it has no default"),
        ("topk(fraction=0)", "h1: topk fraction: Input should be greater than 0 (got '0')"),
        ("topk(fraction=1.1)", "h1: topk fraction: Input should be less than or equal to 1 (got '1.1')"),
        ("int4 | bf16", "h1: int4 rounds and must come last"),
        ("int8 | int8", "h1: int8 rounds and must come last"),
        ("topk(fraction=0.5) | sketch", "h1: sketch is calibrated on the tensor itself and must come first"),
        ("none | int4", "h1: none stands alone"),
        ("int4 |", "h1: '' is not a stage"),
        (" | ".join(["topk(fraction=0.9)"] * 5), "h1: 5 stages; at most 4"),
        ("x" * (MOST_CHARACTERS + 1), f"h1: an expression of {MOST_CHARACTERS + 1} characters; at most"),
        (None, "h1: an expression is wanted, such as 'subspace(ratio=2) | int4' (got None)"),
        (8, "h1: an expression is wanted"),
        ([{"name": "int4"}], "h1: an expression is wanted"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place_and_its_bound(text, said):
    assert said in refusal_of(text)


@pytest.mark.parametrize("stages", [(Int4(), Int8()), (TopK(fraction=0.5), Subspace(k=2)), (Sketch(),) * 2])
def test_stages_given_as_such_follow_the_same_rules(stages):
    said = refusal_of(stages)
    assert "must come last" in said or "must come first" in said


def test_blanks_without_end_are_refused_at_once():
    assert "characters; at most" in refusal_of("int4" + " " * 10**7 + "!")
