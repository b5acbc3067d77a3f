"""Head and loss of a language model, for a part of a batch's predictions at a time.

Logits of a whole batch are as large as many blocks: tokens times vocabulary. Here they exist for as many predictions
as `elsa.plan.memory` allows, and only for those that have a label; the sum of the parts is the loss of the whole, and
its gradient by the states is collected and goes back through them once.
"""

from collections.abc import Iterator

import torch
from torch.nn.functional import log_softmax, nll_loss

from elsa.data.encoding import NO_LOSS
from elsa.model.segment import Segment
from elsa.plan.memory import predictions_at_once
from elsa.train.loss import Score, predictions, score


def learn(segment: Segment, states: torch.Tensor, labels: torch.Tensor, total: int) -> float:
    """Cross-entropy summed over the predictions that carry loss, over `total`; and its backward.

    Gradients add up in whatever `states` come from, and in what is trained of the head.

    Args:
        segment: whose head runs.
        states: (rows, tokens, width), after the final norm, with their graph.
        labels: (rows, tokens).
        total: predictions of the whole step, at least 1.
    """
    chosen, wanted = labelled(states, labels)
    leaf = chosen.detach().requires_grad_()
    leaf.grad = torch.zeros_like(leaf)
    loss = 0.0
    for part in _parts(segment, len(wanted)):
        loss += _learn_part(segment.head(leaf[part, None]).flatten(0, 1), wanted[part], total)
    chosen.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def judge(segment: Segment, states: torch.Tensor, labels: torch.Tensor) -> Score:
    """Loss, hits and count of a batch; arguments as of `learn`."""
    chosen, wanted = labelled(states, labels)
    total = Score()
    for part in _parts(segment, len(wanted)):  # a prediction among the vocabulary is a row of a classifier
        total += score(segment.head(chosen[part, None]).flatten(0, 1), wanted[part], "classification")
    return total


def labelled(states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States (predictions, width) that a token with a label follows, and these labels (predictions,)."""
    flat, wanted = predictions(states, labels, "causal-lm")
    carry = wanted != NO_LOSS
    return flat[carry], wanted[carry]


def _parts(segment: Segment, predicted: int) -> Iterator[slice]:
    step = predictions_at_once(segment.config.vocab_size)
    for begin in range(0, predicted, step):
        yield slice(begin, begin + step)


def _learn_part(logits: torch.Tensor, wanted: torch.Tensor, total: int) -> float:
    """Loss and backward of logits (predictions, vocabulary).

    The gradient, (softmax - one-hot) / total, is written over the logarithms of the probabilities: beside the logits
    there is one tensor of their size.
    """
    values = log_softmax(logits.detach().float(), dim=-1)
    loss = nll_loss(values, wanted, reduction="sum") / total
    gradient = values.exp_().div_(total)
    gradient[torch.arange(len(wanted)), wanted] -= 1 / total
    logits.backward(gradient)  # type: ignore[no-untyped-call]
    return loss.item()
