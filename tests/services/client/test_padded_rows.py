"""To what length a client's rows are padded while they are computed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.data.encoding import EncodedData, EncodedRow
from services.client.limits import mean_tokens, padded_tokens


def rows_of(lengths):
    return EncodedData(rows=[EncodedRow(ids=[1] * n, types=[], labels=0) for n in lengths], pad_id=0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3))
def test_it_is_the_mean_of_the_longest_over_all_draws(lengths, drawn):
    draws = list(itertools.product(lengths, repeat=drawn))
    expected = sum(map(max, draws)) / len(draws)
    assert padded_tokens(rows_of(lengths), drawn) == pytest.approx(expected)


@given(st.lists(st.integers(1, 50), min_size=1))
def test_rows_by_themselves_are_not_padded(lengths):
    assert padded_tokens(rows_of(lengths), 1) == pytest.approx(mean_tokens(rows_of(lengths)))
