"""What an edge tells the cloud of a client's training: its own figures where it has any, and none that cannot be."""

import pytest
from split_harness import HALF, Trainee, edge_server, first_adapter, rows, spec_of

from elsa.v1 import adapter_pb2, split_pb2


def test_what_a_client_claims_of_the_edge_s_own_work_is_not_told(tiny_bert):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as server:
        run = server.open_run(spec, start, ["ann"])
        trainee = Trainee(spec, start, rows(20, 1)).connect(server).train(2)
        trainee.finish(server)
        claimed = split_pb2.PhaseSeconds(bottom=1, network=2, wait=1e8, trunk=1e8, top=3)
        trainee.push(server, steps=77, seconds=claimed, split=split_pb2.Split(bottom=1, trunk=9_000, top=1))
        ((report,),) = [part.reports for part in run.rounds.close(10).parts.values()]
        told, own = adapter_pb2.ClientReport.FromString(report.message), trainee.finished
    assert 0 < told.seconds.trunk < 60 and 0 <= told.seconds.wait < 60
    assert (told.seconds.trunk, told.seconds.wait) == (own.seconds.trunk, own.seconds.wait)
    assert told.steps == report.steps == 2
    assert told.split == split_pb2.Split(bottom=HALF.bottom, trunk=HALF.trunk, top=HALF.top)
    assert (told.seconds.bottom, told.seconds.network, told.seconds.top) == (1, 2, 3)  # these the client alone knows


@pytest.mark.parametrize(
    ("field", "impossible"),
    [("seconds.bottom", {"seconds": split_pb2.PhaseSeconds(bottom=-1)}), ("wall_s", {"wall_s": float("inf")})],
)
def test_a_report_that_the_cloud_would_refuse_is_refused_here(tiny_bert, field, impossible):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as server:
        server.open_run(spec, start, ["ann"])
        trainee = Trainee(spec, start, rows(20, 1)).connect(server).train(1)
        trainee.finish(server)
        with pytest.raises(Exception, match=rf"reports\.{field} of ann"):
            trainee.push(server, **impossible)
        assert trainee.push(server)
