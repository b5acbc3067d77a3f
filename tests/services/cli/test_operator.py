"""An operator and a cloud that misbehaves: waited for, not stormed, and asked for no more than is needed."""

from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from elsa.errors import NotFoundError
from elsa.v1 import run_pb2 as pb
from elsa.v1.run_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from services.cli.operator import Operator


class Cloud(RunServiceServicer):
    """Knows the runs trial-1 and trial-10; notes what it is asked, and fails as many streams as it is told."""

    def __init__(self, failing=0):
        self.asked = []
        self.failing = failing

    def GetRun(self, request, context):
        self.asked.append("GetRun")
        if request.run_id not in ("trial-1", "trial-10"):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such run")
        return pb.GetRunResponse(run=pb.Run(run_id=request.run_id))

    def ListRuns(self, request, context):
        self.asked.append("ListRuns")
        if not request.page_token:
            return pb.ListRunsResponse(runs=[pb.Run(run_id="trial-10")], next_page_token="more")
        assert request.page_token == "more"
        return pb.ListRunsResponse(runs=[pb.Run(run_id="trial-1")])

    def SubmitRun(self, request, context):
        self.asked.append("SubmitRun")
        return pb.SubmitRunResponse(run_id="trial-1")

    def CancelRun(self, request, context):
        self.asked.append("CancelRun")
        return pb.CancelRunResponse()

    def WatchRun(self, request, context):
        self.asked.append("WatchRun")
        if self.failing:
            self.failing -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "on its way down")
        yield pb.WatchRunResponse(event=pb.RunEvent(sequence=request.after + 1))
        if request.after == 0:
            self.failing = 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "on its way down")


@contextmanager
def operator_of(servicer, **more):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_RunServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Operator(f"127.0.0.1:{port}", 5, **more) as operator:
            yield operator
    finally:
        server.stop(None).wait()


def test_a_whole_id_is_found_without_a_list_of_all_runs():
    cloud = Cloud()
    with operator_of(cloud) as operator:
        assert operator.resolve("trial-1") == "trial-1"  # which begins another run's id, too
        assert operator.submit("spec") == "trial-1"
    assert "ListRuns" not in cloud.asked
    assert cloud.asked.count("SubmitRun") == 1


def test_all_pages_of_a_list_are_followed():
    with operator_of(Cloud()) as operator:
        assert [run.run_id for run in operator.list()] == ["trial-10", "trial-1"]


def test_a_prefix_is_looked_for_among_all_runs():
    cloud = Cloud()
    with operator_of(cloud) as operator:
        assert operator.resolve("trial-10") == "trial-10"
        with pytest.raises(NotFoundError, match="begins the ids of 2 runs"):
            operator.resolve("tri")


def test_a_watch_whose_streams_keep_failing_pauses_longer_each_time_and_loses_no_event():
    cloud, pauses = Cloud(failing=6), []
    with operator_of(cloud, sleep=pauses.append) as operator:
        assert [event.sequence for event in operator.watch("trial-1")] == [1, 2]
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 0.25, 0.5]


def test_a_cancel_waits_for_the_cloud_and_is_sent_once():
    cloud = Cloud()
    with operator_of(cloud) as operator:
        operator.cancel("trial-1")
    assert cloud.asked == ["GetRun", "CancelRun"]


def test_an_export_goes_on_asking_a_cloud_that_is_away(tmp_path):
    class Away(Cloud):
        def ExportAdapter(self, request, context):
            self.asked.append("ExportAdapter")
            code = grpc.StatusCode.UNAVAILABLE if len(self.asked) == 1 else grpc.StatusCode.NOT_FOUND
            context.abort(code, "no version")

    cloud = Away()
    with operator_of(cloud) as operator, pytest.raises(NotFoundError):
        operator.export("trial-1", tmp_path / "adapter")
    assert cloud.asked == ["ExportAdapter"] * 2
    assert list(tmp_path.iterdir()) == []
