"""What a client's model answers to probes, through the split: of this its fingerprint is made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from elsa.data.batches import Batch
from elsa.model.segment import Segment
from elsa.spec import Split, Task
from elsa.train.packing import unpack
from elsa.train.session import Position
from elsa.train.step import bottom_activations
from elsa.train.trunk import ForwardReply, Trunk

Pooling = Literal["token", "mean"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """To probes, in the order in which they were asked."""

    embeddings: torch.Tensor  # (probes, width)
    probabilities: torch.Tensor | None  # (probes, labels); None where the task is not classification


@torch.no_grad()
def answers(
    segment: Segment, trunk: Trunk, batches: Iterable[Batch], *, split: Split, task: Task, pooling: Pooling
) -> Answers:
    """The final state of each probe, and what the head makes of it.

    Args:
        trunk: at step 0; it needs no backward.
        pooling: "token": of [CLS] for encoders, of the last real token for decoders; "mean": over all real tokens.
    """
    segment.train(False)
    embeddings: list[torch.Tensor] = []
    probabilities: list[torch.Tensor] = []
    for step, batch in enumerate(batches):
        trunk.forward(Position(step=step, micro_batch=0), bottom_activations(segment, batch, split), batch.lengths)
        reply = trunk.receive()
        if not isinstance(reply, ForwardReply):
            raise RuntimeError("a backward reply where nothing was sent backward")
        hidden = unpack(reply.activations, batch.lengths)
        final = segment.final(hidden, batch.attention_mask, split)
        embeddings.append(pooled(final, batch.lengths, pooling, encoder=segment.architecture.is_encoder))
        if task == "classification":
            logits = segment.top(hidden, batch.input_ids, batch.attention_mask, split=split)
            probabilities.append(logits.float().softmax(dim=-1))
    return Answers(
        embeddings=torch.cat(embeddings).float(),
        probabilities=torch.cat(probabilities) if probabilities else None,
    )


def pooled(final: torch.Tensor, lengths: Sequence[int], pooling: Pooling, *, encoder: bool) -> torch.Tensor:
    """One state (rows, width) of `final` (rows, tokens, width) for each row; see `answers`."""
    if pooling == "mean":
        return torch.stack([row[:length].mean(dim=0) for row, length in zip(final, lengths, strict=True)])
    return torch.stack([row[0 if encoder else length - 1] for row, length in zip(final, lengths, strict=True)])
