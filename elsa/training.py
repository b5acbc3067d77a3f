"""How a run trains: which adapter, by which optimizer, for how long and in what portions."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from elsa.parsing import Part

Module = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class LoraSpec(Part):
    """The adapter that is trained (LoRA, arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(16.0, gt=0, le=1e6)
    targets: tuple[Module, ...] = Field(
        (), max_length=64, description="module names; empty: query and value projections"
    )
    bottom_adapters: bool = Field(True, description="train the client's blocks before the cut too")


class OptimizerSpec(Part):
    """AdamW, the same on both sides of the cut, so that a split step equals an unsplit one."""

    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=10)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0, le=1)


class EarlyStoppingSpec(Part):
    """When a run ends before its rounds are made, by how good its versions are on the rows that clients kept back."""

    metric: Literal["loss", "accuracy"] = Field("loss", description="what has to get better, weighted by rows")
    adapter: Literal["run", "cluster"] = Field(
        "run", description="whose metric: that of the run's adapter, or for each client that of its cluster's"
    )
    patience: int = Field(3, ge=1, le=10_000, description="versions in a row without a better one that end the run")
    min_delta: float = Field(0.0, ge=0, le=1e6, description="by how much a version must be better to count as such")


class TrainingSpec(Part):
    """How long and in what portions clients train."""

    rounds: int = Field(3, ge=1, le=10_000, description="global rounds")
    edge_rounds: int = Field(2, ge=1, le=1_000, description="edge rounds in a global round")
    local_steps: int = Field(20, ge=1, le=100_000, description="optimizer steps of a client in an edge round")
    batch: int = Field(16, ge=1, le=100_000, description="rows in an optimizer step")
    micro_batches: int = Field(1, ge=1, le=100_000, description="parts of a batch; their gradients are summed")
    window: int = Field(2, ge=1, le=16, description="micro-batches in flight at once")
    dropout: bool = Field(False, description="use the model's own dropout while training")
    steps: Literal["fixed", "proportional"] = Field(
        "fixed", description="proportional: slower clients take fewer steps, which aggregation corrects (FedNova)"
    )
    checkpointing: bool = Field(
        False, description="keep only what enters a block and run it again in its backward: less memory, more time"
    )
    optimizer: OptimizerSpec = OptimizerSpec()
    early_stopping: EarlyStoppingSpec | None = Field(
        None, description="end once versions get no better, and export the best; none: all rounds are made"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.micro_batches > self.batch:
            raise ValueError(f"micro_batches {self.micro_batches} is more than batch {self.batch}")
        return self
