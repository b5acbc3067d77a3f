"""Probes given and fingerprints taken: what is refused, what is replaced, and who comes late."""

from unittest import mock

import grpc
import numpy as np
import pytest
from cloud_harness import CLIENTS, EDGES, refused, run_async, site
from cluster_harness import EIGHT, ROUNDS, one_round, standing_of, text_of
from fingerprint_harness import TRAINING, WARMUP, clustered, clustering_spec, first, tensor, upload, warming

from elsa.data.probes import probes_of
from elsa.spec import RunSpec
from elsa.v1 import fleet_pb2, run_pb2
from elsa.v1.tensor_pb2 import DType, Tensor
from services.cloud.changes import Changes

TEXT = clustering_spec()
PROBES = probes_of(RunSpec.from_yaml(TEXT).clustering.probes)
INVALID, TOO_LATE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


async def asked(at, run, client):
    return await at.fleet.GetProbes(fleet_pb2.GetProbesRequest(run_id=run, client_id=client))


def without(place, value, width=4):
    """A valid matrix with one value that is not."""
    values = np.full((20, width), 1 / width)
    values[place] = value
    return tensor(values)


@run_async
async def test_each_client_is_asked_all_probes_in_its_own_order_and_always_the_same(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        given = {client: await asked(at, run, client) for client in CLIENTS}
        for client, probes in given.items():
            assert len(probes.probes) == 20 and set(probes.probes) == set(PROBES)
            assert await asked(at, run, client) == probes
        assert len({tuple(probes.probes) for probes in given.values()}) == 4
        assert len({probes.sha256 for probes in given.values()}) == 1


WRONG = {
    "another probe set": ({"probes_sha256": "0" * 64}, "probes_sha256"),
    "a place short": ({"embeddings": tensor(np.zeros((19, 4)))}, "shape (19, 4)"),
    "too wide": ({"embeddings": tensor(np.zeros((20, 5)))}, "shape (20, 5)"),
    "nothing": ({"embeddings": Tensor()}, "embeddings.dtype"),
    "float16": ({"embeddings": Tensor(dtype=DType.DTYPE_FLOAT16, shape=[20, 4], data=bytes(160))}, "dtype"),
    "bytes short": ({"embeddings": Tensor(dtype=DType.DTYPE_FLOAT32, shape=[20, 4], data=bytes(316))}, "316 bytes"),
    "not a number": ({"embeddings": without((3, 1), np.nan)}, "NaN"),
    "far too large": ({"embeddings": without((3, 1), 1e7)}, "1e+07"),
    "another number of labels": ({"probabilities": without(0, 1 / 3, 3)}, "shape (20, 3)"),
    "sums of 1.01": ({"probabilities": without((0, 0), 0.51, 2)}, "away from 1"),
    "below zero": ({"probabilities": without(0, [-0.1, 1.1], 2)}, "below 0"),
    "infinite": ({"probabilities": without((0, 0), np.inf, 2)}, "infinity"),
    "no probabilities": ({"probabilities": None}, "probabilities: none"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused_and_not_kept(tmp_path, wrong):
    changed, said = WRONG[wrong]

    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await warming(at, TEXT)
            async with refused(INVALID, said):
                await at.fleet.UploadFingerprint(upload(TEXT, run, "client-1", **changed))
            for client in CLIENTS[1:]:
                await at.fleet.UploadFingerprint(upload(TEXT, run, client))
            await at.cloud.engine.advance(run, at.clock())
            assert (await at.get(run)).state == WARMUP

    test(tmp_path)


@run_async
async def test_only_clients_of_the_run_may_ask_and_send(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        await at.register(edges=(), clients=("stranger",))
        for code, client, where in (
            (grpc.StatusCode.PERMISSION_DENIED, "edge-1", run),
            (grpc.StatusCode.PERMISSION_DENIED, "stranger", run),
            (grpc.StatusCode.NOT_FOUND, "nobody", run),
            (grpc.StatusCode.NOT_FOUND, "client-1", "none-9"),
        ):
            async with refused(code):
                await asked(at, where, client)
            async with refused(code):
                await at.fleet.UploadFingerprint(upload(TEXT, where, client))
        await at.refuse(run, "client-1", "no memory")
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "refused"):
            await at.fleet.UploadFingerprint(upload(TEXT, run, "client-1"))
        await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
        async with refused(grpc.StatusCode.ABORTED, "has ended"):
            await asked(at, run, "client-2")


@run_async
async def test_nothing_is_asked_before_the_warm_up(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(TEXT)
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        async with refused(TOO_LATE, "once it warms up"):
            await asked(at, run, "client-1")


@run_async
async def test_second_fingerprint_replaces_the_first_before_clustering_and_is_refused_after(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        for client in CLIENTS[:3]:
            await at.fleet.UploadFingerprint(upload(TEXT, run, client, group=0))
        await at.fleet.UploadFingerprint(upload(TEXT, run, "client-1", group=1))
        last = upload(TEXT, run, "client-4", group=1)
        await at.fleet.UploadFingerprint(last)
        await at.reach(run, TRAINING)
        assert [place.cluster for place in (await clustered(at, run)).places] == [0, 1, 1, 0]
        await at.fleet.UploadFingerprint(last)  # the same once more, as after a lost answer
        async with refused(TOO_LATE, "second"):
            await at.fleet.UploadFingerprint(upload(TEXT, run, "client-4", group=0))


@run_async
async def test_late_client_joins_the_nearest_cluster(tmp_path):
    clients = tuple(f"client-{number}" for number in range(1, 10))
    text = clustering_spec(fleet={"min_clients": 9, "min_edges": 2})
    async with site(tmp_path) as at:
        run = await warming(at, text, clients, room=9)
        for number, client in enumerate(clients[:-1]):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        at.later(300)
        await at.reach(run, TRAINING)
        before = {place.client_id: place for place in (await clustered(at, run)).places}
        other = 1 - before["client-9"].cluster
        await at.fleet.UploadFingerprint(upload(text, run, "client-9", group=other))
        event = await at.wait(run, lambda event: event.HasField("trust_changed"))
        changed = event.trust_changed
        assert changed.client_id == "client-9" and f"joins cluster {other}" in changed.detail
        assert changed.trust > 0.2 and changed.parts.repeatability > 0.5
        view = (await at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run))).clustered.places[-1]
        assert (view.client_id, view.cluster, view.edge_id) == ("client-9", other, before["client-9"].edge_id)
        told = await first(at, view.edge_id, run)
        assert told.standings[list(told.client_ids).index("client-9")].cluster == other


@run_async
async def test_a_fingerprint_in_time_wakes_nobody_and_a_late_one_its_edge_alone(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        with mock.patch.object(Changes, "notify", autospec=True, side_effect=Changes.notify) as notify:
            for client in CLIENTS[:3]:
                await at.fleet.UploadFingerprint(upload(TEXT, run, client))
            await at.cloud.engine.advance(run, at.clock())
            assert not notify.called
            at.later(300)
            await at.reach(run, TRAINING)
            notify.reset_mock()
            await at.fleet.UploadFingerprint(upload(TEXT, run, "client-4"))
            edge = (await clustered(at, run)).places[3].edge_id
            assert [call.args[1:] for call in notify.mock_calls] == [(("events", run), ("node", edge))]


@run_async
async def test_late_client_keeps_what_its_updates_told(tmp_path):
    text = text_of(trust={"min_trust": 0.6}, fleet={"min_clients": 8, "min_edges": 2})
    async with site(tmp_path) as at:
        run = await warming(at, text, EIGHT, room=8, near=lambda number: EDGES[number % 2])
        for number, client in enumerate(EIGHT[1:], 1):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
        at.later(300)
        await at.reach(run, TRAINING)
        for version in range(ROUNDS - 1):
            await one_round(at, run, version, far={"client-1"})
        before = await standing_of(at, run, "client-1")
        assert before.set_aside and before.parts.update < 0.5
        await at.fleet.UploadFingerprint(upload(text, run, "client-1", group=0))
        late = await standing_of(at, run, "client-1")
        assert late.set_aside and late.detail.endswith("still set aside")
        assert late.parts.update == before.parts.update
        parts = late.parts
        score = parts.consistency * parts.repeatability * parts.originality * parts.update
        assert late.trust == pytest.approx(0.8 * before.trust + 0.2 * score)
        await one_round(at, run, ROUNDS - 1, far={"client-1"})
        assert (await standing_of(at, run, "client-1")).set_aside


@run_async
async def test_a_version_that_no_database_holds_is_refused(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        async with refused(INVALID, "version: 4294967295"):
            await at.fleet.UploadFingerprint(upload(TEXT, run, "client-1", version=2**32 - 1))


@run_async
async def test_late_client_of_a_run_without_clusters_stays_in_the_only_one(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        at.later(300)
        await at.reach(run, TRAINING)
        for client in CLIENTS[:2]:
            await at.fleet.UploadFingerprint(upload(TEXT, run, client))
        view = await at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run))
        assert {place.cluster for place in view.clustered.places} == {0} and view.clustered.clusters == 1
        distances = np.frombuffer(view.divergence.data, "<f4").reshape(4, 4)
        assert np.isfinite(distances[:2, :2]).all() and np.isnan(distances[2:]).all()


@run_async
async def test_one_that_is_alike_whatever_it_is_asked_stops_nothing(tmp_path):
    async with site(tmp_path) as at:
        run = await warming(at, TEXT)
        for client in CLIENTS[:3]:
            await at.fleet.UploadFingerprint(upload(TEXT, run, client))
        await at.fleet.UploadFingerprint(upload(TEXT, run, "client-4", embeddings=tensor(np.zeros((20, 4)))))
        await at.reach(run, TRAINING)
        places = (await clustered(at, run)).places
        assert len(places) == 4 and places[3].trust < 0.2 and {place.edge_id for place in places} <= set(EDGES)
