"""Noise is what its specification says, and its epsilon what is known of the Gaussian mechanism."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from elsa.errors import MalformedError, SpecError
from elsa.privacy.gaussians import Gaussians
from elsa.privacy.noise import Noise, epsilon
from elsa.protection import NoiseSpec

WIDTH = 24


def noise(clip=2.0, multiplier=0.5, seed=0, mean=None):
    spec = NoiseSpec(clip=clip, multiplier=multiplier)
    centre = torch.zeros(WIDTH) if mean is None else mean
    return Noise(spec, public(centre), Gaussians(bytes([seed] * 32)))


def public(mean):
    """States of that mean, all at the distance 1 from it."""
    return torch.cat([mean + torch.eye(WIDTH), mean - torch.eye(WIDTH)])


def states(tokens=50, scale=1.0, seed=1):
    return scale * torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(clip=st.floats(0.01, 100), scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_no_state_is_farther_from_the_mean_than_clip_and_near_ones_stay(clip, scale, seed):
    mean = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    given_states = states(20, scale, seed)
    clipped = noise(clip, mean=mean).clipped(given_states)
    before, after = (given_states - mean).norm(dim=1), (clipped - mean).norm(dim=1)
    assert (after <= clip * (1 + 1e-4) + 1e-4).all()
    near = before < clip * 0.999
    torch.testing.assert_close(clipped[near], given_states[near], atol=1e-4, rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(clipped - mean, given_states - mean)
    assert (cosine > 0.999).all()


def test_the_clip_is_in_median_norms_of_public_states():
    far = 100 * states(5)
    near, wide = (
        Noise(NoiseSpec(clip=2.0, multiplier=0.5), each, Gaussians(bytes(32)))
        for each in (public(torch.zeros(WIDTH)), 3 * public(torch.zeros(WIDTH)))
    )
    torch.testing.assert_close(wide.clipped(far), 3 * near.clipped(far))


def test_what_is_added_has_the_deviation_of_the_specification_and_no_mean():
    blur = noise(clip=3.0, multiplier=0.7)
    given_states = states(4000, 0.1)
    added = blur(given_states) - given_states
    assert float(added.std()) == pytest.approx(2.1, rel=0.02)
    assert abs(float(added.mean())) < 0.03


def test_the_same_generator_gives_the_same_noise_and_never_twice():
    given_states = states()
    one = noise(seed=5)
    first = one(given_states)
    assert torch.equal(first, noise(seed=5)(given_states))
    assert not torch.equal(first, one(given_states))


def test_the_gradient_is_that_of_the_clip():
    leaf = states(6, 1.0).double().requires_grad_()
    blur = noise(clip=4.5)
    blur._mean = blur._mean.double()
    assert 0 < int((leaf.norm(dim=1) > 4.5).sum()) < 6
    assert torch.autograd.gradcheck(blur.clipped, (leaf,))
    given_states = states(6).requires_grad_()
    pulled = torch.autograd.grad(noise(clip=4.5)(given_states).sum(), given_states)[0]
    plain = torch.autograd.grad(noise(clip=4.5).clipped(given_states).sum(), given_states)[0]
    assert torch.equal(pulled, plain)


@pytest.mark.parametrize("multiplier", [0.5, 2.0, 20.0])
@pytest.mark.parametrize(("releases", "tokens"), [(1, 1), (5, 1), (3, 12)])
def test_epsilon_meets_delta_by_the_gaussian_mechanism_s_own_formula(multiplier, releases, tokens):
    # Balle and Wang (arXiv 1805.06530), theorem 8, with sensitivity 2·clip for each of `tokens` states
    spec = NoiseSpec(clip=1.7, multiplier=multiplier, delta=1e-5)
    found = epsilon(spec, releases, tokens)
    step = 2 * math.sqrt(releases * tokens) / multiplier
    first = norm.logcdf(step / 2 - found / step)
    second = found + norm.logcdf(-step / 2 - found / step)
    assert np.exp(first) - np.exp(second) == pytest.approx(1e-5, rel=1e-3)


def test_epsilon_grows_with_releases_and_tokens_and_falls_with_noise():
    quiet, loud = NoiseSpec(clip=1, multiplier=1), NoiseSpec(clip=9, multiplier=4)
    assert epsilon(loud, 1) < epsilon(quiet, 1) < epsilon(quiet, 5) < epsilon(quiet, 5, 10)
    assert epsilon(quiet, 4) == pytest.approx(epsilon(quiet, 1, 4))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SpecError, match="releases 0"):
        epsilon(NoiseSpec(clip=1, multiplier=1), 0)
    with pytest.raises(MalformedError, match="width 24"):
        noise()(torch.zeros(3, 8))
