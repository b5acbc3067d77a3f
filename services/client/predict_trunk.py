"""An edge's blocks as a `Trunk` that predicts: a Predict stream, opened anew by who uses it if it breaks."""

from collections import deque
from collections.abc import Sequence

import torch

from elsa.errors import MalformedError
from elsa.privacy.turns import Turns
from elsa.train.client_end import ClientEnd
from elsa.train.messages import forward_to_proto
from elsa.train.session import Position
from elsa.train.trunk import ForwardReply, Reply
from elsa.v1 import split_pb2 as pb
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.client.requests import Sent, add_turns, result_of, taken
from services.client.stream import STREAM_TIMEOUT_S, Stream


class PredictTrunk:
    """A Predict stream at an edge: forward only. Arguments as of `TrainTrunk`."""

    def __init__(
        self,
        stub: SplitServiceStub,
        opening: pb.PredictOpen,
        peer: str,
        *,
        end: ClientEnd,
        turns: Turns | None = None,
        keyed: bool = False,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> None:
        self._peer = peer
        self._end = end
        self._unanswered: deque[Sent] = deque()
        self._stream = Stream(stub.Predict, peer, timeout_s)
        end.begin(turns)
        opening.calibrations[:] = end.calibrations
        rest = add_turns(opening, turns if keyed else None)
        self._stream.send(pb.PredictRequest(open=opening))
        for chunk in rest:
            self._stream.send(pb.PredictRequest(chunk=chunk))
        answer = self._stream.receive()
        if answer.WhichOneof("message") != "opened":
            raise MalformedError(f"{peer} answered open with {answer.WhichOneof('message')}")
        end.opened(answer.opened.calibrations)

    def missing(self, rows: Sequence[int]) -> list[bool]:
        """See `elsa.train.trunk.Trunk`; nothing is kept of rows that are predicted."""
        return [True] * len(rows)

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], rows: Sequence[int] = ()
    ) -> None:
        """See `elsa.train.trunk.Trunk`."""
        message, rest = forward_to_proto(position, self._end.forward_whole(position, activations, lengths))
        self._stream.send(pb.PredictRequest(forward=message))
        for chunk in rest:
            self._stream.send(pb.PredictRequest(chunk=chunk))
        self._unanswered.append(Sent(kind="forward", position=position, tokens=len(activations), messages=[]))

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> None:
        """Not possible here."""
        raise RuntimeError("a Predict stream has no backward")

    def receive(self) -> Reply:
        """See `elsa.train.trunk.Trunk`."""
        answer = self._stream.receive()
        sent = self._unanswered.popleft()
        payload = result_of(answer, sent, self._peer).activations
        chunks = iter(self._stream)
        encoded = taken(payload, self._end.h2, sent.tokens, "forward_result.activations", chunks)
        return ForwardReply(
            position=sent.position, activations=self._end.forward_result(sent.position, encoded, final=True)
        )

    def close(self) -> None:
        """End the stream, whether all answers have come or not."""
        self._stream.cancel()
