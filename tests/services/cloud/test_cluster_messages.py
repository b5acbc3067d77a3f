"""Clusters of many clients as messages that stay within their limit."""

from dataclasses import replace

import numpy as np
import pytest

from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud.cluster_messages import clustered_to_proto, clusters_to_proto
from services.cloud.cluster_view import Scores, View
from services.cloud.comparing import MOST_COMPARED
from services.cloud.events import Clustered, Metrics, Place
from services.cloud.lifecycle import RunState
from services.cloud.records import Run
from services.cloud.round_records import MOST_CLUSTERS
from services.cloud.run_servicer import run_to_proto
from services.cloud.runs import RunView
from services.cloud.settings import CloudSettings


def decision(count):
    places = tuple(
        Place(client_id=f"client-{n:05}", cluster=0, edge_id="edge-1", trust=1.0, latency_ms=2.0, detail="near " * 12)
        for n in range(count)
    )
    return Clustered(version=0, detail="as asked", clusters=1, places=places)


def test_more_clients_than_a_message_holds_are_cut_and_it_says_so():
    message = clustered_to_proto(decision(20_000))
    assert message.ByteSize() <= MAX_MESSAGE_BYTES and 5_000 < len(message.places) < 20_000
    assert message.detail == f"as asked; the first {len(message.places)} of 20000 clients are shown"


@pytest.mark.parametrize("count", [1, 400])
def test_divergences_of_up_to_400_clients_go_into_the_same_message(count):
    given = np.random.default_rng(0).random((count, count), np.float32)
    message = clusters_to_proto(View(clustered=decision(count), divergence=given, scores=()))
    assert message.ByteSize() <= MAX_MESSAGE_BYTES
    assert np.array_equal(np.frombuffer(message.divergence.data, "<f4").reshape(count, count), given)


def test_scores_of_many_clusters_leave_less_room_for_places():
    metrics = Metrics(version=2**31 - 1, rows=2**31 - 1, loss=1.0, accuracy=0.5, clients=2**31 - 1)
    scores = tuple(Scores(cluster=n, whole=metrics, own=replace(metrics, cluster=n)) for n in range(MOST_CLUSTERS))
    message = clusters_to_proto(View(clustered=decision(20_000), divergence=None, scores=scores))
    assert message.ByteSize() <= MAX_MESSAGE_BYTES
    assert len(message.scores) == MOST_CLUSTERS and len(message.clustered.places) > 5_000


def test_of_more_clients_than_a_message_holds_a_run_names_the_first():
    run = Run(
        run_id="r", number=1, name="r", state=RunState.TRAINING, spec="x" * 16_000, rounds=2, created_unix_s=0.0
    )
    names = tuple(f"client-{n:056}" for n in range(100_000))
    for count, whole in ((10_000, True), (100_000, False)):
        view = RunView(run=run, client_ids=names[:count], edge_ids=("edge-1",), evaluations=())
        message = run_to_proto(view)
        assert message.ByteSize() <= MAX_MESSAGE_BYTES
        assert (len(message.client_ids) == count) == whole and message.client_ids[0] == names[0]


def test_a_fleet_may_be_larger_than_what_is_compared_all_with_all():
    assert CloudSettings(max_nodes=10 * MOST_COMPARED).max_nodes > MOST_COMPARED
    assert CloudSettings().max_nodes == MOST_COMPARED


def test_divergences_that_do_not_fit_are_left_out():
    message = clusters_to_proto(View(clustered=decision(600), divergence=np.zeros((600, 600), np.float32), scores=()))
    assert not message.HasField("divergence") and len(message.clustered.places) == 600
