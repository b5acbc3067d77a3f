"""Faults in what people write: one line, each with its field, its bound and its value."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from elsa.errors import SpecError
from elsa.parsing import MOST_FAULTS, Part, describe, parse


class Inner(Part):
    """A part with a field that has a check of its own."""

    size: int = Field(1, ge=1)
    word: str = "a"

    @field_validator("word")
    @classmethod
    def _short(cls, word: str) -> str:
        if len(word) > 3:
            raise ValueError("word: longer\nthan three;  shorten it")
        return word


class Outer(Part):
    """A part of parts."""

    inner: Inner = Inner()
    more: Mapping[str, Inner] = Field({})
    needed: int

    @model_validator(mode="after")
    def _seven_is_none(self) -> "Outer":
        if self.needed == 7:
            raise ValueError("needed may not be 7; take 8")
        return self


def fault_of(raw: object) -> str:
    with pytest.raises(SpecError) as caught:
        parse(Outer, raw, "here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "here: needed: missing; it has no default"),
        ({"needed": 7}, "here: needed may not be 7; take 8"),
        ({"needed": "x"}, "(got 'x')"),
        ({"needed": 1, "neded": 2}, "here: neded: unknown field; check its spelling (got 2)"),
        ({"needed": 1, "inner": {"size": 0}}, "here: inner.size: Input should be greater than or equal to 1 (got 0)"),
        ({"needed": 1, "inner": {"word": "long"}}, "here: inner.word: word: longer than three; shorten it"),
        ({"needed": 1, "more": {"k": {"size": 0}}}, "here: more.k.size: Input should be"),
        ([], "here: the whole: Input should be a valid dictionary"),
    ],
)
def test_a_fault_is_one_line_that_names_the_field(raw, said):
    text = fault_of(raw)
    assert said in text
    assert "\n" not in text and "Value error" not in text and "  " not in text


def test_what_the_fields_belong_to_stands_before_each_of_them():
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"size": 0, "word": "long"})
    said = describe(caught.value, within="part")
    assert said.startswith("part size: Input should be")
    assert "; part word: word: longer" in said


@given(st.integers(1, 40))
def test_many_faults_are_told_in_part_and_counted_in_full(count):
    text = fault_of({"needed": 1} | {f"x{number}": 0 for number in range(count)})
    assert text.count("unknown field") == min(count, MOST_FAULTS)
    assert text.endswith(f"and {count - MOST_FAULTS} more") == (count > MOST_FAULTS)


@given(st.text(min_size=1, max_size=5000), st.text(max_size=5000))
def test_a_fault_is_short_and_on_one_line_whatever_was_written(field, value):
    text = fault_of({"needed": 1, f"x{field}": value})
    assert len(text) < 400
    assert len(text.splitlines()) == 1
