"""Reports of a push: those that follow its header count as the header's, within bounds."""

from unittest import mock

import grpc
import numpy as np
import pytest
from cloud_harness import adapter, refused, run_async, site
from cluster_harness import clustering_run, reports, text_of

from elsa.cluster.summary import SIZE
from elsa.v1 import adapter_pb2, split_pb2
from elsa.wire.adapter import sha256
from elsa.wire.chunks import MAX_MESSAGE_BYTES, split_chunks
from services.cloud import adapter_servicer
from services.cloud.convert import moved_from_proto
from services.cloud.events import Event, UpdateReceived
from services.cloud.round_records import ClientReport, Update
from services.cloud.run_servicer import event_to_proto

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@run_async
async def test_reports_that_follow_the_header_count_as_its_own(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        more = [reports(["client-3", "client-5"]), reports(["client-7"])]
        await at.push(run, "edge-1", adapter(1), cluster=0, reports=reports(["client-1"]), more=more)
        told = await at.wait(run, lambda event: event.HasField("update_received"))
        four = ["client-1", "client-3", "client-5", "client-7"]
        assert [report.client_id for report in told.update_received.reports] == four
        with at.cloud.engine._store.transaction() as transaction:
            assert sorted(transaction.all(Update)[0].moved) == four


@pytest.mark.parametrize(
    ("bound", "most", "said"), [("MOST_REPORTS", 3, "reports: 4 in"), ("MOST_REPORT_BYTES", 2_000, "in 2000 bytes")]
)
def test_more_reports_than_are_taken_are_refused(tmp_path, bound, most, said):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await clustering_run(at, text_of())
            more = [reports(["client-3"]), reports(["client-5"]), []]
            with mock.patch.object(adapter_servicer, bound, most):
                async with refused(INVALID, said):
                    await at.push(run, "edge-1", adapter(1), cluster=0, reports=reports(["client-1"]), more=more)
            assert await at.push(run, "edge-1", adapter(1), cluster=0, reports=reports(["client-1"]), more=more)

    test(tmp_path)


@run_async
async def test_reports_after_the_first_chunk_are_refused(tmp_path):
    data = adapter(0, 200_000)
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.enroll(run, data=data)
        head = {"run_id": run, "node_id": "edge-1", "rows": 1, "total_bytes": len(data), "sha256": sha256(data)}

        async def messages():
            yield adapter_pb2.PushAdapterRequest(header=adapter_pb2.AdapterHeader(**head))
            yield adapter_pb2.PushAdapterRequest(chunk=next(iter(split_chunks(data))))
            yield adapter_pb2.PushAdapterRequest(reports=adapter_pb2.ClientReports(reports=reports(["client-1"])))

        async with refused(INVALID, "reports: ", "between the header"):
            await at.adapters.PushAdapter(messages(), timeout=20)


@pytest.mark.parametrize("later", [False, True], ids=["in the header", "after it"])
@pytest.mark.parametrize(
    ("field", "impossible"),
    [
        ("seconds.trunk", {"seconds": split_pb2.PhaseSeconds(trunk=-1)}),
        ("wall_s", {"wall_s": 1e10}),
        ("steps", {"steps": 2**62}),
        ("split.bottom", {"split": split_pb2.Split(bottom=0, trunk=3, top=1)}),
    ],
)
def test_figures_that_cannot_be_are_refused_by_client_and_field(tmp_path, field, impossible, later):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            told = [adapter_pb2.ClientReport(client_id="client-1", rows=1, loss=1.0, **impossible)]
            async with refused(INVALID, f"reports.{field} of client-1"):
                await at.push(run, "edge-1", adapter(1), **({"more": [told]} if later else {"reports": told}))
            assert await at.push(run, "edge-1", adapter(1), reports=reports(["client-1"]))

    test(tmp_path)


def test_how_far_a_client_went_is_the_mean_of_its_edge_rounds():
    far = [*reports(["a"], values=[1.0] * SIZE), *reports(["a"], values=[3.0] * SIZE), *reports(["a"], values=[])]
    moved = moved_from_proto([*far, *reports(["b"], values=[5.0] * SIZE)])
    assert {client: set(values) for client, values in moved.items()} == {"a": {2.0}, "b": {5.0}}


def test_an_event_of_more_reports_than_a_message_holds_tells_the_first():
    each = [ClientReport(client_id=f"client-{n:05}", edge_round=0, rows=1, steps=1, loss=1.0) for n in range(50_000)]
    body = UpdateReceived(edge_id="edge-1", version=0, rows=1, reports=tuple(each))
    message = event_to_proto(Event(run_id="r", sequence=1, unix_s=np.pi, body=body))
    assert message.ByteSize() <= MAX_MESSAGE_BYTES
    assert message.update_received.reports[9].client_id == "client-00009"
