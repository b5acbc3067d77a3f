"""The Predict stream of `SplitService` after its opening: forward only, each message checked, computed, answered."""

from collections.abc import Iterator, Sequence

from elsa.errors import MalformedError
from elsa.train.ends import for_probes
from elsa.train.messages import Chunks, encoded_to_proto, take_parcel
from elsa.train.parcel import Parcel
from elsa.train.session import Position
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import Chunk, Payload
from services.edge.opening import (
    check_codecs,
    checked_calibrations,
    checked_lengths,
    checked_window,
    split_from_proto,
    turns_from_proto,
)
from services.edge.run import EdgeRun
from services.edge.session import Session
from services.edge.worker import Worker
from services.rpc.payloads import feeding


class PredictStream:
    """Serves the messages of a Predict stream after its opening.

    Args:
        feed: brings the chunks that follow the opening.

    Raises as the opening's checks do.
    """

    def __init__(self, opening: pb.PredictOpen, run: EdgeRun, feed: Chunks, worker: Worker) -> None:
        width = run.trunk.segment.width
        run.base.check_same(opening.client_id, opening.base_digest)
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
        probed = bool(self._session_id)
        self._end = worker.run(lambda: run.ends.of(self._client, self._split, for_probes=probed)).value
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
        done = self._worker.run(lambda: self._predict(position, parcel(), lengths), self._version)
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
