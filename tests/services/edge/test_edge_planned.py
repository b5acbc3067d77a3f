"""An edge in a run whose splits are planned: any split within the bounds, another one in the next edge round."""

import grpc
import numpy as np
import pytest
from split_harness import (
    BLOCKS,
    HALF,
    RUN,
    WIDTH,
    Trainee,
    assert_same,
    edge_server,
    first_adapter,
    opening,
    rows,
    spec_of,
    talk,
    whole_segment,
)

from elsa.data.batches import batches
from elsa.model import adapter as adapters
from elsa.spec import Split
from elsa.train.whole import train_whole
from elsa.v1 import split_pb2
from elsa.wire.kept import Shelf
from elsa.wire.manifest import manifest_from_proto
from services.edge.ends import ClientEnds
from services.edge.trunk import trunk_blocks

WIDE = Split(bottom=1, trunk=3, top=0)
SPLITS = {
    "ann": HALF,
    "bob": WIDE,
    "cat": Split(bottom=2, trunk=1, top=1),
    "dan": Split(bottom=3, trunk=1, top=0),
    "eve": Split(bottom=1, trunk=1, top=2),
}


def planned(folder, **parts):
    return spec_of(folder, plan={"method": "measured"}, **{"split": {"bottom": 1, "top": 0}, **parts})


def test_every_split_within_the_bounds_trains_at_once_as_each_alone(tiny_bert):
    spec = planned(tiny_bert, training={"micro_batches": 2})
    start = first_adapter(spec)
    data = {name: rows(20, seed) for seed, name in enumerate(SPLITS)}
    with edge_server(capacity=len(SPLITS)) as edge:
        edge.open_run(spec, start, list(SPLITS))
        trainees = {
            name: Trainee(spec, start, data[name], client=name, split=split).connect(edge)
            for name, split in SPLITS.items()
        }
        for _ in range(3):  # a step of each in turn: all sessions are open all the time
            for trainee in trainees.values():
                trainee.train(1)
        got = {name: trainee.finish(edge) for name, trainee in trainees.items()}
    for name, split in SPLITS.items():
        twin = Trainee(spec, start, data[name], client=name, split=split).locally(start).train(3)
        assert trainees[name].losses == twin.losses
        assert_same(got[name], twin.session.finish(3))
        assert {**got[name], **trainees[name].own()}.keys() == start.keys()


@pytest.mark.parametrize(("before", "after"), [(HALF, WIDE), (WIDE, HALF), (SPLITS["dan"], SPLITS["eve"])])
def test_a_client_whose_split_changes_between_edge_rounds_trains_the_model_that_an_unsplit_one_would(
    tiny_bert, before, after
):
    spec = planned(tiny_bert)
    start, data = first_adapter(spec), rows(20, 1)
    whole, losses = start, []
    for edge_round in range(2):
        segment = whole_segment(spec, whole)
        dealt = batches(data, spec.training.batch, 3, (edge_round,))
        losses += train_whole(segment, dealt, task=spec.model.task, training=spec.training)
        whole = adapters.read(segment)

    adapter, got = start, []
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        for edge_round, split in enumerate((before, after)):
            ann = Trainee(spec, adapter, data, split=split, seed=(edge_round,))
            ann.connect(edge, edge_round=edge_round).train(3)
            ann.finish(edge)
            assert ann.push(edge, edge_round=edge_round)
            adapter = run.rounds.close(10).parts[0].adapter
            got += ann.losses
            run.rounds.open(0, edge_round + 1, adapter)
    np.testing.assert_allclose(got, losses, rtol=0, atol=1e-5)
    assert_same(adapter, whole, 1e-5)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (Split(bottom=1, trunk=2, top=1), "open.split.bottom: 1; in this run each client keeps at least 2"),
        (Split(bottom=2, trunk=2, top=0), "open.split.top: 0; in this run each client keeps at least 1"),
    ],
)
def test_a_split_below_the_bounds_is_refused_and_its_field_named(tiny_bert, split, said):
    spec = planned(tiny_bert, split={"bottom": 2, "top": 1})
    predicts = split_pb2.PredictOpen(
        **{name: getattr(opening(spec, "ann", split), name) for name in ("run_id", "client_id", "split", "codecs")},
        window=1,
    )
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        for method, message in (
            (edge.split.Train, split_pb2.TrainRequest(open=opening(spec, "ann", split))),
            (edge.split.Predict, split_pb2.PredictRequest(open=predicts)),
        ):
            _, code, text = talk(method, [message])
            assert (code.name, text) == ("INVALID_ARGUMENT", said)


def test_an_edge_holds_all_that_the_bounds_leave(tiny_bert):
    spec = planned(tiny_bert, split={"bottom": 2, "top": 1})
    assert list(trunk_blocks(spec, 12)) == list(range(2, 11))


def test_a_client_may_have_any_block_of_the_model_but_of_no_other(tiny_bert):
    spec = planned(tiny_bert)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])

        def ask(blocks):
            request = split_pb2.FetchBlocksRequest(run_id=RUN, client_id="ann", blocks=blocks, ends=True)
            return next(edge.split.FetchBlocks(request, timeout=20)).manifest

        found = manifest_from_proto(ask(range(BLOCKS))).tensors
        assert {n for n in range(9) if any(f".layer.{n}." in each.name for each in found)} == set(range(BLOCKS))
        request = split_pb2.FetchBlocksRequest(run_id=RUN, client_id="ann", blocks=[0, BLOCKS])
        with pytest.raises(grpc.RpcError, match=f"block {BLOCKS} is not there") as caught:
            list(edge.split.FetchBlocks(request, timeout=20))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_manifests_are_kept_of_so_many_selections_and_no_more(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.edge.base.MOST_PARTS", 2)
    spec = planned(tiny_bert)
    with edge_server() as edge:
        run = edge.open_run(spec, first_adapter(spec), ["ann"])
        parts = {blocks: run.base.part(blocks, False, lambda: True) for blocks in [(0,), (1,), (2,), (0, 1)]}
        assert len(run.base._parts) == 2
        assert all(run.base.part(blocks, False, lambda: True) == part for blocks, part in parts.items())


def test_a_new_split_gets_a_new_end_and_the_same_split_keeps_its_own(tiny_bert):
    spec = planned(tiny_bert, reuse={"enabled": True})
    ends = ClientEnds(spec, WIDTH, Shelf(1 << 20, 0))
    first, bobs = ends.of("ann", HALF), ends.of("bob", WIDE)
    assert ends.of("ann", HALF) is first
    second = ends.of("ann", WIDE)
    assert second is not first and second.kept_name != first.kept_name
    assert first.rows._kept._closed and not second.rows._kept._closed
    assert ends.of("ann", WIDE) is second and ends.of("bob", WIDE) is bobs
    assert ends.of("ann", HALF) is not first  # what that had learned is of other rounds
    ends.keep(["bob"])
    assert ends.of("bob", WIDE) is bobs and not bobs.rows._kept._closed
