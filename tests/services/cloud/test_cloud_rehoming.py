"""The clients of an edge that left or fell silent are given to the others; nobody's rows count twice in a round."""

import grpc
import pytest
from cloud_harness import CLIENTS, EDGES, Clock, adapter, refused, run_async, site, spec
from cluster_harness import clustering_run, text_of
from fingerprint_harness import clustered, clustering_spec, first, upload, warming
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.v1 import fleet_pb2, run_pb2
from elsa.wire.adapter import sha256
from services.cloud.events import ClientAssigned, NodeJoined
from services.cloud.lifecycle import RunState
from services.cloud.records import Answer, Link, Member, Node, Role, Run
from services.cloud.rehoming import rehome
from services.cloud.round_records import Update
from services.cloud.store import Store

ENROLLING, TRAINING, FAILED = (
    fleet_pb2.RUN_STATE_ENROLLING,
    fleet_pb2.RUN_STATE_TRAINING,
    fleet_pb2.RUN_STATE_FAILED,
)
QUICK = {"heartbeat_s": 10, "gone_after_s": 100}
AT_EDGE_1 = ("client-1", "client-3")


async def training(at, text=None, room=4, links=EDGES):
    """A run that trains: clients 1 and 3 at edge-1, the others at edge-2; `links` are those of the former."""
    await at.register()
    run = await at.submit(text)
    await at.reach(run, ENROLLING)
    for edge in EDGES:
        await at.push(run, edge, adapter(), initial=True)
        await at.join(run, edge, room=room)
    for number, client in enumerate(CLIENTS):
        own = links if client in AT_EDGE_1 else EDGES
        await at.join(run, client, near=EDGES[number % 2], edges=own)
    await at.reach(run, TRAINING)
    return run


async def advance(at, run):
    await at.cloud.engine.advance(run, at.clock())


async def moves(at, run):
    """Who was given which edge after the first time, with the detail, up to now."""
    return (await assigned(at, run))[len(CLIENTS) :]


async def assigned(at, run):
    """Who was given which edge, with the detail, up to now."""
    await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
    told = [event.client_assigned async for event in at.events(run) if event.HasField("client_assigned")]
    return [(event.client_id, event.edge_id, event.detail) for event in told]


async def members_at(at, run, edge):
    return list((await first(at, edge, run)).client_ids)


@run_async
async def test_clients_of_an_edge_that_leaves_go_on_at_another(tmp_path):
    async with site(tmp_path) as at:
        run = await training(at)
        await at.push(run, "edge-2", adapter(7))
        await at.refuse(run, "edge-1", "disk is full")
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == ["edge-2"]
        assert await members_at(at, run, "edge-2") == list(CLIENTS)
        assert [peer.edge_id for peer in (await first(at, "client-1", run)).edges] == ["edge-2"]
        assert list((await at.get(run)).client_ids) == list(CLIENTS)
        told = "edge-1 left: disk is full; 20 ms to edge-2"
        assert await moves(at, run) == [(client, "edge-2", told) for client in AT_EDGE_1]


@run_async
async def test_clients_without_a_link_to_another_edge_are_left_out_with_the_reason(tmp_path):
    async with site(tmp_path) as at:
        run = await training(at, links=("edge-1",))
        await at.refuse(run, "edge-1", "disk is full")
        event = await at.wait(run, lambda event: event.node_joined.node_id == "client-3" and event.sequence > 15)
        assert not event.node_joined.accepted
        assert event.node_joined.detail == (
            "its edge edge-1 left: disk is full; reaches no edge with room; add an edge or mend its links"
        )
        assert list((await at.get(run)).client_ids) == ["client-2", "client-4"]
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "left out"):
            await at.pull(run, "client-1", 0)


@run_async
async def test_as_many_move_as_find_room(tmp_path):
    async with site(tmp_path) as at:
        run = await training(at, room=3)
        await at.refuse(run, "edge-1", "disk is full")
        await at.wait(run, lambda event: event.HasField("node_joined") and "no room" in event.node_joined.detail)
        assert len(await members_at(at, run, "edge-2")) == 3
        assert len((await at.get(run)).client_ids) == 3


@run_async
async def test_clients_of_a_silent_edge_move_once_it_has_been_so_for_too_long(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await training(at)
        await at.silence("edge-1", seconds=99)
        await advance(at, run)
        assert await members_at(at, run, "edge-1") == list(AT_EDGE_1)
        await at.silence("edge-1", seconds=2)
        await advance(at, run)
        assert await members_at(at, run, "edge-2") == list(CLIENTS)
        told = "edge-1 is gone: not heard of for 101 s; 20 ms to edge-2"
        assert await moves(at, run) == [(client, "edge-2", told) for client in AT_EDGE_1]


@run_async
async def test_clients_of_an_edge_that_comes_back_in_time_stay(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await training(at)
        await at.silence("edge-1", seconds=99)
        await at.heartbeat("edge-1")
        await at.silence("edge-1", seconds=99)
        await advance(at, run)
        assert await moves(at, run) == []


@run_async
async def test_silent_edge_that_comes_back_has_no_clients_and_is_not_waited_for(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await training(at)
        await at.silence("edge-1", seconds=101)
        await advance(at, run)
        await at.heartbeat("edge-1")
        assert await members_at(at, run, "edge-1") == []
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "edge-1 has no clients"):
            await at.push(run, "edge-1", adapter(1))
        await at.push(run, "edge-2", adapter(7))
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == ["edge-2"]


@run_async
async def test_edge_that_delivered_before_it_was_lost_counts_and_its_clients_move_afterwards(tmp_path):
    async with site(tmp_path) as at:
        run = await training(at)
        await at.push(run, "edge-1", adapter(1))
        await at.refuse(run, "edge-1", "disk is full")
        await advance(at, run)
        assert await members_at(at, run, "edge-2") == ["client-2", "client-4"]
        await at.push(run, "edge-2", adapter(3))
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)
        assert await members_at(at, run, "edge-2") == list(CLIENTS)


@run_async
async def test_clients_of_the_only_edge_wait_for_it_while_it_is_silent(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await training(at)
        await at.refuse(run, "edge-2", "disk is full")
        await advance(at, run)
        assert await members_at(at, run, "edge-1") == list(CLIENTS)
        await at.silence("edge-1", seconds=500)
        await advance(at, run)
        assert (await at.get(run)).state == TRAINING
        await at.heartbeat("edge-1")
        await at.push(run, "edge-1", adapter(7))
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == ["edge-1"]


@run_async
async def test_clients_of_edges_that_all_left_are_left_out_and_the_run_fails(tmp_path):
    async with site(tmp_path) as at:
        run = await training(at)
        for edge in EDGES:
            await at.refuse(run, edge, f"{edge} is full")
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert reason.startswith("no edge with clients is left; edge-1 left: edge-1 is full; edge-2 left: edge-2 is")


@run_async
async def test_clients_wait_while_the_other_edges_are_silent_but_not_for_too_long(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await training(at)
        await at.silence(*EDGES, seconds=60)
        await at.refuse(run, "edge-1", "disk is full")
        await advance(at, run)
        assert len((await at.get(run)).client_ids) == 4
        await at.heartbeat("edge-2")
        await advance(at, run)
        assert await members_at(at, run, "edge-2") == list(CLIENTS)


@run_async
async def test_clients_move_in_the_warm_up_too(tmp_path):
    text = clustering_spec()
    async with site(tmp_path) as at:
        run = await warming(at, text, room=4, near=lambda number: EDGES[number % 2])
        await at.refuse(run, "edge-1", "disk is full")
        await at.wait(run, lambda event: event.client_assigned.client_id == "client-3")
        assert await members_at(at, run, "edge-2") == list(CLIENTS)
        for client in CLIENTS:
            await at.fleet.UploadFingerprint(upload(text, run, client))
        assert {place.edge_id for place in (await clustered(at, run)).places} == {"edge-2"}


@run_async
async def test_silent_edge_is_given_no_clients_in_the_first_place(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for edge in EDGES:
            await at.join(run, edge, room=4)
        for client in CLIENTS[:3]:
            await at.join(run, client, near="edge-1")
        with at.cloud.engine._store.transaction() as transaction:  # as if the cloud was slow to decide
            transaction.move(transaction.run(run), RunState.CLUSTERING, at.clock())
        await at.silence("edge-1", seconds=101)
        await advance(at, run)
        assert [(client, edge) for client, edge, _ in await assigned(at, run)] == [
            (client, "edge-2") for client in CLIENTS[:3]
        ]


@run_async
async def test_cloud_that_restarts_moves_nobody_before_it_has_listened(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock, **QUICK) as at:
        run = await training(at)
    clock.now += 10_000
    async with site(tmp_path, clock, **QUICK) as at:
        await advance(at, run)
        assert await members_at(at, run, "edge-1") == list(AT_EDGE_1)


@run_async
async def test_clusters_stay_as_they_are_when_a_lost_edge_leaves_too_little_room_for_new_ones(tmp_path):
    text = clustering_spec(clustering={"every": 1}, training={"rounds": 3})
    async with site(tmp_path) as at:
        run = await warming(at, text, near=lambda number: EDGES[number % 2])
        for number, client in enumerate(CLIENTS):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        places = (await clustered(at, run)).places
        for client in CLIENTS:
            await at.fleet.UploadFingerprint(upload(text, run, client, version=1))
        for edge in EDGES:
            own = sorted({place.cluster for place in places if place.edge_id == edge})
            for cluster in own:
                await at.push(run, edge, adapter(1), cluster=cluster, parts=len(own))
            if edge == "edge-1":
                await at.refuse(run, edge, "disk is full")
        await at.closed(run, 1)
        await advance(at, run)
        view = await at.get(run)
        assert (view.state, len(view.client_ids)) == (TRAINING, 2)
        told = await at.wait(run, lambda event: event.clustered.version == 1)
        assert "as before: client-" in told.clustered.detail and "no room" in told.clustered.detail


@run_async
async def test_what_a_lost_edge_delivered_in_part_leaves_no_blob(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await clustering_run(at, text_of(), CLIENTS)
        await at.push(run, "edge-1", adapter(5), cluster=0, parts=2)
        await at.silence("edge-1", seconds=101)
        await advance(at, run)
        assert await members_at(at, run, "edge-2") == list(CLIENTS)
        assert not list((tmp_path / "cloud" / "blobs").rglob(sha256(adapter(5))))


@run_async
async def test_moves_tell_of_a_trunk_that_starts_anew(tmp_path):
    text = spec(preset="none", privacy={"ssop": {"rank": 4, "edge": "blind", "key": "client"}})
    async with site(tmp_path) as at:
        run = await training(at, text)
        await at.refuse(run, "edge-1", "disk is full")
        await advance(at, run)
        details = {detail for _, _, detail in await moves(at, run)}
        assert details == {"edge-1 left: disk is full; 20 ms to edge-2; its trunk starts anew there"}


@run_async
async def test_cloud_that_slept_moves_nobody_before_it_has_listened(tmp_path):
    async with site(tmp_path, **QUICK) as at:
        run = await training(at)
        await at.silence(seconds=9)
        at.later(300)
        await at.heartbeat("edge-2")
        await at.silence("edge-1", seconds=99)
        await advance(at, run)
        assert await members_at(at, run, "edge-1") == list(AT_EDGE_1)
        await at.silence("edge-1", seconds=2)
        await advance(at, run)
        assert await members_at(at, run, "edge-2") == list(CLIENTS)


NAMES = [f"e{number}" for number in range(4)]
LATENCIES = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 50).map(float), min_size=1)
FLEETS = st.lists(LATENCIES, min_size=1, max_size=6)
EDGES_SAID = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["there", "silent", "left", "dozing"])), min_size=4, max_size=4
)


def a_run(store, fleet, said, updates=()):
    """A run in which every client is at the first edge that it has a link to; the run and its members."""
    text = spec(fleet={"min_clients": 1, "min_edges": 1})
    run = Run(
        run_id="r", number=1, name="r", state=RunState.TRAINING, spec=text, rounds=2, version=0, created_unix_s=0
    )
    members = [
        Member(
            run_id="r",
            node_id=name,
            role=Role.EDGE,
            room=room,
            answer=Answer.REFUSED if state == "left" else Answer.JOINED,
        )
        for name, (room, state) in zip(NAMES, said, strict=True)
    ]
    members += [
        Member(
            run_id="r",
            node_id=f"c{number}",
            role=Role.CLIENT,
            answer=Answer.JOINED,
            edge_id=min(links),
            links=tuple(Link(edge_id=edge, latency_ms=latency) for edge, latency in links.items()),
        )
        for number, links in enumerate(fleet)
    ]
    with store.transaction() as transaction:
        transaction.put(run)
        for member in members:
            transaction.put(Node(node_id=member.node_id, role=member.role))
        for record in (*members, *updates):
            transaction.put(record)
    return run


def step(store, said):
    """One step; the digests of what it took back or None, the members afterwards and the events."""
    silent = {name: 99.0 for name, (_, state) in zip(NAMES, said, strict=True) if state == "silent"}
    alive = {name for name, (_, state) in zip(NAMES, said, strict=True) if state in ("there", "left")}
    with store.transaction() as transaction:
        run, members = transaction.run("r"), transaction.all(Member, run_id="r")
        taken_back = rehome(transaction, run, members, silent, alive.__contains__, 0.0)
        after = {member.node_id: member for member in transaction.all(Member, run_id="r")}
        return taken_back, after, [event.body for event in transaction.events("r", 0)]


@settings(deadline=None, max_examples=150)
@given(FLEETS, EDGES_SAID)
def test_everyone_is_at_an_edge_that_is_there_or_left_out_with_a_reason(fleet, said):
    store, state = Store("sqlite://"), {name: state for name, (_, state) in zip(NAMES, said, strict=True)}
    a_run(store, fleet, said)
    taken_back, after, events = step(store, said)
    room = {name: room for name, (room, _) in zip(NAMES, said, strict=True)}
    told = {}
    for body in events:
        told[body.client_id if isinstance(body, ClientAssigned) else body.node_id] = body
    arrived = [edge for edge in NAMES if state[edge] == "there"]
    for number, links in enumerate(fleet):
        client, before = after[f"c{number}"], min(links)
        if client.edge_id == before:
            waits = state[before] == "silent" and set(state.values()) <= {"silent", "left"}
            dozes = not arrived and "dozing" in state.values()
            assert state[before] in ("there", "dozing") or waits or dozes
        elif client.edge_id is None:
            assert client.answer is Answer.LEFT_OUT and client.detail
            assert isinstance(told[client.node_id], NodeJoined)
        else:
            assert state[before] in ("silent", "left") and client.edge_id in arrived and client.edge_id in links
            assert isinstance(told[client.node_id], ClientAssigned)
    for edge in arrived:
        came = [f"c{n}" for n, links in enumerate(fleet) if after[f"c{n}"].edge_id == edge != min(links)]
        stood = sum(min(links) == edge for links in fleet)
        assert not came or len(came) + stood <= room[edge]
    assert (taken_back is not None) == bool(told)
    assert step(store, said)[0] is None
    store.close()


@pytest.mark.parametrize(("parts", "moves_now"), [(1, False), (2, True)])
def test_what_a_lost_edge_delivered_in_part_does_not_count(parts, moves_now):
    said = [(4, "left"), (4, "there"), (4, "there"), (4, "there")]
    update = Update(run_id="r", version=0, edge_id="e0", cluster=0, parts=parts, rows=10, sha256="0" * 64)
    store = Store("sqlite://")
    a_run(store, [{"e0": 1.0, "e2": 2.0}], said, [update])
    taken_back, after, _ = step(store, said)
    assert (taken_back, after["c0"].edge_id) == ((["0" * 64], "e2") if moves_now else (None, "e0"))
    with store.transaction() as transaction:
        assert transaction.all(Update) == ([] if moves_now else [update])
    store.close()
