"""What this machine measures of itself for `elsa plan`: as a client, and as the edge that it would train with."""

from dataclasses import asdict

from elsa.errors import InputError
from elsa.plan.memory import client_needs
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.profile_file import Profiles
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import RunSpec
from services.cli.plan_figures import Figures
from services.rpc.memory import usable_bytes
from services.rpc.process import compute_on

CLIENT, EDGE = "this-machine", "this-machine-as-edge"
LINK = LinkProfile(latency_ms=0.5, up_bytes_per_s=5e8, down_bytes_per_s=5e8)
"""Of gRPC over loopback: assumed, not measured."""


def own_figures(spec: RunSpec, row_tokens: float | None, threads: int, max_memory_mib: int | None = None) -> Figures:
    """This machine as a client and as an edge with one session, each measured by itself.

    Args:
        row_tokens: real tokens of a row on average; None: as many as a row may have.
        threads: of the compute kernels; it counts only where torch is not loaded yet.

    Raises:
        CapacityError: where the system does not tell its memory and there is no `max_memory_mib`.
        InputError: where torch is not installed.
        ModelError: if the model cannot be found or carved.
    """
    compute_on(threads)
    try:
        from elsa.model.adapter import adapter_config
        from elsa.model.weights import Checkpoint
        from elsa.train.measuring import client_seconds, edge_seconds, sampled_blocks
        from elsa.train.sizes import model_shape
    except ImportError as error:
        raise InputError(
            f"this machine cannot measure itself ({error.name} is not installed); give --profiles or --run, or "
            "install elsa with its extra 'train'"
        ) from error
    memory_bytes = usable_bytes(max_memory_mib)
    checkpoint, task = Checkpoint.open(spec.model.source), spec.model.task
    config = adapter_config(checkpoint, spec.lora, task, len(spec.data.labels))
    shape = model_shape(spec, checkpoint, config)
    tokens = row_tokens or float(spec.model.max_tokens)
    workload = Workload.of(spec, shape.width, tokens)
    most = client_needs(shape, workload).blocks_within(memory_bytes)
    blocks = sampled_blocks(shape, spec.model.base_dtype, most)
    own = asdict(client_seconds(spec, checkpoint, config, tokens, blocks))
    other = asdict(edge_seconds(spec, checkpoint, config, tokens, 1, blocks))
    client = ClientProfile(name=CLIENT, memory_bytes=memory_bytes, links={EDGE: LINK}, **own)
    edge = EdgeProfile(name=EDGE, memory_bytes=memory_bytes, capacity=1, **other)
    return Figures(
        profiles=Profiles(clients=(client,), edges=(edge,), homes={CLIENT: EDGE}, model=shape, row_tokens=row_tokens),
        notes=(
            f"measured with {threads} thread{'' if threads == 1 else 's'}, client and edge one after the other; each "
            "counts on all the memory",
            f"assumed: a link of {LINK.latency_ms:g} ms and {LINK.up_bytes_per_s / 1e6:g} MB/s each way",
            _most_blocks(spec, shape, workload, memory_bytes),
        ),
    )


def _most_blocks(spec: RunSpec, shape: ModelShape, workload: Workload, memory_bytes: int) -> str:
    """How much of the model this machine could keep as a client, whatever that took."""
    needs, top = client_needs(shape, workload), spec.split.top
    kept = [bottom + top for bottom in range(1, shape.blocks - top) if needs.of(bottom, top).total <= memory_bytes]
    return f"as a client its memory holds up to {max(kept, default=0)} of the {shape.blocks} blocks"
