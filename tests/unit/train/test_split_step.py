"""The law that everything rests on: a split step equals a step of the unsplit model."""

import dataclasses

import numpy as np
import pytest
import torch
from split_twins import SPLITS, batch_of, batches_of, equal, model_of, session_of, training

from elsa.codecs import CodecsSpec
from elsa.model import adapter as adapters
from elsa.spec import OptimizerSpec
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.phases import ByteCount, PhaseSeconds, Stopwatch
from elsa.train.session import TrunkSession
from elsa.train.step import SplitTrainer, evaluate, predict
from elsa.train.trunk import BackwardReply, ForwardReply, LocalTrunk
from elsa.train.whole import evaluate_whole, train_whole
from elsa.wire.codec.registry import codec_set_from_proto, codec_set_to_proto
from elsa.wire.tensor import PayloadAssembler, payload_to_proto

CASES = [
    ("bert", "classification"),
    ("distilbert", "classification"),
    ("gpt2", "classification"),
    ("gpt2", "causal-lm"),
    ("llama", "classification"),
    ("llama", "causal-lm"),
    ("gemma", "causal-lm"),
]
FLOWS = [(1, 1), (2, 1), (2, 2), (4, 2), (4, 3)]
"""Micro-batches and window."""


class WireTrunk(LocalTrunk):
    """A trunk behind payloads and codecs, as the edge uses them."""

    def __init__(self, session: TrunkSession, codecs: CodecsSpec) -> None:
        super().__init__(session)
        self._codecs = codec_set_from_proto(codec_set_to_proto(codecs, 16), 16)

    def forward(self, position, activations, lengths, rows=()):
        super().forward(position, sent(self._codecs.h1, activations), lengths)

    def backward(self, position, gradient, apply):
        upper = self._codecs.h2.pullback(sent(self._codecs.dh2, gradient))
        super().backward(position, upper, apply)

    def receive(self):
        reply = super().receive()
        if isinstance(reply, ForwardReply):
            return dataclasses.replace(reply, activations=sent(self._codecs.h2, reply.activations))
        lower = self._codecs.h1.pullback(sent(self._codecs.dh1, reply.gradient))
        return dataclasses.replace(reply, gradient=lower)


def sent(codec, values):
    payload, rest = payload_to_proto(codec.encode(values))
    assembler = PayloadAssembler(payload, codec.layout(len(values)), "x")
    for chunk in rest:
        assembler.add(chunk)
    return codec.decode(assembler.result())


def train_split(model, split, spec, batches, make_trunk=LocalTrunk):
    """Losses and the whole adapter after a step a batch."""
    client, edge = model.client(split), model.edge()
    session = session_of(edge, split, spec)
    trainer = SplitTrainer(client, make_trunk(session), split=split, task=model.task, training=spec)
    losses = [trainer.train_step(batch) for batch in batches]
    return losses, adapters.read(client, split=split) | session.finish(len(batches))


def train_unsplit(model, spec, batches):
    whole = model.whole()
    losses = train_whole(whole, batches, task=model.task, training=spec)
    return losses, adapters.read(whole)


def assert_same(got, want, start):
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-6)
    assert got[1].keys() == want[1].keys()
    for name, tensor in want[1].items():
        assert np.abs(tensor - start[name]).max() > 1e-3, f"{name} was hardly trained, which proves nothing"
        np.testing.assert_allclose(got[1][name], tensor, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_split_step_equals_unsplit_model(make_folder, family, task):
    model = model_of(make_folder(family, task), task)
    batches = batches_of(task, types=family == "bert")
    want = train_unsplit(model, training(), batches)
    for split in SPLITS:
        for micro_batches, window in FLOWS:
            assert_same(train_split(model, split, training(micro_batches, window), batches), want, model.start)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_without_padding_and_micro_batches_they_are_equal_to_the_bit(make_folder, family):
    model = model_of(make_folder(family, "classification"), "classification")
    batches = [batch_of([6] * 4, "classification", seed) for seed in range(3)]
    spec = training(optimizer=OptimizerSpec())  # as a run has it by default
    for split in SPLITS:
        losses, tensors = train_split(model, split, spec, batches)
        want_losses, want = train_unsplit(model, spec, batches)
        assert losses == want_losses and equal(tensors, want)


def test_micro_batches_add_up_to_one_big_batch(make_folder):
    model = model_of(make_folder("gpt2", "causal-lm"), "causal-lm")
    batches = batches_of("causal-lm")
    want = train_split(model, SPLITS[0], training(1), batches)
    for parts in (2, 3, 7):
        assert_same(train_split(model, SPLITS[0], training(parts), batches), want, model.start)


def test_fewer_rows_than_micro_batches_are_a_row_each(make_folder):
    model = model_of(make_folder("bert", "classification"), "classification")
    batches = [batch_of([3, 6], "classification", seed) for seed in range(3)]
    got = train_split(model, SPLITS[0], training(4, 3), batches)
    assert_same(got, train_unsplit(model, training(), batches), model.start)


def test_a_batch_without_a_token_to_learn_changes_no_factor(make_folder):
    model = model_of(make_folder("llama", "causal-lm"), "causal-lm")
    losses, tensors = train_split(
        model, SPLITS[0], training(optimizer=OptimizerSpec()), [batch_of([1, 1], "causal-lm")]
    )
    assert losses == [0.0] and equal(tensors, model.start)


@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("llama", "causal-lm")])
def test_the_wire_changes_nothing_and_bf16_little(make_folder, family, task):
    model, batches = model_of(make_folder(family, task), task), batches_of(task)
    spec, split = training(2, 2), SPLITS[0]
    want_losses, want = train_split(model, split, spec, batches)
    losses, tensors = train_split(model, split, spec, batches, lambda s: WireTrunk(s, CodecsSpec()))
    assert losses == want_losses and equal(tensors, want)
    half = CodecsSpec(h1="bf16", h2="bf16", dh2="bf16", dh1="bf16")
    losses, tensors = train_split(model, split, spec, batches, lambda s: WireTrunk(s, half))
    np.testing.assert_allclose(losses, want_losses, rtol=0.02)
    assert not equal(tensors, want)
    for name in want:
        moved, should = (tensors[name] - model.start[name]).ravel(), (want[name] - model.start[name]).ravel()
        assert moved @ should > 0.98 * np.linalg.norm(moved) * np.linalg.norm(should), name


def test_a_bottom_with_nothing_to_train_is_left_as_it_is(make_folder):
    model, batches = model_of(make_folder("bert", "classification"), "classification"), batches_of("classification")
    split, spec = SPLITS[0], training(2, 2)
    client, session = model.client(split), session_of(model.edge(), split, spec)
    frozen = {name for name in adapters.names(client, split) if ".layer.0." in name}
    for name, parameter in zip(sorted(adapters.names(client)), adapters.parameters(client), strict=True):
        parameter.requires_grad_(name not in frozen)
    trainer = SplitTrainer(client, LocalTrunk(session), split=split, task="classification", training=spec)
    losses = [trainer.train_step(batch) for batch in batches]
    after = adapters.read(client, split=split) | session.finish(3)
    unchanged = {name for name, tensor in after.items() if np.array_equal(tensor, model.start[name])}
    assert frozen and unchanged == frozen
    assert losses[0] == pytest.approx(train_unsplit(model, spec, batches)[0][0], abs=1e-6)


def test_a_trainer_begins_without_the_gradients_of_one_that_was_left(make_folder):
    model, batches = model_of(make_folder("bert", "classification"), "classification"), batches_of("classification")
    split, spec = SPLITS[0], training()
    want = train_split(model, split, spec, batches)
    client, edge = model.client(split), model.edge()
    for parameter in [*adapters.parameters(client), *adapters.parameters(edge)]:
        parameter.grad = torch.full_like(parameter, 100.0)
    session = session_of(edge, split, spec)
    trainer = SplitTrainer(client, LocalTrunk(session), split=split, task="classification", training=spec)
    assert [trainer.train_step(batch) for batch in batches] == want[0]
    assert equal(adapters.read(client, split=split) | session.finish(3), want[1])
    whole = model.whole()
    for parameter in adapters.parameters(whole):
        parameter.grad = torch.full_like(parameter, 100.0)
    train_whole(whole, batches, task="classification", training=spec)
    assert_same(want, (want[0], adapters.read(whole)), model.start)


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("gpt2", "causal-lm")])
def test_evaluation_through_the_split_equals_that_of_the_whole(make_folder, family, task, window):
    model, batches = model_of(make_folder(family, task), task), batches_of(task)
    split = SPLITS[0]
    got = evaluate(
        model.client(split),
        PredictTrunk(model.edge(), split),
        batches,
        split=split,
        task=task,
        window=window,
    )
    want = evaluate_whole(model.whole(), batches, task=task)
    assert (got.count, got.correct) == (want.count, want.correct)
    assert got.loss == pytest.approx(want.loss, abs=1e-5) and got.count > 15


class PredictTrunk:
    """A forward-only trunk that holds its client to the window."""

    def __init__(self, edge, split):
        self._session = session_of(edge, split, training(window=16))
        self._edge, self._split, self._waiting = edge, split, []
        self.most = 0

    def forward(self, position, activations, lengths, rows=()):
        assert not activations.requires_grad
        hidden = self._edge.trunk(unpack(activations, lengths), mask_of(lengths), self._split)
        self._waiting.append(ForwardReply(position=position, activations=pack(hidden, lengths)))
        self.most = max(self.most, len(self._waiting))

    def receive(self):
        return self._waiting.pop(0)


def test_predictions_come_in_order_with_the_window_used(make_folder):
    model, batches = model_of(make_folder("bert", "classification"), "classification"), batches_of("classification")
    trunk = PredictTrunk(model.edge(), SPLITS[0])
    answers = list(predict(model.client(SPLITS[0]), trunk, batches, split=SPLITS[0], window=2))
    assert [batch for batch, _ in answers] == batches
    assert all(len(logits) == len(batch) and not logits.requires_grad for batch, logits in answers)
    assert trunk.most == 2


class Ticks:
    """A clock that moves by one second at each look, and as others move it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


class SlowTrunk(LocalTrunk):
    """A trunk each of whose calls takes a thousand seconds."""

    def __init__(self, session, clock):
        super().__init__(session)
        self._clock = clock

    def forward(self, position, activations, lengths, rows=()):
        self._clock.now += 1000
        super().forward(position, activations, lengths)

    def receive(self):
        self._clock.now += 1000
        return super().receive()


def test_the_client_counts_its_own_work_and_not_the_trunk_s(make_folder):
    model, clock = model_of(make_folder("bert", "classification"), "classification"), Ticks()
    spec, split, watch = training(2, 2), SPLITS[0], Stopwatch(clock)
    trunk = SlowTrunk(session_of(model.edge(), split, spec), clock)
    trainer = SplitTrainer(model.client(split), trunk, split=split, task="classification", training=spec, watch=watch)
    trainer.train_step(batches_of("classification")[0])
    assert watch.seconds.bottom == 4  # two micro-batches, forward and back
    assert watch.seconds.top == 3  # two micro-batches and the optimizer
    assert (watch.seconds.network, watch.seconds.wait, watch.seconds.trunk) == (0, 0, 0)


def test_phases_and_bytes_add_up_field_by_field():
    clock = Ticks()
    watch = Stopwatch(clock)
    with watch.timing("bottom"):
        clock.now += 4
    with pytest.raises(ValueError), watch.timing("top"):
        clock.now += 1
        raise ValueError
    watch.add("bottom", 0.5)
    assert watch.seconds == PhaseSeconds(bottom=5.5, top=2)
    assert watch.seconds + PhaseSeconds(bottom=1, network=2, wait=3, trunk=4, top=5) == PhaseSeconds(
        bottom=6.5, network=2, wait=3, trunk=4, top=7
    )
    assert ByteCount(up=1, down=2) + ByteCount(up=10) == ByteCount(up=11, down=2)


def test_replies_say_what_they_answer(make_folder):
    model = model_of(make_folder("bert", "classification"), "classification")
    spec, kinds = training(4, 2), []

    class Listening(LocalTrunk):
        def receive(self):
            reply = super().receive()
            kinds.append((isinstance(reply, BackwardReply), reply.position.step, reply.position.micro_batch))
            return reply

    train_split(model, SPLITS[0], spec, batches_of("classification")[:2], Listening)
    for backward in (False, True):
        assert [(step, part) for kind, step, part in kinds if kind is backward] == [
            (step, part) for step in range(2) for part in range(4)
        ]
