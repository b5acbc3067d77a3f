"""The public probes at a client's cut: what codecs, SS-OP and noise are calibrated on, before a row has been seen."""

from collections.abc import Sequence

import torch

from elsa.data.batches import Batch
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import Split
from elsa.train.step import bottom_activations

ROWS = 32
"""Probes in one batch."""
LONGEST = 64
"""Tokens of a probe that are used; they are short sentences."""


def probe_batches(checkpoint: Checkpoint, texts: Sequence[str], max_tokens: int, rows: int = ROWS) -> list[Batch]:
    """Public texts as batches of at most `rows` rows, in their order, without labels.

    Args:
        max_tokens: what the run allows a row; longer texts are cut, and none is longer than `LONGEST`.
    """
    encoded = checkpoint.tokenizer()(list(texts), truncation=True, max_length=min(max_tokens, LONGEST))
    batches = []
    for begin in range(0, len(texts), rows):
        part = [torch.tensor(ids) for ids in encoded["input_ids"][begin : begin + rows]]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        lengths = torch.tensor([len(row) for row in part])
        mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()
        none = torch.zeros(len(part), dtype=torch.int64)
        batches.append(Batch(input_ids=ids, attention_mask=mask, token_type_ids=None, labels=none))
    return batches


@torch.no_grad()
def probe_activations(
    segment: Segment, checkpoint: Checkpoint, split: Split, texts: Sequence[str], max_tokens: int
) -> torch.Tensor:
    """States (tokens, width) of public texts at the lower cut, one text after another; `texts` as `probe_batches`.

    Args:
        segment: a client's, at the adapter that all clients begin from: what is public of it.
    """
    segment.train(False)
    return torch.cat([bottom_activations(segment, b, split) for b in probe_batches(checkpoint, texts, max_tokens)])
