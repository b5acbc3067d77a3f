"""An edge's blocks as a `Trunk`: the split step over `SplitService`.

A Train stream that breaks is taken up again with its resume token: what has no answer yet is sent again, and the
edge answers from memory what it had done.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from elsa.errors import DrainingError, ElsaError, MalformedError, UnreachableError
from elsa.privacy.turns import Turns
from elsa.train.client_end import ClientEnd
from elsa.train.messages import encoded_to_proto, forward_to_proto
from elsa.train.phases import ByteCount, Stopwatch
from elsa.train.session import Position
from elsa.train.trunk import BackwardReply, ForwardReply, Reply
from elsa.v1 import split_pb2 as pb
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.client.requests import Sent, add_turns, result_of, taken
from services.client.stream import STREAM_TIMEOUT_S, Stream
from services.rpc.waiting import Telling

log = logging.getLogger(__name__)

RESUME_PAUSE_S = 0.5


class TrainTrunk:
    """A Train session at an edge; use `open` first and `finish` last.

    Args:
        opening: the session to open, without resume token and calibrations.
        end: the client's end of its tensors in this run.
        turns: the secret turns of the session; None without SS-OP.
        keyed: whether the edge is told them.
        watch: where network seconds are added.
        patience_s: how long to go on trying to take a broken stream up again.
        timeout_s: longest time that a stream may last.
    """

    def __init__(
        self,
        stub: SplitServiceStub,
        opening: pb.TrainOpen,
        peer: str,
        *,
        end: ClientEnd,
        turns: Turns | None = None,
        keyed: bool = False,
        watch: Stopwatch,
        stop: threading.Event,
        patience_s: float,
        timeout_s: float = STREAM_TIMEOUT_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stub = stub
        self._opening = opening
        self._peer = peer
        self._end = end
        self._told = turns if keyed else None
        self._watch = watch
        self._stop = stop
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._bytes_before = ByteCount()
        self._unanswered: deque[Sent] = deque()
        self._stream: Stream | None = None
        self.opened = pb.TrainOpened()
        end.begin(turns)

    def open(self) -> None:
        """Open the session. Raises what the edge answers."""
        self._stream = Stream(self._stub.Train, self._peer, self._timeout_s)
        self._opening.calibrations[:] = self._end.calibrations
        rest = add_turns(self._opening, self._told)
        self._stream.send(pb.TrainRequest(open=self._opening))
        for chunk in rest:
            self._stream.send(pb.TrainRequest(chunk=chunk))
        answer = self._stream.receive()
        if answer.WhichOneof("message") != "opened":
            raise MalformedError(f"{self._peer} answered open with {answer.WhichOneof('message')}")
        self.opened = answer.opened
        self._end.opened(self.opened.calibrations, self.opened.kept_rows or None)

    def missing(self, rows: Sequence[int]) -> list[bool]:
        """See `elsa.train.trunk.Trunk`."""
        return self._end.missing(rows)

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], rows: Sequence[int] = ()
    ) -> None:
        """See `elsa.train.trunk.Trunk`."""
        begin = self._clock()
        message, rest = forward_to_proto(position, self._end.forward(position, activations, lengths, rows))
        messages = [pb.TrainRequest(forward=message), *(pb.TrainRequest(chunk=chunk) for chunk in rest)]
        self._send(Sent(kind="forward", position=position, tokens=sum(lengths), messages=messages))
        self._watch.add("network", self._clock() - begin)

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> None:
        """See `elsa.train.trunk.Trunk`."""
        begin = self._clock()
        payload, rest = encoded_to_proto(self._end.backward(position, gradient))
        message = pb.Backward(step=position.step, micro_batch=position.micro_batch, gradient=payload, apply=apply)
        messages = [pb.TrainRequest(backward=message), *(pb.TrainRequest(chunk=chunk) for chunk in rest)]
        self._send(Sent(kind="backward", position=position, tokens=len(gradient), messages=messages))
        self._watch.add("network", self._clock() - begin)

    def receive(self) -> Reply:
        """See `elsa.train.trunk.Trunk`. Raises UnreachableError if the stream broke and stays so."""
        while True:
            try:
                return self._receive()
            except (UnreachableError, DrainingError) as error:
                self._resume(error)

    def finish(self, steps: int) -> pb.Finished:
        """End the session, which commits it, and give what the edge says of it.

        An answer that was lost is asked for again. Raises UnreachableError if the stream broke and stays so.
        """
        while True:
            try:
                return self._finish(steps)
            except (UnreachableError, DrainingError) as error:
                self._resume(error)

    def _finish(self, steps: int) -> pb.Finished:
        stream = self._open_stream()
        seconds, count = self._watch.seconds, self._bytes_before + stream.bytes
        message = pb.Finish(
            steps=steps,
            seconds=pb.PhaseSeconds(bottom=seconds.bottom, network=seconds.network, top=seconds.top),
            bytes=pb.ByteCount(up=count.up, down=count.down),
        )
        stream.send(pb.TrainRequest(finish=message))
        stream.close()
        answer = stream.receive()
        if answer.WhichOneof("message") != "finished":
            raise MalformedError(f"{self._peer} answered finish with {answer.WhichOneof('message')}")
        finished: pb.Finished = answer.finished
        return finished

    def abandon(self) -> None:
        """End the stream without committing."""
        if self._stream is not None:
            self._stream.cancel()

    def _open_stream(self) -> Stream:
        if self._stream is None:
            raise RuntimeError("open the session first")
        return self._stream

    def _send(self, sent: Sent) -> None:
        self._unanswered.append(sent)
        for message in sent.messages:
            self._open_stream().send(message)

    def _receive(self) -> Reply:
        stream, begin = self._open_stream(), self._clock()
        answer = stream.receive()
        sent = self._unanswered[0]
        result = result_of(answer, sent, self._peer)
        reply = self._reply(sent, result, stream)
        self._unanswered.popleft()
        spent = self._clock() - begin
        self._watch.add("network", max(spent - result.wait_s - result.trunk_s, 0.0))
        return reply

    def _reply(self, sent: Sent, result: Any, stream: Stream) -> Reply:
        """The reply in a result and the chunks that follow it; all of them are taken before it is undone."""
        end, position, chunks = self._end, sent.position, iter(stream)
        if sent.kind == "forward":
            activations = taken(result.activations, end.h2, sent.tokens, "forward_result.activations", chunks)
            values = end.forward_result(position, activations, kept=result.kept)
            return ForwardReply(position=position, activations=values)
        if not self._opening.wants_gradient:
            return BackwardReply(position=position, gradient=end.backward_result(position, None))
        gradient = taken(result.gradient, end.dh1, sent.tokens, "backward_result.gradient", chunks)
        return BackwardReply(position=position, gradient=end.backward_result(position, gradient))

    def _resume(self, error: ElsaError) -> None:
        """Take the session up on a new stream and send again what has no answer."""
        begin, telling = time.monotonic(), Telling()
        self._opening.resume_token = self.opened.resume_token
        while True:
            if not self._stop.is_set() and telling.is_due(str(error), time.monotonic()):
                log.warning("%s; takes the session up again, for up to %.0f s", error, self._patience_s)
            before = self._open_stream()
            before.cancel()
            self._bytes_before += before.bytes
            if self._stop.wait(RESUME_PAUSE_S) or time.monotonic() - begin > self._patience_s:
                raise UnreachableError(f"{self._peer} did not come back; gave up: {error}") from error
            try:
                self.open()
            except (UnreachableError, DrainingError) as again:
                error = again
                continue
            for sent in self._unanswered:
                for message in sent.messages:
                    self._open_stream().send(message)
            return
