"""Laws of a language model's head and loss by parts: they are the whole's, and whole logits never exist."""

import pytest
import torch
from split_twins import batch_of, model_of
from tiny_models import DECODERS, VOCABULARY
from torch.autograd.graph import saved_tensors_hooks

from elsa.data.encoding import NO_LOSS
from elsa.plan import memory
from elsa.spec import Split
from elsa.train import top, vocabulary
from elsa.train.loss import count, loss_sum, score

LENGTHS = [3, 9, 1, 5, 5, 2, 7]
SPLIT = Split(bottom=1, trunk=1, top=1)
SIZES = [1, 2, 5, 1000]
"""Predictions of a part."""


@pytest.fixture(params=SIZES)
def parts(request, monkeypatch):
    monkeypatch.setattr(memory, "LOGITS_BYTES", 4 * VOCABULARY * request.param)
    return request.param


def client_of(make_folder, family="llama"):
    return model_of(make_folder(family, "causal-lm"), "causal-lm").client(SPLIT)


def trained(client):
    """The parameters that learn, the head's own made to."""
    client.model.get_submodule("lm_head").weight.requires_grad_()
    return {name: one for name, one in client.model.named_parameters() if one.requires_grad}


def states_of(client, batch):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(*batch.input_ids.shape, client.width, generator=draw).requires_grad_()


def gradients(client, leaf):
    found = {name: one.grad.clone() for name, one in trained(client).items() if one.grad is not None}
    client.model.zero_grad(set_to_none=True)
    return found | {"states": leaf.grad}


def by_parts(client, batch, total):
    leaf = states_of(client, batch)
    loss = top.learn(client, leaf * 1, batch, SPLIT, "causal-lm", total)
    return loss, gradients(client, leaf)


def whole(client, batch, total):
    leaf = states_of(client, batch)
    logits = client.top(leaf * 1, batch.input_ids, batch.attention_mask, SPLIT)
    loss = loss_sum(logits, batch.labels, "causal-lm") / total
    loss.backward()
    return loss.item(), gradients(client, leaf)


def assert_same(got, want):
    assert got[0] == pytest.approx(want[0], rel=1e-6)
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert gradient.any(), name
        most = float(gradient.abs().max())
        torch.testing.assert_close(
            got[1][name], gradient, rtol=0, atol=2e-6 * most, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("family", DECODERS)
def test_loss_and_gradients_by_parts_are_those_of_whole_logits(make_folder, parts, family):
    client, batch = client_of(make_folder, family), batch_of(LENGTHS, "causal-lm")
    trained(client)
    assert_same(by_parts(client, batch, 11), whole(client, batch, 11))


@pytest.mark.parametrize("family", DECODERS)
def test_evaluation_by_parts_is_that_of_whole_logits(make_folder, parts, family):
    client, batch = client_of(make_folder, family), batch_of(LENGTHS, "causal-lm")
    states = states_of(client, batch)
    got = top.judge(client, states, batch, SPLIT, "causal-lm")
    logits = client.top(states, batch.input_ids, batch.attention_mask, SPLIT)
    want = score(logits.detach(), batch.labels, "causal-lm")
    assert (got.correct, got.count) == (want.correct, want.count) and want.count > 15
    assert got.loss == pytest.approx(want.loss, rel=1e-6)


def test_the_order_in_which_predictions_fall_into_parts_is_irrelevant(make_folder, parts):
    client, batch = client_of(make_folder), batch_of(LENGTHS, "causal-lm")
    states = torch.randn(*batch.input_ids.shape, client.width)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    found = []
    for rows in (torch.arange(len(LENGTHS)), order):
        leaf = states[rows].requires_grad_()
        loss = vocabulary.learn(client, leaf * 1, batch.labels[rows], 11)
        found.append((loss, leaf.grad[rows.argsort()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-6)


def test_no_logits_are_made_beyond_a_part_and_none_are_kept(make_folder, parts, monkeypatch):
    client, batch = client_of(make_folder), batch_of(LENGTHS, "causal-lm")
    made, kept, head = [], [], client.head

    def watched(states):
        with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
            made.append(head(states))
        return made[-1]

    monkeypatch.setattr(client, "head", watched)
    top.learn(client, states_of(client, batch), batch, SPLIT, "causal-lm", 11)
    predictions = count(batch.labels, "causal-lm")
    assert sum(logits.numel() for logits in made) == predictions * VOCABULARY
    assert max(logits.numel() for logits in made) == min(parts, predictions) * VOCABULARY
    weights = {one.data_ptr() for one in client.model.parameters()}
    assert all(one.shape[-1] != VOCABULARY or one.data_ptr() in weights for one in kept if one.is_floating_point())
    made.clear()
    top.judge(client, states_of(client, batch), batch, SPLIT, "causal-lm")
    assert max(logits.numel() for logits in made) == min(parts, predictions) * VOCABULARY


def test_tokens_without_a_label_change_nothing_and_get_no_gradient(make_folder, parts):
    client, batch = client_of(make_folder), batch_of(LENGTHS, "causal-lm")
    batch.labels[[1, 4]] = NO_LOSS
    leaf = states_of(client, batch)
    vocabulary.learn(client, leaf * 1, batch.labels, 11)
    carry = torch.zeros_like(batch.labels, dtype=torch.bool)
    carry[:, :-1] = batch.labels[:, 1:] != NO_LOSS
    assert carry.any() and torch.equal(leaf.grad.any(dim=-1), carry)
    other = torch.where(carry[..., None], leaf.detach(), 1e6).requires_grad_()
    vocabulary.learn(client, other * 1, batch.labels, 11)
    assert torch.equal(other.grad, leaf.grad)


def test_a_batch_without_any_label_has_no_loss_and_no_gradient(make_folder):
    client, batch = client_of(make_folder), batch_of(LENGTHS, "causal-lm")
    batch.labels[:] = NO_LOSS
    leaf = states_of(client, batch)
    assert top.learn(client, leaf * 1, batch, SPLIT, "causal-lm", 0) == 0.0
    assert leaf.grad is not None and not leaf.grad.any()
    assert top.judge(client, leaf, batch, SPLIT, "causal-lm").count == 0


def test_a_prediction_larger_than_a_part_is_one(monkeypatch):
    monkeypatch.setattr(memory, "LOGITS_BYTES", 100)
    assert [memory.predictions_at_once(size) for size in (1, 25, 26, 10**9)] == [25, 1, 1, 1]


def test_the_head_alone_ends_what_final_begins(make_folder):
    model = model_of(make_folder("gemma", "causal-lm"), "causal-lm")
    segment, batch = model.whole(), batch_of(LENGTHS, "causal-lm")
    hidden = states_of(segment, batch).detach()
    final = segment.final(hidden, batch.attention_mask, SPLIT)
    want = segment.top(hidden, batch.input_ids, batch.attention_mask, SPLIT)
    torch.testing.assert_close(segment.head(final), want, rtol=0, atol=1e-6)
