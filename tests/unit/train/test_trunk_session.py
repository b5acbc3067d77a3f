"""An edge's session: its order, its window, its memory of answers, and other sessions on the same blocks."""

import gc
import itertools
import weakref

import pytest
import torch
from split_twins import OPTIMIZER, SPLITS, equal, model_of, session_of, training

from elsa.errors import StepOrderError
from elsa.model import adapter as adapters
from elsa.train.session import Position, TrunkSession

LENGTHS = [3, 5]
STATES = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


def at(step, micro_batch):
    return Position(step=step, micro_batch=micro_batch)


@pytest.fixture
def model(make_folder):
    return model_of(make_folder("bert", "classification"), "classification")


@pytest.fixture
def session(model):
    return session_of(model.edge(), SPLITS[0], training(window=2))


def forward(session, step, micro_batch):
    return session.forward(at(step, micro_batch), STATES * (1 + micro_batch), LENGTHS)


def backward(session, step, micro_batch, apply=False):
    return session.backward(at(step, micro_batch), STATES / (1 + micro_batch), apply)


def whole_step(session, step):
    forward(session, step, 0)
    forward(session, step, 1)
    backward(session, step, 0)
    backward(session, step, 1, apply=True)


def test_a_session_in_order_trains(model, session):
    for step in range(2):
        assert session.step == step
        whole_step(session, step)
    trained = session.finish(2)
    assert trained.keys() == {name for name in model.start if ".layer.1." in name}
    assert not any(equal({name: tensor}, {name: model.start[name]}) for name, tensor in trained.items())


def test_a_step_that_is_done_leaves_nothing_open(session):
    for step in range(10):
        whole_step(session, step)
    assert not session._graphs
    with pytest.raises(StepOrderError, match="forward: got step 0, micro-batch 0, expected step 10, micro-batch 0"):
        forward(session, 0, 0)


def test_a_gradient_that_nobody_wants_is_not_computed(model):
    one, two = (
        session_of(model.edge(), SPLITS[0], training(window=2), wants_gradient=wanted) for wanted in (True, False)
    )
    for session in (one, two):
        forward(session, 0, 0)
    assert backward(one, 0, 0, apply=True) is not None
    assert backward(two, 0, 0, apply=True) is None
    assert equal(two.finish(1), one.finish(1))


@pytest.mark.parametrize(("step", "micro_batch"), [(1, 0), (0, 1), (1, 1)])
def test_a_forward_out_of_order_is_refused(session, step, micro_batch):
    with pytest.raises(
        StepOrderError, match=f"got step {step}, micro-batch {micro_batch}, expected step 0, micro-batch 0"
    ):
        forward(session, step, micro_batch)
    whole_step(session, 0)  # as if nothing had come


def test_a_backward_before_its_forward_is_refused(session):
    with pytest.raises(StepOrderError, match="backward: step 0, micro-batch 0 has had no forward"):
        backward(session, 0, 0)
    forward(session, 0, 0)
    with pytest.raises(StepOrderError, match="backward: got step 0, micro-batch 1, expected step 0, micro-batch 0"):
        backward(session, 0, 1)
    backward(session, 0, 0, apply=True)


def test_a_step_applied_before_its_last_micro_batch_is_refused(session):
    forward(session, 0, 0)
    forward(session, 0, 1)
    with pytest.raises(StepOrderError, match=r"backward\.apply: step 0, micro-batch 0 is not the last"):
        backward(session, 0, 0, apply=True)
    assert session.step == 0
    backward(session, 0, 0)
    backward(session, 0, 1, apply=True)
    assert session.step == 1


def test_more_than_the_window_is_refused(session):
    forward(session, 0, 0)
    forward(session, 0, 1)
    with pytest.raises(StepOrderError, match="2 micro-batches are open"):
        forward(session, 0, 2)
    backward(session, 0, 0)
    forward(session, 0, 2)


def test_finish_with_another_number_of_steps_is_refused(session):
    whole_step(session, 0)
    for steps in (0, 2):
        with pytest.raises(StepOrderError, match=rf"finish\.steps: {steps}, but 1 were applied"):
            session.finish(steps)
    forward(session, 1, 0)
    with pytest.raises(StepOrderError, match="1 are open"):
        session.finish(1)
    backward(session, 1, 0)
    with pytest.raises(StepOrderError, match="1 are open"):  # its gradient waits for the step
        session.finish(1)


def test_interleaved_sessions_of_different_splits_equal_each_alone(model):
    spec = training(window=2)
    wants = {}
    for name, split in zip("ab", SPLITS, strict=False):
        alone = session_of(model.edge(), split, spec)
        for step in range(3):
            whole_step(alone, step)
        wants[name] = alone.finish(3)
    edge = model.edge("a")
    model.attach(edge, "b")
    sessions = {name: session_of(edge, split, spec, name) for name, split in zip("ab", SPLITS, strict=False)}
    for step in range(3):
        for part, name in itertools.product(range(2), "ab"):
            forward(sessions[name], step, part)
        for part, name in itertools.product(range(2), "ba"):
            backward(sessions[name], step, part, apply=part == 1)
    for name in "ab":
        assert equal(sessions[name].finish(3), wants[name])
    assert wants["a"].keys() < wants["b"].keys()


def test_a_session_leaves_what_is_outside_its_split(model):
    edge = model.edge()
    session = session_of(edge, SPLITS[0], training())
    whole_step(session, 0)
    after = adapters.read(edge)
    outside = {name: tensor for name, tensor in after.items() if ".layer.2." in name}
    assert outside and equal(outside, {name: model.start[name] for name in outside})


def test_dropout_is_on_where_a_run_asks_for_it(model):
    outputs = {}
    for dropout in (False, True):
        edge = model.edge()
        session = TrunkSession(
            edge, adapter="default", split=SPLITS[0], optimizer=OPTIMIZER, window=2, dropout=dropout
        )
        outputs[dropout] = session.forward(at(0, 0), STATES, LENGTHS)
    assert not torch.equal(outputs[False], outputs[True])


def test_a_closed_session_holds_no_graph_gradient_or_optimizer_state(session):
    whole_step(session, 0)
    forward(session, 1, 0)
    forward(session, 1, 1)
    backward(session, 1, 0)
    parameters = session._optimizer.param_groups[0]["params"]
    held = [state for own in session._optimizer.state.values() for state in own.values()]
    held += [parameter.grad for parameter in parameters]
    held += [tensor for graph in session._graphs.values() for tensor in (graph.leaf, graph.output)]
    refs = [weakref.ref(tensor) for tensor in held]
    assert len(held) == 4 * len(parameters) + 2
    del held
    gc.collect()
    assert all(ref() is not None for ref in refs)
    session.close()
    gc.collect()
    assert not any(ref() is not None for ref in refs)
    assert all(parameter.grad is None for parameter in parameters)
