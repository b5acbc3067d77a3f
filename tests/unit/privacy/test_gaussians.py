"""The numbers that noise and turns are made of: normal, and each bit of their key counts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from elsa.privacy.gaussians import Gaussians

KEY = bytes(range(32))


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, 255))
def test_every_bit_of_the_key_counts(bit):
    other = (int.from_bytes(KEY, "little") ^ (1 << bit)).to_bytes(32, "little")
    assert not np.isclose(Gaussians(KEY).draw(20), Gaussians(other).draw(20)).any()


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.integers(0, 9).map(lambda half: 2 * half), max_size=6))
def test_numbers_drawn_in_parts_are_those_drawn_at_once(parts):
    stream = Gaussians(KEY)
    drawn = [stream.draw(count) for count in parts]
    assert np.array_equal(np.concatenate([np.empty(0), *drawn]), Gaussians(KEY).draw(sum(parts)))


def test_the_numbers_are_standard_normal():
    numbers = Gaussians(KEY).draw(200_001)
    assert len(numbers) == 200_001
    assert np.isfinite(numbers).all()
    assert kstest(numbers, "norm").pvalue > 0.01
