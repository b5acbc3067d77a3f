"""What a setting costs: split training under it in this process, its accuracy and bytes, and what the edge saw of it.

Both sides run as in a real run, with the real messages between them (`elsa.train.rehearsal`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from elsa.data.batches import Batch
from elsa.data.encoding import EncodedData
from elsa.model.weights import Checkpoint
from elsa.privacy.adversary import adversary_of
from elsa.privacy.audit.cut import Cut
from elsa.train.exchanged import ExchangedTrunk
from elsa.train.rehearsal import Rehearsal, Sides
from elsa.train.session import Position, TrunkSession

CLIENT_KEY = 0
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
class Trained:
    """A model that was trained under a setting."""

    sides: Sides
    accuracy: float  # share of right predictions on the rows kept back
    up_bytes: float  # a step
    down_bytes: float  # a step
    seen: Sequence[Exchange]  # the first micro-batches, as the edge saw them
    kept: Sequence[Batch]  # the batches of `seen`, for scoring

    @property
    def labels(self) -> torch.Tensor:
        """(rows,) of the rows in `seen`."""
        return torch.cat([batch.labels for batch in self.kept])

    @property
    def ids(self) -> torch.Tensor:
        """(tokens,) in `seen`."""
        return torch.cat([batch.input_ids[batch.attention_mask.bool()] for batch in self.kept])


class CuriousSession(TrunkSession):
    """A trunk that keeps what passes in its first `steps` steps, and otherwise behaves."""

    steps = 0

    def watch(self, steps: int) -> None:
        """Keep what comes from now on."""
        self.steps = steps
        self.seen: list[Exchange] = []
        self._waiting: dict[Position, tuple[Sequence[int], torch.Tensor]] = {}

    def forward(self, position: Position, activations: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """See `TrunkSession`."""
        result = super().forward(position, activations, lengths)
        if position.step < self.steps:
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

    It is kept in whole steps. Raises what loading, training and messages raise: NotFiniteError, for one, for training
    that diverged.
    """
    spec = cut.spec
    sides = Sides.of(spec, checkpoint)
    rehearsal = Rehearsal(
        spec,
        sides,
        cut.public,
        turn=cut.turns(CLIENT_KEY),
        keyed=not cut.blind,
        blur=cut.noise(CLIENT_KEY),
        opponent=adversary_of(spec, sides.client, cut.special),
    )
    session = rehearsal.session(CuriousSession)
    session.watch(-(-watched // min(spec.training.batch, len(rows))))
    trunk = rehearsal.trunk(session, ExchangedTrunk)
    kept: list[Batch] = []
    for done, batch in enumerate(rehearsal.train(trunk, rows, steps), start=1):
        told(done, steps)
        if done <= session.steps:
            kept.append(batch)
    score = rehearsal.evaluate(heldout, cut.noise(CLIENT_KEY + 1))
    return Trained(
        sides=sides,
        accuracy=score.correct / max(score.count, 1),
        up_bytes=trunk.bytes.up / steps,
        down_bytes=trunk.bytes.down / steps,
        seen=session.seen,
        kept=kept,
    )
