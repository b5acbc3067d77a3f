"""A run whose splits are planned: who carries what, how that follows what rounds took, and who cannot take part."""

import grpc
from cloud_harness import CLIENTS, EDGES, adapter, refused, run_async, site, spec
from fingerprint_harness import FAILED, TRAINING, WARMUP, clustering_spec, first, upload
from plan_harness import (
    BLOCKS,
    PLANNED,
    SHAPE,
    client_profile,
    edge_profile,
    join_planned,
    report,
)

from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2

SPEEDS = {"client-1": 0.0005, "client-2": 0.001, "client-3": 0.004, "client-4": 0.02}
TEXT = spec(**PLANNED)
SMALL = {"client-2": client_profile(0.001, memory_mib=1)}


def fewest(clients, of=spec):
    """A planned run that needs so many clients."""
    return of(**PLANNED | {"fleet": {"min_clients": clients}})


async def enrolling(at, text=TEXT, profiles=None, edges=EDGES, clients=CLIENTS, edge=None, shapes=None):
    """A run that all have joined, each client near the edge of its number's parity."""
    await at.register()
    run = await at.submit(text)
    await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
    for name in edges:
        await at.push(run, name, adapter(), initial=True)
        await join_planned(at, run, name, edge, shape=(shapes or {}).get(name, SHAPE))
    for number, name in enumerate(clients):
        profile = (profiles or {}).get(name) or client_profile(SPEEDS[name])
        await join_planned(at, run, name, profile, near=EDGES[number % 2])
    return run


async def member_ids(at, run):
    return {client for edge in EDGES for client in (await first(at, edge, run)).client_ids}


async def share_of(at, run, client):
    return (await first(at, client, run)).share


async def planned_event(at, run, version):
    event = await at.wait(run, lambda event: event.HasField("planned") and event.planned.version == version)
    return event.planned


async def deliver(at, run, version, blocks_s, trunk_block_s=0.002):
    """Both edges deliver a round in which each client's block took so long, and its ends accordingly."""
    for edge in EDGES:
        clients = list((await first(at, edge, run)).client_ids)
        shares = {client: await share_of(at, run, client) for client in clients}
        own = [
            report(
                client,
                share,
                block_s=blocks_s[client],
                ends_s=0.001 * blocks_s[client] / SPEEDS[client],
                trunk_block_s=trunk_block_s,
            )
            for client, share in shares.items()
        ]
        await at.push(run, edge, adapter(version), version, reports=own)
    await at.closed(run, version + 1)


@run_async
async def test_each_client_carries_what_its_profile_allows_within_the_bounds(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await at.reach(run, TRAINING)
        shares = {client: await share_of(at, run, client) for client in CLIENTS}
        assert all(share.bottom >= 1 and share.top >= 1 and share.local_steps == 20 for share in shares.values())
        kept = {client: share.bottom + share.top for client, share in shares.items()}
        assert kept["client-1"] > kept["client-3"] and kept["client-4"] == 2  # the slowest leaves all it may
        told = await planned_event(at, run, 0)
        by_id = {own.client_id: own for own in told.clients}
        assert list(by_id) == list(CLIENTS) and told.changed == 4 and told.step_s > 0 and len(told.notes) == 2
        for client, share in shares.items():
            trunk = BLOCKS - share.bottom - share.top
            assert by_id[client].split == f"{share.bottom}/{trunk}/{share.top}"
            assert by_id[client].need_bytes > 0 and by_id[client].reason


@run_async
async def test_a_given_split_is_told_to_nobody_and_needs_no_profile(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        assert not (await first(at, "client-1", run)).HasField("share")
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "plan.method"):
            await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))


@run_async
async def test_who_offers_no_profile_is_told_what_is_missing(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(TEXT)
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for node, field in (("edge-1", "edge.profile"), ("client-1", "client.profile")):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
                await at.join(run, node)
        broken = client_profile(block_s=float("nan"))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "client-1: block_s is nan"):
            await join_planned(at, run, "client-1", broken)


@run_async
async def test_the_plan_follows_a_device_that_slows_down_and_keeps_what_hardly_gains(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await at.reach(run, TRAINING)
        before = {client: await share_of(at, run, client) for client in CLIENTS}
        await deliver(at, run, 0, SPEEDS)
        assert {client: await share_of(at, run, client) for client in CLIENTS} == before  # all was as predicted
        await deliver(at, run, 1, SPEEDS | {"client-1": 0.004})
        now = await share_of(at, run, "client-1")
        assert now.bottom + now.top < before["client-1"].bottom + before["client-1"].top
        told = await planned_event(at, run, 2)
        assert "client-1" in {own.client_id for own in told.clients}
        profiles = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
        measured = {own.client_id: own.profile.block_s for own in profiles.clients}
        assert abs(measured["client-1"] / 0.004 - 1) < 1e-6 and abs(measured["client-4"] / 0.02 - 1) < 1e-6


async def profiles_of(at, run):
    given = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
    seconds = {own.client_id: own.profile.block_s for own in given.clients}
    return seconds | {edge.edge_id: edge.profile.block_s for edge in given.edges}


@run_async
async def test_an_edge_s_word_counts_for_its_own_clients_alone(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await at.reach(run, TRAINING)
        before = await profiles_of(at, run)
        near = list((await first(at, "edge-1", run)).client_ids)
        slow = [report(client, await share_of(at, run, client), block_s=0.05, trunk_block_s=0.05) for client in near]
        there = (await first(at, "edge-2", run)).client_ids[0]
        own = adapter_pb2.ClientReport(client_id=there, rows=1, steps=1, loss=1.0)
        await at.push(run, "edge-2", adapter(0), reports=[own, *slow])
        await at.push(run, "edge-1", adapter(0))
        await at.closed(run, 1)
        assert await profiles_of(at, run) == before


@run_async
async def test_of_several_edge_rounds_the_one_between_counts(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        await at.reach(run, TRAINING)
        share = await share_of(at, run, "client-1")
        took = [0.001, 0.002, 0.2]
        told = [
            report("client-1", share, block_s=s, ends_s=2 * s, trunk_block_s=4 * s, edge_round=number)
            for number, s in enumerate(took)
        ]
        home = EDGES[0]
        for edge in EDGES:
            await at.push(run, edge, adapter(0), reports=told if edge == home else ())
        await at.closed(run, 1)
        now = await profiles_of(at, run)
        assert abs(now["client-1"] / 0.002 - 1) < 1e-6 and abs(now[home] / 0.008 - 1) < 1e-6


@run_async
async def test_a_plan_for_the_whole_run_is_made_once(tmp_path):
    once = spec(**PLANNED | {"plan": {"method": "measured", "every": 0}})
    async with site(tmp_path) as at:
        run = await enrolling(at, once)
        await at.reach(run, TRAINING)
        before = {client: await share_of(at, run, client) for client in CLIENTS}
        await deliver(at, run, 0, dict.fromkeys(CLIENTS, 0.05))
        assert {client: await share_of(at, run, client) for client in CLIENTS} == before


@run_async
async def test_a_device_too_small_is_left_out_by_name_and_the_rest_goes_on(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at, fewest(3), profiles=SMALL)
        await at.reach(run, TRAINING)
        event = await at.wait(
            run, lambda event: event.node_joined.node_id == "client-2" and not event.node_joined.accepted
        )
        assert "MiB" in event.node_joined.detail and "memory" in event.node_joined.detail
        assert await member_ids(at, run) == set(CLIENTS) - {"client-2"}


@run_async
async def test_a_run_with_nobody_left_fails_with_the_reasons(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at, profiles=dict.fromkeys(CLIENTS, client_profile(memory_mib=1)))
        event = await at.reach(run, FAILED)
        reason = event.state_changed.reason
        assert all(client in reason for client in CLIENTS) and "MiB are there" in reason


@run_async
async def test_a_run_of_which_the_plan_leaves_too_few_fails_with_the_reasons(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at, fewest(4), profiles=SMALL)
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert reason.startswith("3 of 4 clients can take part; client client-2: needs ") and "\n" not in reason


@run_async
async def test_who_leaves_a_planned_run_before_it_trains_does_not_end_it(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at, clustering_spec(**PLANNED))
        await at.reach(run, WARMUP)
        await at.refuse(run, "client-2", "going home")
        await at.wait(run, lambda event: event.node_joined.node_id == "client-2" and not event.node_joined.accepted)
        at.later(301)
        await at.reach(run, TRAINING)
        assert await member_ids(at, run) == set(CLIENTS) - {"client-2"}


@run_async
async def test_slower_clients_take_fewer_steps_where_steps_are_proportional(tmp_path):
    text = spec(**PLANNED | {"training": {"rounds": 3, "local_steps": 20, "steps": "proportional"}})
    async with site(tmp_path) as at:
        run = await enrolling(at, text)
        await at.reach(run, TRAINING)
        steps = {client: (await share_of(at, run, client)).local_steps for client in CLIENTS}
        assert max(steps.values()) == 20 and min(steps.values()) >= 1 and steps["client-4"] < steps["client-1"]


@run_async
async def test_profiles_are_given_with_what_each_client_carries(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at, edge=edge_profile(0.003, memory_mib=500))
        await at.reach(run, TRAINING)
        given = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
        assert given.shape == SHAPE and [edge.edge_id for edge in given.edges] == list(EDGES)
        assert all(edge.capacity == 4 and edge.profile == edge_profile(0.003, 500) for edge in given.edges)
        assert [own.client_id for own in given.clients] == list(CLIENTS) and not given.left_out
        for own in given.clients:
            assert own.share == await share_of(at, run, own.client_id)
            assert own.profile == client_profile(SPEEDS[own.client_id])
            assert [link.edge_id for link in own.links] == list(EDGES)


@run_async
async def test_what_cannot_be_of_the_run_is_refused_at_the_join(tmp_path):
    text = spec(**PLANNED | {"codecs": {"h1": "subspace(k=32)"}, "model": {"max_tokens": 64}})
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(text)
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for field, value, said in (
            ("width", 16, "codecs.h1"),
            ("width", 0, "width is 0"),
            ("blocks", 2, "2 blocks"),
            ("block_weights", 0, "block_weights is 0"),
            ("largest_weights", 0, "largest_weights is 0"),
            ("block_activations", 0, "block_activations is 0"),
            ("embedding_weights", 63, "embedding_weights is 63"),
        ):
            shape = fleet_pb2.ModelShape()
            shape.CopyFrom(SHAPE)
            setattr(shape, field, value)
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "edge.shape", said):
                await join_planned(at, run, "edge-1", shape=shape)
        await join_planned(at, run, "edge-1")
        for tokens, words in ((64.1, ("client.profile.row_tokens: 64.1", "model.max_tokens")), (0, ("row_tokens",))):
            long = client_profile()
            long.row_tokens = tokens
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, *words):
                await join_planned(at, run, "client-1", long)
        slow = [fleet_pb2.LinkReport(edge_id="edge-1", latency_ms=1, up_bytes_per_s=1e-305, down_bytes_per_s=1e9)]
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "links.edge-1.up_bytes_per_s is 1e-305"):
            await join_planned(at, run, "client-1", links=slow)


@run_async
async def test_who_is_refused_by_the_plan_after_the_warm_up_is_in_no_cluster(tmp_path):
    """All warm up at edge-1; then one of the two groups goes to edge-2, which has memory for one client."""
    async with site(tmp_path) as at:
        text = fewest(3, clustering_spec)
        await at.register()
        run = await at.submit(text)
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for edge, memory_mib in zip(EDGES, (4000, 36), strict=True):
            await at.push(run, edge, adapter(), initial=True)
            await join_planned(at, run, edge, edge_profile(memory_mib=memory_mib))
        for client in CLIENTS:
            await join_planned(at, run, client)
        await at.reach(run, WARMUP)
        assert list((await first(at, "edge-1", run)).client_ids) == list(CLIENTS)
        for number, client in enumerate(CLIENTS):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        await at.reach(run, TRAINING)
        event = await at.wait(run, lambda event: event.HasField("node_joined") and not event.node_joined.accepted)
        refused_id = event.node_joined.node_id
        left = set(CLIENTS) - {refused_id}
        assert refused_id in CLIENTS and "edge-2 needs" in event.node_joined.detail
        told = await at.wait(run, lambda event: event.HasField("clustered"))
        assert {place.client_id for place in told.clustered.places} == left == await member_ids(at, run)


@run_async
async def test_an_edge_of_another_model_is_left_out_of_the_plan_by_name(tmp_path):
    odd = fleet_pb2.ModelShape()
    odd.CopyFrom(SHAPE)
    odd.width = 128
    async with site(tmp_path) as at:
        run = await enrolling(at, fewest(2), shapes={"edge-2": odd})
        await at.reach(run, TRAINING)
        event = await at.wait(
            run, lambda event: event.node_joined.node_id == "client-2" and not event.node_joined.accepted
        )
        assert "edge-2 is not there or has no usable profile" in event.node_joined.detail
        given = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
        assert given.shape == SHAPE and [own.client_id for own in given.clients] == ["client-1", "client-3"]


@run_async
async def test_profiles_are_of_those_who_take_part(tmp_path):
    larger = fleet_pb2.ModelShape()
    larger.CopyFrom(SHAPE)
    larger.block_weights += 1
    async with site(tmp_path) as at:
        run = await enrolling(at, shapes={"edge-1": larger})
        await at.reach(run, TRAINING)
        given = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
        assert given.shape == larger  # of what peers tell the most
        await at.refuse(run, "edge-1", "disk is full")
        await at.refuse(run, "client-2", "going home")
        await at.wait(run, lambda event: "disk is full" in event.client_assigned.detail)
        given = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
        assert given.shape == SHAPE and [edge.edge_id for edge in given.edges] == ["edge-2"]
        assert [own.client_id for own in given.clients] == ["client-1", "client-3", "client-4"]
