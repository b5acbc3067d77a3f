"""Codecs, turns and kept rows over a real edge's streams: breaks change nothing, and what is wrong is refused."""

import logging
import threading

import grpc
import numpy as np
import pytest
import torch
from split_harness import (
    HALF,
    WIDTH,
    Trainee,
    assert_same,
    edge_server,
    end_of,
    first_adapter,
    opening,
    rows,
    spec_of,
    talk,
    tensor,
)
from test_edge_resume import Clock, Schedule, proxied

from elsa.privacy.keys import Key
from elsa.privacy.ssop import key_to_proto, public_basis
from elsa.privacy.turns import Turns
from elsa.train.client_end import ClientEnd
from elsa.train.fitting import codecs_for
from elsa.train.phases import Stopwatch
from elsa.train.reuse import ClientRows
from elsa.v1 import split_pb2 as pb
from elsa.wire.chunks import split_chunks
from elsa.wire.kept import KeptRows, Shelf
from elsa.wire.tensor import payload_to_proto, raw_bytes
from services.client.trunk import TrainTrunk

BAD = grpc.StatusCode.INVALID_ARGUMENT
CODECS = {
    "h1": "subspace(ratio=4) | int4",
    "h2": "subspace(ratio=4) | int4",
    "dh2": "topk(fraction=0.25) | int8",
    "dh1": "topk(fraction=0.25) | int8",
    "change": "int8",
}
KEYED = {"ssop": {"rank": 4, "edge": "keyed"}}


class Coded(Trainee):
    """A trainee whose end keeps rows where the run does, and which may turn its states."""

    def __init__(self, *given, turns=None, **named):
        super().__init__(*given, **named)
        self.turns = turns
        if self.spec.reuse.enabled:
            kept = ClientRows(
                frozen=not self.spec.lora.bottom_adapters,
                threshold=self.spec.reuse.threshold,
                kept=KeptRows(Shelf(1 << 24, 0)),
            )
            self.end = ClientEnd(codecs_for(self.spec, WIDTH), WIDTH, self.split, rows=kept)

    def connect(self, edge, stub=None, patience_s=20.0, **given):
        self.trunk = TrainTrunk(
            stub or edge.split,
            opening(self.spec, self.client, self.split, **given),
            "edge",
            end=self.end,
            turns=self.turns,
            keyed=self.turns is not None,
            watch=Stopwatch(),
            stop=threading.Event(),
            patience_s=patience_s,
        )
        self.trunk.open()
        return self._begin(self.trunk)

    def _begin(self, trunk):
        super()._begin(trunk)
        self.trainer._bottom_adapters = self.spec.lora.bottom_adapters
        return self


def coded(folder, **parts):
    training = {"micro_batches": 2, "window": 2, "batch": 8}
    return spec_of(folder, codecs=CODECS, training=training, **parts)


@pytest.mark.parametrize("reuse", [{}, {"enabled": True, "threshold": 0.0}], ids=["plain", "reuse"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_breaks_at_every_message_leave_the_very_same_adapter(tiny_bert, monkeypatch, when, reuse):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.01)
    spec, steps = coded(tiny_bert, reuse=reuse), 8
    start, data = first_adapter(spec), rows(16, 1, tokens=(9, 9))
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann", "bob"])
        ann = Coded(spec, start, data).connect(edge, stub)
        schedule = Schedule(proxy, ann.trunk)
        points = [(kind, step, part) for step in range(steps) for kind in ("forward", "backward") for part in (0, 1)]
        for point in points[::3]:
            schedule.cut_at(*point, when)
        broken = ann.train(steps).finish(edge)
        assert not schedule.left and proxy.cuts == len(points[::3])
        assert ann.end.calibrations, "it was calibrated meanwhile"
        bob = Coded(spec, start, data, client="bob").connect(edge).train(steps)
        whole = bob.finish(edge)
    assert ann.losses == bob.losses
    assert_same(broken, whole)
    assert_same(ann.own(), bob.own())


def test_both_sides_count_the_same_bytes_and_codecs_save_most_of_them(tiny_bert):
    counts = {}
    for name, codecs in (("none", {}), ("coded", dict.fromkeys(CODECS, "subspace(ratio=4) | int4"))):
        spec = spec_of(tiny_bert, codecs=codecs, training={"batch": 16})
        start, data = first_adapter(spec), rows(32, 1, tokens=(20, 30))
        with edge_server() as edge:
            edge.open_run(spec, start, ["ann"])
            ann = Coded(spec, start, data).connect(edge).train(20)
            sent = ann.trunk._stream.bytes
            ann.finish(edge)
            finish = ann.finished.bytes  # as the edge counted, without Finish and Finished
            assert (finish.up, finish.down) == (sent.up, sent.down)
            counts[name] = (finish.up, finish.down)
    assert counts["coded"][0] < counts["none"][0] / 8 and counts["coded"][1] < counts["none"][1] / 8


def test_a_second_session_attaches_nothing_and_a_restarted_edge_is_attached_to(tiny_bert):
    spec = coded(tiny_bert)
    start, data = first_adapter(spec), rows(16, 1, tokens=(9, 9))
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        ann = Coded(spec, start, data).connect(edge).train(6)
        assert ann.trunk.opened.calibrations == []
        (mine,) = ann.end.calibrations  # of h2
        ann.finish(edge)
        first_bytes = ann.trunk._stream.bytes
        ann.losses = []
        ann.connect(edge).train(6)
        assert list(ann.trunk._opening.calibrations) == [mine]
        assert len(ann.trunk.opened.calibrations) == 1
        attached = (WIDTH + WIDTH * WIDTH // 4) * 2
        assert ann.trunk._stream.bytes.up < first_bytes.up - attached / 2
        ann.finish(edge)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        ann.losses = []
        ann.connect(edge).train(2)
        assert ann.trunk.opened.calibrations == []
        ann.finish(edge)
        ann.losses = []
        ann.connect(edge)
        assert len(ann.trunk.opened.calibrations) == 1, "attached again"


def test_an_edge_that_dropped_its_rows_is_sent_them_whole(tiny_bert):
    spec, clock = coded(tiny_bert, reuse={"enabled": True}, lora={"bottom_adapters": False}), Clock()
    start, data = first_adapter(spec), rows(8, 1, tokens=(9, 9))
    with edge_server(clock=clock, idle_timeout_s=30) as edge:
        run = edge.open_run(spec, start, ["ann"])
        room = run.ends._shelf.memory_bytes
        ann = Coded(spec, start, data).connect(edge).train(2)
        numbers = range(8)
        assert not any(ann.end.missing(numbers))
        assert run.ends._shelf.memory_bytes < room
        clock.now += 31
        edge.sessions.drop_idle()
        edge.settle()
        assert run.ends._shelf.memory_bytes == room, "rows go when the session idles out"
        ann.losses = []
        ann.connect(edge)
        assert all(ann.end.missing(numbers))
        ann.train(2).finish(edge)
        assert run.ends._shelf.memory_bytes < room
        edge.worker.run(lambda: run.ends.keep(["bob"]))
        assert run.ends._shelf.memory_bytes == room, "and when the client leaves"


def test_kept_rows_outlive_the_rounds_and_save_their_bytes(tiny_bert):
    spec = coded(tiny_bert, reuse={"enabled": True}, lora={"bottom_adapters": False})
    start, data = first_adapter(spec), rows(8, 1, tokens=(20, 30))
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        ann = Coded(spec, start, data).connect(edge).train(1)
        ann.finish(edge)
        first = ann.trunk._stream.bytes.up
        edge.open_round(run, 1, start)
        ann.losses = []
        ann.connect(edge, version=1).train(1)
        ann.finish(edge)
        assert ann.trunk._stream.bytes.up < 0.6 * first


def test_a_keyed_edge_trains_as_an_unprotected_one_and_its_key_shows_nowhere(tiny_bert, caplog):
    caplog.set_level(logging.DEBUG)
    plain, spec = spec_of(tiny_bert), spec_of(tiny_bert, privacy=KEYED)
    start, data = first_adapter(spec), rows(20, 1)
    secret = bytes(range(7, 39))
    turns = Turns(Key(secret), public_basis(tensor((200,)), 4), 1, renew_each_step=False)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        ann = Coded(spec, start, data, turns=turns).connect(edge).train(3)
        trunk = ann.finish(edge)
        wrong = [pb.TrainRequest(open=opening(spec, "ann", ssop=ssop_of(spec, secret, rank=3)))]
        _, code, text = talk(edge.split.Train, wrong)
        assert code is BAD
    twin = Trainee(plain, start, data).locally(start).train(3)
    np.testing.assert_allclose(ann.losses, twin.losses, atol=1e-4)
    assert_same(trunk, twin.session.finish(3), tolerance=2e-3)  # AdamW follows the sign of a gradient near 0
    for shown in (str(secret), secret.hex(), repr(secret)[2:-1]):
        assert shown not in caplog.text and shown not in text


def ssop_of(spec, secret=bytes(32), rank=4, each_step=False, basis=None):
    basis = public_basis(tensor((200,)), rank) if basis is None else basis
    message = key_to_proto(Key(secret), renew_each_step=each_step)
    message.basis.CopyFrom(payload_to_proto([basis])[0])
    return message


@pytest.fixture
def cut_basis(monkeypatch):
    """Bases travel in pieces of 300 bytes, as those of wide models do in larger ones."""

    def pieces(parts):
        payload, _ = payload_to_proto(parts)
        first, *rest = split_chunks(raw_bytes(parts[0]), 300)
        payload.chunk.CopyFrom(first)
        return payload, rest

    monkeypatch.setattr("services.client.requests.payload_to_proto", pieces)
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.01)


def test_a_basis_in_pieces_is_counted_and_an_answer_that_was_lost_is_given_again(tiny_bert, cut_basis, monkeypatch):
    spec = spec_of(tiny_bert, privacy=KEYED)
    start, data = first_adapter(spec), rows(20, 1)
    turns = Turns(Key(bytes(32)), public_basis(tensor((200,)), 4), 1, renew_each_step=False)
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann"])
        ann = Coded(spec, start, data, turns=turns).connect(edge, stub).train(2)
        sent, real = ann.trunk._stream.bytes, edge.sessions.commit

        def commit(*given):
            real(*given)
            proxy.cut()

        monkeypatch.setattr(edge.sessions, "commit", commit)
        ann.finish(edge)
        assert proxy.cuts == 1
        assert (ann.finished.bytes.up, ann.finished.bytes.down) == (sent.up, sent.down)


def test_rows_stay_known_after_an_answer_to_finish_that_was_lost(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.client.trunk.RESUME_PAUSE_S", 0.01)
    spec = coded(tiny_bert, reuse={"enabled": True}, lora={"bottom_adapters": False})
    start, data = first_adapter(spec), rows(8, 1)
    with edge_server() as edge, proxied(edge) as (proxy, stub):
        edge.open_run(spec, start, ["ann"])
        ann = Coded(spec, start, data).connect(edge, stub).train(1)
        real = edge.sessions.commit

        def commit(*given):
            real(*given)
            proxy.cut()

        monkeypatch.setattr(edge.sessions, "commit", commit)
        ann.finish(edge)
        assert proxy.cuts == 1
        ann.connect(edge)
        assert not any(ann.end.missing(range(8)))


def refused(edge, spec, messages=(), **given):
    _, code, text = talk(edge.split.Train, [pb.TrainRequest(open=opening(spec, "ann", **given)), *messages])
    assert code is BAD, text
    return text


@pytest.fixture(scope="module")
def plain_edge(tiny_bert):
    spec = spec_of(tiny_bert, codecs={"h1": "int8"})
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        yield edge, spec


def test_codecs_other_than_the_runs_are_refused_naming_both(plain_edge, tiny_bert):
    edge, spec = plain_edge
    other = opening(spec_of(tiny_bert, codecs={"h1": "int4"}), "ann").codecs
    assert "open.codecs.h1: int4; the run's specification says int8" in refused(edge, spec, codecs=other)


def test_an_opening_that_is_not_the_runs_is_refused(plain_edge):
    edge, spec = plain_edge
    assert "open.wants_gradient: False" in refused(edge, spec, wants_gradient=False)
    assert "open.ssop: set; the run's SS-OP is None" in refused(edge, spec, ssop=ssop_of(spec))
    assert "open.calibrations: at most 16" in refused(edge, spec, calibrations=[bytes(8)] * 17)
    assert "open.calibrations: at most 16" in refused(edge, spec, calibrations=[bytes(7)])


def coded_forward(numbers, forms, values=None, changes=None, lengths=(3, 2)):
    message = pb.Forward(lengths=lengths)
    for number, form in zip(numbers, forms, strict=True):
        message.rows.add(row=number, form=form)
    for field, part in ((message.activations, values), (message.changes, changes)):
        if part is not None:
            field.CopyFrom(payload_to_proto([part])[0])
    return [pb.TrainRequest(forward=message)]


WHOLE, CHANGE, KEPT = pb.ROW_FORM_WHOLE, pb.ROW_FORM_CHANGE, pb.ROW_FORM_KEPT


def test_rows_of_a_run_without_reuse_are_refused(plain_edge):
    edge, spec = plain_edge
    text = refused(edge, spec, coded_forward((1, 2), (WHOLE, WHOLE), tensor((3, 2))))
    assert "forward.rows: the run's specification has no reuse" in text


@pytest.mark.parametrize(
    ("numbers", "forms", "values", "says"),
    [
        ((1, 2), (KEPT, WHOLE), tensor((2,)), "forward.rows[0]: row 1 is not kept here; send it whole"),
        ((1, 2), (CHANGE, WHOLE), tensor((2,)), "forward.rows[0]: a change, but the run's bottom does not change"),
        ((1, 1), (WHOLE, WHOLE), tensor((3, 2)), "forward.rows[1]: row 1 stands twice"),
        ((1, 2), (WHOLE, WHOLE), None, "forward.activations: missing, but 5 tokens travel so"),
        ((1, 2), (KEPT, KEPT), tensor((3, 2)), "forward.activations: set, but 0 tokens travel so"),
        ((1, 2), (WHOLE, WHOLE), tensor((3, 1)), "forward.activations.parts[0].shape: [4, 64], expected [5, 64]"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tiny_bert, numbers, forms, values, says):
    spec = spec_of(tiny_bert, reuse={"enabled": True}, lora={"bottom_adapters": False})
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        changes = tensor((3,)) if CHANGE in forms else None
        assert says in refused(edge, spec, coded_forward(numbers, forms, values, changes))


def test_a_run_with_a_keyed_edge_refuses_a_wrong_turn(tiny_bert):
    spec = spec_of(tiny_bert, privacy=KEYED)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        assert "open.ssop: missing; the run's SS-OP is keyed" in refused(edge, spec)
        assert "open.ssop.basis.parts[0].shape" in refused(edge, spec, ssop=ssop_of(spec, rank=3))
        skew = torch.ones(4, WIDTH)
        assert "off orthonormal" in refused(edge, spec, ssop=ssop_of(spec, basis=skew))
        assert "open.ssop.renew_each_step: True" in refused(edge, spec, ssop=ssop_of(spec, each_step=True))
        assert edge.sessions.room == 4


def test_a_trunk_that_gives_nan_names_its_block(tiny_bert):
    spec = spec_of(tiny_bert)
    start = {name: np.full_like(values, 1e30) for name, values in first_adapter(spec).items()}
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        stream = [pb.TrainRequest(open=opening(spec, "ann"))]
        payload, _ = payload_to_proto([tensor((3, 2))])
        stream.append(pb.TrainRequest(forward=pb.Forward(lengths=(3, 2), activations=payload)))
        _, code, text = talk(edge.split.Train, stream)
        assert code is BAD and "h2, what block 2 gives, holds NaN or infinity" in text
        assert end_of(spec).calibrations == () and HALF.trunk_blocks.stop == 3
