"""One client's training through its edge's blocks in one process, with the real messages of a run between the two.

What the audit and the benchmarks have in common: each watches or times a run through a session or a trunk of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from elsa.data.batches import Batch, batches, sequential
from elsa.data.encoding import EncodedData
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec, Split
from elsa.train.ends import client_end, edge_end, for_probes
from elsa.train.exchanged import ExchangedTrunk, Run
from elsa.train.loss import Score
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.parcel import TurnOf
from elsa.train.session import TrunkSession
from elsa.train.step import Blur, Opponent, SplitTrainer, evaluate
from elsa.train.trunk import Trunk
from elsa.wire.kept import Shelf

EDGE_BYTES = 1 << 32
"""Room for rows that the edge keeps."""
EVALUATION_ROWS = 64
Session = TypeVar("Session", bound=TrunkSession)
Exchanged = TypeVar("Exchanged", bound=ExchangedTrunk)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sides:
    """Both sides of a cut model with the run's first adapter."""

    split: Split
    client: Segment
    edge: Segment

    @classmethod
    def of(cls, spec: RunSpec, checkpoint: Checkpoint) -> "Sides":
        """Load both. Raises SplitError and what loading raises."""
        labels, task = len(spec.data.labels), spec.model.task
        split = spec.split.of(checkpoint.config(task, labels).num_hidden_layers)
        config = adapters.adapter_config(checkpoint, spec.lora, task, labels)
        start = adapters.initial_adapter(checkpoint, config, labels, spec.seed)
        base, again = spec.model.base_dtype, spec.training.checkpointing
        client = Segment.client(
            checkpoint, split, task=task, num_labels=labels, base=base, checkpointing=again, seed=spec.seed
        )
        edge = Segment.edge(
            checkpoint, split.trunk_blocks, task=task, num_labels=labels, base=base, checkpointing=again
        )
        for segment in (client, edge):
            adapters.attach(segment, config)
            adapters.write(segment, start)
        return cls(split=split, client=client, edge=edge)

    @torch.no_grad()
    def run(self, values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The trunk's output (tokens, width), forward only."""
        self.edge.train(False)
        return pack(self.edge.trunk(unpack(values, lengths), mask_of(lengths), self.split), lengths)


class Rehearsal:
    """A run of one client: its specification, both sides of its model, and the ends between them.

    Args:
        probes: (tokens, width) states of the public probes at the lower cut.
        turn: the client's secret turn of a step; None without SS-OP.
        keyed: whether the edge is told it.
        blur, opponent: of the client's training, as for `SplitTrainer`.
    """

    def __init__(
        self,
        spec: RunSpec,
        sides: Sides,
        probes: torch.Tensor,
        *,
        turn: TurnOf | None = None,
        keyed: bool = False,
        blur: Blur | None = None,
        opponent: Opponent | None = None,
    ) -> None:
        self._spec = spec
        self._sides = sides
        self._client = client_end(spec, sides.client.width, sides.split, probes)
        self._edge = edge_end(spec, sides.client.width, Shelf(EDGE_BYTES, 0))
        self._turn, self._keyed = turn, keyed
        self._blur, self._opponent = blur, opponent

    def session(self, kind: type[Session]) -> Session:
        """The edge's session, at step 0."""
        return kind(
            self._sides.edge,
            adapter="default",
            split=self._sides.split,
            optimizer=self._spec.training.optimizer,
            window=self._spec.training.window,
            dropout=self._spec.training.dropout,
            wants_gradient=self._spec.lora.bottom_adapters,
        )

    def trunk(self, run: TrunkSession | Run, kind: type[Exchanged]) -> Exchanged:
        """`run` behind both ends; a trunk that was made before is of no use any more."""
        return kind(self._client, self._edge, run, self._sides.split, turn=self._turn, keyed=self._keyed)

    def answering(self, run: TrunkSession | Run) -> ExchangedTrunk:
        """`run` behind ends for public probes alone; see `for_probes`."""
        spec, width = for_probes(self._spec), self._sides.client.width
        ends = client_end(spec, width, self._sides.split), edge_end(spec, width, Shelf(EDGE_BYTES, 0))
        return ExchangedTrunk(*ends, run, self._sides.split)

    def train(self, trunk: Trunk, rows: EncodedData, steps: int) -> Iterator[Batch]:
        """Train `steps` steps; each batch once its step is done. Raises what a step raises."""
        training = self._spec.training
        trainer = SplitTrainer(
            self._sides.client,
            trunk,
            split=self._sides.split,
            task=self._spec.model.task,
            training=training,
            bottom_adapters=self._spec.lora.bottom_adapters,
            blur=self._blur,
            opponent=self._opponent,
        )
        for batch in batches(rows, training.batch, steps, [self._spec.seed]):
            trainer.train_step(batch)
            yield batch

    def evaluate(self, rows: EncodedData, blur: Blur | None) -> Score:
        """Loss and hits over all `rows`, through both ends, under the noise `blur`."""
        return evaluate(
            self._sides.client,
            self.trunk(self._sides.run, ExchangedTrunk),
            sequential(rows.by_length(), EVALUATION_ROWS),
            split=self._sides.split,
            task=self._spec.model.task,
            window=1,
            blur=blur,
        )
