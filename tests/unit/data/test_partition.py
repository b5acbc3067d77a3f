"""Parts are a partition, the same for a seed, and as skewed as α says."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.data.partition import Indices, by_column, dirichlet, iid
from elsa.errors import DataError


def assert_is_partition(parts: Sequence[Indices], count: int) -> None:
    assert np.concatenate(list(parts)).dtype == np.int64
    assert sorted(np.concatenate(list(parts)).tolist()) == list(range(count))
    assert all(len(part) > 0 and (np.diff(part) > 0).all() for part in parts)


def same(one: Sequence[Indices], other: Sequence[Indices]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def skew(parts: Sequence[Indices], labels: np.ndarray) -> float:
    """Mean total variation distance of the parts' label shares from those of the whole; 0 is alike."""
    kinds = labels.max() + 1
    whole = np.bincount(labels, minlength=kinds) / len(labels)
    shares = [np.bincount(labels[part], minlength=kinds) / len(part) for part in parts]
    return float(np.mean([np.abs(share - whole).sum() / 2 for share in shares]))


@st.composite
def labels_and_parts(draw: st.DrawFn) -> tuple[list[int], int]:
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=80))
    return labels, draw(st.integers(1, len(labels)))


@given(labels_and_parts(), st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 1e6]), st.integers(0, 2**32))
def test_dirichlet_parts_are_an_even_partition(case: tuple[list[int], int], alpha: float, seed: int) -> None:
    labels, parts = case
    made = dirichlet(labels, parts, alpha, seed)
    assert len(made) == parts
    assert_is_partition(made, len(labels))
    assert max(map(len, made)) - min(map(len, made)) <= 1
    assert same(made, dirichlet(labels, parts, alpha, seed))


@given(st.integers(1, 200), st.data(), st.integers(0, 2**32))
def test_iid_parts_are_an_even_partition(count: int, data: st.DataObject, seed: int) -> None:
    parts = data.draw(st.integers(1, count))
    made = iid(count, parts, seed)
    assert len(made) == parts
    assert_is_partition(made, count)
    assert max(map(len, made)) - min(map(len, made)) <= 1
    assert same(made, iid(count, parts, seed))


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60), st.data())
def test_equal_column_values_stay_together(values: list[str], data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, len(set(values))))
    made = by_column(values, parts)
    assert len(made) == parts
    assert_is_partition(made, len(values))
    assert sum(len({values[row] for row in part}) for part in made) == len(set(values))


def test_different_seeds_give_different_parts() -> None:
    labels = np.arange(300) % 5
    assert not same(iid(300, 6, 1), iid(300, 6, 2))
    assert not same(dirichlet(labels, 6, 0.5, 1), dirichlet(labels, 6, 0.5, 2))


def test_alpha_sets_the_skew() -> None:
    labels = np.random.default_rng(0).choice(5, size=5000, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    skews = [
        np.mean([skew(dirichlet(labels, 10, alpha, seed), labels) for seed in range(5)])
        for alpha in (0.01, 1.0, 100.0, 1e6)
    ]
    alike = np.mean([skew(iid(5000, 10, seed), labels) for seed in range(5)])
    assert skews[0] > 0.4 > skews[1] > 0.1 > skews[2] > skews[3]
    assert skews[3] < alike + 0.02


def test_labels_may_be_names() -> None:
    names = ["b", "a", "c", "a"] * 10
    codes = [1, 0, 2, 0] * 10
    assert same(dirichlet(names, 4, 0.3, 7), dirichlet(codes, 4, 0.3, 7))


def test_impossible_parts_name_both_numbers() -> None:
    with pytest.raises(DataError, match="3 rows are too few for 4 parts of at least 1; ask for at most 3 parts"):
        iid(3, 4, 0)
    with pytest.raises(DataError, match="10 rows are too few for 4 parts of at least 3; ask for at most 3 parts"):
        dirichlet([0, 1] * 5, 4, 1.0, 0, min_rows=3)
    with pytest.raises(DataError, match="0 parts cannot be made; ask for at least 1"):
        iid(3, 0, 0)
    with pytest.raises(DataError, match="3 parts cannot be made of 2 different values; ask for 1 to 2 parts"):
        by_column(["a", "b", "a"], 3)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_a_concentration(alpha: float) -> None:
    with pytest.raises(DataError, match=r"is not a Dirichlet concentration; give a finite number above 0"):
        dirichlet([0, 1], 2, alpha, 0)
