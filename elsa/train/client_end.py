"""The client's end of all tensors of its steps: turned, encoded and remembered on the way out, undone on the way in.

It outlives sessions: what codecs have learned and which rows the edge keeps stay true from one to the next.
`services.client` carries what it makes over a stream; `elsa.train.exchanged` does so within a process.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from elsa.spec import Split
from elsa.train.parcel import Parcel, TurnOf, check_finite
from elsa.train.reuse import ClientRows, Form, Row
from elsa.train.session import Position
from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import Codecs
from elsa.wire.exchange import Encoded, Receiver, Sender, feeds_back


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A micro-batch between its forward and its backward, and the codecs that its rows went under."""

    lengths: Sequence[int]
    numbers: Sequence[int]
    rows: Sequence[Row]
    whole: Codec | None
    change: Codec | None
    arrived: dict[int, torch.Tensor]


class ClientEnd:
    """Everything that one client's tensors go through in one run.

    Args:
        codecs: as agreed, without calibration.
        width: size of a hidden state.
        split: the client's, to name blocks in errors.
        rows: the rows that the edge keeps; None without reuse.
        probes: moments of the public probes at the lower cut, never turned: what is known may not travel so.
        at_once: calibrate h1 before its first message, from the probes alone.
    """

    def __init__(
        self,
        codecs: Codecs,
        width: int,
        split: Split,
        *,
        rows: ClientRows | None = None,
        probes: Moments | None = None,
        at_once: bool = False,
    ) -> None:
        self._h1 = Sender(codecs.h1, "h1", probes or Moments(width), at_once=at_once)
        self._change = Sender(codecs.change, "change", Moments(width, centred=False))
        self._dh2 = Sender(codecs.dh2, "dh2", Moments(width, centred=False), feedback=True)
        self._names_rows = feeds_back(codecs.dh1)
        self.h2, self.dh1 = Receiver(codecs.h2, "h2"), Receiver(codecs.dh1, "dh1")
        self._turn: TurnOf | None = None
        self._split = split
        self._known: set[bytes] = set()
        self._sent: dict[Position, _Sent] = {}
        self._unconfirmed: set[int] = set()  # rows sent of which the edge has not said that it took them
        self._kept_name = ""
        self.rows = rows

    @property
    def calibrations(self) -> tuple[bytes, ...]:
        """Names of what we hold, to be told when a stream opens."""
        return (*self.h2.names, *self.dh1.names)

    def opened(self, calibrations: Collection[bytes], kept_name: str | None = None) -> None:
        """A stream was opened: what the edge holds of ours; the name of what it keeps, if the stream may use it."""
        self._known = set(calibrations)
        if kept_name is None:
            return
        if self.rows is not None and kept_name != self._kept_name:
            self.rows.forget()
        self._kept_name = kept_name

    def missing(self, numbers: Sequence[int]) -> list[bool]:
        """Of each row, whether `forward` needs its activations."""
        return [self.rows is None or self.rows.is_missing(number) for number in numbers]

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], numbers: Sequence[int]
    ) -> Parcel:
        """What to send for activations (tokens, width) of the rows that are missing.

        Raises NotFiniteError naming the block that they come from.
        """
        if self.rows is None or not numbers:
            return self.forward_whole(position, activations, lengths, numbers)
        parcel, self._sent[position] = self._planned(self.rows, self._turned(position, activations), lengths, numbers)
        self._unconfirmed.update(row.number for row in parcel.rows if row.form is not Form.KEPT)
        return parcel

    def forward_whole(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], numbers: Sequence[int] = ()
    ) -> Parcel:
        """As `forward`, for all rows; the edge keeps none, but is told their numbers if it is to feed errors back."""
        encoded, codec = self._send(self._h1, self._turned(position, activations))
        self._sent[position] = _Sent(lengths=lengths, numbers=numbers, rows=(), whole=codec, change=None, arrived={})
        named = zip(numbers, lengths, strict=True) if self._names_rows and numbers else ()
        rows = tuple(Row(number=number, tokens=tokens, form=Form.WHOLE) for number, tokens in named)
        return Parcel(lengths=lengths, rows=rows, whole=encoded)

    def forward_result(
        self, position: Position, encoded: Encoded, *, kept: bool = False, final: bool = False
    ) -> torch.Tensor:
        """h2 (tokens, width). Raises MalformedError.

        Args:
            kept: the edge keeps the rows that were sent.
            final: no backward follows.
        """
        sent = self._sent.pop(position) if final else self._sent[position]
        for row in sent.rows:
            if row.form is not Form.KEPT and self.rows is not None:
                self.rows.confirmed(row, sent.arrived.get(row.number), kept)
                self._unconfirmed.discard(row.number)
        values = self.h2.receive(encoded, "forward_result.activations")
        return self._turn(position.step).reveal(values) if self._turn else values

    def backward(self, position: Position, gradient: torch.Tensor) -> Encoded:
        """What to send for dL/dh2 (tokens, width). Raises NotFiniteError."""
        check_finite(gradient, f"dL/dh2, the gradient of what block {self._split.trunk_blocks.stop - 1} gives,")
        values = self._turn(position.step).hide(gradient) if self._turn else gradient
        sent = self._sent[position]
        named = tuple(zip(sent.numbers, sent.lengths, strict=True)) if sent.numbers else ()
        encoded, _ = self._dh2.send(values, self._known, named)
        self._known.add(encoded.calibration)
        return encoded

    def backward_result(self, position: Position, encoded: Encoded | None) -> torch.Tensor | None:
        """dL/dh1 (tokens, width) by what `forward` was given; None if none came. Raises MalformedError."""
        sent = self._sent.pop(position)
        if encoded is None:
            return None
        values = _pulled_back(self.dh1.receive(encoded, "backward_result.gradient"), sent)
        return self._turn(position.step).reveal(values) if self._turn else values

    def begin(self, turn: TurnOf | None = None) -> None:
        """A session begins: nothing comes any more of what was sent before, of which the edge may have taken rows.

        Args:
            turn: the secret turn of a step; None without SS-OP.
        """
        self._turn = turn
        self._sent.clear()
        if self.rows is not None:
            self.rows.drop(self._unconfirmed)
        self._unconfirmed.clear()

    def _turned(self, position: Position, activations: torch.Tensor) -> torch.Tensor:
        check_finite(activations, f"h1, what block {self._split.bottom - 1} gives,")
        return self._turn(position.step).hide(activations) if self._turn else activations

    def _planned(
        self, known: ClientRows, values: torch.Tensor, lengths: Sequence[int], numbers: Sequence[int]
    ) -> tuple[Parcel, _Sent]:
        rows = known.plan(numbers, lengths, values)
        missing = [row for row in rows if known.is_missing(row.number)]
        cut = torch.split(values, [row.tokens for row in missing])
        pieces = dict(zip((row.number for row in missing), cut, strict=True))
        arrived: dict[int, torch.Tensor] = {}
        encoded: dict[Form, Encoded] = {}
        codecs: dict[Form, Codec] = {}
        for form, sender in ((Form.WHOLE, self._h1), (Form.CHANGE, self._change)):
            chosen = [row for row in rows if row.form is form]
            if not chosen:
                continue
            joined = torch.cat([pieces[row.number] for row in chosen])
            if form is Form.CHANGE:
                joined = known.changes(chosen, joined)
            encoded[form], codecs[form] = self._send(sender, joined)
            if not known.frozen:
                own = encoded[form].parts[-len(codecs[form].layout(1)) :]
                there = torch.split(codecs[form].decode(own), [row.tokens for row in chosen])
                arrived |= dict(zip((row.number for row in chosen), there, strict=True))
        whole, changes = encoded.get(Form.WHOLE), encoded.get(Form.CHANGE)
        sent = _Sent(
            lengths=lengths,
            numbers=numbers,
            rows=rows,
            whole=codecs.get(Form.WHOLE),
            change=codecs.get(Form.CHANGE),
            arrived=arrived,
        )
        return Parcel(lengths=lengths, rows=rows, whole=whole, changes=changes), sent

    def _send(self, sender: Sender, values: torch.Tensor) -> tuple[Encoded, Codec]:
        encoded, codec = sender.send(values, self._known)
        self._known.add(encoded.calibration)
        return encoded, codec


def _pulled_back(gradient: torch.Tensor, sent: _Sent) -> torch.Tensor:
    """The gradient by the values that were sent; straight through for rows of which nothing was."""
    if not sent.rows:
        return sent.whole.pullback(gradient) if sent.whole else gradient
    codecs = {Form.WHOLE: sent.whole, Form.CHANGE: sent.change, Form.KEPT: None}
    pieces = torch.split(gradient, [row.tokens for row in sent.rows])
    pulled = []
    for row, piece in zip(sent.rows, pieces, strict=True):
        codec = codecs[row.form]
        pulled.append(codec.pullback(piece) if codec else piece)
    return torch.cat(pulled)
