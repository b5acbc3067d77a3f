"""Sessions outlive their streams: taken up again after a cut, dropped when idle, replaced by their client's next."""

import threading
import time
from contextlib import contextmanager

import grpc
import pytest
from split_harness import (
    Trainee,
    assert_same,
    backward,
    edge_server,
    first_adapter,
    forward,
    opening,
    rows,
    spec_of,
    talk,
)
from tcp_proxy import Proxy

from elsa.errors import NotFoundError, PermissionDeniedError, RoundGivenUpError
from elsa.v1 import adapter_pb2, split_pb2
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.rpc.channel import connect
from services.rpc.status import translated


class Schedule:
    """Cuts the connection before or after chosen messages of a trunk: `cut_at('forward', step, micro_batch)`."""

    def __init__(self, proxy, trunk):
        self._proxy, self._trunk = proxy, trunk
        self._points = set()
        for kind in ("forward", "backward"):
            setattr(trunk, kind, self._wrapped(kind, getattr(trunk, kind)))

    def cut_at(self, kind, step, micro_batch, when):
        self._points.add((kind, step, micro_batch, when))

    def _wrapped(self, kind, send):
        def sending(position, *args, **named):
            here = (kind, position.step, position.micro_batch)
            self._hit(*here, "before")
            if (*here, "within") in self._points:
                self._points.discard((*here, "within"))
                self._proxy.cut_after(700_000)
            send(position, *args, **named)
            self._hit(*here, "after")

        return sending

    def _hit(self, *point):
        if point in self._points:
            self._points.discard(point)
            self._proxy.cut()

    @property
    def left(self):
        return self._points


@contextmanager
def proxied(edge):
    proxy = Proxy(edge.address)
    channel = connect(proxy.address)
    try:
        yield proxy, SplitServiceStub(channel)
    finally:
        channel.close()
        proxy.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "points",
    [
        [("forward", 0, 0)],
        [("forward", 1, 1)],
        [("backward", 1, 0)],
        [("backward", 1, 2)],  # with apply
        [("forward", 0, 1), ("backward", 0, 2), ("forward", 1, 0), ("backward", 2, 1)],
    ],
)
def test_a_cut_changes_no_bit_of_the_training(tiny_bert, points, when, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.05)
    spec = spec_of(tiny_bert, training={"micro_batches": 3, "window": 2})
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, data).connect(edge, stub)
        schedule = Schedule(proxy, ann.trunk)
        for point in points:
            schedule.cut_at(*point, when)
        ann.train(3)
        trunk = ann.finish(edge)
        assert not schedule.left and proxy.cuts == len(points)
        assert edge.sessions.room == 4
    twin = Trainee(spec, start, data).locally(start).train(3)
    assert ann.losses == twin.losses
    assert_same(trunk, twin.session.finish(3))
    assert_same(ann.own(), twin.own())


def test_a_cut_within_a_tensor_changes_no_bit_either(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.05)
    spec = spec_of(tiny_bert, training={"batch": 56})
    start, data = first_adapter(spec), rows(56, 2, tokens=(90, 98))
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, data).connect(edge, stub)
        schedule = Schedule(proxy, ann.trunk)
        schedule.cut_at("forward", 1, 0, "within")
        schedule.cut_at("backward", 1, 0, "within")
        ann.train(2)
        trunk = ann.finish(edge)
        assert not schedule.left and proxy.cuts == 2
    twin = Trainee(spec, start, data).locally(start).train(2)
    assert ann.losses == twin.losses
    assert_same(trunk, twin.session.finish(2))


class Clock:
    """Seconds that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_session_that_was_idle_too_long_is_not_taken_up_again(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.05)
    spec, clock = spec_of(tiny_bert), Clock()
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server(clock=clock, idle_timeout_s=30) as edge, proxied(edge) as (proxy, stub):
        run = edge.open_run(spec, start, ["ann", "bob"])
        ann = Trainee(spec, start, data).connect(edge, stub).train(1)
        bob = Trainee(spec, start, data, client="bob").connect(edge).train(1)
        proxy.cut()
        clock.now += 29
        bob.train(1)
        clock.now += 2
        edge.sessions.drop_idle()
        assert edge.sessions.room == 3
        with pytest.raises(NotFoundError, match="resume token"):
            ann.train(1)
        bob.train(1)
        cat = Trainee(spec, start, data).connect(edge).train(3)
        assert cat.losses == bob.losses
        cat.finish(edge), bob.finish(edge)
        edge.settle()
        assert sorted(run.trunk.slots._free) == ["slot1", "slot2"]


def test_a_session_is_not_idle_while_the_edge_computes(tiny_bert):
    spec, clock = spec_of(tiny_bert), Clock()
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server(clock=clock, idle_timeout_s=30) as edge:
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, data).connect(edge)
        release, queued = threading.Event(), threading.Event()
        edge.worker.submit(release.wait)
        real = edge.worker.submit

        def submit(*given):
            future = real(*given)
            queued.set()
            return future

        edge.worker.submit = submit
        step = threading.Thread(target=ann.train, args=[1])
        step.start()
        assert queued.wait(10)
        clock.now += 100
        edge.sessions.drop_idle()
        release.set()
        step.join(20)
        assert len(ann.losses) == 1
        ann.finish(edge)


def test_a_lost_answer_to_finish_is_given_again_from_memory(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.05)
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann", "bob"])
        ann = Trainee(spec, start, data).connect(edge, stub).train(2)
        real = edge.sessions.commit

        def commit(*given):
            real(*given)
            proxy.cut()  # committed, and the answer cannot reach its client

        monkeypatch.setattr(edge.sessions, "commit", commit)
        trunk = ann.finish(edge)
        assert proxy.cuts == 1
        assert ann.finished == split_pb2.Finished.FromString(next(iter(edge.sessions._committed.values())).answer)
        token = ann.trunk.opened.resume_token
        for client, messages, code in (
            ("ann", forward(), grpc.StatusCode.INVALID_ARGUMENT),
            ("bob", forward(), grpc.StatusCode.NOT_FOUND),
        ):
            again = split_pb2.TrainRequest(open=opening(spec, client, resume_token=token))
            assert talk(edge.split.Train, [again, *messages])[1] is code
        assert ann.push(edge)
    assert_same(trunk, Trainee(spec, start, data).locally(start).train(2).session.finish(2))


def test_a_finish_before_its_cut_is_done_on_the_next_stream(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.05)
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, data).connect(edge, stub).train(2)
        proxy.cut()
        trunk = ann.finish(edge)
        assert proxy.cuts == 1
    assert_same(trunk, Trainee(spec, start, data).locally(start).train(2).session.finish(2))


def test_a_pull_that_its_caller_left_gives_its_thread_back(tiny_bert):
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        run = edge.open_run(spec, first_adapter(spec), ["ann"])
        run.rounds.close(0.01)  # a client waits for what follows a closed round
        request = adapter_pb2.PullAdapterRequest(run_id=run.run_id, node_id="ann", version=1, wait_s=60)
        call = edge.adapters.PullAdapter(request, timeout=70)
        wait_until(lambda: run.rounds._waits.clients)
        call.cancel()
        wait_until(lambda: not run.rounds._waits.clients)


def test_a_stream_that_nobody_reads_is_ended(tiny_bert):
    clock = Clock()
    with edge_server(clock=clock, idle_timeout_s=30) as edge:
        spec = spec_of(tiny_bert)
        start = first_adapter(spec)
        run = edge.open_run(spec, start, ["ann"])
        edge.open_round(run, 1, start)
        run.rounds.open(1, 1, start, bytes(2**24))  # more than gRPC takes from a server unread
        request = adapter_pb2.PullAdapterRequest(run_id=run.run_id, node_id="ann", version=1)
        call = edge.adapters.PullAdapter(request, timeout=20)
        wait_until(lambda: edge.idle._sending)
        edge.idle.end_idle()
        assert edge.idle._sending
        clock.now += 31
        edge.idle.end_idle()
        wait_until(lambda: not edge.idle._sending)
        with pytest.raises(grpc.RpcError):
            list(call)


def test_a_stream_that_never_speaks_is_ended(tiny_bert):
    clock = Clock()
    with edge_server(clock=clock, idle_timeout_s=30) as edge:
        spec = spec_of(tiny_bert)
        edge.open_run(spec, first_adapter(spec), ["ann"])
        hold = threading.Event()

        def silence():
            hold.wait(20)
            yield from ()

        calls = [
            edge.split.Train(silence(), timeout=20),
            edge.split.Predict(silence(), timeout=20),
            edge.adapters.PushAdapter.future(silence(), timeout=20),
        ]
        wait_until(lambda: len(edge.idle._waiting) == 3)
        edge.idle.end_idle()
        assert len(edge.idle._waiting) == 3
        clock.now += 31
        edge.idle.end_idle()
        for call in calls:
            assert call.code() is grpc.StatusCode.CANCELLED
        wait_until(lambda: not edge.idle._waiting)
        hold.set()


def test_a_new_session_replaces_its_clients_old_one(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server(capacity=1) as edge:
        run = edge.open_run(spec, start, ["ann"])
        old = Trainee(spec, start, data).connect(edge).train(2)
        new = Trainee(spec, start, data).connect(edge).train(2)
        with pytest.raises(NotFoundError):
            old.train(1)
        new.train(1)
        trunk = new.finish(edge)
        edge.settle()
        assert (edge.sessions.room, run.trunk.slots.there) == (1, 1)
    assert_same(trunk, Trainee(spec, start, data).locally(start).train(3).session.finish(3))


def test_a_dropped_sessions_late_work_does_not_touch_the_slots_next_holder(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann", "bob"])
        begun = [split_pb2.TrainRequest(open=opening(spec, "ann")), *forward()]
        gate = threading.Event()
        answers = []

        def messages():
            yield from begun
            gate.wait(20)
            yield from backward()

        call = edge.split.Train(messages(), timeout=20)
        answers += [next(call), next(call)]
        session = next(iter(edge.sessions._open.values()))
        session.cancel = lambda: None  # the drop reaches the session, and not yet the stream
        edge.sessions.drop(session, "the test wants it")
        bob = Trainee(spec, start, data, client="bob").connect(edge).train(1)
        gate.set()
        with pytest.raises(NotFoundError, match="dropped"), translated("edge"):
            next(call)
        bob.train(1)
        trunk = bob.finish(edge)
    twin = Trainee(spec, start, data).locally(start).train(2)
    assert bob.losses == twin.losses
    assert_same(trunk, twin.session.finish(2))


def test_an_old_streams_fault_does_not_end_the_session_that_moved_on(tiny_bert):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        gate = threading.Event()

        def messages():
            yield split_pb2.TrainRequest(open=opening(spec, "ann"))
            gate.wait(20)
            yield from forward(step=7)

        old = edge.split.Train(messages(), timeout=20)
        token = next(old).opened.resume_token
        session = next(iter(edge.sessions._open.values()))
        session.cancel = lambda: None  # a cancel that does not reach the old stream in time
        answers, code, _ = talk(
            edge.split.Train,
            [split_pb2.TrainRequest(open=opening(spec, "ann", resume_token=token)), *forward()],
        )
        assert code is grpc.StatusCode.OK and len(answers) == 2
        gate.set()
        with pytest.raises(NotFoundError, match="newer stream"), translated("edge"):
            next(old)
        assert edge.sessions.room == 3
        answers, code, _ = talk(
            edge.split.Train,
            [
                split_pb2.TrainRequest(open=opening(spec, "ann", resume_token=token)),
                *backward(),
                split_pb2.TrainRequest(finish=split_pb2.Finish(steps=1)),
            ],
        )
        assert code is grpc.StatusCode.OK and answers[-1].finished.steps == 1


def test_rounds_leave_nothing_behind(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server(capacity=2) as edge:
        run = edge.open_run(spec, start, ["ann", "bob"])
        for version in range(1, 4):
            ann = Trainee(spec, start, data).connect(edge, version=version - 1).train(1)
            again = Trainee(spec, start, data, client="ann")  # finishes twice, as after a lost answer
            ann.finish(edge)
            again.connect(edge, version=version - 1).train(1).finish(edge)
            assert again.push(edge, version=version - 1)
            bob = Trainee(spec, start, data, client="bob").connect(edge, version=version - 1).train(1)
            assert len(edge.sessions._committed) == 1
            edge.open_round(run, version, start)
            assert not edge.sessions._committed and edge.sessions.room == 2
            assert len(run.rounds._taken.digests) == 1
            with pytest.raises(NotFoundError):
                bob.train(1)
        edge.settle()
        assert len(run.trunk.slots._free) == run.trunk.slots.there == 1
        edge.runs.remove(run.run_id, RoundGivenUpError("the run has ended"))
        _, code, _ = talk(edge.split.Train, [split_pb2.TrainRequest(open=opening(spec, "ann"))])
        assert code is grpc.StatusCode.NOT_FOUND


def test_no_thread_of_a_client_is_left_when_its_stream_fails(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        Trainee(spec, start, data).connect(edge).train(1).finish(edge)
        before = set(threading.enumerate())
        failed = [Trainee(spec, start, data, client=f"eve{n}") for n in range(5)]
        for eve in failed:
            with pytest.raises(PermissionDeniedError):
                eve.connect(edge)

        def left():  # those of the server serve the next call
            return [t for t in set(threading.enumerate()) - before if not t.name.startswith(("rpc", "compute"))]

        wait_until(lambda: not left())


def test_a_wait_for_a_round_ends_with_the_run(tiny_bert):
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        run = edge.open_run(spec, first_adapter(spec), ["ann"])
        run.rounds.close(0.01)
        request = adapter_pb2.PullAdapterRequest(run_id=run.run_id, node_id="ann", version=1, wait_s=30)
        call = edge.adapters.PullAdapter(request, timeout=40)
        wait_until(lambda: run.rounds._changed._waiters)
        edge.runs.remove(run.run_id, RoundGivenUpError("the run has ended"))
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.ABORTED


def wait_until(there, timeout_s=10.0):
    """Wait for what another thread of a library does, which nothing announces."""
    end = time.monotonic() + timeout_s
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
