"""What the planner must know of a model and of a run's batches, as plain numbers; no model is touched here."""

from dataclasses import dataclass, fields

from elsa.errors import SpecError
from elsa.plan.traffic import Traffic, traffic_of
from elsa.spec import BaseDtype, RunSpec, Task

MOST_VALUES = 2**48
MOST_BLOCKS = 1_000


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Numbers of values, not bytes, of a task model with the adapter of a run.

    Weights and adapter are counted on the model's skeleton, which allocates nothing; activations are those that
    autograd saves in one forward of one block, or of the head, divided by the tokens that it ran on.

    Raises:
        SpecError: naming the field.
    """

    blocks: int
    """M."""
    width: int
    """Of a hidden state."""
    block_weights: int
    """Frozen values of one block."""
    embedding_weights: int
    """Frozen values of all that stands before the first block."""
    head_weights: int
    """Frozen values of final norm, pooler and head; what is tied to the embeddings is counted there alone."""
    largest_weights: int
    """Of the largest single tensor: while it is loaded it is there as stored and once more in the base's type."""
    block_adapter: int
    """Trained values of one block: rank x (in + out) for each target."""
    head_adapter: int = 0
    """Trained values of head modules that are trained in full, beside their frozen originals."""
    block_activations: int
    """Values a token that one block keeps from its forward to its backward, if none are computed again."""
    head_activations: int
    """Values a token that final norm, head and loss keep; of a language model without logits, which never exist of a
    whole batch."""

    def __post_init__(self) -> None:
        if not 2 <= self.blocks <= MOST_BLOCKS:
            raise SpecError(f"model: {self.blocks} blocks; a split needs 2 to {MOST_BLOCKS}")
        for one in fields(self):
            if not 0 <= getattr(self, one.name) <= MOST_VALUES:
                raise SpecError(f"model: {one.name} is {getattr(self, one.name)}; it must be 0 to 2^48")

    def check_measured(self) -> None:
        """Raise SpecError, naming the field, for what no model has: one that was only counted has no activations."""
        for name in ("width", "block_weights", "largest_weights", "block_activations"):
            if getattr(self, name) < 1:
                raise SpecError(f"model: {name} is {getattr(self, name)}; it must be 1 to 2^48")
        if self.embedding_weights < self.width:
            raise SpecError(
                f"model: embedding_weights is {self.embedding_weights}; it must be at least the width, {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one optimizer step of a client works on.

    Raises:
        SpecError: naming the field.
    """

    rows: int
    """Of a batch."""
    row_tokens: float
    """Real tokens of a row on average: they are sent."""
    longest_row: int
    """Tokens that a row may have: rows are padded to the longest of their micro-batch, and memory must hold that."""
    traffic: Traffic
    micro_batches: int = 1
    window: int = 2
    """Micro-batches in flight at once."""
    local_steps: int = 16
    """Steps of a client in an edge round."""
    trains_bottom: bool = True
    """Whether the blocks before the cut have an adapter that learns; if not, they run forward only."""
    checkpointing: bool = False
    """Whether blocks keep only their input and run forward again in their backward. Profiles are measured so too."""
    task: Task = "classification"
    padded_tokens: float | None = None
    """Tokens to which rows are padded on average while they are computed; None: as many as `row_tokens`."""
    base: BaseDtype = "float32"
    """In what frozen weights are held. Activations, adapters and their optimizer are float32 always."""

    def __post_init__(self) -> None:
        for name in ("rows", "row_tokens", "longest_row", "micro_batches", "window", "local_steps"):
            if not 0 < getattr(self, name) <= 2**31:
                raise SpecError(f"workload: {name} is {getattr(self, name)}; it must be above 0 and at most 2^31")

    @classmethod
    def of(cls, spec: RunSpec, width: int, row_tokens: float, padded_tokens: float | None = None) -> "Workload":
        """Of a run for a model of `width` whose rows have so many real tokens on average, and padded ones.

        Raises SpecError where a codec does not fit the width.
        """
        trains_bottom = spec.lora.bottom_adapters
        return cls(
            rows=spec.training.batch,
            row_tokens=row_tokens,
            padded_tokens=padded_tokens,
            longest_row=spec.model.max_tokens,
            traffic=traffic_of(spec.codecs, width, wants_gradient=trains_bottom),
            micro_batches=spec.training.micro_batches,
            window=spec.training.window,
            local_steps=spec.training.local_steps,
            trains_bottom=trains_bottom,
            checkpointing=spec.training.checkpointing,
            task=spec.model.task,
            base=spec.model.base_dtype,
        )

    @property
    def row_share(self) -> float:
        """How long rows are while they are computed, on average, of the longest that there may be."""
        return (self.padded_tokens or self.row_tokens) / self.longest_row

    @property
    def up_bytes(self) -> float:
        """Encoded bytes of a step from client to edge."""
        return self.rows * self.row_tokens * self.traffic.up

    @property
    def down_bytes(self) -> float:
        """Encoded bytes of a step from edge to client."""
        return self.rows * self.row_tokens * self.traffic.down

    @property
    def forward_share(self) -> float:
        """Of a block's seconds. Weights are frozen, so a backward makes one product where a forward makes one; with
        checkpointing the forward runs twice."""
        return 1 / 3 if self.checkpointing else 1 / 2

    @property
    def part_tokens(self) -> int:
        """Most tokens of a micro-batch, padding counted."""
        return -(-self.rows // self.micro_batches) * self.longest_row

    @property
    def open_tokens(self) -> int:
        """Most tokens of all micro-batches between forward and backward at once, padding counted."""
        return min(self.window, self.micro_batches) * self.part_tokens
