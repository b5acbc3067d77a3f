"""Planned runs in which something changes under the plan: another answer, a client that leaves, an edge that dies."""

from cloud_harness import CLIENTS, EDGES, adapter, run_async, site, spec
from fingerprint_harness import TRAINING, WARMUP, clustering_spec, first, upload
from plan_harness import BLOCKS, PLANNED, client_profile, join_planned, report

from elsa.v1 import fleet_pb2, run_pb2

SPEEDS = {"client-1": 0.0005, "client-2": 0.001, "client-3": 0.004, "client-4": 0.02}
QUICK = {"heartbeat_s": 10, "gone_after_s": 100}


async def enrolled(at, text, but=()):
    """A planned run that all but these have joined, odd clients near edge-1 and even ones near edge-2."""
    await at.register()
    run = await at.submit(text)
    await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
    for name in EDGES:
        await at.push(run, name, adapter(), initial=True)
        await join_planned(at, run, name)
    for client in CLIENTS:
        if client not in but:
            await join(at, run, client)
    return run


async def join(at, run, client, **figures):
    near = EDGES[CLIENTS.index(client) % 2]
    await join_planned(at, run, client, client_profile(**{"block_s": SPEEDS[client], **figures}), near=near)


def meanwhile(at, method, act):
    """Have `act` done once, between a plan and its writing."""
    planner = at.cloud.engine._steps._planner
    plan, calls = getattr(planner, method), []

    async def hooked(*given):
        made = await plan(*given)
        calls.append(made)
        if len(calls) == 1:
            await act()
        return made

    setattr(planner, method, hooked)
    return calls


async def told(at, node, run):
    return await first(at, node, run)


async def deliver(at, run, version, edges=EDGES):
    """A round whose steps took what was said, of each cluster apart where there are any."""
    for edge in edges:
        there = await told(at, edge, run)
        clusters = {client: kept.cluster for client, kept in zip(there.client_ids, there.standings, strict=False)}
        parts = {}
        for client in there.client_ids:
            own = report(client, (await told(at, client, run)).share, block_s=SPEEDS[client], ends_s=0.001)
            parts.setdefault(clusters.get(client), []).append(own)
        for cluster, own in parts.items():
            header = {} if cluster is None else {"cluster": cluster, "parts": len(parts)}
            await at.push(run, edge, adapter(version), version, reports=own, **header)
    await at.closed(run, version + 1)


async def check_shares(at, run, clients):
    """Each client has a whole share, and profiles show the same."""
    given = await at.runs.GetProfiles(run_pb2.GetProfilesRequest(run_id=run))
    shown = {own.client_id: own for own in given.clients}
    assert list(shown) == list(clients)
    for client in clients:
        share = (await told(at, client, run)).share
        assert share.bottom >= 1 and share.top >= 1 and share.bottom + share.top < BLOCKS and share.local_steps == 20
        assert shown[client].share == share


@run_async
async def test_a_profile_that_comes_while_the_first_plan_is_made_is_planned_with(tmp_path):
    text = clustering_spec(**PLANNED)
    async with site(tmp_path) as at:
        run = await enrolled(at, text, but=("client-4",))
        calls = meanwhile(at, "first", lambda: join(at, run, "client-1", block_s=0.5))
        await join(at, run, "client-4")
        await at.reach(run, WARMUP)
        share = (await told(at, "client-1", run)).share
        assert len(calls) > 1 and calls[0].shares["client-1"].split != f"{share.bottom}/{share.top}"
        assert (share.bottom, share.top) == (1, 1)


@run_async
async def test_a_client_that_leaves_while_the_first_plan_is_made_is_not_planned_for(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolled(at, spec(**PLANNED), but=("client-4",))
        calls = meanwhile(at, "first", lambda: at.refuse(run, "client-1", "going home"))
        await join(at, run, "client-4")
        await at.reach(run, TRAINING)
        assert "client-1" in calls[0].shares and "client-1" not in calls[1].shares
        await check_shares(at, run, CLIENTS[1:])


@run_async
async def test_a_client_that_leaves_while_a_round_is_planned_stays_away(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolled(at, spec(**PLANNED))
        await at.reach(run, TRAINING)
        calls = meanwhile(at, "again", lambda: at.refuse(run, "client-1", "going home"))
        await deliver(at, run, 0)
        assert "client-1" in calls[0].planning.shares
        await check_shares(at, run, CLIENTS[1:])
        await deliver(at, run, 1)
        assert "client-1" not in calls[1].planning.shares
        assert not calls[1].planning.refused  # it is not even asked for


@run_async
async def test_clients_of_an_edge_that_dies_carry_their_shares_to_another_and_are_planned_there(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await enrolled(at, spec(**PLANNED))
        await at.reach(run, TRAINING)
        before = {client: (await told(at, client, run)).share for client in CLIENTS}
        await at.silence("edge-1", seconds=101)
        await at.cloud.engine.advance(run, at.clock())
        assert list((await told(at, "edge-2", run)).client_ids) == list(CLIENTS)
        assert {client: (await told(at, client, run)).share for client in CLIENTS} == before
        calls = meanwhile(at, "again", lambda: at.heartbeat("edge-2"))
        await deliver(at, run, 0, ("edge-2",))
        (made,) = calls
        assert {share.plan.edge for share in made.planning.shares.values()} == {"edge-2"}
        assert not made.notes and list(made.planning.shares) == list(CLIENTS)
        await check_shares(at, run, CLIENTS)


@run_async
async def test_a_client_that_changes_its_edge_with_its_cluster_is_planned_for_the_new_one(tmp_path):
    text = clustering_spec(**PLANNED | {"clustering": {"every": 1}, "training": {"rounds": 3, "local_steps": 20}})
    async with site(tmp_path) as at:
        run = await enrolled(at, text)
        await at.reach(run, WARMUP)
        for number, client in enumerate(CLIENTS):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        await at.reach(run, TRAINING)
        homes = {client: (await told(at, client, run)).edges[0].edge_id for client in CLIENTS}
        assert len(set(homes.values())) == 2
        for number, client in enumerate(CLIENTS):  # clients 3 and 4 change sides
            await at.fleet.UploadFingerprint(upload(text, run, client, group=int(number in (1, 2)), version=1))
        calls = meanwhile(at, "again", lambda: at.heartbeat("edge-1"))
        await deliver(at, run, 0)
        now = {client: (await told(at, client, run)).edges[0].edge_id for client in CLIENTS}
        assert now != homes
        assert {name: share.plan.edge for name, share in calls[0].planning.shares.items()} == now
        await check_shares(at, run, CLIENTS)
