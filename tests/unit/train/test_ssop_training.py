"""Training under SS-OP over real segments: exact where the edge has the key, and through idle blocks where not."""

import dataclasses

import numpy as np
import pytest
import torch
from split_twins import SPLITS, batches_of, model_of, session_of, training

from elsa.model import adapter as adapters
from elsa.privacy.keys import Key
from elsa.privacy.ssop import public_basis, turn
from elsa.train.packing import pack
from elsa.train.step import SplitTrainer
from elsa.train.trunk import ForwardReply, LocalTrunk

RANK = 6
KEY = Key(bytes(range(32)))


class TurnedTrunk(LocalTrunk):
    """A trunk to which only turned states and gradients travel.

    A keyed edge turns them back before its blocks and hides what they give; a blind one runs them as they come.
    """

    def __init__(self, session, client, edge=None):
        super().__init__(session)
        self._client, self._edge = client, edge
        self.seen = []

    def forward(self, position, activations, lengths, rows=()):
        sent = self._client.hide(activations)
        self.seen.append(sent)
        super().forward(position, sent if self._edge is None else self._edge.reveal(sent), lengths)

    def backward(self, position, gradient, apply):
        sent = self._client.hide(gradient)
        super().backward(position, sent if self._edge is None else self._edge.reveal(sent), apply)

    def receive(self):
        reply = super().receive()
        name = "activations" if isinstance(reply, ForwardReply) else "gradient"
        sent = getattr(reply, name)
        sent = sent if self._edge is None else self._edge.hide(sent)
        return dataclasses.replace(reply, **{name: self._client.reveal(sent)})


def basis_of(client, split, batches):
    with torch.no_grad():
        states = [pack(client.bottom(b.input_ids, b.attention_mask, split=split), b.lengths) for b in batches]
    return public_basis(torch.cat(states), RANK)


def train(model, split, batches, wrap, idle=False):
    """Losses and the whole adapter after a step a batch, and the trunk that was trained through."""
    client, edge, spec = model.client(split), model.edge(), training(2)
    if idle:
        make_idle(edge)
    trunk = wrap(session := session_of(edge, split, spec), basis_of(client, split, batches))
    trainer = SplitTrainer(client, trunk, split=split, task=model.task, training=spec)
    losses = [trainer.train_step(batch) for batch in batches]
    return losses, adapters.read(client, split=split) | session.finish(len(batches)), trunk


def make_idle(edge):
    """Let no block of a GPT-2 add anything to the residual stream, whatever its adapter."""
    written = [parameter for name, parameter in edge.model.named_parameters() if ".c_proj." in name]
    assert written
    with torch.no_grad():
        for parameter in written:
            parameter.zero_()


def plain(session, basis):
    return LocalTrunk(session)


def keyed(session, basis):
    return TurnedTrunk(session, turn(KEY, basis, 1), turn(KEY, basis, 1))


def blind(session, basis):
    return TurnedTrunk(session, turn(KEY, basis, 1))


def assert_close(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-5)
    assert got[1].keys() == want[1].keys()
    for name in want[1]:
        np.testing.assert_allclose(got[1][name], want[1][name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("family", "task"), [("bert", "classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]
)
def test_training_with_a_keyed_edge_equals_unprotected_training(make_folder, family, task):
    model, batches = model_of(make_folder(family, task), task), batches_of(task)
    for split in SPLITS:
        want = train(model, split, batches, plain)
        got = train(model, split, batches, keyed)
        assert_close(got, want)
        moved = [np.abs(want[1][name] - model.start[name]).max() for name in want[1]]
        assert min(moved) > 1e-3, "what is hardly trained proves nothing"


def test_what_travels_to_a_keyed_edge_is_turned(make_folder):
    model, batches = model_of(make_folder("bert", "classification"), "classification"), batches_of("classification")
    client = model.client(SPLITS[0])
    first = batches[0].split(2)[0]
    with torch.no_grad():
        bare = pack(client.bottom(first.input_ids, first.attention_mask, split=SPLITS[0]), first.lengths)
    seen = train(model, SPLITS[0], batches, keyed)[2].seen[0]
    assert seen.shape == bare.shape and (seen - bare).norm() > 0.5 * bare.norm()


def test_a_blind_edge_whose_blocks_add_nothing_gives_back_the_residual_stream(make_folder):
    model, batches = model_of(make_folder("gpt2", "causal-lm"), "causal-lm"), batches_of("causal-lm")
    for split in SPLITS:
        assert_close(train(model, split, batches, blind, idle=True), train(model, split, batches, plain, idle=True))


def test_blocks_of_a_blind_edge_do_see_turned_states(make_folder):
    model, batches = model_of(make_folder("gpt2", "causal-lm"), "causal-lm"), batches_of("causal-lm")
    got, want = train(model, SPLITS[0], batches, blind)[0], train(model, SPLITS[0], batches, plain)[0]
    assert abs(got[0] - want[0]) > 1e-3


def test_a_keyed_edge_with_another_key_trains_something_else(make_folder):
    model, batches = model_of(make_folder("bert", "classification"), "classification"), batches_of("classification")

    def wrong(session, basis):
        return TurnedTrunk(session, turn(KEY, basis, 1), turn(Key.random(), basis, 1))

    got, want = train(model, SPLITS[0], batches, wrong)[0], train(model, SPLITS[0], batches, plain)[0]
    assert abs(got[0] - want[0]) > 1e-3
