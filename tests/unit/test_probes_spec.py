"""Probes of an operator's own are all asked where they are few, and refused by their place where one is repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.clustering import ASKED, FEWEST_PROBES, ProbesSpec
from elsa.errors import SpecError
from elsa.spec import RunSpec


def probes(count: int) -> list[str]:
    return [f"Sentence number {number}." for number in range(count)]


def refusal_of(**probes_of: object) -> str:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml(str({"data": {"labels": ["a", "b"]}, "clustering": {"probes": probes_of}}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.integers(FEWEST_PROBES, 2 * ASKED))
def test_all_of_fewer_probes_are_asked_where_no_count_is_given(there: int) -> None:
    spec = ProbesSpec(sentences=tuple(probes(there)))
    assert spec.count == min(there, ASKED)
    assert ProbesSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_count_that_is_given_stands() -> None:
    assert ProbesSpec(sentences=tuple(probes(20)), count=10).count == 10
    assert ProbesSpec().count == ASKED
    assert "clustering.probes: count 21 is more than the 20 probes" in refusal_of(sentences=probes(20), count=21)


def test_a_probe_that_stands_there_twice_is_refused_by_its_place() -> None:
    twice = [*probes(9), " Sentence number 3. "]
    assert "clustering.probes.sentences: number 10 is the same as number 4" in refusal_of(sentences=twice)


def test_fewer_than_eight_probes_are_refused() -> None:
    assert "sentences: 7 given; at least 8 are needed" in refusal_of(sentences=probes(7))
