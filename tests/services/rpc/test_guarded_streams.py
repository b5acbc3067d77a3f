"""Streams whose caller's certificate is good no more: they end with the next message, and without one soon."""

import threading

import grpc
import pytest
from certificates import Authority
from guarded_servers import LOOKED_THROUGH_S, THREADS, guarded, pushed
from hypothesis import given
from hypothesis import strategies as st
from rpc_servers import WAIT_S

from elsa.v1 import adapter_pb2, adapter_pb2_grpc, fleet_pb2, fleet_pb2_grpc, split_pb2, split_pb2_grpc
from services.rpc.identity import Identity
from services.rpc.open_streams import OpenStreams
from services.rpc.rates import RateLimits

CLIENT, EDGE = Identity("client", "mine"), Identity("edge", "mine")
MEMBER = {"edge": CLIENT, "cloud": EDGE}
KINDS = ("edge", "cloud")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


class Sent:
    """Requests that are sent when a test says so."""

    def __init__(self, *first):
        self._ready = threading.Condition()
        self._messages, self._ended = list(first), False

    def send(self, message):
        with self._ready:
            self._messages.append(message)
            self._ready.notify()

    def end(self):
        with self._ready:
            self._ended = True
            self._ready.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self._ready:
            self._ready.wait_for(lambda: self._messages or self._ended, WAIT_S)
            if not self._messages:
                raise StopIteration
            return self._messages.pop(0)


def opening():
    return split_pb2.TrainRequest(open=split_pb2.TrainOpen(client_id="mine"))


def code_of(stream):
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    return caught.value.code()


@pytest.fixture
def edge(authority):
    with guarded("edge", authority) as server:
        yield server


@pytest.fixture
def cloud(authority):
    with guarded("cloud", authority) as server:
        yield server


def test_a_revoked_callers_next_message_ends_its_stream(authority, edge):
    files = authority.issued(CLIENT)
    with edge.channel(files) as channel:
        sent = Sent(opening())
        stream = split_pb2_grpc.SplitServiceStub(channel).Train(sent, timeout=WAIT_S)
        next(stream)
        edge.told.revoked.add(files.serial)
        sent.send(split_pb2.TrainRequest(finish=split_pb2.Finish()))
        assert code_of(stream) in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED)
        sent.end()
    assert edge.told.reached == ["open"]


def test_a_message_after_the_certificate_ran_out_ends_the_stream(authority, edge):
    with edge.channel(authority.issued(CLIENT)) as channel:
        sent = Sent(opening())
        stream = split_pb2_grpc.SplitServiceStub(channel).Train(sent, timeout=WAIT_S)
        next(stream)
        edge.told.now = edge.told.now.replace(year=edge.told.now.year + 1)
        sent.send(split_pb2.TrainRequest(finish=split_pb2.Finish()))
        assert code_of(stream) in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED)
        sent.end()
    assert edge.told.reached == ["open"]


def test_a_silent_stream_of_a_revoked_caller_is_cancelled_by_an_edge(authority, edge):
    files = authority.issued(CLIENT)
    with edge.channel(files) as channel:
        sent = Sent(opening())
        stub = split_pb2_grpc.SplitServiceStub(channel)
        stream = stub.Train(sent, timeout=WAIT_S)
        next(stream)
        edge.told.revoked.add(files.serial)
        assert code_of(stream) is grpc.StatusCode.CANCELLED
        assert code_of(stub.Train(iter([opening()]), timeout=WAIT_S)) is grpc.StatusCode.UNAUTHENTICATED
        sent.end()


def test_a_silent_stream_of_a_revoked_caller_is_told_so_by_a_cloud(authority, cloud):
    files = authority.issued(EDGE)
    with cloud.channel(files) as channel:
        request = fleet_pb2.WatchAssignmentRequest(node_id="mine")
        stream = fleet_pb2_grpc.FleetServiceStub(channel).WatchAssignment(request, timeout=WAIT_S)
        next(stream)
        cloud.told.revoked.add(files.serial)
        assert code_of(stream) is grpc.StatusCode.UNAUTHENTICATED
        assert "edge mine is revoked" in stream.details()


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_stream_is_ended_once_its_callers_certificate_runs_out(authority, kind):
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        sent = Sent(*pushed("mine"))
        push = adapter_pb2_grpc.AdapterServiceStub(channel).PushAdapter.future(sent, timeout=WAIT_S)
        while not server.told.reached:
            assert not push.done()
        server.told.now = server.told.now.replace(year=server.told.now.year + 1)
        assert push.code() is {"edge": grpc.StatusCode.CANCELLED, "cloud": grpc.StatusCode.UNAUTHENTICATED}[kind]
        assert ("ran out" in push.details()) == (kind == "cloud")
        sent.end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_is_revoked_between_two_answers_gets_the_first_alone(authority, kind):
    files = authority.issued(MEMBER[kind])
    with guarded(kind, authority) as server, server.channel(files) as channel:
        server.told.reached = Until(2, lambda: server.told.revoked.add(files.serial))
        request = adapter_pb2.PullAdapterRequest(node_id="mine", version=3)
        answers = adapter_pb2_grpc.AdapterServiceStub(channel).PullAdapter(request, timeout=WAIT_S)
        next(answers)
        assert code_of(answers) is grpc.StatusCode.UNAUTHENTICATED
        assert len(server.told.reached) == 2


class Until(list):
    """A list that does something as it becomes so long."""

    def __init__(self, length, work):
        super().__init__()
        self._length, self._work = length, work

    def append(self, item):
        super().append(item)
        if len(self) == self._length:
            self._work()


def test_a_push_to_the_cloud_that_is_silent_is_ended_too(authority, cloud):
    files = authority.issued(EDGE)
    with cloud.channel(files) as channel:
        sent = Sent(*pushed("mine"))
        stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        push = stub.PushAdapter.future(sent, timeout=WAIT_S)
        while not cloud.told.reached:
            assert not push.done()
        cloud.told.revoked.add(files.serial)
        assert push.code() is grpc.StatusCode.UNAUTHENTICATED
        sent.end()


def test_a_stream_whose_caller_takes_no_answers_is_ended_and_told(authority):
    flooded = Identity("edge", "flooded")
    limits = RateLimits(open_streams=1)
    files, newer = authority.issued(flooded), authority.issued(flooded)
    request = fleet_pb2.WatchAssignmentRequest(node_id="flooded")
    with guarded("cloud", authority, limits) as server, server.channel(files) as channel:
        stream = fleet_pb2_grpc.FleetServiceStub(channel).WatchAssignment(request, timeout=WAIT_S)
        next(stream)
        threading.Event().wait(3 * LOOKED_THROUGH_S)  # until what is not taken fills the connection
        server.told.revoked.add(files.serial)
        with server.channel(newer) as again:
            stub = fleet_pb2_grpc.FleetServiceStub(again)
            while not _begins(stub.WatchAssignment(request, timeout=WAIT_S)):  # there is room for one again
                pass
        assert code_of(stream) is grpc.StatusCode.UNAUTHENTICATED
        assert "edge flooded is revoked" in stream.details()


def _begins(stream):
    try:
        next(stream)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False
    stream.cancel()
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_others_go_on(authority, kind):
    other = authority.issued(Identity(MEMBER[kind].role, "other"))
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        sent = Sent(*pushed("mine"))
        push = adapter_pb2_grpc.AdapterServiceStub(channel).PushAdapter.future(sent, timeout=WAIT_S)
        with server.channel(other) as others:
            gone = Sent(*pushed("other"))
            ended = adapter_pb2_grpc.AdapterServiceStub(others).PushAdapter.future(gone, timeout=WAIT_S)
            while len(server.told.reached) < 2:
                assert not (push.done() or ended.done())
            server.told.revoked.add(other.serial)
            assert ended.code() is not grpc.StatusCode.OK
            gone.end()
        sent.end()
        assert push.result().stored


@pytest.mark.parametrize("kind", KINDS)
def test_streams_that_end_however_make_room_for_others(authority, kind):
    ends = {
        "finished": lambda sent, push: sent.end(),
        "cancelled": lambda sent, push: push.cancel(),
        "denied": lambda sent, push: sent.send(next(pushed("another"))),
    }
    limits = RateLimits(open_streams=1)
    with guarded(kind, authority, limits) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        for end in [*ends, *ends]:
            sent, push = _held(stub, server)
            with pytest.raises(grpc.RpcError, match="has 1 streams open, as many as it may"):
                stub.PushAdapter(pushed("mine"), timeout=WAIT_S)
            ends[end](sent, push)
            assert (
                push.code().name == {"finished": "OK", "cancelled": "CANCELLED", "denied": "PERMISSION_DENIED"}[end]
            )
            sent.end()


def _held(stub, server):
    """A push that stays open, once there is room: a stream's end is told a moment before it is forgotten."""
    while True:
        before, sent = len(server.told.reached), Sent(*pushed("mine"))
        push = stub.PushAdapter.future(sent, timeout=WAIT_S)
        while len(server.told.reached) == before and not push.done():
            pass
        if not push.done():
            return sent, push
        sent.end()


def test_a_stream_holds_no_thread_besides_its_handlers(authority, edge):
    with edge.channel(authority.issued(CLIENT)) as channel:
        stub, before = split_pb2_grpc.SplitServiceStub(channel), _timers()
        sent = [Sent(opening()) for _ in range(THREADS - 1)]
        streams = [stub.Train(each, timeout=WAIT_S) for each in sent]
        for stream in streams:
            next(stream)
        assert len(_timers() - before) <= 2  # the one that waits, and the one that has just begun it
        for each in sent:
            each.end()
        for stream in streams:
            list(stream)


def _timers():
    return {thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)}


class Timers:
    """What is to be done later, done when a test says so."""

    def __init__(self):
        self.waiting = []

    def __call__(self, delay_s, work):
        self.waiting.append(work)

    def fire(self):
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "fire", "revoke"]), st.sampled_from("abcd"))))
def test_one_timer_waits_while_streams_are_open_and_ends_just_those_of_revoked_callers(steps):
    timers, revoked, ended, still = Timers(), set(), [], set()
    streams = OpenStreams(timers)
    for what, name in steps:
        if what == "add":
            why_over = lambda name=name: "revoked" if name in revoked else ""  # noqa: E731
            streams.add(name, why_over, lambda name=name: ended.append(name))
            still.add(name)
        elif what == "remove":
            streams.remove(name)
            still.discard(name)
        elif what == "revoke":
            revoked.add(name)
        else:
            ended.clear()
            timers.fire()
            assert sorted(ended) == sorted(still & revoked)
        assert len(timers.waiting) <= 1
        assert not still or timers.waiting
        assert len(streams) == len(still)
    for name in still:
        streams.remove(name)
    timers.fire()
    assert not timers.waiting
