"""A trunk in this process behind everything that a network's has: codecs, turns, kept rows, and their messages.

What arrives is what an edge would decode, and the bytes are those of the messages that would travel, so that
accuracy, bytes and leaks can be measured without servers.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch

from elsa.spec import Split
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd
from elsa.train.messages import encoded_to_proto, feed_all, forward_to_proto, take_encoded, take_parcel
from elsa.train.parcel import TurnOf
from elsa.train.phases import ByteCount
from elsa.train.session import Position, TrunkSession
from elsa.train.trunk import BackwardReply, ForwardReply, Reply
from elsa.v1 import split_pb2 as pb
from elsa.wire.exchange import Encoded

Run = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Runs (tokens, width) activations of rows with so many tokens forward only."""


class ExchangedTrunk:
    """A `Trunk` of two ends.

    Args:
        run: a session to train on; or a function that runs activations forward only, for `predict`.
        turn: the client's secret turn of a step.
        keyed: whether the edge is told it.
    """

    def __init__(
        self,
        client: ClientEnd,
        edge: EdgeEnd,
        run: TrunkSession | Run,
        split: Split,
        *,
        turn: TurnOf | None = None,
        keyed: bool = False,
    ) -> None:
        self._client = client
        self._edge = edge
        self._run = run
        self._stream = edge.stream(split, client.calibrations, turn if keyed else None)
        client.begin(turn)
        client.opened(edge.calibrations, edge.kept_name)
        self._replies: deque[Callable[[], Reply]] = deque()
        self.bytes = ByteCount()
        self.h1_bytes = 0

    def missing(self, rows: Sequence[int]) -> list[bool]:
        """See `elsa.train.trunk.Trunk`."""
        return self._client.missing(rows)

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], rows: Sequence[int] = ()
    ) -> None:
        """See `elsa.train.trunk.Trunk`."""
        parcel = self._client.forward(position, activations, lengths, rows)
        message, chunks = forward_to_proto(position, parcel)
        requests = [pb.TrainRequest(forward=message), *(pb.TrainRequest(chunk=chunk) for chunk in chunks)]
        sent = sum(request.ByteSize() for request in requests)
        self.h1_bytes += sent
        self.bytes += ByteCount(up=sent)
        arrived = take_parcel(message, lengths, self._edge, feed_all(iter(chunks)))
        values, kept = self._stream.forward(position, arrived())
        trains = isinstance(self._run, TrunkSession)
        if isinstance(self._run, TrunkSession):
            result = self._run.forward(position, values, lengths)
        else:
            result = self._run(values, lengths)
        down = self._down(self._stream.forward_result(position, result, final=not trains), "forward_result")
        self._replies.append(
            lambda: ForwardReply(
                position=position,
                activations=self._client.forward_result(position, down, kept=kept, final=not trains),
            )
        )

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> None:
        """See `elsa.train.trunk.Trunk`."""
        if not isinstance(self._run, TrunkSession):
            raise RuntimeError("this trunk runs forward only")
        encoded = self._client.backward(position, gradient)
        payload, chunks = encoded_to_proto(encoded)
        message = pb.Backward(step=position.step, micro_batch=position.micro_batch, gradient=payload, apply=apply)
        requests = [pb.TrainRequest(backward=message), *(pb.TrainRequest(chunk=chunk) for chunk in chunks)]
        self.bytes += ByteCount(up=sum(request.ByteSize() for request in requests))
        arrived = take_encoded(payload, self._edge.dh2, len(gradient), "backward.gradient", feed_all(iter(chunks)))
        upper = self._stream.backward(position, arrived())
        lower = self._run.backward(position, upper, apply)
        down = None
        if lower is not None:
            down = self._down(self._stream.backward_result(position, lower), "backward_result")
        self._replies.append(
            lambda: BackwardReply(position=position, gradient=self._client.backward_result(position, down))
        )

    def receive(self) -> Reply:
        """See `elsa.train.trunk.Trunk`."""
        return self._replies.popleft()()

    def _down(self, encoded: Encoded, kind: str) -> Encoded:
        """An answer's tensor, counted; its messages are checked by the client's own code elsewhere."""
        payload, chunks = encoded_to_proto(encoded)
        if kind == "forward_result":
            first = pb.TrainResponse(forward_result=pb.ForwardResult(activations=payload, wait_s=1.0, trunk_s=1.0))
        else:
            first = pb.TrainResponse(backward_result=pb.BackwardResult(gradient=payload, wait_s=1.0, trunk_s=1.0))
        responses = [first, *(pb.TrainResponse(chunk=chunk) for chunk in chunks)]
        self.bytes += ByteCount(down=sum(response.ByteSize() for response in responses))
        return encoded
