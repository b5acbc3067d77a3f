"""The gradient attacks succeed where labels and tokens can be told, and not where nothing tells them."""

import pytest
import torch
from tiny_models import LABELS, VOCABULARY

from elsa.data.batches import Batch
from elsa.errors import InputError
from elsa.model.weights import Checkpoint
from elsa.privacy.audit.gradients import (
    clustered_accuracy,
    few_known,
    label_recoveries,
    matched_labels,
    public_gradients,
    row_directions,
    token_recovery,
    told_labels,
)
from elsa.privacy.audit.public import Frame
from elsa.privacy.audit.utility import Exchange
from elsa.spec import DataSpec, LoraSpec, ModelSpec, RunSpec
from elsa.train.loss import loss_sum
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.rehearsal import Sides

LENGTHS = [3, 6, 4, 5, 5, 2, 7, 4]


@pytest.fixture(scope="module")
def sides(make_folder):
    source = str(make_folder("bert", "classification"))
    spec = RunSpec(
        preset="none",
        model=ModelSpec(source=source, max_tokens=16),
        data=DataSpec(labels=tuple(f"label {number}" for number in range(LABELS))),
        lora=LoraSpec(rank=2),
    )
    return Sides.of(spec, Checkpoint.open(source))


def batch_of(seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    mask = mask_of(LENGTHS)
    ids = torch.where(mask.bool(), torch.randint(3, VOCABULARY, mask.shape, generator=draw), 0)
    labels = torch.randint(0, LABELS, (len(LENGTHS),), generator=draw)
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=None, labels=labels)


def exchange_of(sides, batch: Batch) -> Exchange:
    """What an edge sees of a batch, made by hand."""
    mask, lengths, split = batch.attention_mask, batch.lengths, sides.split
    with torch.no_grad():
        h1 = sides.client.bottom(batch.input_ids, mask, split=split)
    h1 = h1.requires_grad_()
    h2 = sides.edge.trunk(h1, mask, split)
    leaf = unpack(pack(h2.detach(), lengths), lengths).requires_grad_()
    logits = sides.client.top(leaf, batch.input_ids, mask, split=split)
    loss_sum(logits, batch.labels, "classification").backward()
    h2.backward(leaf.grad)
    return Exchange(
        lengths=lengths, h2=pack(h2.detach(), lengths), dh2=pack(leaf.grad, lengths), dh1=pack(h1.grad, lengths)
    )


def test_who_completes_the_model_reads_every_label(sides):
    for seed in range(4):
        batch = batch_of(seed)
        found = matched_labels(exchange_of(sides, batch), sides.client, sides.split)
        assert torch.equal(found, batch.labels)


def test_scale_of_the_gradient_and_what_lies_in_the_turned_subspace_are_no_matter(sides):
    batch = batch_of(7)
    seen = exchange_of(sides, batch)
    basis = torch.linalg.qr(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))[0].T
    turned = seen.dh2 * 0.125 + torch.randn(len(seen.dh2), 3) @ basis
    hidden = Exchange(lengths=seen.lengths, h2=seen.h2, dh2=turned, dh1=None)
    plain = Exchange(lengths=seen.lengths, h2=seen.h2, dh2=seen.dh2 * 0.125, dh1=None)
    assert torch.equal(matched_labels(plain, sides.client, sides.split), batch.labels)
    found = matched_labels(hidden, sides.client, sides.split, basis)
    assert float((found == batch.labels).float().mean()) > 0.8


def test_groups_and_a_few_known_labels_tell_separate_directions():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (90,), generator=draw)
    features = torch.eye(8)[truth] + 0.05 * torch.randn(90, 8, generator=draw)
    assert clustered_accuracy(features, truth, 3) == 1.0
    known = few_known(truth)
    assert len(known) == 9
    assert sorted(truth[known].tolist()) == [0] * 3 + [1] * 3 + [2] * 3
    assert torch.equal(told_labels(features, truth, known), truth)


def test_directions_that_say_nothing_give_little_more_than_the_majority():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (400,), generator=draw)
    features = torch.randn(400, 8, generator=draw)
    assert clustered_accuracy(features, truth, 4) < 0.4
    guessed = told_labels(features, truth, few_known(truth))
    assert float((guessed == truth).float().mean()) < 0.4


def test_a_row_is_told_by_its_loudest_token_whatever_the_scale():
    gradient = torch.zeros(5, 4)
    gradient[1], gradient[3] = torch.tensor([0.0, 3, 4, 0]), torch.tensor([2.0, 0, 0, 0])
    seen = Exchange(lengths=[2, 3], h2=gradient, dh2=gradient, dh1=None)
    want = torch.tensor([[0, 0.6, 0.8, 0], [1.0, 0, 0, 0]])
    torch.testing.assert_close(row_directions(seen), want)


def test_all_three_attacks_are_scored_against_the_majority(sides):
    batches = [batch_of(seed) for seed in range(6)]
    truth = torch.cat([batch.labels for batch in batches])
    seen = [exchange_of(sides, batch) for batch in batches]
    rows = label_recoveries(seen, truth, sides.client, sides.split)
    majority = float(torch.bincount(truth).max()) / len(truth)
    assert [row.majority for row in rows] == [majority] * 3
    assert rows[2].accuracy == 1.0
    assert rows[1].rows == len(truth) - 9
    with pytest.raises(InputError, match="48 rows of gradients and 3 labels"):
        label_recoveries(seen, truth[:3], sides.client, sides.split)


def test_tokens_are_read_from_gradients_that_hold_them_and_only_then():
    draw = torch.Generator().manual_seed(0)
    embeddings = torch.randn(30, 12, generator=draw)
    ids, taught = torch.randint(30, (60,), generator=draw), torch.randint(30, (900,), generator=draw)
    mixing = torch.randn(12, 16, generator=draw)
    lengths = [10] * 6

    def top1(dh1, public):
        exchange = Exchange(lengths=lengths, h2=dh1, dh2=dh1, dh1=dh1)
        return token_recovery([exchange], ids, (public, taught), embeddings, Frame(begin=(1,), end=(2,)))

    telling = top1(embeddings[ids] @ mixing, embeddings[taught] @ mixing)
    assert telling.top1 > 0.9
    assert telling.tokens == 48  # special tokens do not count
    silent = top1(torch.randn(60, 16, generator=draw), torch.randn(900, 16, generator=draw))
    assert silent.top1 < 0.3
    frozen = Exchange(lengths=lengths, h2=mixing, dh2=mixing, dh1=None)
    with pytest.raises(InputError, match="not trained"):
        token_recovery([frozen], ids, (mixing, taught), embeddings, Frame())


def test_an_attacker_s_own_gradients_have_a_token_each(sides):
    rows = [[2, 5, 6, 3], [2, 9, 3], [2, 7, 8, 9, 4, 3]] * 8
    gradients, ids = public_gradients(sides, rows, LABELS, seed=1)
    assert ids.tolist() == [token for row in rows for token in row]
    assert gradients.shape == (len(ids), 16)
    assert float(gradients.norm(dim=1).min()) > 0
