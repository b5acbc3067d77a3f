"""Offers of nodes of a run whose splits are planned, and reports of what their steps took."""

from elsa.v1 import adapter_pb2, fleet_pb2, split_pb2

MIB = 2**20
BLOCKS = 12
SHAPE = fleet_pb2.ModelShape(
    blocks=BLOCKS,
    width=64,
    block_weights=50_000,
    embedding_weights=100_000,
    head_weights=5_000,
    largest_weights=100_000,
    block_adapter=2_000,
    head_adapter=200,
    block_activations=800,
    head_activations=200,
)
PLANNED = {
    "split": {"bottom": 1, "top": 1},
    "plan": {"method": "measured"},
    "training": {"rounds": 3, "local_steps": 20},
}


def client_profile(block_s=0.01, memory_mib=1000, **more):
    return fleet_pb2.ClientProfile(
        block_s=block_s, embeddings_s=0.001, head_s=0.001, memory_bytes=memory_mib * MIB, row_tokens=20, **more
    )


def edge_profile(block_s=0.002, memory_mib=4000):
    return fleet_pb2.EdgeProfile(block_s=block_s, memory_bytes=memory_mib * MIB)


async def join_planned(
    site, run, node, profile=None, near="edge-1", edges=("edge-1", "edge-2"), shape=SHAPE, links=None
):
    """Join with a profile, over links that cost next to nothing."""
    request = fleet_pb2.JoinRunRequest(run_id=run, node_id=node)
    if node.startswith("edge"):
        offer = fleet_pb2.EdgeOffer(room=4, profile=profile or edge_profile(), shape=shape)
        request.edge.CopyFrom(offer)
    else:
        links = links or [
            fleet_pb2.LinkReport(
                edge_id=edge, latency_ms=0.1 if edge == near else 2, up_bytes_per_s=1e9, down_bytes_per_s=1e9
            )
            for edge in edges
        ]
        offer = fleet_pb2.ClientOffer(
            train_rows=100, heldout_rows=3, links=links, profile=profile or client_profile()
        )
        request.client.CopyFrom(offer)
    await site.fleet.JoinRun(request)


def report(client, share, *, steps=20, block_s=0.01, ends_s=0.001, trunk_block_s=0.002, network_s=0.0006, **more):
    """What `steps` steps with a share took, by seconds of one block here and there and of either end."""
    trunk = BLOCKS - share.bottom - share.top
    seconds = split_pb2.PhaseSeconds(
        bottom=steps * (ends_s + block_s * share.bottom),
        network=steps * network_s,
        trunk=steps * trunk_block_s * trunk,
        top=steps * (ends_s + block_s * share.top),
    )
    cut = split_pb2.Split(bottom=share.bottom, trunk=trunk, top=share.top)
    return adapter_pb2.ClientReport(
        client_id=client, rows=10, steps=steps, loss=1.0, seconds=seconds, split=cut, **more
    )
