"""Laws of probes' orders, projections, uploaded fingerprints and their Gaussians."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from elsa.cluster.fingerprint import (
    FLOOR,
    LARGEST,
    Answers,
    asking_order,
    check_fingerprint,
    gaussians,
    projection,
)
from elsa.errors import MalformedError, SpecError

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def questions(draw):
    probes = draw(st.integers(8, 40))
    return probes, draw(st.integers(0, probes)), draw(SEEDS)


@given(questions())
def test_each_probe_is_asked_once_and_repeats_a_second_time(question):
    probes, repeats, seed = question
    times = np.bincount(asking_order(probes, repeats, [seed]), minlength=probes)
    assert len(times) == probes
    assert set(times) <= {1, 2}
    assert (times == 2).sum() == repeats


@given(questions())
def test_a_probe_is_never_asked_twice_in_a_row(question):
    order = asking_order(question[0], question[1], [question[2]])
    assert (order[1:] != order[:-1]).all()


def test_order_is_the_same_for_a_seed_and_differs_by_client():
    orders = [asking_order(64, 8, [7, client]).tolist() for client in range(50)]
    assert orders == [asking_order(64, 8, [7, client]).tolist() for client in range(50)]
    assert len({tuple(order) for order in orders}) == 50


def test_repeats_are_of_any_probe_at_any_distance():
    orders = [asking_order(8, 1, [seed]) for seed in range(2000)]
    places = [np.flatnonzero(order == np.bincount(order).argmax()) for order in orders]
    assert set(np.diff(places).ravel()) == set(range(2, 9))
    assert 0.2 < np.mean([first == 0 for first, _ in places]) < 0.3  # 1/4 expected: 1/8 was there, 1/8 comes there
    repeated = np.bincount([np.bincount(order).argmax() for order in orders])
    assert repeated.min() > 180  # 250 expected of each


@pytest.mark.parametrize(("probes", "repeats"), [(7, 0), (8, 9), (8, -1), (0, 0)])
def test_order_of_too_few_probes_or_too_many_repeats_is_refused(probes, repeats):
    with pytest.raises(SpecError, match=r"^(probes|repeats): -?\d"):
        asking_order(probes, repeats, [0])


@given(st.integers(1, 20), st.integers(0, 20), SEEDS)
def test_projection_is_orthonormal_and_the_same_for_a_seed(dimensions, more, seed):
    directions = projection(dimensions + more, dimensions, [seed])
    assert directions.shape == (dimensions + more, dimensions)
    assert np.allclose(directions.T @ directions, np.eye(dimensions), rtol=0, atol=1e-12)
    assert np.array_equal(directions, projection(dimensions + more, dimensions, [seed]))


def test_projection_has_no_preferred_direction():
    directions = np.array([projection(3, 2, [seed]) for seed in range(4000)])
    assert np.allclose(directions.mean(axis=0), 0, atol=0.05)
    assert np.allclose(np.square(directions).mean(axis=0), 1 / 3, atol=0.03)


@pytest.mark.parametrize("dimensions", [0, 5, -1])
def test_projection_beyond_the_width_is_refused(dimensions):
    with pytest.raises(SpecError, match=r"^dimensions: .*width"):
        projection(4, dimensions, [0])


def test_a_sound_fingerprint_passes_unchanged_as_float64():
    embeddings = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    checked = check_fingerprint(embeddings, 10, 4)
    assert checked.dtype == np.float64
    assert np.array_equal(checked, embeddings)


@pytest.mark.parametrize(
    ("embeddings", "reason"),
    [
        (np.zeros((9, 4)), r"\(9, 4\); it must be \(10, 4\)"),
        (np.zeros((10, 4, 1)), r"\(10, 4, 1\)"),
        (np.zeros(40), "shape"),
        (np.zeros((10, 4), np.int64), "int64"),
        (np.zeros((10, 4), np.complex128), "complex128"),
        (np.full((10, 4), "a"), "type"),
        (np.full((10, 4), np.nan, np.float32), "NaN or infinity"),
        (np.full((10, 4), -np.inf), "NaN or infinity"),
        (np.full((10, 4), -2 * LARGEST), r"2e\+06"),
        (np.full((10, 4), np.finfo(np.float64).max), "beyond"),
    ],
)
def test_an_unsound_fingerprint_is_refused_with_the_reason(embeddings, reason):
    with pytest.raises(MalformedError, match="^fingerprint: .*" + reason):
        check_fingerprint(embeddings, 10, 4)


@given(questions())
def test_answers_are_sorted_by_probe_whatever_the_order(question):
    order = asking_order(question[0], question[1], [question[2]])
    embeddings = np.stack([order, np.arange(len(order))], axis=1).astype(float)  # the probe, and when it was asked
    answers = Answers.of(embeddings, order)
    assert np.array_equal(answers.first[:, 0], np.arange(question[0]))
    assert np.array_equal(answers.again[:, 0], answers.repeated)
    assert (np.diff(answers.repeated) > 0).all()
    assert (answers.again[:, 1] > answers.first[answers.repeated, 1]).all()


def test_moments_are_those_of_the_answers_plus_the_shrinkage():
    first = np.random.default_rng(1).normal(size=(700, 20, 3)) * [1, 5, 0.1] + 3  # more than a block
    made = gaussians(first, shrinkage=0.01)
    for client in (0, 511, 512, 699):
        covariance = np.cov(first[client].T, bias=True)
        assert np.allclose(made.means[client], first[client].mean(axis=0), rtol=1e-12)
        ridge = 0.01 * np.trace(covariance) / 3 * np.eye(3)
        assert np.allclose(made.covariances[client], covariance + ridge, rtol=1e-12)


@pytest.mark.parametrize("probes", [8, 64, 500])
def test_ledoit_wolf_equals_the_one_of_scikit_learn(probes):
    random = np.random.default_rng(probes)
    first = random.normal(size=(5, probes, 6)) @ random.normal(size=(5, 6, 6))
    made = gaussians(first, shrinkage="ledoit-wolf")
    for client in range(5):
        assert np.allclose(made.covariances[client], ledoit_wolf(first[client])[0], rtol=1e-10)


@pytest.mark.parametrize("shrinkage", [0.0, 0.01, "ledoit-wolf"])
def test_probes_in_another_order_give_the_same_gaussians(shrinkage):
    random = np.random.default_rng(2)
    first = random.normal(size=(4, 30, 5))
    there, here = gaussians(first, shrinkage), gaussians(first[:, random.permutation(30)], shrinkage)
    assert np.allclose(there.means, here.means, rtol=0, atol=1e-13)
    assert np.allclose(there.covariances, here.covariances, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-12, "ledoit-wolf"])
def test_no_variance_is_below_the_floor(shrinkage):
    random = np.random.default_rng(3)
    first = random.normal(size=(6, 8, 12))  # fewer probes than dimensions: singular
    first[0] = first[0, :1]  # always the same answer
    first[1] = first[1, :, :1] * random.normal(size=12)  # all on a line
    first[2] *= 1e5
    made = gaussians(first, shrinkage)
    level = np.trace(made.covariances, axis1=1, axis2=2) / 12
    least = FLOOR * np.maximum(level, np.median(level))
    assert (np.linalg.eigvalsh(made.covariances)[:, 0] >= 0.99 * least).all()
    assert np.array_equal(made.covariances, made.covariances.transpose(0, 2, 1))


def test_clients_that_all_answer_every_probe_alike_still_have_gaussians():
    made = gaussians(np.zeros((3, 8, 2)))
    assert (np.linalg.eigvalsh(made.covariances) > 0).all()


def test_no_clients_have_no_gaussians():
    assert len(gaussians(np.empty((0, 8, 2)))) == 0


@pytest.mark.parametrize("shrinkage", [-0.1, np.inf, np.nan, "oas"])
def test_unknown_shrinkage_is_refused(shrinkage):
    with pytest.raises(SpecError, match=r"^shrinkage: "):
        gaussians(np.zeros((2, 8, 2)), shrinkage)
