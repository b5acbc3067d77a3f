"""What an operator is told of the edges."""

import pytest
from cloud_harness import EDGES, run_async, site

from elsa.v1 import fleet_pb2
from services.cloud import fleet as fleet_module


async def listed(at, after=""):
    return await at.fleet.ListEdges(fleet_pb2.ListEdgesRequest(after=after))


@run_async
async def test_edges_are_listed_with_their_addresses_and_no_clients(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        found = await listed(at)
        assert [(edge.edge_id, edge.address, edge.capacity) for edge in found.edges] == [
            ("edge-1", "127.0.0.1:9001", 8),
            ("edge-2", "127.0.0.1:9002", 8),
        ]
        assert not found.more


@run_async
async def test_how_long_an_edge_was_silent_is_told(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        await at.silence("edge-2", seconds=30)
        assert [edge.silent_s for edge in (await listed(at)).edges] == pytest.approx([0, 30])


@run_async
async def test_pages_together_are_all_edges_in_order(tmp_path):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fleet_module, "MOST_LISTED", 2)
        async with site(tmp_path) as at:
            await at.register(edges=("edge-3", *EDGES, "EDGE-1", "edge-10"))
            names, answer = [], await listed(at)
            while answer.more:
                assert len(answer.edges) == 2
                names += [edge.edge_id for edge in answer.edges]
                answer = await listed(at, names[-1])
            names += [edge.edge_id for edge in answer.edges]
    assert names == ["EDGE-1", "edge-1", "edge-10", "edge-2", "edge-3"]
