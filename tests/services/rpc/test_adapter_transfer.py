"""Adapters over a real server: what was pushed is what was sent, and a broken push or pull is refused."""

import hashlib
import threading
import time
import zlib

import pytest
from rpc_servers import services_of, serving

from elsa.errors import (
    CapacityError,
    ChecksumError,
    DrainingError,
    MalformedError,
    NotFoundError,
    PeerError,
    RoundGivenUpError,
    UnreachableError,
)
from elsa.v1 import adapter_pb2 as pb
from elsa.v1 import adapter_pb2_grpc
from elsa.v1.tensor_pb2 import Chunk
from services.rpc.adapters import (
    MAX_ADAPTER_BYTES,
    Pulled,
    PushReceiver,
    pull,
    pull_when_there,
    pulled_messages,
    push,
)
from services.rpc.channel import connect
from services.rpc.status import translated

DATA = bytes(range(256)) * 8192  # 2 MiB: several chunks


class Adapters(adapter_pb2_grpc.AdapterServiceServicer):
    """Keeps what is pushed; answers pulls with `messages`, or with the errors of `failures` first."""

    def __init__(self):
        self.taken, self.messages, self.failures, self.asked = [], [], [], []
        self.left = threading.Event()

    def PushAdapter(self, request_iterator, context):
        receiver = PushReceiver()
        for message in request_iterator:
            receiver.add(message)
        header, data = receiver.result()
        known = (header.sha256, data) in self.taken
        self.taken.append((header.sha256, data))
        return pb.PushAdapterResponse(stored=not known)

    def PullAdapter(self, request, context):
        self.asked.append(request.wait_s)
        context.add_callback(self.left.set)
        if self.failures:
            raise self.failures.pop(0)
        yield from self.messages


@pytest.fixture
def served():
    servicer = Adapters()
    with serving("sync", services_of(adapters=servicer)) as address, connect(address) as channel:
        yield servicer, adapter_pb2_grpc.AdapterServiceStub(channel)


def chunk(offset, data, last=False):
    return Chunk(offset=offset, data=data, crc32=zlib.crc32(data), last=last)


def header_of(data, **fields):
    named = {"total_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **fields}
    return pb.PushAdapterRequest(header=pb.AdapterHeader(run_id="r", node_id="n", **named))


def pieces(*chunks):
    return [pb.PushAdapterRequest(chunk=piece) for piece in chunks]


@pytest.mark.parametrize("data", [DATA, b"x"])
def test_what_is_pushed_arrives_and_is_new_once(served, data):
    servicer, stub = served
    header = pb.AdapterHeader(run_id="r", node_id="n", version=2, rows=7)
    assert push(stub, header, data) is True
    assert push(stub, header, data) is False
    assert servicer.taken[0] == (hashlib.sha256(data).hexdigest(), data)


@pytest.mark.parametrize("data", [DATA, b"x"])
def test_what_is_pulled_is_what_was_there(served, data):
    servicer, stub = served
    servicer.messages = list(pulled_messages(Pulled(version=3, edge_round=1, data=data)))
    assert pull(stub, pb.PullAdapterRequest()) == Pulled(version=3, edge_round=1, data=data)


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([], MalformedError, "the stream was empty"),
        (pieces(chunk(0, b"abc", last=True)), MalformedError, "the first must be a header"),
        ([pb.PushAdapterRequest()], MalformedError, "the first must be a header"),
        ([header_of(b"abc"), header_of(b"abc")], MalformedError, r"PushAdapterRequest\.header: came twice"),
        ([header_of(b"abc"), pb.PushAdapterRequest()], MalformedError, "neither a header nor a chunk"),
        ([header_of(b"abc")], MalformedError, r"PushAdapterRequest\.chunk: ended at 0 of 3 bytes"),
        ([header_of(b"abc"), *pieces(chunk(0, b"ab"))], MalformedError, "ended at 2 of 3"),
        ([header_of(b"abc"), *pieces(chunk(0, b"abcd", last=True))], MalformedError, "more than the 3 bytes"),
        (
            [header_of(b"abc"), *pieces(chunk(0, b"abc", last=True), chunk(3, b"", last=True))],
            MalformedError,
            "after the last one",
        ),
        ([header_of(b"abc"), *pieces(chunk(0, b"abd", last=True))], ChecksumError, r"AdapterHeader\.sha256"),
        (
            [header_of(b"abc"), *pieces(Chunk(data=b"abd", crc32=zlib.crc32(b"abc"), last=True))],
            ChecksumError,
            r"PushAdapterRequest\.chunk: chunk at offset 0",
        ),
        (
            [header_of(b"abc", sha256="ABC"), *pieces(chunk(0, b"abc", last=True))],
            ChecksumError,
            r"AdapterHeader\.sha256",
        ),
        (
            [header_of(b"abc", total_bytes=MAX_ADAPTER_BYTES + 1)],
            MalformedError,
            rf"AdapterHeader\.total_bytes: {MAX_ADAPTER_BYTES + 1}; at most",
        ),
    ],
)
def test_a_broken_push_is_refused(served, messages, error, text):
    servicer, stub = served
    with pytest.raises(error, match=text), translated("edge-1"):
        stub.PushAdapter(iter(messages), timeout=20)
    assert servicer.taken == []
    assert push(stub, pb.AdapterHeader(), b"next")  # nobody else notices


def pulled_header(data=b"abc", **fields):
    named = {"version": 1, "total_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **fields}
    return pb.PullAdapterResponse(header=pb.PulledHeader(**named))


def pulled_chunk(*args, **more):
    return pb.PullAdapterResponse(chunk=chunk(*args, **more))


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([], MalformedError, "the first must be a header"),
        ([pulled_chunk(0, b"abc", last=True)], MalformedError, "the first must be a header"),
        ([pulled_header(), pulled_header()], MalformedError, "only chunks may come"),
        ([pulled_header(), pb.PullAdapterResponse()], MalformedError, "only chunks may come"),
        ([pulled_header()], MalformedError, "ended at 0 of 3"),
        ([pulled_header(), pulled_chunk(0, b"abd", last=True)], ChecksumError, r"PulledHeader\.sha256"),
        (
            [pulled_header(), pulled_chunk(0, b"abc", last=True), pulled_chunk(3, b"")],
            MalformedError,
            "after the last one",
        ),
        ([pulled_header(total_bytes=2**40)], MalformedError, r"PulledHeader\.total_bytes"),
    ],
)
def test_a_broken_answer_to_a_pull_is_refused(served, messages, error, text):
    servicer, stub = served
    servicer.messages = messages
    with pytest.raises(error, match=text):
        pull(stub, pb.PullAdapterRequest())


def test_a_pull_that_is_given_up_ends_at_the_server_too(served):
    servicer, stub = served

    def endless():
        yield pulled_header(bytes(2**30))
        yield pb.PullAdapterResponse()
        while True:
            yield pulled_chunk(0, bytes(500_000))

    servicer.messages = endless()
    with pytest.raises(MalformedError) as kept:  # its traceback keeps the call alive
        pull(stub, pb.PullAdapterRequest())
    assert servicer.left.wait(20), kept


def waiting(stub, stop=None, **more):
    request = pb.PullAdapterRequest(wait_s=more.pop("wait_s", 0.0))
    return pull_when_there(
        stub, request, "edge-1", stop=stop or threading.Event(), **{"patience_s": 60, "clock": time.monotonic, **more}
    )


def test_an_adapter_that_is_not_there_yet_is_asked_for_again(served):
    servicer, stub = served
    servicer.messages = list(pulled_messages(Pulled(version=1, edge_round=0, data=b"abc")))
    servicer.failures = [DrainingError("not yet"), DrainingError("not yet")]
    assert waiting(stub).data == b"abc"
    assert servicer.asked == [30.0] * 3


@pytest.mark.parametrize(("given", "asked"), [(0.0, 30.0), (5.0, 5.0), (1000.0, 60.0)])
def test_a_pull_waits_within_what_servers_allow(served, given, asked):
    servicer, stub = served
    servicer.messages = list(pulled_messages(Pulled(version=1, edge_round=0, data=b"abc")))
    waiting(stub, wait_s=given)
    assert servicer.asked == [asked]


@pytest.mark.parametrize("error", [RoundGivenUpError, NotFoundError, MalformedError, PeerError, CapacityError])
def test_a_pull_that_is_refused_is_not_asked_again(served, error):
    servicer, stub = served
    servicer.failures = [error("over")]
    with pytest.raises(error, match="over" if error is not PeerError else "INTERNAL"):
        waiting(stub)
    assert len(servicer.asked) == 1


class Impatient(threading.Event):
    """An event that nobody sets and nobody waits for."""

    def wait(self, timeout=None):
        return self.is_set()


class Timed(Impatient):
    """Its waits take no time but on its own clock."""

    def __init__(self):
        super().__init__()
        self.pauses = []

    def wait(self, timeout=None):
        self.pauses.append(timeout)
        return self.is_set()

    def clock(self):
        return sum(self.pauses)


FAULTS = [
    (UnreachableError("away"), "away"),
    (PeerError("x"), "edge-1 failed"),
    (CapacityError("too fast"), "too fast"),
]


@pytest.mark.parametrize(("error", "text"), FAULTS)
def test_faults_that_pass_are_waited_out_with_growing_pauses_and_few_words(served, caplog, error, text):
    servicer, stub = served
    servicer.failures = [error] * 9
    servicer.messages = list(pulled_messages(Pulled(version=1, edge_round=0, data=b"abc")))
    stop = Timed()
    got = waiting(stub, stop, passing=(PeerError, CapacityError), clock=stop.clock)
    assert got.data == b"abc"
    assert stop.pauses == [0.25, 0.5, 1.0, 2.0, 4.0, *[5.0] * 4]
    told = [record.getMessage() for record in caplog.records if record.name == "services.rpc.adapters"]
    assert len(told) == 2 and all(said.startswith(text) for said in told)
    assert told[0].endswith("trying again for 60 s more") and told[1].endswith("trying again for 47 s more")


@pytest.mark.parametrize(("error", "text"), FAULTS)
def test_faults_that_do_not_pass_are_given_up_after_the_patience_by_their_reason(served, error, text):
    servicer, stub = served
    servicer.failures = [error] * 99
    stop = Timed()
    with pytest.raises(type(error), match=rf"^edge-1 .* for 8 s; gave up: {text}"):
        waiting(stub, stop, passing=(PeerError, CapacityError), patience_s=8, clock=stop.clock)
    assert stop.clock() == 8


def test_a_peer_that_stays_away_is_given_up_by_name():
    seconds = iter(range(100))
    with serving("sync", []) as address:
        pass
    with (
        connect(address) as channel,
        pytest.raises(UnreachableError, match=r"^edge-1 did not answer for 3 s; gave up"),
    ):
        waiting(
            adapter_pb2_grpc.AdapterServiceStub(channel),
            Impatient(),
            patience_s=3,
            clock=lambda: float(next(seconds)),
        )


def test_patience_begins_anew_when_the_peer_was_back(served):
    servicer, stub = served
    seconds = iter(range(100))
    away = UnreachableError("gone")
    servicer.failures = [away, away, DrainingError("not yet"), away, away]
    servicer.messages = list(pulled_messages(Pulled(version=1, edge_round=0, data=b"abc")))
    got = waiting(stub, Impatient(), patience_s=3, clock=lambda: float(next(seconds)))
    assert got.data == b"abc"


def test_a_node_that_stops_asks_no_more(served):
    servicer, stub = served
    stop = threading.Event()
    stop.set()
    with pytest.raises(RoundGivenUpError, match="stopped"):
        waiting(stub, stop)
    assert servicer.asked == []


def test_a_pull_that_ends_with_its_node_says_nothing_of_the_peer(caplog):
    stop = threading.Event()

    class Stub:
        def PullAdapter(self, *_, **__):
            stop.set()
            raise UnreachableError("the call was cancelled")

    with pytest.raises(RoundGivenUpError, match="stopped"):
        waiting(Stub(), stop)
    assert not caplog.records
