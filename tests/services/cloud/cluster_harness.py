"""Runs that have clustered, and the rounds that their edges deliver."""

import numpy as np
from cloud_harness import EDGES, adapter
from fingerprint_harness import TRAINING, clustering_spec, first, upload, warming

from elsa.cluster.summary import SIZE
from elsa.v1 import adapter_pb2, run_pb2

EIGHT = tuple(f"client-{number}" for number in range(1, 9))
ROUNDS = 6


def text_of(**parts):
    given = {"fleet": {"min_clients": 4, "min_edges": 2}, "training": {"rounds": ROUNDS}, **parts}
    return clustering_spec(**given)


async def clustering_run(at, text, clients=EIGHT):
    """A run whose clients are in two clusters, each at an edge of its own; its id."""
    run = await warming(at, text, clients, room=8, near=lambda number: EDGES[number % 2])
    for number, client in enumerate(clients):
        await at.fleet.UploadFingerprint(upload(text, run, client, group=number % 2))
    await at.reach(run, TRAINING)
    return run


def reports(clients, far=(), size=SIZE, values=None):
    """What an edge tells of its clients: all moved the same way, those in `far` ten times as far."""
    along = np.random.default_rng(1).normal(size=size)
    messages = []
    for client in clients:
        own = np.random.default_rng(list(client.encode())).normal(size=size)
        moved = (along + 0.3 * own) * (10 if client in far else 1) if values is None else values
        messages.append(adapter_pb2.ClientReport(client_id=client, rows=10, steps=1, loss=1.0, moved=moved))
    return messages


async def value_of(at, run, version, cluster=None):
    _, tensors = await at.pull(run, "edge-1", version, cluster=cluster)
    (value,) = {float(values[0, 0]) for values in tensors.values()}
    return value


async def one_round(at, run, version, far=()):
    """Both edges deliver `version`; all clients of a cluster moved alike, those in `far` ten times as far."""
    for edge in EDGES:
        told = await first(at, edge, run)
        by_cluster = {}
        for client, kept in zip(told.client_ids, told.standings, strict=True):
            by_cluster.setdefault(kept.cluster, []).append(client)
        for cluster, clients in by_cluster.items():
            own = reports(clients, far)
            await at.push(run, edge, adapter(version), version, cluster=cluster, parts=len(by_cluster), reports=own)
    await at.closed(run, version + 1)


async def standing_of(at, run, client):
    view = await at.runs.GetClusters(run_pb2.GetClustersRequest(run_id=run))
    return next(place for place in view.clustered.places if place.client_id == client)
