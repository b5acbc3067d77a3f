"""The two streams of `SplitService`, after their opening: each message checked, computed and answered.

A stream is served by one thread, message after message; what a client has in flight waits in gRPC's own buffers,
and several streams meet in the queue of the compute thread.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from elsa.errors import MalformedError, StepOrderError
from elsa.spec import RunSpec
from elsa.train.ends import for_probes
from elsa.train.messages import Chunks, encoded_to_proto, take_encoded, take_parcel
from elsa.train.parcel import Parcel
from elsa.train.phases import ByteCount
from elsa.train.session import Position
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import Chunk, Payload
from elsa.wire.adapter import encode_adapter, sha256
from services.edge.answers import Answer
from services.edge.opening import (
    check_codecs,
    checked_calibrations,
    checked_lengths,
    checked_window,
    split_from_proto,
    turns_from_proto,
)
from services.edge.run import EdgeRun
from services.edge.sessions import Committed, Session, Sessions
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
        self._session.bytes += ByteCount(up=opening_bytes, down=opened.ByteSize())
        yield opened
        with suppress(_Ended):
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
                self._session.bytes += ByteCount(down=response.ByteSize())
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
                self._session.bytes += ByteCount(up=request.ByteSize())
            yield request
        raise _Ended

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
        tokens, field = session.answers.tokens(position), "backward.gradient"
        gradient = take_encoded(message.gradient, session.end.dh2, tokens, field, feeding(requests, field))

        def work() -> tuple[Payload | None, list[Chunk]]:
            upper = session.exchange.backward(position, gradient())
            lower = session.trunk.backward(position, upper, message.apply)
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
            done = self._worker.run(checked)
        self._session.watch.add("wait", done.wait_s)
        self._session.watch.add("trunk", done.compute_s)
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


class PredictStream:
    """Serves the messages of a Predict stream after its opening.

    Args:
        feed: brings the chunks that follow the opening.

    Raises as the opening's checks do.
    """

    def __init__(self, opening: pb.PredictOpen, run: EdgeRun, feed: Chunks, worker: Worker) -> None:
        width = run.trunk.segment.width
        spec = for_probes(run.spec) if opening.session_id else run.spec
        check_codecs(opening.codecs, spec, width)
        known = checked_calibrations(opening.calibrations)
        turns = turns_from_proto(opening.ssop if opening.HasField("ssop") else None, spec, width, feed)
        self._run = run
        self._worker = worker
        self._client = opening.client_id
        self._version = opening.version
        self._split = split_from_proto(opening.split, "open.split")
        run.trunk.check_split(self._split, "open.split")
        checked_window(opening.window)
        self._session_id = opening.session_id
        self._cluster = opening.cluster if opening.HasField("cluster") else None
        self._check()
        self._end = worker.run(lambda: run.ends.of(self._client, for_probes=bool(self._session_id))).value
        self._exchange = self._end.stream(self._split, known, turns)

    def opened(self, idle_timeout_s: float) -> pb.PredictOpened:
        """What answers the opening."""
        names = self._worker.run(lambda: self._end.calibrations).value
        return pb.PredictOpened(idle_timeout_s=idle_timeout_s, calibrations=names)

    def serve(self, requests: Iterator[pb.PredictRequest]) -> Iterator[pb.PredictResponse]:
        """Answer until the client half-closes."""
        for step, request in enumerate(requests):
            message = request.forward
            if request.WhichOneof("message") != "forward" or (message.step, message.micro_batch) != (step, 0):
                raise MalformedError(f"PredictRequest.message: expected forward with step {step}, micro-batch 0")
            if message.rows:
                raise MalformedError("forward.rows: nothing is kept of rows that are predicted; send none")
            yield from self._answer(message, requests)

    def _answer(self, message: pb.Forward, requests: Iterator[pb.PredictRequest]) -> Iterator[pb.PredictResponse]:
        lengths = checked_lengths(message.lengths, self._run.spec)
        parcel = take_parcel(message, lengths, self._end, feeding(requests, "forward"))
        position = Position(step=message.step, micro_batch=0)
        done = self._worker.run(lambda: self._predict(position, parcel(), lengths))
        payload, rest = done.value
        result = pb.ForwardResult(step=message.step, activations=payload, wait_s=done.wait_s, trunk_s=done.compute_s)
        yield pb.PredictResponse(forward_result=result)
        for chunk in rest:
            yield pb.PredictResponse(chunk=chunk)

    def _predict(self, position: Position, parcel: Parcel, lengths: Sequence[int]) -> tuple[Payload, list[Chunk]]:
        session = self._check()
        values, _ = self._exchange.forward(position, parcel)
        if session is not None:
            result = session.trunk.predict(values, lengths)
        else:
            own = self._run.rounds.instead(self._client, self._cluster)
            result = self._run.trunk.predict(values, lengths, self._split, own)
        return encoded_to_proto(self._exchange.forward_result(position, result, final=True))

    def _check(self) -> Session | None:
        """The session whose trunk is asked for; None for that of the version. Raises where it is there no more."""
        self._run.rounds.check_version(self._client, self._version)
        if self._session_id and self._cluster is not None:
            raise MalformedError("open.cluster: set with session_id; ask for one of the two")
        self._run.rounds.instead(self._client, self._cluster)
        if not self._session_id:
            return None
        session = self._run.sessions.open_of(self._session_id, self._run.run_id, self._client)
        if session.agreed.split != self._split:
            raise MalformedError(f"open.split: {self._split}; the session's is {session.agreed.split}")
        self._run.sessions.touch(session)
        return session
