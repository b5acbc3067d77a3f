"""The edge's end of all tensors of one client's steps: the counterpart of `elsa.train.client_end`.

It outlives the client's sessions in a run, as what both ends have learned does. One thread at a time: the compute
thread of its trunk.
"""

import secrets
from collections.abc import Collection

import torch

from elsa.errors import MalformedError
from elsa.spec import Split
from elsa.train.parcel import Parcel, TurnOf, check_finite
from elsa.train.reuse import EdgeRows, Form
from elsa.train.session import Position
from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import Codecs
from elsa.wire.exchange import Encoded, Receiver, Sender, feeds_back


class EdgeEnd:
    """Everything that one client's tensors go through at the edge in one run.

    Args:
        codecs: as agreed, without calibration.
        width: size of a hidden state.
        rows: what is kept of the client's rows; None without reuse.

    Attributes:
        kept_name: names what is kept: rows kept under another name are gone.
        takes_rows: whether it is of use to know which rows come: to keep them, or to feed errors back.
    """

    def __init__(self, codecs: Codecs, width: int, *, rows: EdgeRows | None = None) -> None:
        self.h1, self.dh2 = Receiver(codecs.h1, "h1"), Receiver(codecs.dh2, "dh2")
        self.change = Receiver(codecs.change, "change")
        self._h2 = Sender(codecs.h2, "h2", Moments(width))
        self._dh1 = Sender(codecs.dh1, "dh1", Moments(width, centred=False), feedback=True)
        self.rows = rows
        self.takes_rows = rows is not None or feeds_back(codecs.dh1)
        self.kept_name = secrets.token_hex(8)
        self._latest: EdgeStream | None = None

    @property
    def calibrations(self) -> tuple[bytes, ...]:
        """Names of what is held of the client's, to be told when a stream opens."""
        return (*self.h1.names, *self.change.names, *self.dh2.names)

    def stream(self, split: Split, known: Collection[bytes], turn: TurnOf | None = None) -> "EdgeStream":
        """This end in one session, whose client holds the calibrations `known`.

        Args:
            turn: the secret turn of a step, where the edge is told it.
        """
        return EdgeStream(self, self._h2, self._dh1, split, set(known), turn)

    def begin(self, split: Split, known: Collection[bytes], turn: TurnOf | None = None) -> "EdgeStream":
        """As `stream`, for the session of the client that is to keep rows from now on."""
        self._latest = self.stream(split, known, turn)
        return self._latest

    def ended(self, stream: "EdgeStream") -> None:
        """The client of the session of `stream` is gone: clear, unless it has begun another since."""
        if self._latest is stream:
            self.clear()

    def clear(self) -> None:
        """Keep nothing of the rows that came so far; those that come are told by a new name."""
        self.kept_name = secrets.token_hex(8)
        if self.rows is not None:
            self.rows.clear()

    def close(self) -> None:
        """Keep nothing of the client's rows any more: it has left, though a session of it may still go on."""
        self.clear()
        if self.rows is not None:
            self.rows.close()


class EdgeStream:
    """An `EdgeEnd` in one session, or on one stream that predicts."""

    def __init__(
        self, end: EdgeEnd, h2: Sender, dh1: Sender, split: Split, known: set[bytes], turn: TurnOf | None
    ) -> None:
        self._end = end
        self._h2, self._dh1 = h2, dh1
        self._split = split
        self._known = known
        self._turn = turn
        self._codecs: dict[Position, Codec] = {}
        self._named: dict[Position, tuple[tuple[int, int], ...]] = {}
        self._answering: tuple[tuple[int, int], ...] = ()  # rows of the latest backward

    def forward(self, position: Position, parcel: Parcel) -> tuple[torch.Tensor, bool]:
        """h1 (tokens, width) of all rows, and whether those that were sent are kept. Raises MalformedError."""
        end, field = self._end, "forward.activations"
        kept = False
        if end.rows is not None and parcel.rows:
            end.rows.check(parcel.rows)
            whole = end.h1.open(parcel.whole, field) if parcel.whole else None
            changes = end.change.receive(parcel.changes, "forward.changes") if parcel.changes else None
            values, kept = end.rows.join(parcel.rows, whole, changes)
        elif parcel.whole is not None and all(row.form is Form.WHOLE for row in parcel.rows):
            values = end.h1.receive(parcel.whole, field)
        else:
            raise MalformedError("forward.rows: the run has no reuse; send every row whole")
        self._named[position] = tuple((row.number, row.tokens) for row in parcel.rows)
        return (self._turn(position.step).reveal(values) if self._turn else values), kept

    def reopen(self, known: Collection[bytes]) -> None:
        """The client goes on on another stream, where it holds the calibrations `known`."""
        self._known = set(known)

    def forward_result(self, position: Position, values: torch.Tensor, *, final: bool = False) -> Encoded:
        """What to send for h2 (tokens, width); `final` if no backward follows.

        Raises NotFiniteError naming the block.
        """
        check_finite(values, f"h2, what block {self._split.trunk_blocks.stop - 1} gives,")
        values = self._turn(position.step).hide(values) if self._turn else values
        encoded, codec = self._h2.send(values, self._known)
        self._known.add(encoded.calibration)
        if final:
            self._named.pop(position, None)
        else:
            self._codecs[position] = codec
        return encoded

    def backward(self, position: Position, encoded: Encoded) -> torch.Tensor:
        """dL/dh2 (tokens, width) by what the trunk gave. Raises MalformedError."""
        values = self._end.dh2.receive(encoded, "backward.gradient")
        values = self._codecs.pop(position).pullback(values)
        self._answering = self._named.pop(position, ())
        return self._turn(position.step).reveal(values) if self._turn else values

    def backward_result(self, position: Position, gradient: torch.Tensor) -> Encoded:
        """What to send for dL/dh1 (tokens, width). Raises NotFiniteError naming the block."""
        check_finite(gradient, f"dL/dh1, the gradient of what block {self._split.bottom - 1} gives,")
        values = self._turn(position.step).hide(gradient) if self._turn else gradient
        encoded, _ = self._dh1.send(values, self._known, self._answering)
        self._known.add(encoded.calibration)
        return encoded
