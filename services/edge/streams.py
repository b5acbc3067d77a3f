"""The Train stream of `SplitService`, after its opening: each message checked, computed and answered.

A stream is served by one thread, message after message; what a client has in flight waits in gRPC's own buffers,
and several streams meet in the queue of the compute thread.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from elsa.errors import MalformedError, StepOrderError
from elsa.spec import RunSpec
from elsa.train.messages import encoded_to_proto, take_encoded, take_parcel
from elsa.train.phases import ByteCount
from elsa.train.session import Position
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import Chunk, Payload
from elsa.wire.adapter import encode_adapter, sha256
from services.edge.answers import Answer
from services.edge.opening import (
    checked_lengths,
)
from services.edge.session import Committed, Session
from services.edge.sessions import Sessions
from services.edge.worker import Timed, Worker
from services.rpc.payloads import feeding

Result = TypeVar("Result")


class _Ended(Exception):  # noqa: N818 - no error: a stream that ends early looks like one that broke
    """The client sends no more."""


class TrainStream:
    """Serves the messages of one session after Open."""

    def __init__(
        self,
        session: Session,
        sessions: Sessions,
        spec: RunSpec,
        worker: Worker,
        cancel: Callable[[], object],
    ) -> None:
        self._session = session
        self._cancel = cancel  # names this stream: the session may have been taken up on another already
        self._sessions = sessions
        self._spec = spec
        self._worker = worker

    def serve(self, opening_bytes: int, requests: Iterator[pb.TrainRequest]) -> Iterator[pb.TrainResponse]:
        """Answer until Finish, or until the client stops, which commits nothing: it may come back and resume.

        Args:
            opening_bytes: of the messages that opened the stream.
        """
        opened = pb.TrainResponse(opened=self._opened())
        with self._sessions.streaming(self._session), suppress(_Ended):
            self._moved(ByteCount(up=opening_bytes, down=opened.ByteSize()))
            yield opened
            yield from self._answers(requests)

    def _answers(self, requests: Iterator[pb.TrainRequest]) -> Iterator[pb.TrainResponse]:
        counted = self._counting(requests)
        for request in counted:
            kind = request.WhichOneof("message")
            if kind == "finish":
                yield pb.TrainResponse(finished=self._finish(request.finish))
                return
            if kind == "forward":
                responses = self._forward(request.forward, counted)
            elif kind == "backward":
                responses = self._backward(request.backward, counted)
            else:
                raise MalformedError(f"TrainRequest.message: {kind or 'nothing'} came where it is not allowed")
            for response in responses:
                self._moved(ByteCount(down=response.ByteSize()))
                yield response

    def _opened(self) -> pb.TrainOpened:
        end = self._session.end
        names, kept = self._worker.run(lambda: (end.calibrations, end.kept_name)).value
        return pb.TrainOpened(
            session_id=self._session.session_id,
            resume_token=self._session.resume_token,
            step=self._session.trunk.step,
            idle_timeout_s=self._sessions.idle_timeout_s,
            calibrations=names,
            kept_rows=kept,
        )

    def _counting(self, requests: Iterator[pb.TrainRequest]) -> Iterator[pb.TrainRequest]:
        for request in requests:
            self._sessions.touch(self._session)
            if request.WhichOneof("message") != "finish":
                self._moved(ByteCount(up=request.ByteSize()))
            yield request
        raise _Ended

    def _moved(self, count: ByteCount) -> None:
        self._session.bytes += count
        self._sessions.tally.moved(count)

    def _forward(self, message: pb.Forward, requests: Iterator[pb.TrainRequest]) -> list[pb.TrainResponse]:
        session, lengths = self._session, checked_lengths(message.lengths, self._spec)
        parcel = take_parcel(message, lengths, session.end, feeding(requests, "forward"))
        position = Position(step=message.step, micro_batch=message.micro_batch)

        def work() -> tuple[Payload, list[Chunk], bool]:
            values, kept = session.exchange.forward(position, parcel())
            result = session.trunk.forward(position, values, lengths)
            return (*encoded_to_proto(session.exchange.forward_result(position, result)), kept)

        done = self._once("forward", position, sum(lengths), work)
        payload, rest, kept = done.value
        result = pb.ForwardResult(
            step=message.step,
            micro_batch=message.micro_batch,
            activations=payload,
            wait_s=done.wait_s,
            trunk_s=done.compute_s,
            kept=kept,
        )
        return [pb.TrainResponse(forward_result=result), *(pb.TrainResponse(chunk=chunk) for chunk in rest)]

    def _backward(self, message: pb.Backward, requests: Iterator[pb.TrainRequest]) -> list[pb.TrainResponse]:
        session = self._session
        position = Position(step=message.step, micro_batch=message.micro_batch)
        tokens, field = self._tokens(position), "backward.gradient"
        gradient = take_encoded(message.gradient, session.end.dh2, tokens, field, feeding(requests, field))

        def work() -> tuple[Payload | None, list[Chunk]]:
            upper = session.exchange.backward(position, gradient())
            lower = session.trunk.backward(position, upper, message.apply)
            if message.apply:
                self._sessions.tally.stepped()
            if lower is None:
                return None, []
            return encoded_to_proto(session.exchange.backward_result(position, lower))

        done = self._once("backward", position, tokens, work)
        payload, rest = done.value
        result = pb.BackwardResult(
            step=message.step,
            micro_batch=message.micro_batch,
            gradient=payload,
            applied=message.apply,
            wait_s=done.wait_s,
            trunk_s=done.compute_s,
        )
        return [pb.TrainResponse(backward_result=result), *(pb.TrainResponse(chunk=chunk) for chunk in rest)]

    def _tokens(self, position: Position) -> int:
        try:
            return self._session.answers.tokens(position)
        except StepOrderError:
            self._sessions.check(self._session, self._cancel)  # what is dropped has forgotten its answers
            raise

    def _once(self, kind: str, position: Position, tokens: int, work: Callable[[], Result]) -> Timed[Result]:
        """The result of `work` for a message, from memory if it came before."""

        def remembered() -> Result:
            before = self._session.answers.get(kind, position)
            if before is not None:
                known: Result = before.value
                return known
            value = work()
            self._session.answers.add(kind, position, Answer(value=value, tokens=tokens))
            return value

        return self._compute(remembered)

    def _compute(self, work: Callable[[], Result]) -> Timed[Result]:
        def checked() -> Result:
            self._sessions.check(self._session, self._cancel)
            return work()

        with self._sessions.computing(self._session):
            done = self._worker.run(checked, self._session.agreed.version)
        self._session.watch.add("wait", done.wait_s)
        self._session.watch.add("trunk", done.compute_s)
        self._sessions.tally.computed(done.wait_s, done.compute_s)
        return done

    def _finish(self, message: pb.Finish) -> pb.Finished:
        session = self._session
        check_seconds(message.seconds)
        tensors = self._compute(lambda: session.trunk.finish(message.steps)).value
        own, theirs = session.watch.seconds, message.seconds
        finished = pb.Finished(
            steps=message.steps,
            seconds=pb.PhaseSeconds(
                bottom=theirs.bottom, network=theirs.network, wait=own.wait, trunk=own.trunk, top=theirs.top
            ),
            bytes=pb.ByteCount(up=session.bytes.up, down=session.bytes.down),
            trunk_sha256=sha256(encode_adapter(tensors)),  # refuses what is not finite: nothing is committed then
        )
        self._sessions.commit(session, tensors, finished.SerializeToString(), self._cancel)
        return finished


def check_seconds(seconds: pb.PhaseSeconds) -> None:
    """Raise MalformedError unless a client's phases are times."""
    for field, value in seconds.ListFields():
        if not 0 <= value < math.inf:
            raise MalformedError(f"finish.seconds.{field.name}: {value}; it must be a time")


def finished_again(
    done: Committed, idle_timeout_s: float, requests: Iterator[pb.TrainRequest]
) -> Iterator[pb.TrainResponse]:
    """Answers a client that takes up a session which has finished, and which lost the answer to its Finish."""
    finished = pb.Finished.FromString(done.answer)
    opened = pb.TrainOpened(
        session_id=done.session_id,
        resume_token=done.resume_token,
        step=finished.steps,
        idle_timeout_s=idle_timeout_s,
    )
    yield pb.TrainResponse(opened=opened)
    request = next((each for each in requests if each.WhichOneof("message") != "chunk"), None)  # of open's basis
    if request is None:
        return
    if request.WhichOneof("message") != "finish" or request.finish.steps != finished.steps:
        raise StepOrderError(f"the session has finished after {finished.steps} steps; only finish may come again")
    yield pb.TrainResponse(finished=finished)
