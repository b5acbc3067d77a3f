"""What a setting costs: split training under it in this process, its accuracy and bytes, and what the edge saw of it.

Both sides run as in a real run, with the real messages between them (`elsa.train.exchanged`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from elsa.data.batches import batches, sequential
from elsa.data.encoding import EncodedData
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.privacy.audit.cut import Cut
from elsa.privacy.ssop import Turn
from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd
from elsa.train.exchanged import ExchangedTrunk
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.session import Position, TrunkSession
from elsa.train.step import SplitTrainer, evaluate
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_set_from_proto, codec_set_to_proto

CLIENT_KEY = 0
EVALUATION_ROWS = 64
Told = Callable[[int, int], None]
"""Called with steps done and steps in all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """What the edge held of one micro-batch, as it decoded it: all (tokens, width), row after row."""

    lengths: Sequence[int]
    h2: torch.Tensor  # what its own blocks gave
    dh2: torch.Tensor  # what came back
    dh1: torch.Tensor | None  # what its own blocks made of that; None where the bottom is not trained


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
        client = Segment.client(checkpoint, split, task=task, num_labels=labels, seed=spec.seed)
        edge = Segment.edge(checkpoint, split.trunk_blocks, task=task, num_labels=labels)
        for segment in (client, edge):
            adapters.attach(segment, config)
            adapters.write(segment, start)
        return cls(split=split, client=client, edge=edge)

    @torch.no_grad()
    def run(self, values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The trunk's output (tokens, width), forward only."""
        self.edge.train(False)
        return pack(self.edge.trunk(unpack(values, lengths), mask_of(lengths), self.split), lengths)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A model that was trained under a setting."""

    sides: Sides
    accuracy: float  # share of right predictions on the rows kept back
    up_bytes: float  # a step
    down_bytes: float  # a step
    seen: Sequence[Exchange]  # the first micro-batches, as the edge saw them
    labels: torch.Tensor  # (rows,) of the rows in `seen`, for scoring
    ids: torch.Tensor  # (tokens,) in `seen`, for scoring


class CuriousSession(TrunkSession):
    """A trunk that keeps what passes, of at least `rows` rows, and otherwise behaves."""

    rows = 0

    def watch(self, rows: int) -> None:
        """Keep what comes from now on."""
        self.rows = rows
        self.seen: list[Exchange] = []
        self._waiting: dict[Position, tuple[Sequence[int], torch.Tensor]] = {}

    def forward(self, position: Position, activations: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """See `TrunkSession`."""
        result = super().forward(position, activations, lengths)
        if sum(len(exchange.lengths) for exchange in self.seen) < self.rows:
            self._waiting[position] = (lengths, result)
        return result

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> torch.Tensor | None:
        """See `TrunkSession`."""
        result = super().backward(position, gradient, apply)
        if position in self._waiting:
            lengths, h2 = self._waiting.pop(position)
            self.seen.append(Exchange(lengths=lengths, h2=h2, dh2=gradient, dh1=result))
        return result


def train(
    cut: Cut,
    checkpoint: Checkpoint,
    rows: EncodedData,
    heldout: EncodedData,
    *,
    steps: int,
    watched: int = 0,
    told: Told = lambda done, steps: None,
) -> Trained:
    """Train `steps` steps under `cut` and evaluate on `heldout`; keep what the edge saw of the first `watched` rows.

    Raises what loading, training and messages raise: NotFiniteError, for one, for training that diverged.
    """
    spec = cut.spec
    sides = Sides.of(spec, checkpoint)
    ends = _ends(cut, sides)
    session = CuriousSession(
        sides.edge,
        adapter="default",
        split=sides.split,
        optimizer=spec.training.optimizer,
        window=spec.training.window,
        wants_gradient=spec.lora.bottom_adapters,
    )
    session.watch(watched)
    turns, keyed = _turns(cut), not cut.blind
    trunk = ExchangedTrunk(*ends, session, sides.split, turn=turns, keyed=keyed)
    trainer = SplitTrainer(
        sides.client,
        trunk,
        split=sides.split,
        task=spec.model.task,
        training=spec.training,
        bottom_adapters=spec.lora.bottom_adapters,
        blur=cut.noise(CLIENT_KEY),
        opponent=cut.adversary(sides.client),
    )
    labels: list[torch.Tensor] = []
    ids: list[torch.Tensor] = []
    for done, batch in enumerate(batches(rows, spec.training.batch, steps, [spec.seed])):
        told(done, steps)
        trainer.train_step(batch)
        if sum(len(part) for part in labels) < watched:
            labels.append(batch.labels)
            ids.append(pack(batch.input_ids.unsqueeze(-1), batch.lengths).squeeze(-1))
    testing = ExchangedTrunk(*ends, sides.run, sides.split, turn=turns, keyed=keyed)
    score = evaluate(
        sides.client,
        testing,
        sequential(heldout.by_length(), EVALUATION_ROWS),
        split=sides.split,
        task=spec.model.task,
        window=1,
        blur=cut.noise(CLIENT_KEY + 1),
    )
    return Trained(
        sides=sides,
        accuracy=score.correct / max(score.count, 1),
        up_bytes=trunk.bytes.up / steps,
        down_bytes=trunk.bytes.down / steps,
        seen=session.seen,
        labels=torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64),
        ids=torch.cat(ids) if ids else torch.zeros(0, dtype=torch.int64),
    )


def _ends(cut: Cut, sides: Sides) -> tuple[ClientEnd, EdgeEnd]:
    width = sides.client.width
    codecs = codec_set_from_proto(codec_set_to_proto(cut.spec.codecs, width), width)
    privacy = cut.spec.privacy
    moments = cut.moments if privacy.ssop is None else Moments(width)  # as services.client does
    at_once = privacy.public_calibration and bool(codecs.h1.calibration_layout())
    client = ClientEnd(codecs, width, sides.split, probes=moments, at_once=at_once)
    return client, EdgeEnd(codecs, width)


def _turns(cut: Cut) -> Callable[[int], Turn] | None:
    """The client's turn at each step; None without SS-OP."""
    ssop = cut.spec.privacy.ssop
    if ssop is None:
        return None

    @cache
    def of_epoch(epoch: int) -> Turn:
        made = cut.turn(CLIENT_KEY, epoch)
        if made is None:
            raise RuntimeError("a run with SS-OP has turns")
        return made

    return of_epoch if ssop.renew == "step" else partial(_always, of_epoch)


def _always(of_epoch: Callable[[int], Turn], step: int) -> Turn:
    return of_epoch(0)
