"""Calibrated noise on h1: each token's state is clipped about the public mean, then blurred; and what that is worth.

The Gaussian mechanism on one token's state at a time, before turn and codec, which can take nothing from it again.
`epsilon` says what is guaranteed, and of what; docs/privacy.md says what is not.
"""

import math

import torch

from elsa.errors import MalformedError, SpecError
from elsa.privacy.gaussians import Gaussians
from elsa.protection import NoiseSpec


class Noise:
    """Clips and blurs states at the lower cut.

    Args:
        spec: clip, in median norms of centred public states, and noise in units of it.
        public: (tokens, width) states of public text at the cut.
        gaussians: where the noise comes from. Who has its key can take the noise off again.
    """

    def __init__(self, spec: NoiseSpec, public: torch.Tensor, gaussians: Gaussians) -> None:
        self._mean = public.detach().float().mean(0)
        self._clip = spec.clip * float((public.detach() - self._mean).norm(dim=1).median())
        self._deviation = spec.multiplier * self._clip
        self._gaussians = gaussians

    def clipped(self, states: torch.Tensor) -> torch.Tensor:
        """`states` (tokens, width), each drawn to within `clip` of the mean if it is farther; differentiable.

        The gradient is the exact one of what was sent: it passes whole where nothing was clipped; where a state was,
        it is scaled as the state was and loses its radial part, since along it the edge sees no change.
        Straight-through would push clipped states farther out, where they are clipped more.

        Raises:
            MalformedError: states of another width than the mean's.
        """
        if states.ndim != 2 or states.shape[1:] != self._mean.shape:
            raise MalformedError(f"states {tuple(states.shape)} for noise of width {len(self._mean)}; give its own")
        centred = states - self._mean
        length = centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
        kept: torch.Tensor = self._mean + centred * (self._clip / length).clamp(max=1.0)
        return kept

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """`states` (tokens, width) clipped, plus N(0, (multiplier·clip)²) in every value; gradient as `clipped`."""
        clipped = self.clipped(states)
        draw = torch.from_numpy(self._gaussians.draw(clipped.numel())).to(clipped.dtype)
        return clipped + draw.view(clipped.shape) * self._deviation


def epsilon(spec: NoiseSpec, releases: int, tokens: int = 1) -> float:
    """The ε of (ε, δ)-differential privacy of the h1 that were sent, at the δ of `spec`.

    The unit of privacy is a token's state: two inputs are neighbours if they differ in the states of `tokens` tokens
    of one row, by whatever the clip admits. A state moves by at most 2·clip, `tokens` of them by 2·clip·√tokens; for
    a whole row `tokens` is its length, since through attention every word touches every state. `releases` Gaussian
    releases compose into one whose noise is √releases smaller (Dong, Roth, Su, arXiv 1905.02383), accounted exactly
    by Google's dp-accounting.

    Not covered: dL/dh2, which the client sends too and which depends on text and label; the adapter tensors of the
    client's own blocks, which it pushes to be averaged; that tokens of a text are many and depend on each other.

    Args:
        releases: how often a row is sent: once an epoch and once an evaluation that it is in.
        tokens: how many states of the row are protected together.

    Raises:
        SpecError: releases or tokens below 1.
    """
    from dp_accounting import get_epsilon_gaussian  # here: 40 MiB that a client without noise has better use for

    if releases < 1 or tokens < 1:
        raise SpecError(f"releases {releases}, tokens {tokens}: both must be 1 or more")
    return float(get_epsilon_gaussian(spec.multiplier / (2 * math.sqrt(releases * tokens)), spec.delta))
