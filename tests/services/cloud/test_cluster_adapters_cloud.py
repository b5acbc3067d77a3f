"""The laws of a clustered run at the cloud: adapters of clusters, scores both ways, trust by round, clusters anew."""

import grpc
import numpy as np
import pytest
from cloud_harness import EDGES, adapter, refused, run_async, site
from cluster_harness import EIGHT, clustering_run, one_round, reports, standing_of, text_of, value_of
from fingerprint_harness import clustered, first, upload

from elsa.cluster.summary import SIZE
from elsa.v1 import run_pb2


@run_async
async def test_a_version_is_the_mean_of_all_and_each_cluster_s_of_its_own(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), rows=10, cluster=0, parts=2)
        await at.push(run, "edge-1", adapter(3), rows=30, cluster=1, parts=2)
        await at.push(run, "edge-2", adapter(7), rows=10, cluster=1, parts=1)
        await at.closed(run, 1)
        means = [await value_of(at, run, 1, cluster) for cluster in (None, 0, 1)]
        assert means == pytest.approx([170 / 50, 1.0, 160 / 40])


@run_async
async def test_what_clients_of_several_clusters_made_is_in_the_version_and_in_no_cluster_s(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), rows=10, cluster=0, parts=2)
        await at.push(run, "edge-1", adapter(4), rows=10, parts=2)
        await at.push(run, "edge-2", adapter(7), rows=10, cluster=1)
        await at.closed(run, 1)
        assert [await value_of(at, run, 1, cluster) for cluster in (None, 0, 1)] == [4.0, 1.0, 7.0]


@run_async
async def test_an_edge_has_delivered_once_all_its_parts_are_there(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-2", adapter(7), cluster=1)
        await at.push(run, "edge-1", adapter(1), cluster=0, parts=2)
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).version == 0
        await at.push(run, "edge-1", adapter(3), cluster=1, parts=2)
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == ["edge-1", "edge-2"]


@run_async
async def test_a_cluster_of_which_nothing_came_keeps_what_it_had(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of(rounds={"quorum": 0.5}))
        await at.push(run, "edge-1", adapter(1), cluster=0)
        await at.closed(run, 1)
        async with refused(grpc.StatusCode.NOT_FOUND, "cluster 1", "version 1"):
            await at.pull(run, "edge-2", 1, cluster=1)
        await at.push(run, "edge-2", adapter(5), version=1, cluster=1)
        await at.closed(run, 2)
        assert [await value_of(at, run, 2, cluster) for cluster in (0, 1)] == [1.0, 5.0]
        await at.push(run, "edge-1", adapter(9), version=2, cluster=0)
        await at.closed(run, 3)
        assert [await value_of(at, run, 3, cluster) for cluster in (0, 1)] == [9.0, 5.0]


@run_async
async def test_what_says_too_much_of_its_clusters_is_refused(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        for header, words in (
            ({"cluster": 1000}, "header.cluster"),
            ({"cluster": 0, "parts": 1001}, "header.parts"),
            (
                {"cluster": 0, "reports": reports(["client-1"], size=SIZE - 1)},
                "reports.moved of client-1: 255 values",
            ),
            ({"cluster": 0, "reports": reports(["client-1"], values=[np.nan] * SIZE)}, "that are finite"),
        ):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, words):
                await at.push(run, "edge-1", adapter(1), **header)


@run_async
async def test_a_run_without_clusters_takes_no_cluster(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "has no clusters"):
            await at.push(run, "edge-1", adapter(1), cluster=0)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "header.parts"):
            await at.push(run, "edge-1", adapter(1), parts=2)
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        own = run_pb2.Evaluation(version=1, rows=3, loss=1, accuracy=0.5, cluster=0)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "cluster_evaluation", "has no clusters"):
            await at.evaluate(run, "client-1", 1, own=own)


@run_async
async def test_scores_are_kept_both_ways_by_client_and_cluster(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        for edge, cluster in zip(EDGES, (0, 1), strict=True):
            await at.push(run, edge, adapter(1), cluster=cluster)
        await at.closed(run, 1)
        for client, rows, accuracy, mine in (("client-1", 10, 0.5, 0.6), ("client-3", 30, 0.7, 1.0)):
            own = run_pb2.Evaluation(version=1, rows=rows, loss=0.5, accuracy=mine, cluster=0)
            await at.evaluate(run, client, 1, rows=rows, accuracy=accuracy, own=own)
        await at.evaluate(run, "client-2", 1, rows=5, accuracy=0.1)
        (score,) = (await at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run))).scores
        assert (score.cluster, score.evaluation.rows, score.evaluation.clients) == (0, 40, 2)
        assert score.evaluation.accuracy == pytest.approx((5 + 21) / 40)
        assert score.cluster_evaluation.accuracy == pytest.approx((6 + 30) / 40)
        told = await at.wait(run, lambda event: event.evaluation_reported.client_id == "client-3")
        assert told.evaluation_reported.cluster_evaluation.accuracy == 1.0
        for change in ({"version": 0}, {"rows": 4}, {"cluster": None}, {"cluster": 1000}, {"accuracy": 2.0}):
            own = run_pb2.Evaluation(**{"version": 1, "rows": 3, "loss": 1, "accuracy": 0.5, "cluster": 1, **change})
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "cluster_evaluation"):
                await at.evaluate(run, "client-4", 1, own=own)


async def exported(at, run, **wanted):
    request = run_pb2.ExportAdapterRequest(run_id=run, **wanted)
    return [m.file.name async for m in at.runs.ExportAdapter(request, timeout=30) if m.HasField("file")]


@run_async
async def test_adapters_of_clusters_are_exported_beside_the_run_s(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of(training={"rounds": 1}))
        for edge, cluster in zip(EDGES, (0, 1), strict=True):
            await at.push(run, edge, adapter(cluster), cluster=cluster)
        await at.closed(run, 1)
        for client in EIGHT:
            await at.evaluate(run, client, 1)
        await at.wait(run, lambda event: event.state_changed.state == 6)
        folders = sorted(path.name for path in (tmp_path / "cloud" / "exports" / run).iterdir())
        assert folders == ["version-1", "version-1-cluster-0", "version-1-cluster-1"]
        assert "adapter_model.safetensors" in await exported(at, run, cluster=1)
        async with refused(grpc.StatusCode.NOT_FOUND, "no adapter of cluster 2", "there are: 0, 1"):
            await exported(at, run, cluster=2)
        async with refused(grpc.StatusCode.NOT_FOUND, "there are: none"):
            await exported(at, run, version=0, cluster=0)


@run_async
async def test_who_moves_too_far_loses_trust_is_set_aside_and_taken_back(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of(trust={"min_trust": 0.6}))
        before = {client: (await standing_of(at, run, client)).trust for client in EIGHT}
        version = 0
        while not (await standing_of(at, run, "client-1")).set_aside:
            await one_round(at, run, version, far={"client-1"})
            version += 1
            assert version < 5
        assert version >= 2
        place = await standing_of(at, run, "client-1")
        assert place.trust < before["client-1"] and place.parts.update < 0.5
        edge = await first(at, place.edge_id, run)
        told = dict(zip(edge.client_ids, edge.standings, strict=True))
        assert told["client-1"].trust == 0 and told["client-3"].trust > 0.5
        changed = await at.wait(run, lambda event: event.trust_changed.set_aside)
        assert changed.trust_changed.client_id == "client-1" and "2 rounds in a row" in changed.trust_changed.detail
        while (await standing_of(at, run, "client-1")).set_aside:
            await one_round(at, run, version)
            version += 1
        back = await at.wait(run, lambda event: "taken back" in event.trust_changed.detail, after=changed.sequence)
        assert back.trust_changed.client_id == "client-1" and not back.trust_changed.set_aside
        for client in EIGHT[1:]:
            assert not (await standing_of(at, run, client)).set_aside


@run_async
async def test_trust_that_is_off_changes_nothing(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of(trust={"enabled": False}))
        await one_round(at, run, 0, far={"client-1"})
        assert {(await standing_of(at, run, client)).trust for client in EIGHT} == {1.0}


@run_async
async def test_clusters_are_made_anew_and_those_who_changed_move(tmp_path):
    text = text_of(clustering={"every": 2})
    async with site(tmp_path) as at:
        run = await clustering_run(at, text)
        decided = await clustered(at, run)
        await one_round(at, run, 0)
        for version in (1, 3, 4):
            async with refused(grpc.StatusCode.FAILED_PRECONDITION, f"no fingerprint for version {version}"):
                await at.fleet.UploadFingerprint(upload(text, run, "client-1", version=version))
        for number, client in enumerate(EIGHT):  # client-8 has become like the others
            group = 0 if client == "client-8" else number % 2
            await at.fleet.UploadFingerprint(upload(text, run, client, group=group, version=2))
        await one_round(at, run, 1)
        anew = (
            await at.wait(run, lambda event: event.HasField("clustered") and event.clustered.version == 2)
        ).clustered
        cluster = {place.client_id: place.cluster for place in anew.places}
        assert [cluster[client] for client in EIGHT] == [0, 1, 0, 1, 0, 1, 0, 0]
        before = {place.client_id: place.edge_id for place in decided.places}
        moved = [place.client_id for place in anew.places if place.edge_id != before[place.client_id]]
        assert moved == ["client-8"] and "anew, 1 of 8 clients move" in anew.detail
        assert {(await first(at, edge, run)).clusters_version for edge in EDGES} == {2}
        told = await first(at, "client-8", run)
        assert [peer.edge_id for peer in told.edges] == [next(p.edge_id for p in anew.places if p.cluster == 0)]
        for number in range(2):
            assert (await at.pull(run, "edge-1", 2, cluster=number))[0] == 2
        await one_round(at, run, 2)


@run_async
async def test_clusters_stay_where_too_few_answer_again(tmp_path):
    text = text_of(clustering={"every": 1, "quorum": 0.5})
    async with site(tmp_path) as at:
        run = await clustering_run(at, text)
        for client in EIGHT[:3]:
            await at.fleet.UploadFingerprint(upload(text, run, client, group=1, version=1, seed=3))
        await one_round(at, run, 0)
        await one_round(at, run, 1)
        told = (
            await at.wait(run, lambda event: event.HasField("clustered") and event.clustered.version == 2)
        ).clustered
        assert told.detail == "as before: 0 of 8 clients answered again"
        told_first = await at.wait(run, lambda event: event.HasField("clustered") and event.clustered.version == 1)
        assert told_first.clustered.detail == "as before: 3 of 8 clients answered again"
        assert [place.cluster for place in told.places] == [0, 1] * 4
