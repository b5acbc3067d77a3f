"""`SplitService` at the edge: opens streams and answers pings."""

from collections.abc import Iterator
from typing import Any

from elsa.errors import ElsaError, MalformedError
from elsa.v1 import split_pb2 as pb
from elsa.v1.split_pb2_grpc import SplitServiceServicer
from services.edge.idle import IdleStreams
from services.edge.predict_stream import PredictStream
from services.edge.run import EdgeRuns
from services.edge.sending import Sendings, sent
from services.edge.streams import TrainStream, finished_again
from services.edge.worker import Worker
from services.rpc.payloads import feeding

MAX_PING_BYTES = 1 << 19


class SplitServicer(SplitServiceServicer):
    """See `split.proto`."""

    def __init__(self, runs: EdgeRuns, worker: Worker, idle: IdleStreams) -> None:
        self._runs = runs
        self._worker = worker
        self._idle = idle
        self._sendings = Sendings(runs.sessions.capacity)

    def Train(self, request_iterator: Iterator[pb.TrainRequest], context: Any) -> Iterator[pb.TrainResponse]:
        """One session's stream."""
        cancel = context.cancel  # one object, by which the session knows its stream
        requests = _Counted(self._idle.watched(request_iterator, cancel))
        opening = _opening(requests, "TrainRequest")
        run = self._runs.get(opening.open.run_id)
        if (done := run.finished(opening.open)) is not None:
            yield from self._idle.sending(finished_again(done, run.sessions.idle_timeout_s, requests), cancel)
            return
        session = run.open_session(opening.open, feeding(requests, "open.ssop.basis"), self._worker, cancel)
        stream = TrainStream(session, run.sessions, run.spec, self._worker, cancel)
        try:
            yield from self._idle.sending(stream.serve(requests.up_bytes, requests), cancel)
        except ElsaError as error:  # what the client sent was wrong; a stream that broke may be resumed instead
            run.sessions.fail(session, str(error), cancel)
            raise

    def Predict(self, request_iterator: Iterator[pb.PredictRequest], context: Any) -> Iterator[pb.PredictResponse]:
        """Forward only, with the global adapter of one version."""
        requests = self._idle.watched(request_iterator, context.cancel)
        opening = _opening(requests, "PredictRequest").open
        run = self._runs.get(opening.run_id)
        stream = PredictStream(opening, run, feeding(requests, "open.ssop.basis"), self._worker)
        yield pb.PredictResponse(opened=stream.opened(run.sessions.idle_timeout_s))
        yield from self._idle.sending(stream.serve(requests), context.cancel)

    def FetchBlocks(self, request: pb.FetchBlocksRequest, context: Any) -> Iterator[pb.FetchBlocksResponse]:
        """The base, as far as it is the client's."""
        run = self._runs.get(request.run_id)
        run.rounds.check_may_join(request.client_id)
        with self._sendings.one(request.run_id, request.client_id, context.cancel):
            yield from self._idle.sending(sent(run, request, context.is_active), context.cancel)

    def Ping(self, request: pb.PingRequest, context: Any) -> pb.PingResponse:
        """Answer at once."""
        for field, size in (("payload", len(request.payload)), ("reply_bytes", request.reply_bytes)):
            if size > MAX_PING_BYTES:
                raise MalformedError(f"PingRequest.{field}: {size} bytes; at most {MAX_PING_BYTES}")
        return pb.PingResponse(payload=bytes(request.reply_bytes), room=max(self._runs.sessions.room, 0))


class _Counted:
    """The messages of a client, and their bytes so far."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self.up_bytes = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        message = next(self._messages)
        self.up_bytes += message.ByteSize()
        return message


def _opening(requests: Iterator[Any], name: str) -> Any:
    first = next(requests, None)
    if first is None or first.WhichOneof("message") != "open":
        raise MalformedError(f"{name}.message: the first must be open")
    return first
