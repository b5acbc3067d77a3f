"""`AdapterService` at the edge: takes clients' bottom and top tensors, gives the adapter of the current round."""

from collections.abc import Iterator
from typing import Any

from elsa.errors import MalformedError, PermissionDeniedError
from elsa.v1 import adapter_pb2 as pb
from elsa.v1.adapter_pb2_grpc import AdapterServiceServicer
from elsa.wire.adapter import decode_adapter
from services.edge.rounds import Report, Update
from services.edge.run import EdgeRun, EdgeRuns
from services.rpc.adapters import MAX_WAIT_S, pulled_messages, receive_push


class AdapterServicer(AdapterServiceServicer):
    """See `adapter.proto`."""

    def __init__(self, runs: EdgeRuns) -> None:
        self._runs = runs

    def PushAdapter(self, request_iterator: Iterator[pb.PushAdapterRequest], context: Any) -> pb.PushAdapterResponse:
        """Complete the client's tensors with its session's trunk tensors."""
        header, data = receive_push(request_iterator)
        run = self._runs.get(header.run_id)
        return pb.PushAdapterResponse(stored=take_update(run, header, data))

    def PullAdapter(self, request: pb.PullAdapterRequest, context: Any) -> Iterator[pb.PullAdapterResponse]:
        """Wait for the round asked for."""
        rounds = self._runs.get(request.run_id).rounds
        pulled = rounds.wait_for(request.version, request.edge_round, min(max(request.wait_s, 0), MAX_WAIT_S))
        yield from pulled_messages(pulled)


def take_update(run: EdgeRun, header: pb.AdapterHeader, data: bytes) -> bool:
    """Join a client's tensors with those of its finished session into an update; False if it was there before."""
    client = header.node_id
    if run.rounds.has(client, header.version, header.edge_round, header.sha256):
        return False
    run.rounds.adapter_of(client, header.version, header.edge_round)  # a late update is stale, whatever its session
    committed = run.sessions.committed(header.session_id)
    agreed = committed.agreed
    if (agreed.run_id, agreed.client) != (header.run_id, client):
        raise PermissionDeniedError(f"session {header.session_id} is not {client}'s")
    if (agreed.version, agreed.edge_round) != (header.version, header.edge_round):
        raise MalformedError("header.session_id: the session is of another round")
    if header.rows < 1 or len(header.reports) != 1:
        raise MalformedError("header.rows and header.reports: at least 1 row and exactly 1 report are needed")
    own = decode_adapter(data)
    if twice := sorted(own.keys() & committed.tensors.keys()):
        raise MalformedError(f"adapter: tensor {twice[0]} is the trunk's; send bottom and top only")
    report = Report(client=client, rows=header.rows, message=header.reports[0].SerializeToString())
    update = Update(report=report, tensors={**own, **committed.tensors})
    return run.rounds.add(header.version, header.edge_round, header.sha256, update)
