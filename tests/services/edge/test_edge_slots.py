"""What a session holds is gone when it ends, and an edge whose run is idle holds its base and nothing else."""

import gc
import threading
import weakref

import pytest
import torch
from split_harness import (
    HALF,
    Trainee,
    assert_same,
    backward,
    edge_server,
    first_adapter,
    forward,
    opening,
    rows,
    spec_of,
)

from elsa.model import adapter as adapters
from elsa.train.session import TrunkSession
from elsa.v1 import split_pb2


@pytest.fixture
def held(monkeypatch):
    """Weak references to what sessions have come to hold, filled before each is closed."""
    refs, close = [], TrunkSession.close

    def closed(session):
        tensors = [state for own in session._optimizer.state.values() for state in own.values()]
        for parameter in adapters.parameters(session._segment, session._adapter):
            tensors += [] if parameter.grad is None else [parameter.grad]
        for graph in session._graphs.values():
            tensors += [graph.leaf, graph.output]
        refs.append([weakref.ref(tensor) for tensor in tensors])
        close(session)

    monkeypatch.setattr(TrunkSession, "close", closed)
    return refs


def alive(refs):
    gc.collect()
    return [ref for ref in refs if ref() is not None]


def stopped_midway(edge, spec):
    """Bytes of a session that has done a step, and has one micro-batch pulled and one open: its stream is held."""
    opened = split_pb2.TrainRequest(open=opening(spec, "ann"))
    messages = [opened, *forward(), *forward(micro_batch=1), *backward(apply=False), *backward(micro_batch=1)]
    messages += [*forward(step=1), *forward(step=1, micro_batch=1), *backward(step=1, apply=False)]
    call = edge.split.Train(iter_then_wait(messages, edge), timeout=30)
    answers = [next(call) for _ in range(8)]
    assert answers[-1].backward_result.step == 1
    return call


def iter_then_wait(messages, edge):
    yield from messages
    edge.go_on.wait(20)


@pytest.mark.parametrize("end", ["idle", "replaced", "the round is over"])
def test_an_ended_session_holds_nothing_though_its_stream_is_still_there(tiny_bert, held, end):
    spec, now = spec_of(tiny_bert, training={"micro_batches": 2}), [0.0]
    start = first_adapter(spec)
    with edge_server(clock=lambda: now[0], idle_timeout_s=30) as edge:
        run = edge.open_run(spec, start, ["ann"])
        edge.go_on = threading.Event()
        stopped_midway(edge, spec)
        (session,) = edge.sessions._open.values()
        assert len(session.answers._answers) == 4
        if end == "idle":
            now[0] = 31.0
            edge.runs.drop_idle(edge.worker)
        elif end == "replaced":
            edge.sessions.make_room(run.run_id, "ann")
        else:
            edge.sessions.forget_round(run.run_id)
        edge.settle()
        (refs,) = held
        assert len(refs) > 4  # moments, gradients, an open graph
        assert not alive(refs)
        assert not session.answers._answers and session.trunk  # somebody may hold the session itself still
        edge.go_on.set()


def test_a_finished_session_holds_nothing(tiny_bert, held):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        Trainee(spec, start, rows(20, 1)).connect(edge).train(2).finish(edge)
        edge.settle()
        (refs,) = held
        assert refs and not alive(refs)
        assert all(parameter.grad is None for parameter in run.trunk.segment.model.parameters())


def parameters_of(run):
    return sum(1 for _ in run.trunk.segment.model.parameters())


def test_an_idle_run_gives_its_slots_back_and_trains_again_as_before(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann", "bob"])
        base, now = parameters_of(run), [0.0]
        run.trunk.slots._clock = lambda: now[0]
        trainees = [Trainee(spec, start, data, client=name).connect(edge).train(2) for name in ("ann", "bob")]
        wants = [trainee.finish(edge) for trainee in trainees]
        edge.settle()
        assert run.trunk.slots.there == 2
        now[0] = edge.sessions.idle_timeout_s - 1
        edge.runs.drop_idle(edge.worker)
        edge.settle()
        assert run.trunk.slots.there == 2  # the next edge round may come
        gone = [weakref.ref(each) for slot in run.trunk.slots._free for each in slot_tensors(run, slot)]
        now[0] += 1
        edge.runs.drop_idle(edge.worker)
        edge.settle()
        assert run.trunk.slots.there == 0 and parameters_of(run) == base
        assert gone and not alive(gone)
        again = Trainee(spec, start, data).connect(edge).train(2)
        assert_same(again.finish(edge), wants[0])


def slot_tensors(run, slot):
    return adapters.parameters(run.trunk.segment, slot)


def test_a_session_that_waits_for_its_client_keeps_all_slots_and_its_optimizer(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann", "bob"])
        ann = Trainee(spec, start, data).connect(edge).train(2)
        bob = Trainee(spec, start, data, client="bob").connect(edge).train(1)
        bob.finish(edge)
        edge.settle()
        edge.worker.run(lambda: run.trunk.drop_idle(0.0))
        assert run.trunk.slots.there == 2
        got = ann.train(2).finish(edge)
    twin = Trainee(spec, start, data).locally(start).train(4)
    assert_same(got, twin.session.finish(4))


def test_the_adapter_of_a_cluster_goes_with_the_slots_and_comes_again(tiny_bert):
    spec = spec_of(tiny_bert)
    start, own = first_adapter(spec), first_adapter(spec, 9)
    states, lengths = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)), [3, 2]
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        base = parameters_of(run)

        def predict(adapter):
            return edge.worker.run(lambda: run.trunk.predict(states, lengths, HALF, adapter)).value

        plain, wanted = predict(None), predict(own)
        assert not torch.equal(plain, wanted)
        edge.worker.run(lambda: run.trunk.drop_idle(3600.0))
        assert parameters_of(run) > base
        edge.worker.run(lambda: run.trunk.drop_idle(0.0))
        assert parameters_of(run) == base
        assert torch.equal(predict(None), plain) and torch.equal(predict(own), wanted)
