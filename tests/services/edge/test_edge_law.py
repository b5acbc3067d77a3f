"""The law over a real channel: training through an edge is training of the unsplit model."""

import threading

import numpy as np
import pytest
from split_harness import (
    HALF,
    Trainee,
    assert_same,
    client_segment,
    edge_server,
    end_of,
    first_adapter,
    opening,
    rows,
    spec_of,
    tensor,
    whole_segment,
)

from elsa.data.batches import batches, sequential
from elsa.errors import CapacityError, StaleRoundError
from elsa.model import adapter as adapters
from elsa.spec import Split
from elsa.train.session import Position
from elsa.train.step import evaluate
from elsa.train.whole import evaluate_whole, train_whole
from elsa.v1 import split_pb2
from elsa.wire.adapter import encode_adapter, sha256
from services.client.predict_trunk import PredictTrunk


def unsplit(spec, start, data, steps):
    """Losses and the whole adapter of a model trained in one piece."""
    segment = whole_segment(spec, start)
    dealt = batches(data, spec.training.batch, steps, (1,))
    losses = train_whole(segment, dealt, task=spec.model.task, training=spec.training)
    return losses, adapters.read(segment)


@pytest.mark.parametrize(("micro_batches", "window"), [(1, 1), (1, 2), (4, 1), (4, 3), (3, 16)])
def test_training_through_an_edge_equals_the_unsplit_model(tiny_bert, micro_batches, window):
    spec = spec_of(tiny_bert, training={"batch": 8, "micro_batches": micro_batches, "window": window})
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, data).connect(edge).train(4)
        trunk = ann.finish(edge)
    twin = Trainee(spec, start, data).locally(start).train(4)
    assert ann.losses == twin.losses
    assert_same(trunk, twin.session.finish(4))
    assert_same(ann.own(), twin.own())
    losses, whole = unsplit(spec, start, data, 4)
    np.testing.assert_allclose(ann.losses, losses, rtol=0, atol=1e-5)
    assert_same({**ann.own(), **trunk}, whole, 1e-5)
    assert max(np.abs(whole[name] - start[name]).max() for name in trunk) > 1e-3


def test_tensors_beyond_a_mebibyte_travel_whole_both_ways(tiny_bert):
    spec = spec_of(tiny_bert, training={"batch": 56})
    start, data = first_adapter(spec), rows(56, 2, tokens=(90, 98))
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, data).connect(edge).train(2)
        trunk = ann.finish(edge)
        counted = ann.trunk._open_stream().bytes
    assert counted.up > 4 * 2**20 and counted.down > 4 * 2**20
    twin = Trainee(spec, start, data).locally(start).train(2)
    assert ann.losses == twin.losses
    assert_same(trunk, twin.session.finish(2))


def test_bfloat16_trains_closely_with_half_the_bytes(tiny_bert):
    codecs = dict.fromkeys(("h1", "h2", "dh2", "dh1"), "bf16")
    spec, plain = spec_of(tiny_bert, codecs=codecs), spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 3, tokens=(30, 40))
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        edge.open_run(plain, start, ["bob"], run_id="plain-1")
        ann = Trainee(spec, start, data).connect(edge).train(3)
        bob = Trainee(plain, start, data, client="bob").connect(edge, run_id="plain-1").train(3)
        ours, theirs = ann.finish(edge), bob.finish(edge)
    np.testing.assert_allclose(ann.losses, bob.losses, rtol=0.05)
    assert ann.losses != bob.losses
    moved = np.concatenate([(theirs[name] - start[name]).ravel() for name in theirs])
    apart = np.concatenate([(theirs[name] - ours[name]).ravel() for name in theirs])
    assert np.linalg.norm(apart) < 0.5 * np.linalg.norm(moved)
    for way in ("up", "down"):
        share = getattr(ann.finished.bytes, way) / getattr(bob.finished.bytes, way)
        assert 0.45 < share < 0.55


def test_clients_with_different_splits_train_at_once_as_each_alone(tiny_bert):
    splits = {"ann": HALF, "bob": Split(bottom=1, trunk=3, top=0), "cat": Split(bottom=2, trunk=1, top=1)}
    parts = {name: {"bottom": split.bottom, "top": split.top} for name, split in splits.items()}
    spec = spec_of(tiny_bert, splits=parts, training={"micro_batches": 2})
    start = first_adapter(spec)
    data = {name: rows(20, seed) for seed, name in enumerate(splits)}
    with edge_server() as edge:
        edge.open_run(spec, start, list(splits))
        trainees = {name: Trainee(spec, start, data[name], client=name, split=splits[name]) for name in splits}
        together = threading.Barrier(len(splits))

        def work(name):
            trainees[name].connect(edge)
            together.wait()
            trainees[name].train(5)

        threads = [threading.Thread(target=work, args=[name]) for name in splits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got = {name: trainee.finish(edge) for name, trainee in trainees.items()}
    for name, split in splits.items():
        twin = Trainee(spec, start, data[name], client=name, split=split).locally(start).train(5)
        assert trainees[name].losses == twin.losses
        assert_same(got[name], twin.session.finish(5))
        assert_same(trainees[name].own(), twin.own())


def test_a_full_edge_refuses_one_more_and_serves_the_others_on(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    with edge_server(capacity=2) as edge:
        run = edge.open_run(spec, start, ["ann", "bob", "cat"])
        ann = Trainee(spec, start, data).connect(edge).train(1)
        bob = Trainee(spec, start, data, client="bob").connect(edge).train(1)
        with pytest.raises(CapacityError, match="2 sessions"):
            Trainee(spec, start, data, client="cat").connect(edge)
        ann.train(1), bob.train(1)
        ann.finish(edge)
        cat = Trainee(spec, start, data, client="cat").connect(edge).train(2)
        bob.finish(edge), cat.finish(edge)
        assert ann.losses == bob.losses == cat.losses
        assert edge.sessions.room == 2
        assert run.trunk.slots.there == 2  # the slot came back and was used again


def test_finished_names_the_digest_and_counts_what_the_client_counts(tiny_bert):
    spec = spec_of(tiny_bert)
    start = first_adapter(spec)
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        ann = Trainee(spec, start, rows(20, 1)).connect(edge).train(2)
        before = ann.trunk._open_stream().bytes
        trunk = ann.finish(edge)
    assert ann.finished.trunk_sha256 == sha256(encode_adapter(trunk))
    assert ann.finished.steps == 2
    assert (ann.finished.bytes.up, ann.finished.bytes.down) == (before.up, before.down)


def predict_opening(spec, client="ann", version=0, split=HALF):
    given = opening(spec, client, split)
    return split_pb2.PredictOpen(
        run_id=given.run_id,
        client_id=client,
        version=version,
        split=given.split,
        codecs=given.codecs,
        window=given.window,
    )


@pytest.mark.parametrize("split", [HALF, Split(bottom=1, trunk=3, top=0)])
def test_predicting_through_an_edge_equals_the_whole_model(tiny_bert, split):
    splits = {"ann": {"bottom": split.bottom, "top": split.top}}
    spec = spec_of(tiny_bert, splits=splits)
    start, data = first_adapter(spec), rows(30, 4)
    with edge_server() as edge:
        run = edge.open_run(spec, first_adapter(spec, 8), ["ann"])
        bob = Trainee(spec, start, data, client="ann").connect(edge).train(1)  # must not touch what is predicted with
        edge.open_round(run, 1, start)
        trunk = PredictTrunk(
            edge.split, predict_opening(spec, version=1, split=split), "edge", end=end_of(spec, split)
        )
        segment = client_segment(spec, split, start)
        got = evaluate(segment, trunk, sequential(data, 8), split=split, task=spec.model.task, window=2)
        trunk.close()
        bob.trunk.abandon()
    want = evaluate_whole(whole_segment(spec, start), sequential(data, 8), task=spec.model.task)
    assert (got.correct, got.count) == (want.correct, want.count)
    assert got.loss == pytest.approx(want.loss, abs=1e-4)


def test_a_version_that_is_over_is_not_predicted_with(tiny_bert):
    spec = spec_of(tiny_bert)
    start, data = first_adapter(spec), rows(10, 4)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        trunk = PredictTrunk(edge.split, predict_opening(spec), "edge", end=end_of(spec))
        segment = client_segment(spec, HALF, start)
        answers = sequential(data, 2)
        evaluate(segment, trunk, [next(answers)], split=HALF, task=spec.model.task, window=1)
        edge.open_round(run, 1, start)
        trunk.forward(Position(step=1, micro_batch=0), tensor([3, 2]), [3, 2])
        with pytest.raises(StaleRoundError, match="version 0"):
            trunk.receive()
        with pytest.raises(StaleRoundError):
            PredictTrunk(edge.split, predict_opening(spec), "edge", end=end_of(spec))
