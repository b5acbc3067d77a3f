"""A client's rounds: what is tried again, what is not, and that nothing of it outlives the run."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from split_harness import edge_server, first_adapter, rows, spec_of, whole_segment
from tcp_proxy import Proxy
from trainer_harness import trainer_of

from elsa.data.batches import sequential
from elsa.errors import (
    CapacityError,
    MalformedError,
    NotFoundError,
    RoundGivenUpError,
    StaleRoundError,
    UnreachableError,
)
from elsa.train.whole import evaluate_whole
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.adapter import encode_adapter
from services.client.rounds import RoundLoop
from services.client.site import SiteData
from services.client.stream import Stream
from services.client.tally import Tally
from services.rpc.adapters import Pulled
from services.rpc.channel import connect
from services.rpc.pace import Pace, PacedWatch

RUN = "tiny-1"


class Link:
    """The cloud as a client's rounds see it: takes evaluations."""

    node_id = "ann"

    def __init__(self):
        self.evaluations = []
        self.runs = SimpleNamespace(ReportEvaluation=lambda request, timeout: self.evaluations.append(request))

    def patiently(self, call):
        return call()


def loop_at(spec, data, address, link, stop, patience_s=20.0):
    channel = connect(address)
    trainer = trainer_of(spec, data, SplitServiceStub(channel), stop=stop, patience_s=patience_s)
    loop = RoundLoop(
        RUN,
        spec,
        lambda: trainer,
        link=link,
        edge=AdapterServiceStub(channel),
        peer="edge",
        stop=stop,
        evaluated=set(),
        tally=Tally(),
        patience_s=patience_s,
    )
    return loop, channel


def serve_rounds(run, edge, spec, before_round=lambda place: None):
    """What the edge's driver does, for one global round after the other."""
    adapter, closed = run.rounds._serving.served.adapter, []
    for version in range(spec.training.rounds):
        for edge_round in range(spec.training.edge_rounds):
            before_round((version, edge_round))
            result = run.rounds.close(30)
            closed.append(result)
            adapter = result.parts[0].adapter
            run.sessions.forget_round(RUN)
            if edge_round + 1 < spec.training.edge_rounds:
                run.rounds.open(version, edge_round + 1, adapter)
        edge.open_round(run, version + 1, adapter)
    return closed


def whole_run(spec, data, start, proxy_at=None):
    """A client's run with an edge; the last adapter and the evaluations."""
    link, stop = Link(), threading.Event()
    with edge_server(idle_timeout_s=30) as edge:
        run = edge.open_run(spec, start, ["ann"])
        proxy = Proxy(edge.address) if proxy_at else None
        loop, channel = loop_at(spec, data, proxy.address if proxy else edge.address, link, stop)
        worker = threading.Thread(target=loop.run)
        worker.start()
        closed = serve_rounds(run, edge, spec, (lambda place: proxy_at(place, proxy, edge)) if proxy_at else _nothing)
        worker.join(30)
        assert not worker.is_alive()
        channel.close()
        if proxy:
            proxy.close()
    return closed[-1].parts[0].adapter, link.evaluations


def _nothing(place):
    pass


@pytest.fixture
def data():
    return SiteData(train=rows(20, 1), heldout=rows(6, 2), report="")


def test_every_version_is_evaluated_once_as_the_whole_model_is(tiny_bert, data):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    adapter, evaluations = whole_run(spec, data, start)
    assert [request.evaluation.version for request in evaluations] == [0, 1, 2]
    want = evaluate_whole(whole_segment(spec, dict(adapter)), sequential(data.heldout, 8), task=spec.model.task)
    last = evaluations[-1].evaluation
    assert (last.rows, last.accuracy) == (6, want.correct / want.count)
    assert last.loss == pytest.approx(want.loss / want.count, abs=1e-5)
    assert max(np.abs(adapter[name] - start[name]).max() for name in start) > 1e-3


def test_a_session_lost_for_good_makes_the_client_do_the_round_again(tiny_bert, data, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.05)
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    want, _ = whole_run(spec, data, start)
    lost = []

    def lose(place, proxy, edge):
        if place != (0, 1):
            return
        sessions, seen = edge.sessions, threading.Event()
        real = sessions.add

        def add(session):
            real(session)
            sessions.add = real
            seen.set()

        sessions.add = add
        assert seen.wait(20)
        for session in list(sessions._open.values()):
            lost.append(session)
            sessions.drop(session, "the test wants it")

    got, evaluations = whole_run(spec, data, start, lose)
    assert len(lost) == 1
    assert [request.evaluation.version for request in evaluations] == [0, 1, 2]
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


class Trainer:
    """A trainer whose rounds fail by a schedule."""

    heldout_rows = 1

    def __init__(self, errors):
        self.errors, self.calls = list(errors), 0

    def evaluate(self, pulled, cluster=None):
        return SimpleNamespace(loss=1.0, count=1, correct=1)

    def train(self, pulled, probes=()):
        self.calls += 1
        raise self.errors.pop(0)


def failing_loop(edge, errors, spec, patience_s=20.0):
    stop = threading.Event()
    stop.wait = lambda seconds=None: stop.is_set()  # pauses take no time
    trainer = Trainer(errors)
    loop = RoundLoop(
        RUN,
        spec,
        lambda: trainer,
        link=Link(),
        edge=edge.adapters,
        peer="edge",
        stop=stop,
        evaluated=set(),
        tally=Tally(),
        patience_s=patience_s,
    )
    return loop, stop


def test_passing_errors_are_tried_again_and_others_are_not(tiny_bert):
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        passing = [UnreachableError("a"), NotFoundError("b"), CapacityError("c")]
        loop, _ = failing_loop(edge, [*passing, MalformedError("NaN")], spec)
        with pytest.raises(MalformedError, match="NaN"):
            loop.run()
        loop, _ = failing_loop(edge, [CapacityError("full")] * 50, spec, patience_s=8.0)
        with pytest.raises(CapacityError, match="full"):
            loop.run()
        assert 3 < loop._trainer().calls < 12


def test_a_round_that_is_over_is_tried_again_with_patience(tiny_bert):
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        loop, _ = failing_loop(edge, [StaleRoundError("over")] * 50, spec, patience_s=8.0)
        with pytest.raises(StaleRoundError, match="over"):
            loop.run()
        assert 3 < loop._trainer().calls < 12


def test_an_evaluation_that_nobody_waits_for_any_more_is_done(tiny_bert):
    spec = spec_of(tiny_bert)

    def late(request, timeout):
        sent.append(request.evaluation.version)
        raise StaleRoundError("the run is past it")

    sent = []
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"], version=spec.training.rounds)
        loop, _ = failing_loop(edge, [], spec)
        loop._link.runs = SimpleNamespace(ReportEvaluation=late)
        loop.run()
        assert sent == [spec.training.rounds] and loop._evaluated == {spec.training.rounds}


def test_a_stopped_client_waits_for_nobody(tiny_bert):
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        loop, stop = failing_loop(edge, [], spec)
        stop.set()
        loop.run()
        with pytest.raises(RoundGivenUpError, match="stopped"):
            loop._sleep(100)


def test_a_stream_on_a_closed_channel_is_unreachable():
    channel = connect("127.0.0.1:9")
    stub = SplitServiceStub(channel)
    channel.close()
    with pytest.raises(UnreachableError, match="closed"):
        Stream(stub.Train, "edge", 5.0)


def test_a_paced_client_sleeps_where_it_trains_and_where_it_evaluates(tiny_bert, data, monkeypatch):
    slept = []
    monkeypatch.setattr("services.client.trainer.PacedWatch", lambda factor: PacedWatch(factor, sleep=slept.append))
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        paced = trainer_of(spec, data, edge.split, pace=Pace.parse("1,1:50"))
        paced.evaluate(pulled(start, 0))
        paced.train(pulled(start, 0))
        assert not slept
        edge.open_round(run, 1, start)
        for work in (paced.evaluate, paced.train):
            slept.clear()
            work(pulled(start, 1))
            assert slept and min(slept) > 0


def pulled(tensors, version):
    return Pulled(version=version, data=encode_adapter(tensors))
