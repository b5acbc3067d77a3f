"""What a client's two kinds of stream to its edge have in common: requests that wait, openings, answers' tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elsa.errors import MalformedError
from elsa.privacy.ssop import key_to_proto
from elsa.privacy.turns import Turns
from elsa.train.messages import take_encoded
from elsa.train.session import Position
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import Chunk, Payload
from elsa.wire.exchange import Encoded, Receiver
from elsa.wire.tensor import payload_to_proto
from services.rpc.payloads import feeding


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request that has no answer yet."""

    kind: str
    position: Position
    tokens: int
    messages: list[Any]


def add_turns(opening: pb.TrainOpen | pb.PredictOpen, turns: Turns | None) -> list[Chunk]:
    """Put the secret turns into an opening for an edge that is told them; the chunks that follow it."""
    if turns is None:
        return []
    opening.ssop.CopyFrom(key_to_proto(turns.key, renew_each_step=turns.renew_each_step))
    payload, rest = payload_to_proto([turns.basis])
    opening.ssop.basis.CopyFrom(payload)
    return rest


def taken(payload: Payload, receiver: Receiver, tokens: int, field: str, chunks: Iterator[Any]) -> Encoded:
    """A tensor that begins with `payload`, with the chunks that follow it. Raises MalformedError naming `field`."""
    return take_encoded(payload, receiver, tokens, field, feeding(chunks, field))()


def result_of(answer: Any, sent: Sent, peer: str) -> Any:
    """The result in an answer, if it is the one to the oldest request. Raises MalformedError."""
    kind = answer.WhichOneof("message")
    result = getattr(answer, kind or "opened")
    if kind != f"{sent.kind}_result" or (result.step, result.micro_batch) != (
        sent.position.step,
        sent.position.micro_batch,
    ):
        raise MalformedError(f"{peer} answered {sent.kind} of {sent.position} with {kind}")
    return result
