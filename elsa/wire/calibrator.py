"""When a codec is calibrated, and when again: the sender's judgement, from what passes.

A calibration costs bytes, so it comes once sending without it has cost as much, or as soon as enough has passed where
the codec is no smaller than its plain form and was chosen for something else; it is replaced where one made from what
passed since is clearly better. Looks become rare: each comes several times as late as the one before, or as soon
as the error has grown.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.tensor import Layout, raw_bytes

WARM_WIDTHS = 2
"""Tokens before the first calibration, in widths: fewer say too little of the directions."""
LONGEST_WIDTHS = 4
"""Most tokens that a later calibration is made from, in widths: collecting costs a codec's own time again."""
GROWTH = 4
"""Each look at whether a new calibration pays comes this many times as late as the one before."""
WORTH = 0.8
"""A new calibration is taken if it leaves less than this share of the error of the one in force."""
FALLEN = 1.5
"""A look comes early once the error has grown by this factor since the calibration was made."""
LOOK_EVERY = 8
"""Messages between two measurements of the error."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Tensors in half precision, their name on the wire, and the codec under them."""

    name: bytes
    tensors: Sequence[torch.Tensor] = field(repr=False)
    codec: Codec


class Calibrator:
    """Decides on the calibration of one tensor's codec.

    Args:
        codec: as agreed, one that takes a calibration.
        tensor: name of the tensor that it encodes, as in `CodecSet`.
        moments: of the public probes at this cut where there are some, else empty; what passes is added.
        at_once: calibrate before the first message, from `moments` alone, and never again: for a codec that is to
            hide something, of which a calibration made from what passes would tell.
    """

    def __init__(self, codec: Codec, tensor: str, moments: Moments, *, at_once: bool) -> None:
        self._codec = codec
        self._tensor = tensor
        self._width, self._centred = moments.width, moments.centred
        self._cost = size(codec.calibration_layout())
        self._at_once = at_once
        self._overspent = 0
        self._tokens = 0
        self._messages = 0
        self._due = WARM_WIDTHS * moments.width
        self._window: Moments | None = None if at_once else moments
        self._error = 0.0
        self.inforce: Calibration | None = self._made(moments) if at_once else None

    def pass_by(self, values: torch.Tensor) -> None:
        """Take note of (tokens, width) values that are about to be sent."""
        self._tokens += len(values)
        self._messages += 1
        if self._at_once:
            return
        if self.inforce is None:
            self._wait(values)
        elif self._tokens >= self._due:
            self._look(self.inforce, values)
        else:
            self._watch(self.inforce, values)

    def _wait(self, values: torch.Tensor) -> None:
        window = self._open_window()
        window.add(values)
        tokens = len(values)
        self._overspent += size(self._codec.plain().layout(tokens)) - size(self._codec.layout(tokens))
        pays = self._overspent >= self._cost or self._overspent <= 0
        if window.count >= self._due and pays:
            self._take(self._made(window), values)

    def _watch(self, inforce: Calibration, values: torch.Tensor) -> None:
        longest = LONGEST_WIDTHS * self._width
        if self._messages % LOOK_EVERY == 0 and error(inforce.codec, values) > FALLEN * self._error > 0:
            self._due = min(self._due, self._tokens + longest // 2)
        if self._tokens >= self._due - min(self._due // 2, longest):
            self._open_window().add(values)

    def _look(self, inforce: Calibration, values: torch.Tensor) -> None:
        """Take a calibration of the recent past if it is clearly better on `values`, which it has not seen."""
        lost = error(inforce.codec, values)
        if self._window is not None and self._window.count >= WARM_WIDTHS * self._width:
            fresh = self._made(self._window)
            if error(fresh.codec, values) < WORTH * lost:
                self._take(fresh, values)
                return
        self._window = None
        self._due = GROWTH * self._tokens
        self._error = max(self._error, lost)  # an error that no calibration mends is no reason to look again

    def _take(self, calibration: Calibration, values: torch.Tensor) -> None:
        self.inforce, self._window = calibration, None
        self._error = error(calibration.codec, values)
        self._due = GROWTH * self._tokens

    def _made(self, moments: Moments) -> Calibration:
        tensors = self._codec.fit(moments)
        name = name_of(self._tensor, tensors)
        return Calibration(name=name, tensors=tensors, codec=self._codec.calibrated(tensors))

    def _open_window(self) -> Moments:
        if self._window is None:
            self._window = Moments(self._width, centred=self._centred)
        return self._window


def name_of(tensor: str, tensors: Sequence[torch.Tensor]) -> bytes:
    """The first 8 bytes of the SHA-256 of the name of what is encoded, a zero byte, and the calibration's tensors.

    A peer holds calibrations of several tensors and is asked for them by name alone: equal ones must not share it.
    """
    digest = hashlib.sha256(tensor.encode("ascii") + b"\0")
    for values in tensors:
        digest.update(raw_bytes(values))
    return digest.digest()[:8]


def size(layouts: Sequence[Layout]) -> int:
    """Bytes of tensors of these layouts."""
    return sum(layout.payload_bytes for layout in layouts)


def error(codec: Codec, values: torch.Tensor) -> float:
    """Share of the energy of `values` that a codec loses."""
    lost = (codec.decode(codec.encode(values)) - values).square().sum()
    return float(lost / values.square().sum().clamp_min(1e-30))
