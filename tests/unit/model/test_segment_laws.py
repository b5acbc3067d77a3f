"""A split model is the unsplit one: same logits, same loss, same gradients, for every family and split."""

import pytest
import torch
from tiny_models import (
    BLOCKS,
    DECODERS,
    DEPRECATED,
    ENCODERS,
    LABELS,
    TOLERANCE,
    MakeFolder,
    assert_near,
    batch_of,
    full_adapter,
    gradients_of,
    reference,
    split_step,
)
from transformers import AutoModelForSequenceClassification

from elsa.model import adapter
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import Split, Task

pytestmark = pytest.mark.filterwarnings(DEPRECATED)

CASES = [(family, "classification") for family in ENCODERS + DECODERS]
CASES += [(family, "causal-lm") for family in DECODERS]
SPLITS = [
    Split(bottom=bottom, trunk=BLOCKS - bottom - top, top=top)
    for bottom in range(1, BLOCKS)
    for top in range(BLOCKS - bottom)
]


@pytest.mark.parametrize("lengths", [[7, 7, 7], [7, 3, 5]], ids=["full", "padded"])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_split_step_equals_unsplit_model(
    make_folder: MakeFolder, family: str, task: Task, lengths: list[int]
) -> None:
    folder = make_folder(family, task)
    checkpoint = Checkpoint.open(str(folder))
    config, tensors = full_adapter(checkpoint, task)
    batch = batch_of(lengths, checkpoint.config(task, LABELS).pad_token_id, task)
    want_logits, want_loss, want = reference(folder, config, tensors, batch, task)
    # One edge that owns more than any split's trunk, one whole, and a client of each split.
    edge = Segment.edge(checkpoint, range(1, BLOCKS), task=task, num_labels=LABELS)
    adapter.attach(edge, config)
    adapter.write(edge, tensors)
    for split in SPLITS:
        client = Segment.client(checkpoint, split, task=task, num_labels=LABELS)
        adapter.attach(client, config)
        adapter.write(client, tensors)
        edge.model.zero_grad(set_to_none=True)
        logits, loss = split_step(client, edge, split, batch, task)
        real = slice(None) if task == "classification" else batch.attention_mask.bool()
        torch.testing.assert_close(logits[real], want_logits[real], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(loss, want_loss, rtol=0, atol=TOLERANCE)
        assert_near(gradients_of(client) | gradients_of(edge, split=split), want)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_whole_segment_equals_unsplit_model(make_folder: MakeFolder, family: str, task: Task) -> None:
    folder = make_folder(family, task)
    checkpoint = Checkpoint.open(str(folder))
    config, tensors = full_adapter(checkpoint, task)
    batch = batch_of([4, 6], checkpoint.config(task, LABELS).pad_token_id, task)
    want, _, _ = reference(folder, config, tensors, batch, task)
    whole = Segment.whole(checkpoint, task=task, num_labels=LABELS)
    adapter.attach(whole, config)
    adapter.write(whole, tensors)
    real = slice(None) if task == "classification" else batch.attention_mask.bool()
    logits = whole.logits(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(logits[real], want[real], rtol=0, atol=TOLERANCE)


def test_token_types_reach_the_embeddings(make_folder: MakeFolder) -> None:
    folder = make_folder("bert", "classification")
    batch = batch_of([6, 6], 0, "classification")
    types = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
    segment = Segment.whole(Checkpoint.open(str(folder)), task="classification", num_labels=LABELS)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    want = model(batch.input_ids, batch.attention_mask, types).logits
    torch.testing.assert_close(
        segment.logits(batch.input_ids, batch.attention_mask, types), want, rtol=0, atol=TOLERANCE
    )
    assert not torch.allclose(segment.logits(batch.input_ids, batch.attention_mask), want, atol=1e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_a_text_that_ends_with_the_padding_token_is_read_to_its_end(make_folder: MakeFolder, family: str) -> None:
    folder = make_folder(family, "classification")
    batch = batch_of([5, 3], 0, "classification")
    batch.input_ids[0, 4] = batch.input_ids[1, 2] = 0  # the padding token, as a real last token
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    states = model.base_model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    want = model.score(states)[torch.arange(2), torch.tensor([4, 2])]
    segment = Segment.whole(Checkpoint.open(str(folder)), task="classification", num_labels=LABELS)
    got = segment.logits(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE)


def test_embedding_dropout_is_not_applied_again_at_a_cut(make_folder: MakeFolder) -> None:
    fields = {"embd_pdrop": 0.5, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    checkpoint = Checkpoint.open(str(make_folder("gpt2", "causal-lm", fields)))
    split = Split(bottom=1, trunk=1, top=1)
    edge = Segment.edge(checkpoint, range(1, 2), task="causal-lm")
    edge.model.train()
    hidden, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.long)
    assert torch.equal(edge.trunk(hidden, mask, split), edge.trunk(hidden, mask, split))
    client = Segment.client(checkpoint, split, task="causal-lm")
    client.model.train()
    ids = torch.full((2, 4), 5)
    assert torch.equal(client.top(hidden, ids, mask, split), client.top(hidden, ids, mask, split))
    assert not torch.equal(client.bottom(ids, mask, split=split), client.bottom(ids, mask, split=split))
