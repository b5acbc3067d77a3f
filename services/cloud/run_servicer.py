"""`RunService` over the runs, their events and their exports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from elsa.errors import MalformedError
from elsa.v1 import fleet_pb2, run_pb2, run_pb2_grpc
from elsa.wire.chunks import split_chunks
from services.cloud import events
from services.cloud.absent import SHOWN
from services.cloud.cluster_messages import clustered_to_proto, clusters_to_proto, trust_changed_to_proto
from services.cloud.cluster_view import ClusterView
from services.cloud.convert import fitting, fitting_names, metrics_to_proto, reports_to_proto, state_to_proto
from services.cloud.export import Exports
from services.cloud.plan_messages import planned_to_proto, profiles_to_proto
from services.cloud.profiles import profiles_of
from services.cloud.round_records import ClusterScore, Evaluation
from services.cloud.runs import Runs, RunView, page_token
from services.cloud.store import Store
from services.cloud.watch import RunWatch

Context = grpc.aio.ServicerContext[Any, Any]


class RunServicer(run_pb2_grpc.RunServiceServicer):
    """Decodes, calls, encodes."""

    def __init__(self, runs: Runs, watch: RunWatch, clusters: ClusterView, exports: Exports, store: Store) -> None:
        self._runs, self._watch, self._clusters, self._exports = runs, watch, clusters, exports
        self._store = store

    async def SubmitRun(self, request: run_pb2.SubmitRunRequest, context: Context) -> run_pb2.SubmitRunResponse:
        """See run.proto."""
        return run_pb2.SubmitRunResponse(run_id=self._runs.submit(request.spec))

    async def GetRun(self, request: run_pb2.GetRunRequest, context: Context) -> run_pb2.GetRunResponse:
        """See run.proto."""
        return run_pb2.GetRunResponse(run=run_to_proto(self._runs.get(request.run_id)))

    async def ListRuns(self, request: run_pb2.ListRunsRequest, context: Context) -> run_pb2.ListRunsResponse:
        """See run.proto."""
        views, more = self._runs.page(request.page_size, request.page_token)
        shown = fitting([run_to_proto(view) for view in views])
        more = more or len(shown) < len(views)
        token = page_token(views[len(shown) - 1]) if more else ""
        return run_pb2.ListRunsResponse(runs=shown, next_page_token=token)

    async def WatchRun(
        self, request: run_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[run_pb2.WatchRunResponse]:
        """See run.proto."""
        async with aclosing(self._watch.watch(request.run_id, request.after, so_far=request.so_far)) as happened:
            async for event in happened:
                yield run_pb2.WatchRunResponse(event=event_to_proto(event))

    async def CancelRun(self, request: run_pb2.CancelRunRequest, context: Context) -> run_pb2.CancelRunResponse:
        """See run.proto."""
        self._runs.cancel(request.run_id)
        return run_pb2.CancelRunResponse()

    async def ReportEvaluation(
        self, request: run_pb2.ReportEvaluationRequest, context: Context
    ) -> run_pb2.ReportEvaluationResponse:
        """See run.proto."""
        self._runs.report_evaluation(evaluation_from_proto(request))
        return run_pb2.ReportEvaluationResponse()

    async def GetClusters(self, request: run_pb2.GetClustersRequest, context: Context) -> run_pb2.GetClustersResponse:
        """See run.proto."""
        return clusters_to_proto(await self._clusters.get(request.run_id))

    async def GetProfiles(self, request: run_pb2.GetProfilesRequest, context: Context) -> run_pb2.GetProfilesResponse:
        """See run.proto."""
        return profiles_to_proto(profiles_of(self._store, request.run_id))

    async def ExportAdapter(
        self, request: run_pb2.ExportAdapterRequest, context: Context
    ) -> AsyncIterator[run_pb2.ExportAdapterResponse]:
        """See run.proto."""
        wanted = request.version if request.HasField("version") else None
        cluster = request.cluster if request.HasField("cluster") else None
        run, made = self._runs.version(request.run_id, wanted, cluster)
        for name, data in await asyncio.to_thread(self._exports.files, run, made):
            header = run_pb2.FileHeader(name=name, total_bytes=len(data))
            yield run_pb2.ExportAdapterResponse(file=header)
            for chunk in split_chunks(data):
                yield run_pb2.ExportAdapterResponse(chunk=chunk)


def run_to_proto(view: RunView) -> run_pb2.Run:
    """A run as a message; of more clients than go into one, the first, by name."""
    run = view.run
    message = run_pb2.Run(
        run_id=run.run_id,
        name=run.name,
        state=state_to_proto(run.state),
        reason=run.reason,
        spec=run.spec,
        version=run.version or 0,
        rounds=run.rounds,
        edge_ids=view.edge_ids,
        created_unix_s=run.created_unix_s,
        evaluations=map(metrics_to_proto, view.evaluations),
        best_version=run.best,
        away_count=len(view.away),
        away=map(away_to_proto, view.away[:SHOWN]),
    )
    message.client_ids.extend(fitting_names(view.client_ids, message.ByteSize()))
    return message


def evaluation_from_proto(request: run_pb2.ReportEvaluationRequest) -> Evaluation:
    """A client's metrics, not yet checked. Raises MalformedError for two evaluations that do not go together."""
    message = request.evaluation
    own = request.cluster_evaluation if request.HasField("cluster_evaluation") else None
    if own is not None and (own.version, own.rows) != (message.version, message.rows):
        raise MalformedError(
            f"cluster_evaluation: version {own.version} on {own.rows} rows; it must be of the same version and rows "
            f"as evaluation, {message.version} on {message.rows}"
        )
    if own is not None and not own.HasField("cluster"):
        raise MalformedError("cluster_evaluation.cluster: not set; say whose adapter it was")
    return Evaluation(
        run_id=request.run_id,
        client_id=request.client_id,
        version=message.version,
        rows=message.rows,
        loss=message.loss,
        accuracy=message.accuracy,
        own=None if own is None else ClusterScore(cluster=own.cluster, loss=own.loss, accuracy=own.accuracy),
    )


def event_to_proto(event: events.Event) -> run_pb2.RunEvent:
    """An event as a message."""
    message = run_pb2.RunEvent(sequence=event.sequence, unix_s=event.unix_s)
    match event.body:
        case events.StateChanged() as body:
            state = state_to_proto(body.state)
            message.state_changed.CopyFrom(run_pb2.StateChanged(state=state, reason=body.reason))
        case events.NodeJoined() as body:
            message.node_joined.CopyFrom(
                run_pb2.NodeJoined(node_id=body.node_id, detail=body.detail, accepted=body.accepted)
            )
        case events.ClientAssigned() as body:
            message.client_assigned.CopyFrom(_assigned(body))
        case events.UpdateReceived() as body:
            message.update_received.CopyFrom(_update(body))
        case events.RoundOpened() as body:
            message.round_opened.CopyFrom(
                run_pb2.RoundOpened(version=body.version, deadline_s=body.deadline_s, detail=body.detail)
            )
        case events.RoundClosed() as body:
            message.round_closed.CopyFrom(_closed(body))
        case events.PresenceChanged() as body:
            message.presence_changed.CopyFrom(_presence(body))
        case events.EvaluationReported() as body:
            message.evaluation_reported.CopyFrom(_evaluated(body))
        case events.Clustered() as body:
            message.clustered.CopyFrom(clustered_to_proto(body))
        case events.TrustChanged() as body:
            message.trust_changed.CopyFrom(trust_changed_to_proto(body))
        case events.Planned() as body:
            message.planned.CopyFrom(planned_to_proto(body))
        case events.NodeProgress() as body:
            message.node_progress.CopyFrom(_progress(body))
    return message


def _assigned(body: events.ClientAssigned) -> run_pb2.ClientAssigned:
    return run_pb2.ClientAssigned(
        client_id=body.client_id, edge_id=body.edge_id, bottom=body.bottom, top=body.top, detail=body.detail
    )


def _update(body: events.UpdateReceived) -> run_pb2.UpdateReceived:
    """An update; of more reports than go into one message, the first."""
    reports = fitting(reports_to_proto(body.reports))
    return run_pb2.UpdateReceived(edge_id=body.edge_id, version=body.version, rows=body.rows, reports=reports)


def _closed(body: events.RoundClosed) -> run_pb2.RoundClosed:
    return run_pb2.RoundClosed(
        version=body.version,
        edge_ids=body.edge_ids,
        missing_edge_ids=body.missing_edge_ids,
        seconds=body.seconds,
        clients=body.clients,
        absent=body.absent,
        absentees=(
            run_pb2.AbsentClient(client_id=client.client_id, detail=client.detail) for client in body.absentees
        ),
    )


def _presence(body: events.PresenceChanged) -> run_pb2.PresenceChanged:
    return run_pb2.PresenceChanged(
        away=body.away,
        first_away=map(away_to_proto, body.first_away),
        back=body.back,
        first_back=body.first_back,
    )


def away_to_proto(member: events.AwayMember) -> run_pb2.AwayMember:
    """A member for which nobody waits, as a message."""
    return run_pb2.AwayMember(node_id=member.node_id, detail=member.detail)


def _evaluated(body: events.EvaluationReported) -> run_pb2.EvaluationReported:
    return run_pb2.EvaluationReported(
        client_id=body.client_id,
        evaluation=metrics_to_proto(body.evaluation),
        total=metrics_to_proto(body.total),
        cluster_evaluation=metrics_to_proto(body.own) if body.own else None,
    )


def _progress(body: events.NodeProgress) -> run_pb2.NodeProgress:
    progress = fleet_pb2.Progress(
        run_id=body.run_id,
        version=body.version,
        edge_round=body.edge_round,
        activity=body.activity,
        step=body.step,
        steps=body.steps,
        loss=body.loss,
    )
    return run_pb2.NodeProgress(node_id=body.node_id, progress=progress)
