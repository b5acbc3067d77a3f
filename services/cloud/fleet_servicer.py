"""`FleetService` over the fleet, the runs and the watches."""

import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc.aio

from elsa.errors import MalformedError
from elsa.v1 import fleet_pb2, fleet_pb2_grpc
from services.cloud.changes import Changes
from services.cloud.cluster_messages import standings_to_proto, upload_from_proto
from services.cloud.convert import fitting, state_to_proto
from services.cloud.engine import Engine
from services.cloud.events import NodeProgress
from services.cloud.fingerprints import Fingerprints
from services.cloud.fleet import Fleet, check_number
from services.cloud.key_messages import exchange_to_proto, shared_from_proto
from services.cloud.keyring import Keyring
from services.cloud.lifecycle import RunState
from services.cloud.offers import Refusal, Reply
from services.cloud.plan_messages import client_offer_from_proto, edge_offer_from_proto, share_to_proto
from services.cloud.records import Node
from services.cloud.runs import Runs
from services.cloud.store import Store
from services.cloud.watch import Assignment, RunWatch, watch_assignments

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
MOST_PROGRESS = 64


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Decodes, calls, encodes."""

    def __init__(
        self,
        fleet: Fleet,
        runs: Runs,
        engine: Engine,
        watch: RunWatch,
        keyring: Keyring,
        fingerprints: Fingerprints,
        store: Store,
        changes: Changes,
    ) -> None:
        self._fleet, self._runs, self._engine, self._watch, self._keyring = fleet, runs, engine, watch, keyring
        self._fingerprints, self._store, self._changes = fingerprints, store, changes

    async def RegisterEdge(
        self, request: fleet_pb2.RegisterEdgeRequest, context: Context
    ) -> fleet_pb2.RegisterEdgeResponse:
        """See fleet.proto."""
        self._fleet.register_edge(request.edge_id, request.address, request.capacity)
        self._engine.arrived(request.edge_id)
        return fleet_pb2.RegisterEdgeResponse(heartbeat_s=self._fleet.heartbeat_s)

    async def RegisterClient(
        self, request: fleet_pb2.RegisterClientRequest, context: Context
    ) -> fleet_pb2.RegisterClientResponse:
        """See fleet.proto."""
        self._fleet.register_client(request.client_id, tuple(request.datasets))
        self._engine.arrived(request.client_id)
        return fleet_pb2.RegisterClientResponse(heartbeat_s=self._fleet.heartbeat_s)

    async def Heartbeat(self, request: fleet_pb2.HeartbeatRequest, context: Context) -> fleet_pb2.HeartbeatResponse:
        """See fleet.proto."""
        if self._fleet.heartbeat(request.node_id):
            self._engine.arrived(request.node_id)
        check_number("progress, its count", len(request.progress), 0, MOST_PROGRESS)
        for progress in request.progress:
            self._watch.progress(progress_from_proto(request.node_id, progress))
        return fleet_pb2.HeartbeatResponse(heartbeat_s=self._fleet.heartbeat_s)

    async def JoinRun(self, request: fleet_pb2.JoinRunRequest, context: Context) -> fleet_pb2.JoinRunResponse:
        """See fleet.proto."""
        self._runs.join(request.run_id, request.node_id, reply_from_proto(request))
        return fleet_pb2.JoinRunResponse()

    async def WatchAssignment(
        self, request: fleet_pb2.WatchAssignmentRequest, context: Context
    ) -> AsyncIterator[fleet_pb2.WatchAssignmentResponse]:
        """See fleet.proto."""
        async with aclosing(watch_assignments(self._store, self._changes, request.node_id)) as changes:
            async for assignments in changes:
                yield assignments_to_proto(request.node_id, assignments)

    async def ShareKeys(self, request: fleet_pb2.ShareKeysRequest, context: Context) -> fleet_pb2.ShareKeysResponse:
        """See fleet.proto."""
        self._keyring.share(shared_from_proto(request))
        return fleet_pb2.ShareKeysResponse()

    async def GetProbes(self, request: fleet_pb2.GetProbesRequest, context: Context) -> fleet_pb2.GetProbesResponse:
        """See fleet.proto."""
        asked = self._fingerprints.probes(request.run_id, request.client_id)
        return fleet_pb2.GetProbesResponse(probes=asked.probes, sha256=asked.sha256)

    async def UploadFingerprint(
        self, request: fleet_pb2.UploadFingerprintRequest, context: Context
    ) -> fleet_pb2.UploadFingerprintResponse:
        """See fleet.proto."""
        await self._fingerprints.take(upload_from_proto(request))
        return fleet_pb2.UploadFingerprintResponse()

    async def ListEdges(self, request: fleet_pb2.ListEdgesRequest, context: Context) -> fleet_pb2.ListEdgesResponse:
        """See fleet.proto."""
        nodes, more = self._fleet.edges(request.after)
        edges = [edge_to_proto(node, self._fleet.silent_s(node.node_id)) for node in nodes]
        return fleet_pb2.ListEdgesResponse(edges=edges, more=more)


def edge_to_proto(node: Node, silent_s: float) -> fleet_pb2.RegisteredEdge:
    """An edge, as an operator sees it."""
    return fleet_pb2.RegisteredEdge(
        edge_id=node.node_id, address=node.address, capacity=node.capacity, silent_s=max(silent_s, 0.0)
    )


def reply_from_proto(request: fleet_pb2.JoinRunRequest) -> Reply:
    """A node's answer. Raises MalformedError if none is set."""
    match request.WhichOneof("answer"):
        case "client":
            return client_offer_from_proto(request.node_id, request.client)
        case "edge":
            return edge_offer_from_proto(request.node_id, request.edge)
        case "refusal":
            return Refusal(reason=request.refusal)
    raise MalformedError("answer: none is set; set client, edge or refusal")


def assignments_to_proto(node_id: str, assignments: Sequence[Assignment]) -> fleet_pb2.WatchAssignmentResponse:
    """A node's assignments as a message; where they do not all go into it, runs that have begun come first.

    Of runs that have begun nothing is left out but keys, which come once an older run has ended.
    """
    begun_first = sorted(assignments, key=lambda assignment: assignment.run.state is RunState.ENROLLING)
    messages = [assignment_to_proto(assignment) for assignment in begun_first]
    begun = sum(assignment.run.state is not RunState.ENROLLING for assignment in assignments)
    _lighten(node_id, messages[:begun])
    shown = fitting(messages)
    if len(shown) < len(assignments):
        log.warning("%s: %d of its %d runs go into one message", node_id, len(shown), len(assignments))
    order = {assignment.run.run_id: place for place, assignment in enumerate(assignments)}
    shown.sort(key=lambda message: order[message.run_id])
    return fleet_pb2.WatchAssignmentResponse(assignments=shown)


def _lighten(node_id: str, messages: Sequence[fleet_pb2.Assignment]) -> None:
    """Leave out keys, those of the newest runs first, until the messages go into one."""
    for message in reversed(messages):
        if len(fitting(messages)) == len(messages):
            return
        if message.HasField("keys"):
            log.warning("%s: the keys of run %s wait until there is room in one message", node_id, message.run_id)
            message.ClearField("keys")


def assignment_to_proto(assignment: Assignment) -> fleet_pb2.Assignment:
    """What a node has to do with one run, as a message."""
    run = assignment.run
    return fleet_pb2.Assignment(
        run_id=run.run_id,
        state=state_to_proto(run.state),
        spec=run.spec,
        edges=[fleet_pb2.EdgePeer(edge_id=edge.edge_id, address=edge.address) for edge in assignment.edges],
        client_ids=assignment.client_ids,
        train_rows=assignment.train_rows,
        away=assignment.away,
        version=run.version or 0,
        keys=exchange_to_proto(assignment.keys),
        standings=standings_to_proto(assignment.standings),
        clusters_version=assignment.clusters_version,
        share=share_to_proto(assignment.share),
    )


def progress_from_proto(node_id: str, message: fleet_pb2.Progress) -> NodeProgress:
    """How far a node is: on one line, and without a loss that is not finite."""
    return NodeProgress(
        node_id=node_id,
        run_id=message.run_id,
        version=message.version,
        edge_round=message.edge_round,
        activity="".join(letter for letter in message.activity[:80] if letter.isprintable()),
        step=message.step,
        steps=message.steps,
        loss=message.loss if math.isfinite(message.loss) else 0.0,
    )
