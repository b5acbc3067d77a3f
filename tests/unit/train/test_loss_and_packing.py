"""Sums of loss that add up to the Hugging Face model's own, and the packed form of a batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from split_twins import batches_of
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.data.encoding import NO_LOSS
from elsa.train.loss import Score, count, loss_sum, score
from elsa.train.packing import mask_of, pack, unpack

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("family", "task", "auto"),
    [
        ("bert", "classification", AutoModelForSequenceClassification),
        ("gpt2", "causal-lm", AutoModelForCausalLM),
        ("llama", "causal-lm", AutoModelForCausalLM),
    ],
)
def test_mean_loss_is_that_of_the_hugging_face_model(make_folder, family, task, auto):
    model = auto.from_pretrained(make_folder(family, task)).eval()
    for batch in batches_of(task):
        answer = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
        mean = loss_sum(answer.logits, batch.labels, task) / count(batch.labels, task)
        torch.testing.assert_close(mean, answer.loss, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
def test_scores_of_parts_add_up_to_that_of_the_whole(task):
    batch = batches_of(task)[0]
    shape = (7, 5) if task == "classification" else (7, 9, 40)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    whole, total, begin = score(logits, batch.labels, task), Score(), 0
    for part in batch.split(3):
        tokens = part.input_ids.shape[1]
        rows = logits[begin : begin + len(part)]
        total += score(rows if task == "classification" else rows[:, :tokens], part.labels, task)
        begin += len(part)
    assert (total.count, total.correct) == (whole.count, whole.correct)
    assert total.loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_hit_is_the_next_token_and_only_where_loss_is_carried():
    labels = torch.tensor([[NO_LOSS, 4, 2, NO_LOSS]])
    logits = torch.zeros(1, 4, 6)
    logits[0, 0, 4] = logits[0, 1, 3] = logits[0, 2, 0] = 5.0  # right, wrong, not asked
    got = score(logits, labels, "causal-lm")
    assert (got.count, got.correct) == (2, 1)


def test_loss_of_half_precision_logits_is_taken_in_float32():
    logits = torch.tensor([[1000.0, 1001.0]], dtype=torch.bfloat16)
    assert loss_sum(logits, torch.tensor([0]), "classification").dtype == torch.float32


@given(LENGTHS)
def test_the_mask_has_a_one_for_each_real_token(lengths):
    mask = mask_of(lengths)
    assert mask.shape == (len(lengths), max(lengths)) and mask.sum(1).tolist() == lengths
    assert bool((mask[:, 1:] <= mask[:, :-1]).all())  # padding is on the right


@given(LENGTHS)
def test_packing_and_unpacking_are_inverse(lengths):
    packed = torch.randn(sum(lengths), 3)
    padded = unpack(packed, lengths)
    assert torch.equal(pack(padded, lengths), packed)
    assert not padded[~mask_of(lengths).bool()].any()
    noisy = padded + (1 - mask_of(lengths).unsqueeze(-1))  # what stands at padding is never sent
    assert torch.equal(pack(noisy, lengths), packed)


@given(LENGTHS)
def test_the_gradient_of_each_is_the_other(lengths):
    packed = torch.randn(sum(lengths), 3, requires_grad=True)
    weights = torch.randn(len(lengths), max(lengths), 3)
    (unpack(packed, lengths) * weights).sum().backward()
    assert torch.equal(packed.grad, pack(weights, lengths))
    padded = torch.randn(weights.shape, requires_grad=True)
    flat = torch.randn(sum(lengths), 3)
    (pack(padded, lengths) * flat).sum().backward()
    assert torch.equal(padded.grad, unpack(flat, lengths))
