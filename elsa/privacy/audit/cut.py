"""A run's protection of h1, as the client applies it and as an attacker can simulate it: noise, turn and codec.

`services.client` and `elsa.train` join the same parts for a run; here they stand alone, so that any states can be
sent through them, under the client's key or under keys of the attacker's own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elsa.privacy.gaussians import Gaussians
from elsa.privacy.keys import Key
from elsa.privacy.noise import Noise
from elsa.privacy.ssop import Turn, public_basis
from elsa.privacy.turns import Turns
from elsa.spec import RunSpec
from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """What a run does to h1, as far as it follows from its specification and public text.

    Args:
        spec: of the run.
        public: (tokens, width) states of the public probes at the cut, from the pretrained bottom.
        releases: how often a row is sent: an edge that keeps what it got averages the noise of so many.
        special: numbers of special tokens.
        begins: as it is before anything has passed: codecs that are calibrated on what passes have their plain form.
    """

    spec: RunSpec
    public: torch.Tensor
    releases: int = 1
    special: Sequence[int] = ()
    begins: bool = False

    @property
    def blind(self) -> bool:
        """Whether the edge decodes turned states that it has no key to."""
        return self.spec.privacy.ssop is not None and self.spec.privacy.ssop.edge == "blind"

    @property
    def begins_plain(self) -> bool:
        """Whether the first rows travel in the plain form of h1's codec, which hides less."""
        codec = codec_of(self.spec.codecs.h1, self.public.shape[1])
        return bool(codec.calibration_layout()) and not self.spec.privacy.public_calibration

    def basis(self) -> torch.Tensor | None:
        """V of SS-OP, (rank, width); None without it."""
        ssop = self.spec.privacy.ssop
        return None if ssop is None else public_basis(self.public, ssop.rank)

    def turns(self, key: int) -> Turns | None:
        """The turns of key number `key`, a number standing for 32 bytes that follow from it; None without SS-OP."""
        ssop = self.spec.privacy.ssop
        if ssop is None:
            return None
        secret = hashlib.sha256(f"audit/{self.spec.seed}/{key}".encode()).digest()
        basis, each_step = public_basis(self.public, ssop.rank), ssop.renew == "step"
        return Turns(Key(secret), basis, self.spec.split.bottom, renew_each_step=each_step)

    def noise(self, seed: int) -> Noise | None:
        """The run's noise; None without it."""
        wanted = self.spec.privacy.noise
        if wanted is None:
            return None
        return Noise(wanted, self.public, Gaussians(hashlib.sha256(f"audit/noise/{seed}".encode()).digest()))

    def protect(self, states: torch.Tensor, key: int, seed: int = 0) -> torch.Tensor:
        """What the edge has of states (tokens, width) under key number `key`, turned back where it is told the key.

        Calibrated codecs are calibrated on public states, turned alike: a run's are on what passes, which is turned.
        Where there is noise it is the mean of `releases`.
        """
        turns = self.turns(key)
        turned = turns(0) if turns else None
        values = self._sent(states, turned, seed)
        return turned.reveal(values) if turned and not self.blind else values

    def coded(self, states: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """As `protect`, but nothing is turned."""
        return self._sent(states, None, seed)

    def _sent(self, states: torch.Tensor, turned: Turn | None, seed: int) -> torch.Tensor:
        noise, codec = self.noise(seed), self._codec(turned)
        times = self.releases if noise else 1
        total = torch.zeros_like(states)
        for _ in range(times):
            values = noise(states) if noise else states
            values = turned.hide(values) if turned else values
            total += codec.decode(codec.encode(values.contiguous()))
        return total / times

    def _codec(self, turned: Turn | None) -> Codec:
        """That of h1, calibrated if it is by then."""
        moments = Moments(self.public.shape[1])
        moments.add(turned.hide(self.public) if turned else self.public)
        codec = codec_of(self.spec.codecs.h1, moments.width)
        if self.begins and self.begins_plain:
            return codec.plain()
        return codec.calibrated(codec.fit(moments))
