"""What each way in which a call ends says of the peer, and which edges an admin is warned of."""

import grpc
import pytest
from rpc_servers import services_of, serving

from elsa.v1 import fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc
from services.doctor.answers import check_role
from services.doctor.asking import Answer
from services.doctor.examination import examine
from services.doctor.peer import Peer
from services.doctor.subject import Subject

CLOUD = Peer(server="cloud", address="cloud.example:7400")
CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "error", "expected"),
    [
        (CODE.OK, "", ("role", "good")),
        (CODE.NOT_FOUND, "NotFoundError", ("role", "good")),
        (CODE.PERMISSION_DENIED, "PermissionDeniedError", ("role", "bad")),
        (CODE.UNAUTHENTICATED, "UnauthenticatedError", ("TLS", "bad")),
        (CODE.RESOURCE_EXHAUSTED, "CapacityError", ("role", "warn")),
        (CODE.UNAVAILABLE, "DrainingError", ("port", "warn")),
        (CODE.UNAVAILABLE, "", ("port", "bad")),
        (CODE.DEADLINE_EXCEEDED, "", ("port", "bad")),
        (CODE.NOT_FOUND, "", ("port", "bad")),
        (CODE.UNIMPLEMENTED, "", ("port", "bad")),
        (CODE.INTERNAL, "", ("port", "bad")),
    ],
)
def test_how_a_call_ended_is_of_one_kind_and_what_is_not_good_has_a_remedy(code, error, expected):
    answer = Answer(code=code, text="it said no; do this", error=error, version="1.2.0")
    found = check_role(CLOUD, "client", answer, tls=True)
    assert (str(found.kind), found.verdict) == expected
    assert bool(found.remedy) is (found.verdict != "good")


class Fleet(fleet_pb2_grpc.FleetServiceServicer):
    """A cloud that has heard of two edges, some seconds ago."""

    def __init__(self, seconds):
        self._seconds = seconds

    def ListEdges(self, request, context):
        edges = [
            fleet_pb2.RegisteredEdge(edge_id=name, address="127.0.0.1:1", silent_s=silent_s)
            for name, silent_s in self._seconds.items()
        ]
        return fleet_pb2.ListEdgesResponse(edges=edges)


class Runs(run_pb2_grpc.RunServiceServicer):
    def ListRuns(self, request, context):
        return run_pb2.ListRunsResponse()


def test_an_admin_is_warned_of_edges_that_are_silent_for_longer_than_a_cloud_waits():
    with serving("sync", services_of(runs=Runs(), fleet=Fleet({"plant": 59, "ward": 61}))) as address:
        found = list(examine(Subject(role="admin", cloud=Peer(server="cloud", address=address))))
    warned = [each for each in found if "has not heard it for" in each.what]
    assert [(each.of, each.verdict) for each in warned] == [("edge ward", "warn")]
    assert "elsa doctor --as edge" in warned[0].remedy
    refusing = {each.of.split(" at ")[0] for each in found if "refuses connections" in each.what}
    assert refusing == {"edge plant", "edge ward"}
