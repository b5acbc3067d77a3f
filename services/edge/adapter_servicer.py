"""`AdapterService` at the edge: takes clients' bottom and top tensors, gives the adapter of the current round."""

from collections.abc import Iterator
from typing import Any

from elsa.errors import MalformedError, NotFoundError, PermissionDeniedError
from elsa.v1 import adapter_pb2 as pb
from elsa.v1 import split_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceServicer
from elsa.wire.adapter import decode_adapter
from elsa.wire.report import check_report
from services.edge.idle import IdleStreams
from services.edge.parts import Report, Update
from services.edge.run import EdgeRun, EdgeRuns
from services.edge.session import Committed
from services.rpc.adapters import MAX_WAIT_S, PushReceiver, pulled_messages

MOST_ROWS = 2**40
"""Largest weight that a client may claim; the sum over an edge's clients stays below the cloud's bound."""


class AdapterServicer(AdapterServiceServicer):
    """See `adapter.proto`."""

    def __init__(self, runs: EdgeRuns, idle: IdleStreams) -> None:
        self._runs = runs
        self._idle = idle

    def PushAdapter(self, request_iterator: Iterator[pb.PushAdapterRequest], context: Any) -> pb.PushAdapterResponse:
        """Complete the client's tensors with its session's trunk tensors."""
        receiver = PushReceiver()
        for message in self._idle.watched(request_iterator, context.cancel):
            receiver.add(message)
            if message.WhichOneof("message") == "header":
                check_header(self._runs.get(message.header.run_id), message.header)
        header, data = receiver.result()
        return pb.PushAdapterResponse(stored=take_update(self._runs.get(header.run_id), header, data))

    def PullAdapter(self, request: pb.PullAdapterRequest, context: Any) -> Iterator[pb.PullAdapterResponse]:
        """Wait for the round asked for."""
        if not 0 <= request.wait_s <= MAX_WAIT_S:
            raise MalformedError(f"PullAdapterRequest.wait_s: {request.wait_s}; it must be from 0 to {MAX_WAIT_S:g}")
        rounds = self._runs.get(request.run_id).rounds
        context.add_callback(rounds.wake)  # a call that its caller has left gives its thread back
        if request.HasField("cluster"):
            pulled = rounds.of_cluster(request.node_id, request.version, request.cluster)
        else:
            pulled = rounds.wait_for(
                request.node_id, request.version, request.edge_round, request.wait_s, context.is_active
            )
        yield from self._idle.sending(pulled_messages(pulled), context.cancel)


def check_header(run: EdgeRun, header: pb.AdapterHeader) -> None:
    """Refuse a push before its bytes come. Raises MalformedError naming the field, and as `take_update`."""
    if run.rounds.has(header.node_id, header.version, header.edge_round, header.sha256):
        return
    run.rounds.adapter_of(header.node_id, header.version, header.edge_round)
    if not 1 <= header.total_bytes <= run.rounds.most_bytes:
        raise MalformedError(f"header.total_bytes: {header.total_bytes}; from 1 to {run.rounds.most_bytes} are taken")
    if not 1 <= header.rows <= MOST_ROWS:
        raise MalformedError(f"header.rows: {header.rows}; it must be from 1 to {MOST_ROWS}")
    if len(header.reports) != 1:
        raise MalformedError(f"header.reports: {len(header.reports)}; a client sends exactly its own one")
    report = header.reports[0]
    said = (report.client_id, report.edge_round, report.rows)
    if said != (header.node_id, header.edge_round, header.rows):
        raise MalformedError(f"header.reports[0]: client, edge round and rows are {said}, not those of the header")
    check_report(report)


def take_update(run: EdgeRun, header: pb.AdapterHeader, data: bytes) -> bool:
    """Join a client's tensors with those of its finished session into an update; False if it was there before."""
    client = header.node_id
    if run.rounds.has(client, header.version, header.edge_round, header.sha256):
        return False
    run.rounds.adapter_of(client, header.version, header.edge_round)  # a late update is stale, whatever its session
    try:
        committed = run.sessions.committed(header.session_id)
    except NotFoundError:  # the round may have closed since
        run.rounds.adapter_of(client, header.version, header.edge_round)
        raise
    agreed = committed.agreed
    if (agreed.run_id, agreed.client) != (header.run_id, client):
        raise PermissionDeniedError(f"session {header.session_id} is not {client}'s")
    if (agreed.version, agreed.edge_round) != (header.version, header.edge_round):
        raise MalformedError("header.session_id: the session is of another round")
    own = decode_adapter(data)
    if twice := sorted(own.keys() & committed.tensors.keys()):
        raise MalformedError(f"adapter: tensor {twice[0]} is the trunk's; send bottom and top only")
    told = vouched(header.reports[0], committed)
    told.rows = run.rounds.counted_rows(client, header.rows)
    report = Report(client=client, rows=told.rows, steps=told.steps, message=told.SerializeToString())
    update = Update(report=report, tensors={**own, **committed.tensors})
    return run.rounds.add(header.version, header.edge_round, header.sha256, update)


def vouched(report: pb.ClientReport, committed: Committed) -> pb.ClientReport:
    """A client's report with what this edge counted itself: the cloud plans by it.

    Raises MalformedError as `check_report`.
    """
    counted, cut = split_pb2.Finished.FromString(committed.answer), committed.agreed.split
    told = pb.ClientReport()
    told.CopyFrom(report)
    told.steps = counted.steps
    told.seconds.wait, told.seconds.trunk = counted.seconds.wait, counted.seconds.trunk
    told.split.CopyFrom(split_pb2.Split(bottom=cut.bottom, trunk=cut.trunk, top=cut.top))
    check_report(told)
    return told
