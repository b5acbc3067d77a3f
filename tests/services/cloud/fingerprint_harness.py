"""Clients of a cloud that warms up, whose answers to probes are planted."""

import zlib

import numpy as np
from cloud_harness import CLIENTS, EDGES, adapter, spec

from elsa.cluster.fingerprint import asking_order
from elsa.data.probes import probes_of, probes_sha256
from elsa.spec import RunSpec
from elsa.v1 import fleet_pb2
from elsa.v1.tensor_pb2 import DType, Tensor

WARMUP, CLUSTERING, TRAINING, FAILED = (
    fleet_pb2.RUN_STATE_WARMUP,
    fleet_pb2.RUN_STATE_CLUSTERING,
    fleet_pb2.RUN_STATE_TRAINING,
    fleet_pb2.RUN_STATE_FAILED,
)


def clustering_spec(**parts):
    """A run that clusters, with few probes."""
    own = {"method": "auto", "dimensions": 4, "probes": {"count": 16, "repeated": 4}, "deadline_s": 300}
    return spec(**{**parts, "clustering": {**own, **parts.get("clustering", {})}})


def tensor(values):
    return Tensor(dtype=DType.DTYPE_FLOAT32, shape=values.shape, data=values.astype("<f4").tobytes())


def upload(text, run, client, group=0, seed=None, **changed):
    """A fingerprint: answers by probe of a group, with noise of the client's own."""
    given = RunSpec.from_yaml(text)
    probes = given.clustering.probes
    order = asking_order(probes.count, probes.repeated, [given.seed, zlib.crc32(client.encode())])
    common = np.random.default_rng(7).normal(size=(probes.count, given.clustering.dimensions))
    shift = np.random.default_rng([8, group]).normal(size=common.shape)
    own = np.random.default_rng([9, zlib.crc32(client.encode()) if seed is None else seed]).normal(size=common.shape)
    answers = common + 0.6 * shift + 0.05 * own
    logits = 3 * answers[:, :2]
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    fields = {
        "run_id": run,
        "client_id": client,
        "probes_sha256": probes_sha256(probes_of(probes)),
        "embeddings": tensor(answers[order]),
        "probabilities": tensor(said[order]),
    }
    return fleet_pb2.UploadFingerprintRequest(**{**fields, **changed})


async def warming(at, text, clients=CLIENTS, room=2, near=lambda number: EDGES[0]):
    """A run that warms up; its id."""
    await at.register(clients=clients)
    run = await at.submit(text)
    await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
    for edge in EDGES:
        await at.push(run, edge, adapter(), initial=True)
        await at.join(run, edge, room=room)
    for number, client in enumerate(clients):
        await at.join(run, client, near=near(number))
    await at.reach(run, WARMUP)
    return run


async def first(at, node, run):
    """A node's assignment in a run, as it is now."""
    call = at.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=node), timeout=30)
    async for message in call:
        found = [assignment for assignment in message.assignments if assignment.run_id == run]
        call.cancel()
        return found[0]
    raise AssertionError(f"{node} was told nothing")


async def clustered(at, run):
    """What the cloud decided."""
    return (await at.wait(run, lambda event: event.HasField("clustered"))).clustered
