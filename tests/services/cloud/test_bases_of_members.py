"""The members of a run have one frozen base: that of the first edge that says which it has."""

import itertools

import grpc
from cloud_harness import CLIENTS, EDGES, adapter, refused, run_async, site, spec

from elsa.v1 import fleet_pb2, run_pb2

ENROLLING, TRAINING = fleet_pb2.RUN_STATE_ENROLLING, fleet_pb2.RUN_STATE_TRAINING
OURS, OTHER = "ab" * 32, "cd" * 32
WANTS = {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 300}
INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def join(at, run, node, digest):
    request = fleet_pb2.JoinRunRequest(run_id=run, node_id=node)
    if node in EDGES:
        request.edge.CopyFrom(fleet_pb2.EdgeOffer(room=8, base_digest=digest))
    else:
        links = [fleet_pb2.LinkReport(edge_id=edge, latency_ms=1) for edge in EDGES]
        request.client.CopyFrom(fleet_pb2.ClientOffer(train_rows=9, heldout_rows=3, links=links, base_digest=digest))
    await at.fleet.JoinRun(request)


async def enrolling(at):
    """A run that waits for one client and one edge at least."""
    await at.register()
    run = await at.submit(spec(fleet=WANTS))
    await at.reach(run, ENROLLING)
    await at.push(run, "edge-1", adapter(), initial=True)
    return run


async def runs_of(at, node):
    call = at.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=node), timeout=30)
    async for message in call:
        yield [assignment.run_id for assignment in message.assignments]


@run_async
async def test_who_has_another_base_than_the_first_edge_is_refused_with_both_and_the_remedy(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await join(at, run, "edge-1", OURS)
        for node, more in (("client-1", "--weights edge"), ("edge-2", "--models minilm=FOLDER")):
            async with refused(INVALID, node, "minilm", OURS[:12], OTHER[:12], "edge-1", more):
                await join(at, run, node, OTHER)
        await join(at, run, "client-2", OURS)
        await join(at, run, "client-1", OURS)
        assert sorted((await at.get(run)).client_ids) == ["client-1", "client-2"]


@run_async
async def test_a_client_that_joined_before_any_edge_is_refused_once_an_edge_has_another_base(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await join(at, run, "client-1", OTHER)
        await join(at, run, "client-2", OURS)
        await join(at, run, "client-3", "")
        watched = runs_of(at, "client-1")
        assert await anext(watched) == [run]
        await join(at, run, "edge-1", OURS)
        assert await anext(watched) == []
        left = await at.wait(run, lambda e: e.node_joined.node_id == "client-1" and not e.node_joined.accepted)
        assert OTHER[:12] in left.node_joined.detail and "edge-1" in left.node_joined.detail
        assert sorted((await at.get(run)).client_ids) == ["client-2", "client-3"]


@run_async
async def test_the_order_in_which_members_join_does_not_matter(tmp_path):
    said = {"edge-1": OURS, "client-1": OTHER, "client-2": OURS, "client-3": ""}
    async with site(tmp_path) as at:
        await at.register()
        for order in itertools.permutations(said):
            run = await at.submit(spec(fleet={**WANTS, "min_clients": 2}))
            await at.reach(run, ENROLLING)
            for node in order:
                try:
                    await join(at, run, node, said[node])
                except grpc.RpcError as error:
                    assert (node, error.code()) == ("client-1", INVALID)
                    await at.refuse(run, node, error.details())
            found = await at.get(run)
            assert (sorted(found.client_ids), list(found.edge_ids)) == (["client-2", "client-3"], ["edge-1"]), order
            await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))


@run_async
async def test_a_member_may_come_back_with_another_base_while_nobody_else_has_said(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await join(at, run, "edge-1", OTHER)
        await join(at, run, "edge-1", OURS)
        await join(at, run, "edge-2", OURS)
        async with refused(INVALID, "edge-1"):
            await join(at, run, "edge-1", OTHER)


@run_async
async def test_where_nobody_says_all_take_part(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        assert sorted((await at.get(run)).client_ids) == sorted(CLIENTS)


@run_async
async def test_what_is_no_digest_is_refused(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        for digest, node in itertools.product(("ab" * 31, "AB" * 32, "x" * 64), ("edge-1", "client-1")):
            async with refused(INVALID, f"{node[:-2]}.base_digest"):
                await join(at, run, node, digest)
