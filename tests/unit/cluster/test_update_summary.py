"""The summary of an update is linear, keeps inner products, and is the same for everyone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.cluster.summary import SIZE, summaries, summary

SHAPES = {"a": (40, 30), "b": (50,), "c": (3, 4, 5)}
ZERO = {name: np.zeros(shape) for name, shape in SHAPES.items()}


def tensors(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape) for name, shape in SHAPES.items()}


def flat(values):
    return np.concatenate([values[name].ravel() for name in sorted(values)])


@given(st.integers(0, 100), st.floats(-3, 3))
def test_it_is_linear_in_the_difference(seed, factor):
    first, second, start = tensors(seed), tensors(seed + 1), tensors(seed + 2)
    joined = {name: start[name] + (first[name] - start[name]) + factor * second[name] for name in SHAPES}
    expected = summary(first, start, 7) + factor * summary(second, ZERO, 7)
    np.testing.assert_allclose(summary(joined, start, 7), expected, atol=1e-3)


def test_inner_products_and_lengths_are_kept_on_average():
    first, second = tensors(1), tensors(2)
    near = {name: 0.8 * first[name] + 0.6 * second[name] for name in SHAPES}
    truth = flat(first) @ flat(near)
    found = [summary(first, ZERO, seed) @ summary(near, ZERO, seed) for seed in range(200)]
    length = np.linalg.norm(flat(first)) * np.linalg.norm(flat(near))
    assert np.mean(found) == pytest.approx(truth, abs=4 * length / np.sqrt(SIZE * 200))
    assert np.std(found) < 2 * length / np.sqrt(SIZE)


def test_the_order_of_names_is_irrelevant_and_the_seed_is_not():
    values = tensors(3)
    turned = dict(reversed(values.items()))
    np.testing.assert_array_equal(summary(values, ZERO, 5), summary(turned, ZERO, 5))
    assert not np.array_equal(summary(values, ZERO, 5), summary(values, ZERO, 6))


def test_nothing_trained_is_zero():
    values = tensors(4)
    assert not summary(values, values, 1).any()


def test_summaries_of_many_are_those_of_each() -> None:
    draw = np.random.default_rng(5)
    start = {name: draw.normal(size=(3, 4)).astype(np.float32) for name in "ba"}
    updates = {client: {name: draw.normal(size=(3, 4)).astype(np.float32) for name in "ab"} for client in "xyz"}
    found = summaries(updates, start, 2)
    assert found.keys() == updates.keys() and summaries({}, start, 2) == {}
    for client, update in updates.items():
        np.testing.assert_array_equal(found[client], summary(update, start, 2))
