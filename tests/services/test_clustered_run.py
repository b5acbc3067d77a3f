"""A run that clusters, over a real cloud, edges and clients: grouped, weighed, trained, evaluated both ways."""

import json

import numpy as np
import pytest
from fleet_harness import system
from split_harness import LABELS, WORDS, spec_of

from elsa.v1 import fleet_pb2, run_pb2
from elsa.wire.adapter import decode_adapter

CLIENTS = tuple(f"client-{number}" for number in range(1, 7))
SENTENCES = [" ".join(f"w{(7 * n + k * (n + 3)) % WORDS}" for k in range(3 + n % 5)) for n in range(24)]


def skewed(path, count, seed, words):
    """Rows whose first word, and so whose label, is one of `words`."""
    draw = np.random.default_rng(seed)
    with path.open("w") as file:
        for _ in range(count):
            first = int(draw.choice(words))
            rest = draw.integers(0, WORDS, draw.integers(2, 8, endpoint=True)).tolist()
            text = " ".join(f"w{word}" for word in [first, *rest])
            file.write(json.dumps({"text": text, "label": LABELS[first % len(LABELS)]}) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_bert):
    """The events of a run of six clients in two groups, its clusters, and its adapters."""
    folder = tmp_path_factory.mktemp("clustered")
    spec = spec_of(
        tiny_bert,
        fleet={"min_clients": 6, "min_edges": 2, "enroll_timeout_s": 60},
        training={"rounds": 3, "edge_rounds": 2, "local_steps": 4, "optimizer": {"learning_rate": 0.02}},
        clustering={
            "method": "auto",
            "every": 2,
            "warmup_steps": 12,
            "dimensions": 8,
            "probes": {"count": 24, "repeated": 4, "sentences": SENTENCES},
        },
    )
    with system(folder) as at:
        for edge in ("edge-1", "edge-2"):
            at.edge(edge, capacity=6)
        for number, client in enumerate(CLIENTS):
            words = [word for word in range(WORDS) if word % 3 == (0 if number % 2 else 1)]
            at.client(client, skewed(folder / f"{client}.jsonl", 60 + 10 * number, number, words))
        run = at.submit(spec)
        events = list(at.events(run))
        assert at.get(run).state == fleet_pb2.RUN_STATE_COMPLETED, at.get(run)
        view = at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run), timeout=10)
        adapters = {cluster: exported(at, run, cluster) for cluster in (None, 0, 1)}
    return events, view, adapters


def exported(at, run, cluster):
    request = run_pb2.ExportAdapterRequest(run_id=run, cluster=cluster)
    name, files = "", {}
    for message in at.runs.ExportAdapter(request, timeout=30):
        if message.HasField("file"):
            name = message.file.name
            files[name] = b""
        else:
            files[name] += message.chunk.data
    return decode_adapter(files["adapter_model.safetensors"])


def decisions(events):
    return [event.clustered for event in events if event.HasField("clustered")]


def test_clients_of_a_kind_are_grouped_before_the_first_round_and_anew(finished):
    events, _, _ = finished
    first, anew = decisions(events)
    assert (first.version, anew.version) == (0, 2)
    assert "6 of 6 clients sent a fingerprint" in first.detail
    assert [place.cluster for place in first.places] == [0, 1] * 3
    assert "anew" in anew.detail and len(anew.places) == 6


def test_every_version_is_evaluated_both_ways_by_every_client(finished):
    events, view, _ = finished
    told = [event.evaluation_reported for event in events if event.HasField("evaluation_reported")]
    both = {(body.client_id, body.evaluation.version) for body in told if body.HasField("cluster_evaluation")}
    assert both == {(client, version) for client in CLIENTS for version in (1, 2, 3)}
    assert not any(body.HasField("cluster_evaluation") for body in told if body.evaluation.version == 0)
    assert [(score.cluster, score.evaluation.version) for score in view.scores] == [(0, 3), (1, 3)]
    assert sum(score.evaluation.clients for score in view.scores) == 6


def test_the_run_s_adapter_is_the_mean_of_the_clusters_by_trusted_rows(finished):
    events, _, adapters = finished
    updates = [event.update_received for event in events if event.HasField("update_received")]
    last = [update for update in updates if update.version == 2]
    cluster = {place.client_id: place.cluster for place in decisions(events)[-1].places}
    assert all(len({cluster[report.client_id] for report in update.reports}) == 1 for update in last)
    rows = [sum(u.rows for u in last if cluster[u.reports[0].client_id] == number) for number in range(2)]
    assert min(rows) > 0
    for name, whole in adapters[None].items():
        mean = np.average([adapters[0][name], adapters[1][name]], axis=0, weights=rows)
        np.testing.assert_allclose(whole, mean, atol=1e-6)
    assert max(np.abs(adapters[0][name] - adapters[1][name]).max() for name in adapters[0]) > 1e-3


def test_trust_follows_the_updates(finished):
    events, view, _ = finished
    first, _ = decisions(events)
    assert all(place.parts.update == 1 for place in first.places)
    assert all(0 < place.parts.update <= 1 and not place.set_aside for place in view.clustered.places)
    assert {place.client_id: place.trust for place in first.places} != {
        place.client_id: place.trust for place in view.clustered.places
    }
