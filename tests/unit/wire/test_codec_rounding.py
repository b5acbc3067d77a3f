"""Rounding stages err by no more than they say, whatever the rows hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elsa.codecs import parse_codec
from elsa.errors import MalformedError, NotFiniteError
from elsa.wire.codec.registry import codec_of

LARGEST = 2.0**120
SMALLEST = 2.0**-100
VALUES = st.floats(-LARGEST, LARGEST, width=32).filter(lambda value: value == 0 or abs(value) >= SMALLEST)
SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 5).map(lambda half: 2 * half))
ROWS = arrays("float32", SHAPES, elements=VALUES).map(torch.from_numpy)


def rounded(name, values):
    codec = codec_of(parse_codec(name), values.shape[1])
    return codec.decode(codec.encode(values))


@given(ROWS)
def test_none_is_exact(values):
    assert torch.equal(rounded("none", values), values)


@given(ROWS)
def test_bf16_errs_by_2_to_the_minus_8_of_a_value_at_most(values):
    error = (rounded("bf16", values).double() - values.double()).abs()
    assert bool((error <= values.double().abs() * 2**-8).all())


def test_bf16_rounds_to_nearest_even_and_not_down():
    values = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, 1 + 1.5 * 2**-8, -(1 + 1.5 * 2**-8)]])
    want = torch.tensor([[1.0, 1 + 2**-6, 1 + 2**-7, -(1 + 2**-7)]])
    assert torch.equal(rounded("bf16", values), want)


@pytest.mark.parametrize(("name", "share"), [("int8", 0.004), ("int4", 0.215)])
@given(values=ROWS)
def test_rounding_errs_by_its_share_of_the_largest_value_at_most(name, share, values):
    error = (rounded(name, values).double() - values.double()).abs()
    assert bool((error <= values.double().abs().amax(1, keepdim=True) * share + 2.0**-118).all())


@given(ROWS)
def test_int4_errs_by_half_a_step_where_nothing_is_clipped(values):
    largest = values.double().abs().amax(1, keepdim=True)
    error = (rounded("int4", values).double() - values.double()).abs()
    inside = values.double().abs() <= 0.78 * largest
    assert bool((error <= largest * 0.0568 + 2.0**-118)[inside].all())


@pytest.mark.parametrize(("name", "least", "most"), [("int8", 0.005, 0.008), ("int4", 0.094, 0.108)])
@pytest.mark.parametrize("columns", [48, 96, 256, 400])
def test_the_stated_error_on_gaussian_rows_holds(name, least, most, columns):
    values = torch.randn(2000, columns, generator=torch.Generator().manual_seed(columns))
    assert least <= float((rounded(name, values) - values).norm() / values.norm()) <= most


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rows_do_not_share_a_scale(name):
    values = torch.tensor([[1e-20, -1e-20], [1e20, 0.0], [0.0, 0.0]])
    got = rounded(name, values)
    assert torch.allclose(got[:2], values[:2], rtol=0.215, atol=0)
    assert float(got[2].abs().max()) < 1e-30


@pytest.mark.parametrize("name", ["none", "bf16", "int8", "int4"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_never_encoded(name, bad):
    values = torch.ones(3, 4)
    values[1, 2] = bad
    with pytest.raises(NotFiniteError, match="holds NaN or infinity"):
        rounded(name, values)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("scale", [0.0, 3e38, 1e-38])
def test_a_scale_out_of_bounds_is_refused(name, scale):
    codec = codec_of(parse_codec(name), 4)
    scales, codes = codec.encode(torch.ones(3, 4))
    scales[1] = scale
    with pytest.raises(MalformedError, match=r"scales: one is not between 2\^-120 and 2\^120"):
        codec.decode([scales, codes])


def test_int4_puts_the_first_of_two_neighbours_in_the_low_half():
    scales, pairs = codec_of(parse_codec("int4"), 4).encode(torch.tensor([[8.0, 0.0, -6.3, 1.8]]))
    assert float(scales) == pytest.approx(-0.9, rel=2**-8)
    assert pairs.tolist() == [[0 | 8 << 4, 15 | 6 << 4]]
