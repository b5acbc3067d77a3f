"""What an edge answers to messages that break their contract, while another client's session goes on unharmed."""

import zlib
from contextlib import contextmanager

import grpc
import pytest
import torch
from split_harness import (
    HALF,
    RUN,
    WIDTH,
    Trainee,
    assert_same,
    backward,
    edge_server,
    first_adapter,
    forward,
    opening,
    push_update,
    rows,
    spec_of,
    talk,
    tensor,
)

from elsa.errors import MalformedError, NotFoundError, PermissionDeniedError, StaleRoundError
from elsa.spec import Split
from elsa.v1 import adapter_pb2, split_pb2, tensor_pb2
from services.rpc.status import translated

BAD = grpc.StatusCode.INVALID_ARGUMENT


class Bystander:
    """A session that trains one step between the faults of others, in step with a twin."""

    def __init__(self, edge, spec, start):
        self.edge = edge
        self.bob = Trainee(spec, start, rows(20, 1), client="bob").connect(edge).train(1)
        self.twin = Trainee(spec, start, rows(20, 1), client="bob").locally(start).train(1)

    def step(self):
        self.bob.train(1), self.twin.train(1)
        assert self.bob.losses == self.twin.losses

    def check(self):
        steps = len(self.bob.losses)
        assert_same(self.bob.finish(self.edge), self.twin.session.finish(steps))


@pytest.fixture(scope="module")
def world(tiny_bert):
    """An edge, its run's specification, and a bystander."""
    spec = spec_of(tiny_bert, training={"batch": 8, "window": 2})
    with edge_server(capacity=2) as edge:
        start = first_adapter(spec)
        edge.open_run(spec, start, ["ann", "bob"])
        other = Bystander(edge, spec, start)
        yield edge, spec, other
        other.check()


def opened(spec, **given):
    return [split_pb2.TrainRequest(open=opening(spec, "ann", **given))]


def changed(messages, change, index=0):
    """The messages with one of them changed in place by `change`."""
    change(messages[index])
    return messages


def chunk_of(message):
    inner = getattr(message, message.WhichOneof("message"))
    if message.WhichOneof("message") == "chunk":
        return inner
    return (inner.activations if message.HasField("forward") else inner.gradient).chunk


def altered(message):
    chunk = chunk_of(message)
    chunk.data = bytes([chunk.data[0] ^ 1]) + chunk.data[1:]


def moved(message):
    chunk_of(message).offset += 1


def oversize(message):
    chunk = chunk_of(message)
    chunk.data = bytes(1_000_001)
    chunk.crc32 = zlib.crc32(chunk.data)


def longer(message):
    chunk = chunk_of(message)
    chunk.data += bytes(4)
    chunk.crc32 = zlib.crc32(chunk.data)


def not_last(message):
    chunk_of(message).last = False


def as_half(message):
    message.forward.activations.parts[0].dtype = tensor_pb2.DTYPE_FLOAT16


def as_unknown(message):
    message.forward.activations.parts[0].dtype = 99


def reshaped(message):
    message.forward.activations.parts[0].shape[:] = [WIDTH, 5]


def with_data(message):
    message.forward.activations.parts[0].data = b"1234"


def finish(steps):
    return [split_pb2.TrainRequest(finish=split_pb2.Finish(steps=steps))]


def ended(**seconds):
    return [split_pb2.TrainRequest(finish=split_pb2.Finish(seconds=split_pb2.PhaseSeconds(**seconds)))]


def codec(field, spec):
    given = opening(spec, "ann").codecs
    getattr(given, field).stages.add()
    return given


def nan():
    values = tensor([3, 2])
    values[1, 1] = float("nan")
    return values


FAULTS = {
    "nothing": (lambda s: [], BAD, "TrainRequest.message"),
    "an empty message": (lambda s: [split_pb2.TrainRequest()], BAD, "TrainRequest.message"),
    "first message is no opening": (lambda s: forward(), BAD, "open"),
    "unknown run": (lambda s: opened(s, run_id="other-7"), grpc.StatusCode.NOT_FOUND, "other-7"),
    "not a client of this edge": (lambda s: opened(s, client_id="eve"), grpc.StatusCode.PERMISSION_DENIED, "eve"),
    "a version ahead": (lambda s: opened(s, version=1), grpc.StatusCode.FAILED_PRECONDITION, "version 1"),
    "an edge round ahead": (lambda s: opened(s, edge_round=1), grpc.StatusCode.FAILED_PRECONDITION, "round 1"),
    "split without bottom": (lambda s: opened(s, split=split_pb2.Split(trunk=3, top=1)), BAD, "open.split"),
    "split without trunk": (lambda s: opened(s, split=split_pb2.Split(bottom=3, top=1)), BAD, "open.split"),
    "split of a larger model": (
        lambda s: opened(s, split=split_pb2.Split(bottom=1, trunk=4, top=1)),
        BAD,
        "open.split",
    ),
    "split with blocks of the client": (
        lambda s: opened(s, split=split_pb2.Split(bottom=3, trunk=1, top=0)),
        BAD,
        "open.split",
    ),
    "no split": (lambda s: opened(s, split=split_pb2.Split()), BAD, "open.split"),
    "window 0": (lambda s: opened(s, window=0), BAD, "open.window"),
    "window 99": (lambda s: opened(s, window=99), BAD, "open.window"),
    "unknown codec of h1": (lambda s: opened(s, codecs=codec("h1", s)), BAD, "codecs.h1"),
    "unknown codec of dh1": (lambda s: opened(s, codecs=codec("dh1", s)), BAD, "codecs.dh1"),
    "unknown resume token": (lambda s: opened(s, resume_token="nö"), grpc.StatusCode.NOT_FOUND, "resume token"),
    "opened twice": (lambda s: opened(s) + opened(s), BAD, "open"),
    "no rows": (lambda s: opened(s) + changed(forward(), lambda m: m.forward.ClearField("lengths")), BAD, "lengths"),
    "a row of no tokens": (
        lambda s: opened(s) + changed(forward(), lambda m: m.forward.lengths.append(0)),
        BAD,
        "lengths[2]",
    ),
    "too many rows": (lambda s: opened(s) + forward(lengths=[1] * 9), BAD, "lengths"),
    "a row too long": (lambda s: opened(s) + forward(lengths=[2, 101]), BAD, "lengths[1]"),
    "a huge row": (
        lambda s: opened(s) + changed(forward(), lambda m: m.forward.lengths.append(2**32 - 1)),
        BAD,
        "lengths[2]",
    ),
    "another type": (lambda s: opened(s) + changed(forward(), as_half), BAD, "forward.activations.parts[0].dtype"),
    "no known type": (lambda s: opened(s) + changed(forward(), as_unknown), BAD, "parts[0].dtype"),
    "another shape": (lambda s: opened(s) + changed(forward(), reshaped), BAD, "parts[0].shape"),
    "data in the header": (lambda s: opened(s) + changed(forward(), with_data), BAD, "parts[0].data"),
    "no tensor": (
        lambda s: opened(s) + changed(forward(), lambda m: m.forward.activations.ClearField("parts")),
        BAD,
        "activations",
    ),
    "more bytes than announced": (lambda s: opened(s) + changed(forward(), longer), BAD, "activations"),
    "bytes that never end": (
        lambda s: opened(s) + changed(forward(), not_last) + finish(0),
        BAD,
        "activations",
    ),
    "NaN forward": (lambda s: opened(s) + forward(values=nan()), BAD, "forward.activations"),
    "NaN backward": (lambda s: opened(s) + forward() + backward(values=nan()), BAD, "backward.gradient"),
    "an altered chunk": (lambda s: opened(s) + changed(forward(), altered), grpc.StatusCode.DATA_LOSS, "offset 0"),
    "an oversize chunk": (lambda s: opened(s) + changed(forward(), oversize), BAD, "1000001"),
    "a chunk out of place": (lambda s: opened(s) + changed(forward(), moved), BAD, "offset 1"),
    "a chunk from nowhere": (
        lambda s: [*opened(s), split_pb2.TrainRequest(chunk=tensor_pb2.Chunk(last=True))],
        BAD,
        "chunk",
    ),
    "a chunk too many": (
        lambda s: opened(s) + forward() + [split_pb2.TrainRequest(chunk=tensor_pb2.Chunk(last=True))],
        BAD,
        "chunk",
    ),
    "a step ahead": (lambda s: opened(s) + forward(step=1), BAD, "expected step 0"),
    "a micro-batch ahead": (lambda s: opened(s) + forward(micro_batch=1), BAD, "expected step 0, micro-batch 0"),
    "backward without forward": (lambda s: opened(s) + backward(), BAD, "no forward"),
    "backward of another": (lambda s: opened(s) + forward() + backward(micro_batch=1), BAD, "no forward"),
    "apply before the last": (lambda s: opened(s) + forward() + forward(micro_batch=1) + backward(), BAD, "apply"),
    "apply after the step": (
        lambda s: opened(s) + forward() + backward() + backward(micro_batch=1),
        BAD,
        "no forward",
    ),
    "more than the window": (
        lambda s: opened(s) + forward() + forward(micro_batch=1) + forward(micro_batch=2),
        BAD,
        "2 micro-batches",
    ),
    "finish with steps never made": (lambda s: opened(s) + finish(1), BAD, "finish.steps"),
    "finish with a time that is none": (
        lambda s: opened(s) + ended(bottom=float("nan")),
        BAD,
        "finish.seconds.bottom",
    ),
    "finish with a time below 0": (lambda s: opened(s) + ended(top=-1.0), BAD, "finish.seconds.top"),
    "a gradient that makes the adapter infinite": (
        lambda s: opened(s) + forward() + backward(values=tensor([3, 2]).sign() * 3e38) + finish(1),
        BAD,
        "dL/dh1, the gradient of what block 0 gives, holds NaN or infinity",
    ),
    "finish with an open micro-batch": (lambda s: opened(s) + forward() + finish(0), BAD, "finish.steps"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_its_own_session_alone(world, fault):
    edge, spec, other = world
    messages, code, word = FAULTS[fault]
    answers, got, text = talk(edge.split.Train, messages(spec))
    assert (got, word in text) == (code, True), text
    edge.settle()
    assert not edge.sessions._committed
    assert edge.sessions.room == 1  # the session is gone, and its place is free
    if answers:  # it had been opened: it is not to be taken up again
        again = opened(spec, resume_token=answers[0].opened.resume_token)
        assert talk(edge.split.Train, again)[1] is grpc.StatusCode.NOT_FOUND
    other.step()


@contextmanager
def dropped_at_the_end(edge):
    """For streams that leave a session: the edge keeps it until it is idle."""
    yield
    for session in [s for s in edge.sessions._open.values() if s.agreed.client == "ann"]:
        edge.sessions.drop(session, "the test is over")


def test_a_message_beyond_the_limit_ends_its_call(world):
    edge, spec, other = world
    large = split_pb2.TrainRequest(chunk=tensor_pb2.Chunk(data=bytes(2**20)))
    with dropped_at_the_end(edge), grpc.insecure_channel(edge.address) as channel:
        method = channel.stream_stream(
            "/elsa.v1.SplitService/Train",
            request_serializer=split_pb2.TrainRequest.SerializeToString,
            response_deserializer=split_pb2.TrainResponse.FromString,
        )
        _, code, _ = talk(method, [*opened(spec), large])
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        other.step()


def test_a_duplicate_is_answered_from_memory_and_changes_nothing(world):
    edge, spec, other = world
    once = [*opened(spec), *forward(), *backward(), *finish(1)]
    twice = [*opened(spec), *forward(), *forward(), *backward(), *backward(), *finish(1)]
    answers, code, _ = talk(edge.split.Train, once)
    doubled, again, _ = talk(edge.split.Train, twice)
    assert code is again is grpc.StatusCode.OK
    forwards = [m.forward_result.activations for m in doubled if m.HasField("forward_result")]
    backwards = [m.backward_result.gradient for m in doubled if m.HasField("backward_result")]
    assert forwards == [answers[1].forward_result.activations] * 2
    assert backwards == [answers[2].backward_result.gradient] * 2
    assert doubled[-1].finished.trunk_sha256 == answers[-1].finished.trunk_sha256
    other.step()


def test_what_follows_finish_is_not_read(world):
    edge, spec, other = world
    answers, code, _ = talk(edge.split.Train, [*opened(spec), *finish(0), *forward()])
    assert code is grpc.StatusCode.OK and answers[-1].HasField("finished")
    assert edge.sessions.committed(answers[0].opened.session_id).tensors
    other.step()


def test_a_stream_without_finish_commits_nothing(world):
    edge, spec, other = world
    with dropped_at_the_end(edge):
        answers, code, _ = talk(edge.split.Train, [*opened(spec), *forward(), *backward()])
        assert code is grpc.StatusCode.OK and len(answers) == 3
        with pytest.raises(NotFoundError, match="finish"), translated("edge"):
            push_update(edge, "ann", {"x": tensor([1]).numpy()}, answers[0].opened.session_id, count=1)
        other.step()


def test_a_half_close_within_a_tensor_leaves_the_session_to_be_resumed(world):
    edge, spec, other = world
    with dropped_at_the_end(edge):
        cut = changed(forward(lengths=[100] * 8, values=torch.ones(800, WIDTH)), not_last)
        chunk_of(cut[0]).data = chunk_of(cut[0]).data[:1000]
        chunk_of(cut[0]).crc32 = zlib.crc32(chunk_of(cut[0]).data)
        answers, code, _ = talk(edge.split.Train, [*opened(spec), cut[0]])
        assert code is grpc.StatusCode.OK and len(answers) == 1
        token = answers[0].opened.resume_token
        answers, code, _ = talk(edge.split.Train, [*opened(spec, resume_token=token), *forward(), *backward()])
        assert code is grpc.StatusCode.OK and answers[0].opened.resume_token == token and len(answers) == 3
        other.step()


def test_a_token_is_of_use_to_its_own_client_alone(world):
    edge, spec, other = world
    token = other.bob.trunk.opened.resume_token
    _, code, _ = talk(edge.split.Train, opened(spec, resume_token=token))
    assert code is grpc.StatusCode.NOT_FOUND
    other.step()


PREDICT = {
    "nothing": (lambda o, f: [], BAD, "open"),
    "unknown run": (lambda o, f: [o(run_id="x")], grpc.StatusCode.NOT_FOUND, "x"),
    "another edge's client": (lambda o, f: [o(client_id="eve")], grpc.StatusCode.PERMISSION_DENIED, "eve"),
    "another version": (lambda o, f: [o(version=3)], grpc.StatusCode.FAILED_PRECONDITION, "version 3"),
    "impossible split": (lambda o, f: [o(split=split_pb2.Split(bottom=1, trunk=4, top=1))], BAD, "open.split"),
    "window 0": (lambda o, f: [o(window=0)], BAD, "open.window"),
    "a step ahead": (lambda o, f: [o(), *f(step=1)], BAD, "step 0"),
    "the same step again": (lambda o, f: [o(), *f(), *f()], BAD, "step 1"),
    "NaN": (lambda o, f: [o(), *f(values=nan())], BAD, "forward.activations"),
    "altered": (lambda o, f: [o(), *changed(f(), altered)], grpc.StatusCode.DATA_LOSS, "offset 0"),
    "too long": (lambda o, f: [o(), *f(lengths=[101])], BAD, "lengths[0]"),
}


@pytest.mark.parametrize("fault", PREDICT)
def test_a_fault_of_a_prediction_is_named(world, fault):
    edge, spec, other = world
    messages, code, word = PREDICT[fault]

    def first(**given):
        train = opening(spec, "ann", HALF)
        fields = {"run_id": RUN, "client_id": "ann", "split": train.split, "codecs": train.codecs, "window": 2}
        return split_pb2.PredictRequest(open=split_pb2.PredictOpen(**{**fields, **given}))

    def send(**given):
        return forward(**given, request=split_pb2.PredictRequest)

    _, got, text = talk(edge.split.Predict, messages(first, send))
    assert (got, word in text) == (code, True), text
    other.step()


def test_pings_are_bounded(world):
    edge, _, other = world
    answer = edge.split.Ping(split_pb2.PingRequest(payload=bytes(2**19), reply_bytes=2**19), timeout=5)
    assert len(answer.payload) == 2**19 and answer.room == 1
    for request in (split_pb2.PingRequest(payload=bytes(2**19 + 1)), split_pb2.PingRequest(reply_bytes=2**19 + 1)):
        with pytest.raises(MalformedError, match="PingRequest"), translated("edge"):
            edge.split.Ping(request, timeout=5)
    other.step()


@pytest.fixture
def finished(world):
    """A finished session of ann, and its update."""
    edge, spec, other = world
    ann = Trainee(spec, first_adapter(spec), rows(20, 1), split=HALF).connect(edge).train(1)
    ann.finish(edge)
    yield ann
    other.step()


def test_a_push_is_checked_against_session_round_and_model(world, finished):
    edge, _, _ = world
    session, own = finished.trunk.opened.session_id, finished.own()
    name = next(iter(own))
    trunk = dict(edge.sessions.committed(session).tensors)
    one = next(iter(trunk.items()))
    faults = [
        ({"client": "bob"}, own, PermissionDeniedError, "bob"),
        ({"client": "eve"}, own, PermissionDeniedError, "eve"),
        ({"version": 1}, own, StaleRoundError, "version 1"),
        ({"edge_round": 1}, own, StaleRoundError, "edge round 1"),
        ({"run_id": "other"}, own, NotFoundError, "other"),
        ({"session_id": "0"}, own, NotFoundError, "session 0"),
        ({"count": 0}, own, MalformedError, "header.rows"),
        ({"count": 2**50}, own, MalformedError, "header.rows"),
        ({"loss": float("nan")}, own, MalformedError, "reports"),
        ({"rows": 3}, own, MalformedError, "reports"),
        ({}, {**own, one[0]: one[1]}, MalformedError, "trunk's"),
        ({}, {key: value for key, value in own.items() if key != name}, MalformedError, name),
        ({}, {**own, name: own[name][..., :1]}, MalformedError, name),
        ({}, {"x": own[name], **{k: v for k, v in own.items() if k != name}}, MalformedError, name),
    ]
    for given, tensors, error, word in faults:
        given = {"client": "ann", "session_id": session, **given}
        with pytest.raises(error, match=word.replace(".", r"\.")), translated("edge"):
            push_update(edge, given.pop("client"), tensors, **given)
    large = adapter_pb2.AdapterHeader(
        run_id=RUN, node_id="ann", rows=1, total_bytes=2**29, reports=[adapter_pb2.ClientReport(client_id="ann")]
    )
    with pytest.raises(MalformedError, match=r"header\.total_bytes"), translated("edge"):
        edge.adapters.PushAdapter(iter([adapter_pb2.PushAdapterRequest(header=large)]), timeout=5)


def test_the_same_push_twice_is_one_update(world, finished):
    edge, _, _ = world
    assert finished.push(edge) is True
    assert finished.push(edge) is False
    assert finished.push(edge, count=11) is False  # the digest says what it is


def test_a_pull_is_for_the_edges_own_clients(world):
    edge, _, other = world
    with pytest.raises(PermissionDeniedError, match="eve"), translated("edge"):
        list(edge.adapters.PullAdapter(adapter_pb2.PullAdapterRequest(run_id=RUN, node_id="eve"), timeout=5))
    other.step()


@pytest.mark.parametrize("wait_s", [-1.0, 61.0, float("nan"), float("inf")])
def test_a_pull_waits_for_a_time_that_is_allowed(world, wait_s):
    edge, _, _ = world
    request = adapter_pb2.PullAdapterRequest(run_id=RUN, node_id="ann", wait_s=wait_s)
    with pytest.raises(MalformedError, match="wait_s"), translated("edge"):
        list(edge.adapters.PullAdapter(request, timeout=5))


def test_splits_of_the_model_are_those_that_the_edge_owns_blocks_for(world):
    edge, spec, other = world
    ann = Trainee(spec, first_adapter(spec), rows(20, 1), split=Split(bottom=1, trunk=1, top=2))
    ann.connect(edge).train(1)
    ann.finish(edge)
    other.step()
