"""Micro-batches as messages of `split.proto`, and back: one place for both ends, over a network or in a process."""

from collections.abc import Callable, Iterator, Sequence

from elsa.errors import MalformedError
from elsa.train.edge_end import EdgeEnd
from elsa.train.parcel import Parcel
from elsa.train.reuse import Form, Row
from elsa.train.session import Position
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import Chunk, Payload
from elsa.wire.exchange import Encoded, Receiver
from elsa.wire.tensor import PayloadAssembler, payload_to_proto

FORMS = {
    Form.WHOLE: pb.ROW_FORM_WHOLE,
    Form.CHANGE: pb.ROW_FORM_CHANGE,
    Form.KEPT: pb.ROW_FORM_KEPT,
}
_FORMS = {value: form for form, value in FORMS.items()}
Chunks = Callable[[PayloadAssembler], None]
"""Feeds an assembler with the chunks that follow on a stream until it is done."""


def encoded_to_proto(encoded: Encoded) -> tuple[Payload, list[Chunk]]:
    """A tensor as its payload and the chunks that follow it."""
    return payload_to_proto(encoded.parts, encoded.calibration, encoded.attached)


def forward_to_proto(position: Position, parcel: Parcel) -> tuple[pb.Forward, list[Chunk]]:
    """A parcel as its message and the chunks that follow it: those of the activations, then of the changes."""
    message = pb.Forward(step=position.step, micro_batch=position.micro_batch, lengths=parcel.lengths)
    message.rows.extend(pb.KeptRow(row=row.number, form=FORMS[row.form]) for row in parcel.rows)
    chunks: list[Chunk] = []
    for field, encoded in ((message.activations, parcel.whole), (message.changes, parcel.changes)):
        if encoded is not None:
            payload, rest = encoded_to_proto(encoded)
            field.CopyFrom(payload)
            chunks += rest
    return message, chunks


def rows_from_proto(message: pb.Forward, lengths: Sequence[int]) -> tuple[Row, ...]:
    """The rows of a Forward; none where it keeps none. Raises MalformedError naming the field."""
    if message.rows and len(message.rows) != len(lengths):
        raise MalformedError(f"forward.rows: {len(message.rows)}, expected one for each of {len(lengths)} lengths")
    rows: list[Row] = []
    seen: set[int] = set()
    for index, (row, tokens) in enumerate(zip(message.rows, lengths, strict=False)):
        if row.form not in _FORMS:
            raise MalformedError(f"forward.rows[{index}].form: {row.form} is none; set WHOLE, CHANGE or KEPT")
        if row.row in seen:
            raise MalformedError(f"forward.rows[{index}]: row {row.row} stands twice in one micro-batch")
        seen.add(row.row)
        rows.append(Row(number=row.row, tokens=tokens, form=_FORMS[row.form]))
    return tuple(rows)


def tokens_of(rows: Sequence[Row], lengths: Sequence[int], form: Form) -> int:
    """Tokens of a Forward that travel in `form`."""
    if not rows:
        return sum(lengths) if form is Form.WHOLE else 0
    return sum(row.tokens for row in rows if row.form is form)


def take_encoded(
    payload: Payload, receiver: Receiver, tokens: int, field: str, feed: Chunks
) -> Callable[[], Encoded]:
    """Take a tensor of `tokens` tokens that begins with `payload` and goes on in the chunks that `feed` brings.

    What comes back makes tensors of its bytes, and is to be called on the thread that computes: a second thread
    that runs parallel kernels makes the waits of both a third longer (docs/log.md).

    Raises MalformedError naming `field` for another layout than the codec gives, and what `feed` raises.
    """
    layouts = receiver.layouts(tokens, payload.calibration, payload.attached, field)
    assembler = PayloadAssembler(payload, layouts, field)
    if not assembler.done:
        feed(assembler)
    return lambda: Encoded(parts=assembler.result(), calibration=payload.calibration, attached=payload.attached)


def take_parcel(message: pb.Forward, lengths: Sequence[int], end: EdgeEnd, feed: Chunks) -> Callable[[], Parcel]:
    """Take the activations of a Forward whose `lengths` were checked; what comes back is as of `take_encoded`.

    Raises MalformedError naming the field, and as `take_encoded`.
    """
    rows = rows_from_proto(message, lengths)
    if rows and not end.takes_rows:
        raise MalformedError("forward.rows: the run's specification has no reuse; send none")
    takes: dict[str, Callable[[], Encoded] | None] = {}
    for field, form, receiver in (("activations", Form.WHOLE, end.h1), ("changes", Form.CHANGE, end.change)):
        tokens = tokens_of(rows, lengths, form)
        if message.HasField(field) != bool(tokens):  # type: ignore[arg-type]
            raise MalformedError(f"forward.{field}: {'missing' if tokens else 'set'}, but {tokens} tokens travel so")
        payload = getattr(message, field)
        takes[field] = take_encoded(payload, receiver, tokens, f"forward.{field}", feed) if tokens else None

    def parcel() -> Parcel:
        whole, changes = (take and take() for take in takes.values())
        return Parcel(lengths=lengths, rows=rows, whole=whole, changes=changes)

    return parcel


def feed_all(chunks: Iterator[Chunk]) -> Chunks:
    """Feeds from an iterator of chunks."""

    def feed(assembler: PayloadAssembler) -> None:
        while not assembler.done:
            assembler.add(next(chunks))

    return feed
