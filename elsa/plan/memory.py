"""What memory a split takes at a client, and what sessions take at an edge.

Both are sums of the same few kinds of bytes, and linear in blocks: an amount for having the model at all, and one for
each block. Frozen weights are in the base's type; all else is float32: activations, adapters with their gradients and
the two moments of AdamW. Not counted are the process without a model, rows, rows that an edge keeps, the scales of an
int8 base, and buffers of kernels and of messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from elsa.plan.shape import ModelShape, Workload
from elsa.spec import BaseDtype

FLOAT32_BYTES = 4
BLOCK_BYTES: Mapping[BaseDtype, int] = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a frozen value of a block. Norms and biases stay more precise, of which a block has few."""
END_BYTES: Mapping[BaseDtype, int] = {"float32": 4, "bfloat16": 2, "int8": 2}
"""Of a frozen value before the blocks or after them."""
MOMENTS = 2
CUT_TENSORS = 4
"""Activations and gradient at both cuts, float32, held for each micro-batch in flight."""

LOGITS_BYTES = 1 << 23
"""Most logits of a language model that exist at once, or those of one prediction; see `elsa.train.vocabulary`."""

LOGITS_RUNNING = 8
"""Times those: they, as many probabilities, a piece of a held weight in float32, and what the allocator holds back:
measured of a vocabulary of 49152 and 512 predictions, 4 where the head is float32 and up to 8 where it is held."""

HEAD_RUNNING = 3
"""Times what a head keeps that it holds only while it runs: of a classifier logits, beside the logarithms of
probabilities that it keeps, and two gradients of their size; of a language model final states, those that have a
label, and gradients of both."""

HELD_BACK = 3
"""Times a block's activations that the C library's allocator holds back of what was given back to it: measured of
MiniLM with glibc, 2 to 3.5, whatever the split and with checkpointing as without. A client, which gives large blocks
back at once, needs less: for it this is an upper bound."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes by what they are for."""

    weights: int = 0
    """Frozen."""
    adapter: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    loading: int = 0
    """The largest tensor once more, in float32: as it is read, before it is converted."""

    @property
    def total(self) -> int:
        """Of all kinds."""
        return sum(getattr(self, one.name) for one in fields(self))

    def __add__(self, other: "Need") -> "Need":
        return Need(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __mul__(self, times: int) -> "Need":
        return Need(**{one.name: times * getattr(self, one.name) for one in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ClientNeeds:
    """Of a client: both ends of the model once, and each block that it keeps."""

    ends: Need
    bottom_block: Need
    top_block: Need

    def of(self, bottom: int, top: int) -> Need:
        """What so many blocks at each end take."""
        return self.ends + self.bottom_block * bottom + self.top_block * top

    def blocks_within(self, memory_bytes: int) -> int:
        """Blocks that memory has room for beside the ends, forward and backward, wherever they stand; at least 0."""
        block = max(self.bottom_block.total, self.top_block.total)
        return max((memory_bytes - self.ends.total) // block, 0)


@dataclass(frozen=True, kw_only=True)
class EdgeNeeds:
    """Of an edge: its blocks once for all, each open session, and each block that a session trains."""

    base: Need
    session: Need
    session_block: Need

    def of(self, sessions: int, blocks: int) -> Need:
        """What so many sessions take that train so many blocks, all of them together."""
        return self.base + self.session * sessions + self.session_block * blocks


def client_needs(model: ModelShape, workload: Workload) -> ClientNeeds:
    """What a client of this run needs.

    A block before the cut keeps activations of all micro-batches in flight. One after the trunk keeps those of one
    micro-batch: its backward follows its forward at once. Head and loss likewise.
    """
    end_bytes = END_BYTES[workload.base]
    frozen = Need(weights=BLOCK_BYTES[workload.base] * model.block_weights)
    trained = _trained(model.block_adapter)
    passive = Need(adapter=FLOAT32_BYTES * model.block_adapter)
    kept_bytes = FLOAT32_BYTES * _kept_values(model, workload)
    ends = Need(
        weights=end_bytes * (model.embedding_weights + model.head_weights),
        activations=FLOAT32_BYTES * (1 + HEAD_RUNNING) * model.head_activations * workload.part_tokens
        + LOGITS_RUNNING * _logits_bytes(model, workload)
        + _cut_bytes(model, workload)
        + _passing_bytes(model, workload),
        loading=FLOAT32_BYTES * model.largest_weights,
    )
    below = trained + Need(activations=kept_bytes * workload.open_tokens) if workload.trains_bottom else passive
    return ClientNeeds(
        ends=ends + _trained(model.head_adapter),
        bottom_block=frozen + below,
        top_block=frozen + trained + Need(activations=kept_bytes * workload.part_tokens),
    )


def edge_needs(model: ModelShape, workload: Workload, held_blocks: int) -> EdgeNeeds:
    """What an edge needs that holds so many blocks, for clients of this run.

    An adapter slot spans all blocks that are held, whatever the split of its session, and one more is there to answer
    predictions with. Gradients, optimizer and activations are those of the session's own trunk.
    """
    slot = Need(adapter=FLOAT32_BYTES * model.block_adapter * held_blocks)
    base = Need(
        weights=BLOCK_BYTES[workload.base] * model.block_weights * held_blocks,
        activations=_passing_bytes(model, workload),
        loading=FLOAT32_BYTES * model.largest_weights,
    )
    learning = _trained(model.block_adapter)
    kept = FLOAT32_BYTES * _kept_values(model, workload) * workload.open_tokens
    return EdgeNeeds(
        base=base + slot,
        session=slot + Need(activations=_cut_bytes(model, workload)),
        session_block=Need(gradients=learning.gradients, optimizer=learning.optimizer, activations=kept),
    )


def predictions_at_once(vocabulary: int) -> int:
    """Of how many predictions of a language model the logits exist at once."""
    return max(1, LOGITS_BYTES // (FLOAT32_BYTES * vocabulary))


def _logits_bytes(model: ModelShape, workload: Workload) -> int:
    if workload.task != "causal-lm":
        return 0  # they are few, and counted a token
    vocabulary = model.embedding_weights // model.width
    return FLOAT32_BYTES * vocabulary * min(workload.part_tokens, predictions_at_once(vocabulary))


def _trained(values: int) -> Need:
    """So many values that AdamW trains."""
    size = FLOAT32_BYTES * values
    return Need(adapter=size, gradients=size, optimizer=MOMENTS * size)


def _kept_values(model: ModelShape, workload: Workload) -> int:
    """Values a token that a block keeps until its backward."""
    return model.width if workload.checkpointing else model.block_activations


def _cut_bytes(model: ModelShape, workload: Workload) -> int:
    return CUT_TENSORS * FLOAT32_BYTES * model.width * workload.open_tokens


def _passing_bytes(model: ModelShape, workload: Workload) -> int:
    """What one block takes only while it runs: gradients about as large as its activations, and what the allocator
    holds back of them; with checkpointing its activations too, which blocks that have run do not keep."""
    times = 1 + HELD_BACK + (1 if workload.checkpointing else 0)
    return times * FLOAT32_BYTES * model.block_activations * workload.part_tokens
