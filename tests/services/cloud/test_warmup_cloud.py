"""A run that warms up before it trains: it gets its clusters, and never hangs."""

from unittest import mock

import grpc
import numpy as np
from cloud_harness import CLIENTS, EDGES, Clock, adapter, refused, run_async, site, spec
from fingerprint_harness import (
    CLUSTERING,
    FAILED,
    TRAINING,
    WARMUP,
    clustered,
    clustering_spec,
    first,
    tensor,
    upload,
    warming,
)

from elsa.v1 import fleet_pb2, run_pb2
from services.cloud import placing
from services.cloud.lifecycle import RunState

TEXT = clustering_spec(fleet={"min_clients": 4, "min_edges": 2})


async def edges_of(at, run):
    return {edge: list((await first(at, edge, run)).client_ids) for edge in EDGES}


@run_async
async def test_planted_groups_end_on_the_same_edge(tmp_path):
    clients = tuple(f"client-{number}" for number in range(1, 9))
    text = clustering_spec(fleet={"min_clients": 8, "min_edges": 2})
    async with site(tmp_path) as at:
        run = await warming(at, text, clients, room=4, near=lambda number: EDGES[number // 4])
        for number, client in enumerate(clients):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        await at.reach(run, TRAINING)
        decided = await clustered(at, run)
        assert decided.clusters == 2 and [place.client_id for place in decided.places] == list(clients)
        groups = {tuple(place.client_id for place in decided.places if place.edge_id == edge) for edge in EDGES}
        assert groups == {clients[0::2], clients[1::2]}
        assert [place.cluster for place in decided.places] == [0, 1] * 4
        assert all(place.trust > 0.2 and place.parts.update == 1 for place in decided.places)
        for edge in EDGES:
            told = await first(at, edge, run)
            by_id = {place.client_id: place for place in decided.places}
            assert [(kept.cluster, kept.trust) for kept in told.standings] == [
                (by_id[client].cluster, by_id[client].trust) for client in told.client_ids
            ]
        view = await at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run))
        assert view.clustered == decided and list(view.divergence.shape) == [8, 8]
        events = [event async for event in _until_training(at, run)]
        given = [event.client_assigned for event in events if event.HasField("client_assigned")]
        assert [event.client_id for event in given] == list(clients)
        assert all("cluster" in event.detail and "trust" in event.detail for event in given)


async def _until_training(at, run):
    async for event in at.events(run):
        yield event
        if event.state_changed.state == TRAINING:
            return


@run_async
async def test_clients_warm_up_at_their_nearest_edges(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT, near=lambda number: EDGES[number % 2])
        assert await edges_of(at, run) == {"edge-1": ["client-1", "client-3"], "edge-2": ["client-2", "client-4"]}
        told = await first(at, "client-2", run)
        assert (told.state, [peer.edge_id for peer in told.edges]) == (WARMUP, ["edge-2"])
        assert not (await first(at, "edge-1", run)).standings
        assert (await at.pull(run, "edge-1", 0))[0] == 0


@run_async
async def test_run_without_a_fingerprint_trains_at_the_deadline(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT, near=lambda number: EDGES[number % 2])
        at.later(299)
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).state == WARMUP
        at.later(1)
        await at.reach(run, TRAINING)
        decided = await clustered(at, run)
        assert decided.clusters == 1 and "0 of 4 clients sent a fingerprint; too few" in decided.detail
        assert await edges_of(at, run) == {"edge-1": ["client-1", "client-3"], "edge-2": ["client-2", "client-4"]}
        assert not any(place.HasField("parts") for place in decided.places)
        for edge in EDGES:
            await at.push(run, edge, adapter(1), cluster=0)
        await at.closed(run, 1)


@run_async
async def test_quorum_of_fingerprints_ends_the_wait(tmp_path):
    text = clustering_spec(clustering={"quorum": 0.75})
    async with site(tmp_path) as at:
        run = await warming(at, text)
        for number, client in enumerate(CLIENTS[:3]):
            assert (await at.get(run)).state == WARMUP
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        await at.reach(run, TRAINING)
        place = (await clustered(at, run)).places[3]
        assert not place.HasField("parts") and "no fingerprint" in place.detail and place.trust == 0.75


@run_async
async def test_client_that_left_is_not_waited_for(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        for client in CLIENTS[:3]:
            await at.fleet.UploadFingerprint(upload(TEXT, run, client))
        await at.refuse(run, "client-4", "no memory")
        await at.reach(run, TRAINING)
        assert [place.client_id for place in (await clustered(at, run)).places] == list(CLIENTS[:3])


@run_async
async def test_client_that_is_silent_is_not_waited_for_but_placed(tmp_path):
    async with site(tmp_path, heartbeat_s=10, gone_after_s=100) as at:
        run = await warming(at, TEXT)
        for client in CLIENTS[:3]:
            await at.fleet.UploadFingerprint(upload(TEXT, run, client))
        await at.silence("client-4", seconds=101)
        at.later(1)
        await at.reach(run, TRAINING)
        assert len((await clustered(at, run)).places) == 4


@run_async
async def test_run_that_all_clients_leave_in_its_warm_up_fails(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        for edge in EDGES:
            await at.refuse(run, edge, "disk is full")
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert reason.startswith("no edge with clients is left; edge-1 left: disk is full")


@run_async
async def test_cloud_that_restarts_in_the_warm_up_goes_on(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await warming(at, TEXT)
        for number, client in enumerate(CLIENTS[:3]):
            await at.fleet.UploadFingerprint(upload(TEXT, run, client, group=number % 2))
    clock.now += 10_000
    async with site(tmp_path, clock) as at:
        await at.cloud.engine.advance(run, clock())
        assert (await at.get(run)).state == WARMUP
        await at.fleet.UploadFingerprint(upload(TEXT, run, "client-4", group=1))
        await at.reach(run, TRAINING)
        assert [place.cluster for place in (await clustered(at, run)).places] == [0, 1, 0, 1]


@run_async
async def test_cloud_that_dies_while_it_clusters_goes_on(tmp_path):
    from services.cloud.settings import CloudSettings
    from services.cloud.store import Store

    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await warming(at, TEXT)
        for number, client in enumerate(CLIENTS[:3]):
            await at.fleet.UploadFingerprint(upload(TEXT, run, client, group=number % 2))
    store = Store(CloudSettings(state=tmp_path / "cloud").database)
    with store.transaction() as transaction:
        transaction.move(transaction.run(run), RunState.CLUSTERING, clock())
    store.close()
    async with site(tmp_path, clock) as at:
        at.cloud.engine.kick()
        await at.reach(run, TRAINING)
        assert "3 of 4 clients sent" in (await clustered(at, run)).detail


@run_async
async def test_nobody_trusted_is_said_and_all_count_alike(tmp_path):
    text = clustering_spec(trust={"min_trust": 0.2})
    async with site(tmp_path) as at:
        run = await warming(at, text)
        for seed, client in enumerate(CLIENTS):
            noise = tensor(np.random.default_rng(seed).normal(size=(20, 4)))  # answers to repeats differ
            await at.fleet.UploadFingerprint(upload(text, run, client, embeddings=noise))
        await at.reach(run, TRAINING)
        decided = await clustered(at, run)
        assert "trust of all 4 is below trust.min_trust 0.2" in decided.detail
        assert {place.trust for place in decided.places} == {0.75}
        assert all(place.parts.repeatability < 0.2 for place in decided.places)


@run_async
async def test_latency_bound_that_cannot_be_held_is_given_up(tmp_path):
    text = clustering_spec(assignment={"latency_bound_ms": 0.5})
    async with site(tmp_path) as at:
        run = await warming(at, text)
        for number, client in enumerate(CLIENTS):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        await at.reach(run, TRAINING)
        decided = await clustered(at, run)
        assert "bound" in decided.detail and "client-1" in decided.detail


@run_async
async def test_run_whose_edges_are_silent_as_it_clusters_goes_on(tmp_path):
    text = clustering_spec(clustering={"deadline_s": 105})
    async with site(tmp_path, heartbeat_s=10, gone_after_s=100) as at:
        run = await warming(at, text, near=lambda number: EDGES[number % 2])
        for client in CLIENTS[:3]:
            await at.fleet.UploadFingerprint(upload(text, run, client))
        await at.silence("edge-1", seconds=70)  # is gone soon, and edge-2 alone has too little room
        await at.silence(*EDGES, seconds=36)
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).state == TRAINING
        assert {place.edge_id for place in (await clustered(at, run)).places} == set(EDGES)


@run_async
async def test_run_without_a_warm_up_whose_edges_are_silent_goes_on(tmp_path):
    async with site(tmp_path, heartbeat_s=10, gone_after_s=100) as at:
        await at.register()
        run = await at.submit(spec())
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for edge in EDGES:
            await at.push(run, edge, adapter(), initial=True)
            await at.join(run, edge)
        for client in CLIENTS[:3]:
            await at.join(run, client)
        with at.cloud.engine._store.transaction() as transaction:  # as if the cloud was slow to decide
            transaction.move(transaction.run(run), RunState.CLUSTERING, at.clock())
        await at.silence("edge-1", seconds=70)
        await at.silence(*EDGES, seconds=36)
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).state == TRAINING


@run_async
async def test_run_waits_for_its_other_edge_where_one_left_as_it_clusters(tmp_path):
    text = clustering_spec(clustering={"deadline_s": 35})
    async with site(tmp_path, heartbeat_s=10, gone_after_s=100) as at:
        run = await warming(at, text, near=lambda number: EDGES[number % 2])
        await at.silence("edge-2", seconds=40)
        await at.refuse(run, "edge-1", "disk is full")
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).state == CLUSTERING
        await at.heartbeat("edge-2")
        await at.reach(run, TRAINING)
        assert {place.edge_id for place in (await clustered(at, run)).places} == {"edge-2"}


@run_async
async def test_who_sends_no_fingerprint_weighs_by_the_trust_that_is_said(tmp_path):
    text = clustering_spec(clustering={"quorum": 0.75})
    async with site(tmp_path) as at:
        run = await warming(at, text)
        with mock.patch.object(placing, "assign", side_effect=placing.assign) as assign:
            for number, client in enumerate(CLIENTS[:3]):
                await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
            await at.reach(run, TRAINING)
        said = [place.trust for place in (await clustered(at, run)).places]
        assert assign.call_args.args[0].trust.tolist() == said and said[3] == 0.75


@run_async
async def test_balanced_edges_get_a_mixture(tmp_path):
    clients = tuple(f"client-{number}" for number in range(1, 9))
    text = clustering_spec(fleet={"min_clients": 8, "min_edges": 2}, clustering={"edges": "balanced"})
    async with site(tmp_path) as at:
        run = await warming(at, text, clients, room=4, near=lambda number: EDGES[number % 2])
        for number, client in enumerate(clients):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        await at.reach(run, TRAINING)
        decided = await clustered(at, run)
        for edge in EDGES:
            assert sorted(place.cluster for place in decided.places if place.edge_id == edge) == [0, 0, 1, 1]


@run_async
async def test_run_that_does_not_cluster_never_warms_up(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec())
        states = [
            event.state_changed.state async for event in _until_training(at, run) if event.HasField("state_changed")
        ]
        assert states == [
            fleet_pb2.RUN_STATE_PENDING,
            fleet_pb2.RUN_STATE_ENROLLING,
            fleet_pb2.RUN_STATE_CLUSTERING,
            TRAINING,
        ]
        assert not (await first(at, "edge-1", run)).standings
        async with refused(grpc.StatusCode.NOT_FOUND, "has not clustered"):
            await at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run))
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "does not cluster"):
            await at.fleet.GetProbes(fleet_pb2.GetProbesRequest(run_id=run, client_id="client-1"))


@run_async
async def test_a_run_that_does_not_cluster_says_why(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        told = await at.reach(run, CLUSTERING)
        assert told.state_changed.reason == "no clusters: clustering.method is none"
        one = await at.submit(clustering_spec(fleet={"min_clients": 2, "min_edges": 1}))
        await at.reach(one, fleet_pb2.RUN_STATE_ENROLLING)
        await at.push(one, "edge-1", adapter(), initial=True)
        await at.join(one, "edge-1", room=4)
        await at.refuse(one, "edge-2", "no memory")
        for client in CLIENTS:
            await at.join(one, client, edges=EDGES[:1])
        assert (await at.reach(one, CLUSTERING)).state_changed.reason == "no clusters: there is one edge"
        await at.reach(one, TRAINING)
        assert (await at.get(one)).reason == ""
