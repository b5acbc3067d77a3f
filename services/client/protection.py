"""What a client does about privacy in one run, as its specification says: noise, an opponent, secret turns."""

import secrets
from collections.abc import Sequence

import torch

from elsa.model.segment import Segment
from elsa.privacy.adversary import adversary_of
from elsa.privacy.gaussians import KEY_BYTES, Gaussians
from elsa.privacy.keys import Key
from elsa.privacy.noise import Noise
from elsa.privacy.ssop import public_basis
from elsa.privacy.turns import Turns
from elsa.protection import SsopSpec
from elsa.spec import RunSpec

SECRET_BYTES = 32


class Protection:
    """A client's protection in one run.

    Args:
        probes: (tokens, width) states of the public probes at the lower cut, for what is asked for.
        shared: the run's key and basis, where the clients share them.
        special: numbers of tokens that are known by their place, which no opponent need look for.
    """

    def __init__(
        self,
        spec: RunSpec,
        segment: Segment,
        probes: torch.Tensor,
        shared: tuple[Key, torch.Tensor] | None,
        special: Sequence[int] = (),
    ) -> None:
        privacy = spec.privacy
        self._ssop = privacy.ssop
        self._cut = spec.split.bottom
        self._last: Turns | None = None
        self._made = shared
        if self._ssop is not None and shared is None:
            self._made = (Key(secrets.token_bytes(SECRET_BYTES)), public_basis(probes, self._ssop.rank))
        self.blur: Noise | None = None
        if privacy.noise is not None:
            self.blur = Noise(privacy.noise, probes, Gaussians(secrets.token_bytes(KEY_BYTES)))
        self.opponent = adversary_of(spec, segment, special)

    @property
    def keyed(self) -> bool:
        """Whether the edge is told the turns."""
        return self._ssop is not None and self._ssop.edge == "keyed"

    def new_turns(self) -> Turns | None:
        """The turns of a session that begins now; None without SS-OP."""
        if self._ssop is None or self._made is None:
            return None
        if self._last is None or self._ssop.renew != "run":
            self._last = self._turns(self._ssop, *self._made)
        return self._last

    def turns(self) -> Turns | None:
        """The turns of the latest session, for what is predicted after it."""
        return self._last or self.new_turns()

    def _turns(self, ssop: SsopSpec, key: Key, basis: torch.Tensor) -> Turns:
        fresh = key if ssop.renew == "run" else Key(secrets.token_bytes(SECRET_BYTES))
        return Turns(fresh, basis, self._cut, renew_each_step=ssop.renew == "step")
