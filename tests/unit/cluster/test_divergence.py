"""Laws of the divergence between fingerprints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor, cho_solve

from elsa.cluster import divergence
from elsa.cluster.divergence import between, divergences, scale, scaled, to_landmarks
from elsa.cluster.fingerprint import Gaussians, gaussians

SEEDS = st.integers(0, 2**32 - 1)


def some_answers(seed, clients=7, probes=16, dimensions=5):
    """Answers of clients of three kinds, with correlated directions of different size."""
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(3, probes, dimensions))
    mixing = np.linalg.qr(random.normal(size=(dimensions, dimensions)))[0] * np.geomspace(0.1, 10, dimensions)
    noise = random.normal(size=(clients, probes, dimensions))
    return (kinds[np.arange(clients) % 3] + 0.3 * noise) @ mixing + 5 * random.normal(size=dimensions)


def kullback_leibler(mean, covariance, other_mean, other_covariance):
    factor, step = cho_factor(other_covariance), other_mean - mean
    logs = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    inner = np.trace(cho_solve(factor, covariance)) + step @ cho_solve(factor, step)
    return (inner - len(mean) + logs) / 2


def pair_by_pair(made):
    pairs = list(zip(made.means, made.covariances, strict=True))
    return np.array([[(kullback_leibler(*a, *b) + kullback_leibler(*b, *a)) / 2 for b in pairs] for a in pairs])


def assert_is_a_divergence(matrix):
    assert np.isfinite(matrix).all()
    assert (matrix >= 0).all()
    assert np.array_equal(matrix, matrix.T)
    assert (np.diag(matrix) == 0).all()


@given(SEEDS, st.sampled_from([0.01, 0.001, "ledoit-wolf"]), st.integers(1, 8))
def test_divergence_equals_the_definition_pair_by_pair(seed, shrinkage, dimensions):
    made = gaussians(some_answers(seed, dimensions=dimensions), shrinkage)
    assert np.allclose(divergences(made), pair_by_pair(made), rtol=1e-8, atol=1e-12)


def test_divergence_equals_the_definition_beyond_a_block_and_at_the_usual_size():
    made = gaussians(some_answers(0, clients=600, probes=64, dimensions=32))
    matrix, few = divergences(made), np.array([0, 1, 300, 511, 512, 513, 599])
    assert_is_a_divergence(matrix)
    assert np.allclose(matrix[np.ix_(few, few)], pair_by_pair(made[few]), rtol=1e-8, atol=1e-13)


def test_divergence_of_one_dimension_is_the_textbook_one():
    made = Gaussians(means=np.array([[0.0], [3.0]]), covariances=np.array([[[1.0]], [[4.0]]]))
    expected = ((1 / 4 + 4 - 2) + 9 * (1 + 1 / 4)) / 4
    assert np.allclose(divergences(made), [[0, expected], [expected, 0]], rtol=1e-14)


@given(SEEDS, st.sampled_from([0.0, 0.01, "ledoit-wolf"]), st.integers(1, 20), st.floats(1e-6, 1e4))
def test_divergence_is_symmetric_zero_on_the_diagonal_and_never_negative(seed, shrinkage, clients, size):
    assert_is_a_divergence(divergences(gaussians(size * some_answers(seed, clients), shrinkage)))


def test_equal_clients_do_not_diverge_and_no_client_does_from_itself():
    answers = some_answers(1, clients=4)
    made = gaussians(np.concatenate([answers, answers]))
    assert np.allclose(np.diag(divergences(made)[:4, 4:]), 0, atol=1e-11)


def test_small_divergences_keep_their_digits():
    random = np.random.default_rng(2)
    alike = some_answers(2, clients=1, probes=64, dimensions=32)
    made = gaussians(alike + 1e-4 * random.normal(size=(6, 64, 32)), shrinkage=0.01)
    exact, matrix = without_cancellation(made), divergences(made)
    apart = ~np.eye(6, dtype=bool)
    assert matrix[apart].max() < 1e-6
    assert np.allclose(matrix[apart], exact[apart], rtol=1e-8, atol=0)


def without_cancellation(made):
    """4R = −tr((Σa⁻¹ − Σb⁻¹)(Σa − Σb)) + ..., whose traces lose nothing between clients that are alike."""
    means, covariances = made.means, made.covariances
    inverses = np.linalg.inv(covariances)
    result = np.zeros((len(made), len(made)))
    for a, b in np.ndindex(result.shape):
        gap, step = covariances[a] - covariances[b], means[a] - means[b]
        traces = np.trace(inverses[a] @ gap @ inverses[b] @ gap)
        result[a, b] = (traces + step @ (inverses[a] + inverses[b]) @ step) / 4
    return result


@given(SEEDS)
@settings(max_examples=30)
def test_order_of_clients_is_irrelevant(seed):
    made, order = gaussians(some_answers(seed)), np.random.default_rng(seed).permutation(7)
    there = divergences(made)[np.ix_(order, order)]
    assert np.allclose(divergences(made[order]), there, rtol=1e-9, atol=1e-11)


@given(SEEDS, st.floats(-3, 3))
@settings(max_examples=50)
def test_a_joint_invertible_affine_map_changes_no_divergence_without_shrinkage(seed, magnitude):
    random = np.random.default_rng(seed)
    answers = some_answers(seed)
    turn = np.linalg.qr(random.normal(size=(5, 5)))[0] * random.uniform(0.2, 5, 5)
    mapped = 10**magnitude * (answers @ turn @ np.linalg.qr(random.normal(size=(5, 5)))[0] + random.normal(size=5))
    there, here = divergences(gaussians(mapped, 0.0)), divergences(gaussians(answers, 0.0))
    assert np.allclose(there, here, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-14, "ledoit-wolf", 0.01])
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6])
def test_near_singular_covariances_neither_overflow_nor_make_nan(shrinkage, size):
    random = np.random.default_rng(3)
    answers = random.normal(size=(8, 8, 32))  # fewer probes than dimensions
    answers[0] = 0.0
    answers[1] = answers[1, :1]
    answers[2] = answers[2, :, :1] * random.normal(size=32)
    answers[3] *= 1e-150
    answers[4] = answers[5]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        matrix = divergences(gaussians(size * answers, shrinkage))
    assert_is_a_divergence(matrix)


def test_one_client_of_huge_or_no_variance_does_not_blur_the_others():
    answers = some_answers(4, clients=9)
    before = divergences(gaussians(answers))
    strange = np.stack([1e6 * answers[0] / np.abs(answers[0]).max(), 0 * answers[0]])
    after = divergences(gaussians(np.concatenate([answers, strange])))
    assert np.allclose(after[:9, :9], before, rtol=1e-8, atol=1e-11)
    assert after[:9, 9:].min() > before.max()


def test_landmarks_are_columns_of_the_whole_matrix():
    made, landmarks = gaussians(some_answers(5, clients=600)), np.array([599, 3, 0, 512])
    columns = to_landmarks(made, landmarks)
    assert np.allclose(columns, divergences(made)[:, landmarks], rtol=1e-8, atol=1e-11)
    assert (columns[landmarks, np.arange(4)] == 0).all()


def test_late_clients_diverge_from_others_as_if_all_were_there_at_once():
    made = gaussians(some_answers(6, clients=9))
    assert np.allclose(between(made[6:], made[:6]), divergences(made)[6:, :6], rtol=1e-8, atol=1e-11)


def test_a_single_client_may_be_asked_about_another():
    made = gaussians(some_answers(7, clients=2))
    assert np.allclose(between(made[1:], made[:1]), divergences(made)[1, 0], rtol=1e-8)


def test_scaled_divergences_have_median_one_between_different_clients():
    matrix = divergences(gaussians(some_answers(8, clients=12)))
    off = scaled(matrix)[~np.eye(12, dtype=bool)]
    assert np.isclose(np.median(off), 1)
    assert np.allclose(scaled(matrix) * scale(matrix), matrix)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(np.zeros((0, 0)), 1.0), (np.zeros((1, 1)), 1.0), (np.zeros((4, 4)), 1.0), (np.diag([0, 0, 0]) * 1.0, 1.0)],
)
def test_scale_of_no_structure_is_one(matrix, expected):
    assert scale(matrix) == expected


@given(SEEDS, st.integers(501, 520), st.sampled_from([1, 3, 1000]))
@settings(max_examples=15)
def test_scale_is_the_exact_median_of_fleets_of_any_size(seed, clients, kinds):
    random = np.random.default_rng(seed)
    lower = np.tril(random.integers(kinds, size=(clients, clients)) + random.choice([0.5, random.random()]), -1)
    matrix = lower + lower.T
    assert scale(matrix) == np.median(matrix[np.tril_indices(clients, -1)])


@pytest.mark.parametrize("clients", [40, 41, 42])
def test_scale_is_exact_where_the_clients_drawn_mislead(monkeypatch, clients):
    monkeypatch.setattr(divergence, "SAMPLE", 3)
    matrix = divergences(gaussians(some_answers(9, clients)))
    assert scale(matrix) == np.median(matrix[np.tril_indices(clients, -1)])


def test_scale_of_mostly_equal_clients_is_the_mean():
    matrix = np.zeros((5, 5))
    matrix[4, :4] = matrix[:4, 4] = 10.0
    assert scale(matrix) == 4.0
    assert divergences(gaussians(np.empty((0, 8, 3)))).shape == (0, 0)
