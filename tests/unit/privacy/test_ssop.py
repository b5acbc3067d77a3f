"""Turns: orthogonal, uniform, from their arguments alone, undone exactly, and silent about their secret."""

import copy
import logging
import pickle
import traceback

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from elsa.errors import MalformedError, SpecError
from elsa.privacy.keys import Key
from elsa.privacy.ssop import haar, key_from_proto, key_to_proto, public_basis, turn
from elsa.v1.split_pb2 import SsopKey

SECRET = bytes(range(32))
WIDTH = 24


def public(tokens=200, width=WIDTH, seed=0):
    draw = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -1, width)
    return torch.randn(tokens, width, generator=draw) * scales + 3


def turn_of(rank=6, cut=1, epoch=0, secret=SECRET):
    return turn(Key(secret), public_basis(public(), rank), cut, epoch)


def matrix(made, width=WIDTH):
    """Q itself, which the code never makes."""
    return made.hide(torch.eye(width))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 40), st.integers(0, 2**40), st.integers(1, 30))
def test_haar_is_orthogonal_and_follows_from_its_arguments(secret, cut, epoch, rank):
    made = haar(secret, cut, epoch, rank)
    assert np.abs(made @ made.T - np.eye(rank)).max() < 1e-12
    assert np.array_equal(made, haar(secret, cut, epoch, rank))


def test_haar_is_the_one_that_other_machines_draw():
    """Pinned figures: any other program must draw these."""
    want = [[0.9984672508040202, 0.05534572315781379], [-0.05534572315781379, 0.9984672508040204]]
    np.testing.assert_allclose(haar(SECRET, 1, 0, 2), want, rtol=0, atol=1e-12)


def test_another_secret_cut_epoch_or_rank_draws_another_matrix():
    given = [(SECRET, 1, 0, 4), (SECRET[::-1], 1, 0, 4), (SECRET, 2, 0, 4), (SECRET, 1, 1, 4), (SECRET, 1, 0, 5)]
    made = [haar(*arguments)[:4, :4] for arguments in given]
    for index, one in enumerate(made):
        for other in made[:index]:
            assert np.abs(one - other).max() > 0.1


def test_haar_draws_are_uniform_over_the_orthogonal_matrices():
    drawn = np.stack([haar(SECRET, 1, epoch, 3) for epoch in range(4000)])
    # an entry of a uniform unit vector in three dimensions is uniform in [-1, 1]
    for row in range(3):
        for column in range(3):
            assert kstest(drawn[:, row, column], "uniform", args=(-1, 2)).pvalue > 1e-3
    traces = np.trace(drawn, axis1=1, axis2=2)
    assert abs(traces.mean()) < 0.06 and abs((traces**2).mean() - 1) < 0.08
    assert abs((np.linalg.det(drawn) > 0).mean() - 0.5) < 0.03
    turned = drawn @ haar(SECRET, 9, 0, 3)  # uniform stays uniform under any turn
    assert kstest(turned[:, 0, 0], "uniform", args=(-1, 2)).pvalue > 1e-3


def test_in_two_dimensions_the_angle_is_uniform():
    drawn = np.stack([haar(SECRET, 1, epoch, 2) for epoch in range(4000)])
    angle = np.arctan2(drawn[:, 1, 0], drawn[:, 0, 0])
    assert kstest(angle, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 1e-3


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, WIDTH), st.integers(1, 50))
def test_reveal_undoes_hide_and_lengths_stay(secret, rank, tokens):
    made = turn_of(rank, secret=secret)
    values = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(tokens))
    hidden = made.hide(values)
    torch.testing.assert_close(made.reveal(hidden), values, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.hide(made.reveal(values)), values, rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden.norm(dim=1), values.norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("width", [24, 384])
def test_q_is_orthogonal_to_a_millionth_in_single_precision(width):
    made = turn(Key(SECRET), public_basis(public(900, width), 16), 1)
    whole = matrix(made, width).double()
    assert (whole @ whole.T - torch.eye(width)).abs().max() < 1e-6
    assert made.hide(torch.eye(width)).dtype == torch.float32


def test_q_turns_the_subspace_by_r_and_leaves_the_rest():
    basis = public_basis(public(), 6)
    made = turn(Key(SECRET), basis, 1)
    want = torch.from_numpy(haar(SECRET, 1, 0, 6)).float()
    torch.testing.assert_close(basis @ matrix(made) @ basis.T, want, rtol=0, atol=1e-6)
    outside = torch.randn(9, WIDTH)
    outside -= outside @ basis.T @ basis
    torch.testing.assert_close(made.hide(outside), outside, rtol=0, atol=1e-5)


def test_the_gradient_of_hide_is_reveal_and_of_reveal_is_hide():
    made, gradient = turn_of(), torch.randn(5, WIDTH)
    for forth, back in ((made.hide, made.reveal), (made.reveal, made.hide)):
        values = torch.randn(5, WIDTH, requires_grad=True)
        forth(values).backward(gradient)
        torch.testing.assert_close(values.grad, back(gradient), rtol=0, atol=1e-5)


def test_the_basis_holds_the_top_directions_with_their_largest_entry_positive():
    values = public()
    basis = public_basis(values, 5)
    assert basis.dtype == torch.float32 and basis.shape == (5, WIDTH)
    centred = values - values.mean(0)
    got = ((centred @ basis.T) ** 2).sum()
    best = torch.linalg.svdvals(centred)[:5].square().sum()
    torch.testing.assert_close(got, best, rtol=1e-5, atol=0)
    assert (basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(public_basis(values.flip(0), 5), basis, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("tokens", "rank"), [(200, 0), (200, WIDTH + 1), (5, 5)])
def test_a_rank_that_the_public_tokens_do_not_give_is_refused(tokens, rank):
    with pytest.raises(
        SpecError, match=rf"privacy\.ssop\.rank: {rank}; it must be from 1 to {min(WIDTH, tokens - 1)}"
    ):
        public_basis(public(tokens), rank)


def test_public_activations_that_are_not_finite_are_refused():
    values = public()
    values[3, 2] = float("nan")
    with pytest.raises(MalformedError, match="activations: the public ones hold NaN"):
        public_basis(values, 2)
    with pytest.raises(MalformedError, match=r"activations: shape \(2, 3, 4\)"):
        public_basis(torch.zeros(2, 3, 4), 2)


@pytest.mark.parametrize(
    "basis",
    [
        torch.ones(2, WIDTH),
        torch.full((2, WIDTH), float("nan")),
        torch.eye(WIDTH)[:2] * 1.001,
        torch.eye(4, 3),
        torch.zeros(WIDTH),
    ],
)
def test_a_basis_that_is_not_orthonormal_is_refused(basis):
    with pytest.raises(MalformedError, match=r"ssop\.basis"):
        turn(Key(SECRET), basis, 1)


@pytest.mark.parametrize(("cut", "epoch"), [(-1, 0), (2**32, 0), (1, -1), (1, 2**64)])
def test_a_cut_or_epoch_out_of_bounds_is_refused(cut, epoch):
    with pytest.raises(MalformedError, match=f"cut {cut}, epoch {epoch}"):
        haar(SECRET, cut, epoch, 4)


def test_a_key_on_the_wire_comes_back():
    for renewed in (False, True):
        message = SsopKey.FromString(key_to_proto(Key(SECRET), renew_each_step=renewed).SerializeToString())
        assert key_from_proto(message) == (Key(SECRET), renewed)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused_and_not_shown(length):
    with pytest.raises(MalformedError, match=rf"ssop\.secret: {length} bytes; it must be 32") as caught:
        key_from_proto(SsopKey(secret=bytes([167] * length)))
    assert "\\xa7" not in "".join(traceback.format_exception(caught.value))


def shown(thing, caplog):
    """Whatever a person may come to read of a thing."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("elsa").debug("%s %r %s", thing, thing, [thing])
    error = MalformedError(f"{thing}")
    return " ".join([repr(thing), str(thing), f"{thing!r:>9}", repr({"key": thing}), caplog.text, repr(error)])


@pytest.mark.parametrize("make", [lambda: Key(SECRET), turn_of])
def test_nothing_that_is_printed_shows_a_key_or_a_turn(make, caplog):
    thing = make()
    text = shown(thing, caplog)
    for form in (SECRET.hex(), repr(SECRET)[2:-1], str(list(SECRET))[1:-1], "tensor("):
        assert form not in text


def test_a_key_is_not_copied_or_pickled():
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or pickled"):
            act(Key(SECRET))
    assert not hasattr(Key(SECRET), "__dict__")


def test_keys_are_equal_by_their_bytes_and_random_ones_differ():
    assert Key(SECRET) == Key(SECRET) and Key(SECRET) != Key(SECRET[::-1]) and Key(SECRET) != SECRET
    assert Key.random() != Key.random()
