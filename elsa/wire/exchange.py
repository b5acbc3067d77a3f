"""The two ends of one tensor's way over the wire: a sender that calibrates its codec on what passes, and a receiver.

A calibration is made by the sender, travels once, and is named from then on by the first bytes of its digest. Until
there is one the codec's plain form stands in. All of it is bookkeeping around `elsa.wire.codec`; the ends of all
tensors of a step are joined in `elsa.train.client_end` and `elsa.train.edge_end`.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from elsa.errors import MalformedError
from elsa.wire.calibrator import Calibrator, name_of
from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.feedback import Feedback
from elsa.wire.tensor import Layout

MOST_HELD = 4
"""Calibrations of one tensor that a receiver holds; the oldest is forgotten first."""
NAME_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What travels of one tensor: the calibration's tensors first if it is attached, then the codec's parts."""

    parts: Sequence[torch.Tensor]
    calibration: bytes = b""
    attached: bool = False


def feeds_back(codec: Codec) -> bool:
    """Whether a gradient's sender adds what the codec leaves out of a row to its next values.

    Not where a calibrated stage narrows too: what lies outside of that stage's span would never be sent, and would
    only pile up.
    """
    return codec.leaves_out and not codec.calibration_layout()


class Sender:
    """Encodes one tensor of a step, message after message, over all sessions of a run.

    Args:
        codec: as agreed, without calibration.
        tensor: its name in `CodecSet`, which the names of its calibrations follow from.
        moments: of the public probes at this cut, where the sender has them; else empty ones.
        at_once: calibrate before the first message, from `moments` alone, and never again.
        feedback: add what the codec leaves out of a row to its next values: for gradients.
    """

    def __init__(
        self, codec: Codec, tensor: str, moments: Moments, *, at_once: bool = False, feedback: bool = False
    ) -> None:
        self._plain = codec.plain()
        takes = bool(codec.calibration_layout())
        self._calibrator = Calibrator(codec, tensor, moments, at_once=at_once) if takes else None
        self._feedback = Feedback() if feedback and feeds_back(codec) else None

    def send(
        self, values: torch.Tensor, known: Collection[bytes], rows: Sequence[tuple[int, int]] = ()
    ) -> tuple[Encoded, Codec]:
        """`values` (tokens, width) encoded, and the codec whose `pullback` fits them.

        Args:
            known: names of the calibrations that the receiver holds.
            rows: number and tokens of each row in `values`; empty where they have no numbers.
        """
        if self._feedback is None or not rows:
            return self._send(values, known)
        values = self._feedback.added(values, rows)
        encoded, codec = self._send(values, known)
        own = encoded.parts[-len(codec.layout(1)) :]
        self._feedback.keep(values - codec.decode(own), rows)
        return encoded, codec

    def _send(self, values: torch.Tensor, known: Collection[bytes]) -> tuple[Encoded, Codec]:
        if self._calibrator is not None:
            self._calibrator.pass_by(values)
        calibration = self._calibrator.inforce if self._calibrator else None
        if calibration is None:
            return Encoded(parts=self._plain.encode(values)), self._plain
        parts, attached = calibration.codec.encode(values), calibration.name not in known
        if attached:
            parts = [*calibration.tensors, *parts]
        return Encoded(parts=parts, calibration=calibration.name, attached=attached), calibration.codec


class Receiver:
    """Decodes one tensor of a step; holds what was attached.

    Args:
        codec: as agreed, without calibration.
        tensor: as the sender's.
    """

    def __init__(self, codec: Codec, tensor: str) -> None:
        self._agreed = codec
        self._tensor = tensor
        self._plain = codec.plain()
        self._held: OrderedDict[bytes, Codec] = OrderedDict()

    @property
    def names(self) -> tuple[bytes, ...]:
        """Calibrations held, to be told when a stream opens."""
        return tuple(self._held)

    def layouts(self, tokens: int, calibration: bytes, attached: bool, field: str) -> list[Layout]:
        """What a message of `tokens` tokens must hold. Raises MalformedError naming `field`."""
        own = self._agreed.calibration_layout()
        if calibration and not own:
            raise MalformedError(f"{field}.calibration: {self._agreed.text} takes none; send none")
        if len(calibration) not in (0, NAME_BYTES) or (attached and not calibration):
            raise MalformedError(f"{field}.calibration: {len(calibration)} bytes; its name has {NAME_BYTES}")
        if not calibration:
            return self._plain.layout(tokens)
        return [*(own if attached else ()), *self._agreed.layout(tokens)]

    def open(self, encoded: Encoded, field: str) -> tuple[Codec, list[torch.Tensor]]:
        """The codec of a message and the codec's own parts; keeps a calibration that is attached.

        Raises MalformedError naming `field` for a calibration that is not what it is named, or that is not held.
        """
        if not encoded.calibration:
            return self._plain, list(encoded.parts)
        count = len(self._agreed.calibration_layout()) if encoded.attached else 0
        if count:
            self._keep(encoded.calibration, encoded.parts[:count], field)
        codec = self._held.get(encoded.calibration)
        if codec is None:
            raise MalformedError(f"{field}.calibration: {encoded.calibration.hex()} is not held here; attach it")
        return codec, list(encoded.parts[count:])

    def receive(self, encoded: Encoded, field: str) -> torch.Tensor:
        """The values (tokens, width) of a message. Raises as `open`."""
        codec, parts = self.open(encoded, field)
        return codec.decode(parts)

    def _keep(self, name: bytes, tensors: Sequence[torch.Tensor], field: str) -> None:
        if name_of(self._tensor, tensors) != name:
            raise MalformedError(
                f"{field}.calibration: {name.hex()} is not the digest of what is attached for {self._tensor}"
            )
        self._held[name] = self._agreed.calibrated(tensors)
        self._held.move_to_end(name)
        while len(self._held) > MOST_HELD:
            self._held.popitem(last=False)
