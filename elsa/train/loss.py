"""Loss and hits of a batch, as sums and counts, so that micro-batches and clients add up exactly.

The mean over a batch equals the loss of the Hugging Face model: cross-entropy over rows (classification) or over
the next tokens that carry a label (causal language models; the label of a token is the token itself, shifted here).
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from elsa.data.encoding import NO_LOSS
from elsa.spec import Task


@dataclass(frozen=True, kw_only=True)
class Score:
    """Sums over predictions: rows of a classifier, next tokens of a language model."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            loss=self.loss + other.loss, correct=self.correct + other.correct, count=self.count + other.count
        )


def predictions(logits: torch.Tensor, labels: torch.Tensor, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (predictions, classes) with the labels (predictions,) that they are to hit; NO_LOSS ones included.

    Args:
        logits: (rows, classes), or for causal-lm (rows, tokens, vocabulary).
        labels: (rows,), or for causal-lm (rows, tokens).
    """
    if task == "classification":
        return logits, labels
    return logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()


def count(labels: torch.Tensor, task: Task) -> int:
    """Number of predictions that carry loss."""
    wanted = labels if task == "classification" else labels[:, 1:]
    return int((wanted != NO_LOSS).sum())


def loss_sum(logits: torch.Tensor, labels: torch.Tensor, task: Task) -> torch.Tensor:
    """Cross-entropy summed over the predictions that carry loss: a scalar, differentiable."""
    flat, wanted = predictions(logits, labels, task)
    return cross_entropy(flat.float(), wanted, ignore_index=NO_LOSS, reduction="sum")


def score(logits: torch.Tensor, labels: torch.Tensor, task: Task) -> Score:
    """Loss, hits and count of a batch."""
    flat, wanted = predictions(logits, labels, task)
    hits = int(((flat.argmax(-1) == wanted) & (wanted != NO_LOSS)).sum())
    return Score(loss=float(loss_sum(logits, labels, task)), correct=hits, count=count(labels, task))
