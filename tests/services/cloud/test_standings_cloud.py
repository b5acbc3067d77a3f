"""What holds for standings, adapters and fingerprints as rounds close and clusters are made anew."""

import numpy as np
from cloud_harness import CLIENTS, EDGES, run_async, site
from cluster_harness import EIGHT, clustering_run, one_round, text_of
from fingerprint_harness import upload

from elsa.cluster.summary import SIZE
from elsa.cluster.trust import Parts
from elsa.clustering import TrustSpec
from services.cloud.lifecycle import RunState
from services.cloud.placing import Decision
from services.cloud.records import Clustering, Course, Fingerprint, Run, Standing
from services.cloud.renewing import Renewal, renew
from services.cloud.round_records import ClusterAdapter
from services.cloud.store import Store
from services.cloud.trusting import judged


def standing(client, trust, **more):
    parts = Parts(consistency=trust, repeatability=1.0, originality=1.0)
    return Standing(run_id="r", client_id=client, cluster=0, trust=trust, told=trust, parts=parts, **more)


def test_bad_clients_that_alone_deliver_are_not_taken_back():
    bad = [standing(f"bad-{n}", 0.3, low_rounds=4, set_aside=True) for n in range(2)]
    good = [standing(f"good-{n}", 0.9) for n in range(7)]
    moved = {kept.client_id: np.random.default_rng(0).normal(size=SIZE) for kept in bad}
    after = [own.standing for own in judged(TrustSpec(min_trust=0.0), [*bad, *good], moved, moved)]
    assert [(kept.client_id, kept.set_aside, kept.low_rounds) for kept in after] == [
        ("bad-0", True, 5),
        ("bad-1", True, 5),
    ]


def test_a_new_cluster_whose_old_one_has_no_adapter_gets_none():
    store = Store("sqlite://")
    run = Run(run_id="r", number=1, name="r", state=RunState.TRAINING, spec="", rounds=9, version=2, created_unix_s=0)
    with store.transaction() as transaction:
        transaction.put(run)
        transaction.put(Clustering(run_id="r", began_unix_s=0, version=0, clusters=2))
        transaction.put(ClusterAdapter(run_id="r", version=2, cluster=1, sha256="a" * 64, total_bytes=1))
        decision = Decision(places=(), clusters=2, medoids=(), detail="")
        renew(transaction, run, Renewal(decision=decision, origins={0: 1, 1: 0}), 2, 0.0)
        assert [made.cluster for made in transaction.all(ClusterAdapter)] == [0]
    store.close()


async def versions_kept(at):
    with at.cloud.engine._store.transaction() as transaction:
        return [kept.version for kept in transaction.all(Fingerprint)]


@run_async
async def test_fingerprints_of_the_decision_that_holds_alone_are_kept(tmp_path):
    text = text_of(clustering={"every": 1})
    async with site(tmp_path) as at:
        run = await clustering_run(at, text)
        for version, answering in ((1, EIGHT), (2, EIGHT[:3])):
            for number, client in enumerate(answering):
                await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2, version=version))
            await one_round(at, run, version - 1)
            assert await versions_kept(at) == [1] * 8


@run_async
async def test_clients_that_are_gone_are_not_waited_for_when_it_is_decided_anew(tmp_path):
    text = text_of(clustering={"every": 1})
    async with site(tmp_path, heartbeat_s=10, gone_after_s=100) as at:
        run = await clustering_run(at, text, CLIENTS)
        await at.silence("client-4", seconds=101)
        for number, client in enumerate(CLIENTS[:3]):
            await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2, version=1))
        await one_round(at, run, 0)
        told = await at.wait(run, lambda event: event.HasField("clustered") and event.clustered.version == 1)
        assert told.clustered.detail.startswith("anew")
        await at.silence("client-4", seconds=3)
        await at.fleet.UploadFingerprint(upload(text, run, "client-4", version=2))
        await one_round(at, run, 1)
        told = await at.wait(run, lambda event: event.HasField("clustered") and event.clustered.version == 2)
        assert told.clustered.detail == "as before: 0 of 3 clients answered again"
        assert {place.edge_id for place in told.clustered.places} <= set(EDGES)


@run_async
async def test_a_course_is_kept_from_round_to_round(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        kept = []
        for version in range(2):
            await one_round(at, run, version)
            with at.cloud.engine._store.transaction() as transaction:
                found = transaction.all(Course, run_id=run)
            assert [course.client_id for course in found] == list(EIGHT)
            kept.append(np.stack([np.frombuffer(course.values, "<f4") for course in found]))
        np.testing.assert_allclose(kept[1], 1.8 * kept[0], rtol=1e-5)  # each round moved them alike
