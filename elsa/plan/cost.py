"""How long one optimizer step takes each client, by phase, for any number of splits at once.

    step = embeddings + bottom·τ_n + network + codecs_n + trunk·τ_e(s) + codecs_e + top·τ_n + head

with τ_n a block's seconds at the client and τ_e(s) at an edge with s sessions. It is the step of a client that finds
the edge idle, its phases one after another: micro-batches in flight may overlap some of it, so it is an upper bound.
What clients wait for each other is added by the planner, which knows who shares the edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elsa.plan.profile import ClientProfile
from elsa.plan.shape import Workload

Floats = NDArray[np.float64]
Ints = NDArray[np.int_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Crew:
    """The clients of one edge: their profiles' figures as columns, each (N, 1)."""

    block_s: Floats
    embeddings_s: Floats
    head_s: Floats
    codec_s: Floats
    round_trip_s: Floats
    up_bytes_per_s: Floats
    down_bytes_per_s: Floats

    @classmethod
    def of(cls, clients: Sequence[ClientProfile], edge: str) -> "Crew":
        """Columns in the order of `clients`, each of which has a link to `edge`."""
        links = [client.links[edge] for client in clients]
        return cls(
            block_s=_column([client.block_s for client in clients]),
            embeddings_s=_column([client.embeddings_s for client in clients]),
            head_s=_column([client.head_s for client in clients]),
            codec_s=_column([client.codec_s for client in clients]),
            round_trip_s=_column([link.latency_ms for link in links]) / 1e3,
            up_bytes_per_s=_column([link.up_bytes_per_s for link in links]),
            down_bytes_per_s=_column([link.down_bytes_per_s for link in links]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSeconds:
    """Seconds of a step by phase, each (N, K): N clients, K splits of each."""

    bottom: Floats
    """Embeddings and the blocks before the cut; without their backward where they have nothing to train."""
    network: Floats
    """Transfers, and the client's codecs: both pass while the client waits."""
    trunk: Floats
    """The edge's blocks and codecs."""
    top: Floats
    """The blocks after the trunk, head, loss and the optimizer's step."""

    @property
    def total(self) -> Floats:
        """Of all phases."""
        total: Floats = self.bottom + self.network + self.trunk + self.top
        return total


def step_seconds(
    crew: Crew,
    workload: Workload,
    trunk_block_s: float,
    trunk_step_s: float,
    *,
    bottom: Ints,
    trunk: Ints,
    top: Ints,
) -> StepSeconds:
    """The phases of each client under each of its splits.

    Args:
        trunk_block_s: seconds of one block at the edge for one client's batch.
        trunk_step_s: of what the edge does besides.
        bottom, trunk, top: blocks, each (N, K) or (1, K).
    """
    share = 1.0 if workload.trains_bottom else workload.forward_share
    shape = np.broadcast_shapes(crew.block_s.shape, bottom.shape)
    return StepSeconds(
        bottom=np.broadcast_to(crew.embeddings_s + share * crew.block_s * bottom, shape),
        network=np.broadcast_to(network_seconds(crew, workload) + crew.codec_s, shape),
        trunk=np.broadcast_to(trunk_block_s * trunk + trunk_step_s, shape),
        top=np.broadcast_to(crew.head_s + crew.block_s * top, shape),
    )


def network_seconds(crew: Crew, workload: Workload) -> Floats:
    """Seconds of a step's transfers, (N, 1); they do not depend on the split.

    Four a micro-batch: h1 up and h2 down, dL/dh2 up and dL/dh1 down. Each takes half a round trip and its encoded
    bytes over the link's throughput.
    """
    transferred: Floats = (
        workload.micro_batches * 2 * crew.round_trip_s
        + workload.up_bytes / crew.up_bytes_per_s
        + workload.down_bytes / crew.down_bytes_per_s
    )
    return transferred


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, float).reshape(-1, 1)
