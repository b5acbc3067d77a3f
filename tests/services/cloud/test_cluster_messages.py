"""Clusters of many clients as messages that stay within their limit."""

import numpy as np
import pytest

from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud.cluster_messages import clustered_to_proto, clusters_to_proto
from services.cloud.cluster_view import View
from services.cloud.events import Clustered, Place


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


def test_divergences_that_do_not_fit_are_left_out():
    message = clusters_to_proto(View(clustered=decision(600), divergence=np.zeros((600, 600), np.float32), scores=()))
    assert not message.HasField("divergence") and len(message.clustered.places) == 600
