"""What a client carries may change between any two edge rounds: only the difference is read, nothing is lost."""

import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from split_harness import HALF, LABELS, RUN, assert_same, config_of, edge_server, first_adapter, rows, spec_of
from trainer_harness import trainer_of

from elsa.errors import CapacityError, ChecksumError, InputError, MalformedError, UnreachableError
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.plan.memory import client_needs
from elsa.plan.shape import Workload
from elsa.spec import Split
from elsa.train.probing import probe_activations
from elsa.train.sizes import model_shape
from elsa.v1.fleet_pb2 import Assignment, ClientShare
from elsa.wire.adapter import encode_adapter
from services.client.holding import Holding
from services.client.limits import Limits
from services.client.share import Share, Shares, share_from_proto
from services.client.site import SiteData
from services.client.trainers import Trainers
from services.rpc.adapters import Pulled

MORE = Split(bottom=2, trunk=1, top=1)
ENDS = Split(bottom=1, trunk=1, top=2)
PLANNED = {"plan": {"method": "measured"}}
WORDS = ("w1 w2 w3", "w7 w8", "w9 w10 w11 w12")


@pytest.fixture
def spec(tiny_bert):
    return spec_of(tiny_bert, **PLANNED)


@pytest.fixture
def data():
    return SiteData(train=rows(20, 1), heldout=rows(6, 2), report="")


def limits_of(spec, memory_bytes=1 << 30, max_bottom=None):
    shape = model_shape(spec, Checkpoint.open(spec.model.source), config_of(spec))
    return Limits(
        name="ann",
        shape=shape,
        workload=Workload.of(spec, shape.width, 8.0),
        memory_bytes=memory_bytes,
        max_bottom=max_bottom,
        least=spec.split_of("ann", shape.blocks),
    )


def share_message(split, local_steps=2):
    return ClientShare(bottom=split.bottom, top=split.top, local_steps=local_steps)


class Reads(Checkpoint):
    """Notes the names of the tensors that are read."""

    names: list

    def read(self, names, dtype=None):
        names = list(names)
        self.names.extend(names)
        return super().read(names, dtype)


def noting(folder):
    opened = Checkpoint.open(str(folder))
    noted = Reads(source=opened.source, folder=opened.folder, architecture=opened.architecture, files=opened.files)
    object.__setattr__(noted, "names", [])
    return noted


class LocalBase:
    """A base that is all on this machine."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def complete(self, blocks, stub, peer):
        return True


class Carrier:
    """A client with one edge, whose share is what `assignment` tells at the time."""

    def __init__(self, spec, data, edge, base=None, shares=None):
        self.assignment = Assignment()
        self.holding = Holding(spec, config_of(spec), base or LocalBase(Checkpoint.open(spec.model.source)))
        stay = SimpleNamespace(stubs=lambda: (edge.split, None), peer="edge", over=threading.Event())
        self.shares = shares or Shares(RUN, spec, limits_of(spec))
        self.trainers = Trainers(
            self.shares,
            self.holding,
            stay,
            told=lambda: self.assignment,
            make=lambda segment, split: trainer_of(spec, data, edge.split, split, segment=segment),
        )

    def tell(self, split, local_steps=2):
        self.assignment = Assignment(share=share_message(split, local_steps))
        return self

    def now(self):
        return self.trainers.now()


def whole_adapter(edge, carrier, adapter, edge_round=0):
    """What a round of training from an adapter makes of all blocks."""
    trained = carrier.now().train(Pulled(version=0, edge_round=edge_round, data=encode_adapter(adapter)))
    own = adapters.read(carrier.holding._segment, split=carrier.now().split)
    return {**own, **edge.sessions.committed(trained.session_id).tensors}, trained.report


def test_a_client_that_moves_blocks_between_rounds_trains_as_one_that_had_them_there(spec, data):
    start = first_adapter(spec)
    for first, second in ((HALF, MORE), (MORE, HALF), (MORE, ENDS), (ENDS, MORE)):
        with edge_server() as edge:
            run = edge.open_run(spec, start, ["ann"])
            moving = Carrier(spec, data, edge).tell(first)
            after_one, _ = whole_adapter(edge, moving, start)
            run.rounds.open(0, 1, after_one)
            moved, _ = whole_adapter(edge, moving.tell(second), after_one, 1)
            assert moving.holding._segment.owned == set(range(4)) - set(second.trunk_blocks)
        with edge_server() as edge:
            run = edge.open_run(spec, start, ["ann"])
            run.rounds.open(0, 1, after_one)
            steady, _ = whole_adapter(edge, Carrier(spec, data, edge).tell(second), after_one, 1)
        assert moved.keys() == start.keys()
        assert max(np.abs(moved[name] - after_one[name]).max() for name in start) > 1e-3
        assert_same(moved, steady)


def test_only_the_difference_is_read_and_what_stays_is_the_same_object(spec, tiny_bert):
    checkpoint = noting(tiny_bert)
    holding = Holding(spec, config_of(spec), LocalBase(checkpoint))
    segment = holding.take(HALF)
    kept = segment.model.get_submodule("bert.encoder.layer.0.output.dense").weight
    checkpoint.names.clear()
    assert holding.take(MORE) is segment and segment.owned == {0, 1, 3}
    assert checkpoint.names and all(name.startswith("bert.encoder.layer.1.") for name in checkpoint.names)
    assert segment.model.get_submodule("bert.encoder.layer.0.output.dense").weight is kept
    checkpoint.names.clear()
    assert holding.take(MORE).owned == {0, 1, 3}
    assert holding.take(HALF).owned == {0, 3} and checkpoint.names == []
    fresh = Segment.client(checkpoint, ENDS, task="classification", num_labels=len(LABELS), seed=spec.seed)
    moved = holding.take(ENDS)
    adapters.detach(moved)
    assert moved.model.state_dict().keys() == fresh.model.state_dict().keys()
    for name, values in moved.model.state_dict().items():
        assert bool((values == fresh.model.state_dict()[name]).all()), name


def test_steps_of_the_share_are_made_and_reported(spec, data):
    start = first_adapter(spec)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        carrier = Carrier(spec, data, edge).tell(HALF, 5)
        first = carrier.now()
        _, report = whole_adapter(edge, carrier, start)
        assert report.steps == 5
        run.rounds.open(0, 1, start)
        _, report = whole_adapter(edge, carrier.tell(HALF, 1), start, 1)
        assert report.steps == 1 and carrier.now() is first, "another number of steps needs no other trainer"


def test_steps_are_those_that_it_is_told_whatever_it_carries(spec):
    limits = limits_of(spec)
    shares = Shares(RUN, spec, replace(limits, max_bottom=1))
    shares.carry(shares.wanted(Assignment(share=share_message(HALF, 3))))
    assert shares.wanted(Assignment(share=share_message(MORE, 9))) == Share(split=HALF, local_steps=9)


def test_a_first_share_that_cannot_be_carried_is_refused_for_the_same_reason_each_time(spec):
    shares = Shares(RUN, spec, replace(limits_of(spec), max_bottom=1))
    for _ in range(2):
        with pytest.raises(CapacityError, match="max_bottom"):
            shares.wanted(Assignment(share=share_message(MORE)))


class Fails:
    """A base that is all on this machine, once what stands in its way has passed."""

    def __init__(self, checkpoint):
        self.checkpoint, self.errors = checkpoint, []

    def complete(self, blocks, stub, peer):
        if self.errors:
            raise self.errors.pop(0)
        return True


PASSES = [UnreachableError("gone"), ChecksumError("other bytes"), CapacityError("full"), InputError("no room")]


@pytest.mark.parametrize("error", PASSES, ids=lambda error: type(error).__name__)
def test_what_stands_in_the_way_of_a_share_for_a_while_keeps_the_one_before_until_it_passes(
    spec, data, caplog, error
):
    base = Fails(Checkpoint.open(spec.model.source))
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        carrier = Carrier(spec, data, edge, base=base).tell(HALF)
        base.errors = [error]
        with pytest.raises(type(error)):
            carrier.now()
        first, base.errors = carrier.now(), [error, error]
        for _ in range(2):
            assert carrier.tell(MORE, 7).now() is first and first.local_steps == 7
        assert caplog.text.count(f"keeps 1/2/1, as what it was told cannot be had: {error}") == 2
        assert carrier.now().split == MORE and carrier.holding._segment.owned == {0, 1, 3}


def test_a_share_for_which_there_is_no_memory_left_is_not_begun_and_taken_once_there_is(spec, data, monkeypatch):
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        carrier = Carrier(spec, data, edge).tell(HALF)
        first, limits = carrier.now(), limits_of(spec)
        needs = client_needs(limits.shape, limits.workload)
        more = needs.of(2, 1).total - needs.of(1, 1).total
        monkeypatch.setattr("services.client.limits.available_bytes", lambda: more - 1)
        assert carrier.tell(MORE).now() is first and carrier.holding._segment.owned == {0, 3}
        monkeypatch.setattr("services.client.limits.available_bytes", lambda: more)
        assert carrier.now().split == MORE
        monkeypatch.setattr("services.client.limits.available_bytes", lambda: 0)
        assert carrier.tell(HALF).now().split == HALF, "less takes no memory"


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_no_more_rows_run_at_once_where_nothing_is_learned_than_in_training(tiny_bert, data, monkeypatch, parts):
    spec = spec_of(tiny_bert, training={"batch": 8, "micro_batches": parts}, **PLANNED)
    start, rows_at_once = first_adapter(spec), []
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        trainer = Carrier(spec, data, edge).tell(HALF).now()
        real = trainer._segment.bottom
        monkeypatch.setattr(
            trainer._segment, "bottom", lambda ids, *a, **b: (rows_at_once.append(len(ids)), real(ids, *a, **b))[1]
        )
        pulled = Pulled(version=0, edge_round=0, data=encode_adapter(start))
        assert trainer.evaluate(pulled).count == 6
        trainer.train(pulled, ["w1 w2"] * 9)
    assert max(rows_at_once) == -(-8 // parts)


NO_GOOD = {
    "more than memory": (share_message(Split(bottom=2, trunk=1, top=1)), "needs .* MiB .* are there"),
    "less than the least": (share_message(Split(bottom=1, trunk=3, top=0)), "least, 1/2/1"),
    "no trunk": (ClientShare(bottom=2, top=2, local_steps=1), "share: in a model of 4 blocks"),
    "more than a model": (
        ClientShare(bottom=2**32 - 1, top=2**32 - 1, local_steps=1),
        "share: in a model",
    ),
    "no bottom": (ClientShare(bottom=0, top=1, local_steps=1), "share: in a model of 4 blocks"),
    "no steps": (ClientShare(bottom=1, top=1), "local_steps: 0; it must be 1 to 100000"),
}


@pytest.mark.parametrize("fault", NO_GOOD)
def test_a_share_that_cannot_be_carried_keeps_the_one_before_and_is_said_once(spec, caplog, fault):
    message, words = NO_GOOD[fault]
    limits = limits_of(spec)
    limits = replace(limits, memory_bytes=client_needs(limits.shape, limits.workload).of(1, 1).total)
    shares = Shares(RUN, spec, limits)
    first = shares.wanted(Assignment(share=share_message(HALF, 3)))
    shares.carry(first)
    kept = replace(first, local_steps=2 if fault in ("more than memory", "less than the least") else 3)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert shares.wanted(Assignment(share=message)) == kept
    assert shares.wanted(Assignment()) == kept, "a word without a share changes nothing"
    assert len(caplog.messages) == 1 and "keeps 1/2/1" in caplog.text
    with pytest.raises((CapacityError, MalformedError), match=words):
        Shares(RUN, spec, limits).wanted(Assignment(share=message))


def test_what_a_client_carries_is_within_its_owners_cap_and_its_memory(spec):
    limits = replace(limits_of(spec), max_bottom=1)
    limits.check(ENDS)
    with pytest.raises(CapacityError, match=r"ann takes at most 1 blocks before the cut \(max_bottom\).*has 2"):
        limits.check(MORE)
    needed = client_needs(limits.shape, limits.workload).of(1, 2).total
    replace(limits, memory_bytes=needed).check(ENDS)
    with pytest.raises(CapacityError, match=r"ann needs .* MiB for bottom 1 and top 2 .*are there"):
        replace(limits, memory_bytes=needed - 1).check(ENDS)


def test_a_given_split_listens_to_no_share(tiny_bert):
    spec = spec_of(tiny_bert, plan={"method": "given"}, splits={"ann": {"bottom": 2, "top": 1}})
    shares = Shares(RUN, spec, limits_of(spec))
    assert shares.wanted(Assignment(share=share_message(ENDS, 7))) == Share(split=MORE, local_steps=2)


@given(bottom=st.integers(0, 2**32 - 1), top=st.integers(0, 2**32 - 1), steps=st.integers(0, 2**32 - 1))
def test_a_share_from_the_wire_is_a_possible_one_or_refused(bottom, top, steps):
    message = ClientShare(bottom=bottom, top=top, local_steps=steps)
    try:
        share = share_from_proto(message, 1000)
    except MalformedError:
        assert bottom < 1 or bottom + top > 999 or not 1 <= steps <= 100_000
    else:
        assert (share.split.bottom, share.split.top, share.split.blocks) == (bottom, top, 1000)
        assert share.local_steps == steps


def test_what_is_taken_anew_begins_where_all_clients_begin(spec):
    holding = Holding(spec, config_of(spec), LocalBase(Checkpoint.open(spec.model.source)))

    def probes():
        segment = holding.take(HALF)
        return segment, probe_activations(segment, holding._base.checkpoint, HALF, WORDS, 32)

    segment, public = probes()
    adapters.write(segment, first_adapter(spec))
    trained = probe_activations(segment, holding._base.checkpoint, HALF, WORDS, 32)
    again, same = probes()
    assert again is segment and not torch.equal(trained, public) and torch.equal(same, public)


MIXED = {
    "calibrated codecs": {"codecs": dict.fromkeys(("h1", "h2", "dh2", "dh1"), "subspace(ratio=2) | int4")},
    "rows that are kept": {"reuse": {"enabled": True}, "lora": {"bottom_adapters": False}},
    "noise and an opponent": {"privacy": {"noise": {"multiplier": 0.1}, "adversary": {"weight": 0.5}}},
}


@pytest.mark.parametrize("parts", MIXED.values(), ids=MIXED)
def test_what_was_learned_at_one_cut_is_not_used_at_another(tiny_bert, data, parts):
    spec = spec_of(tiny_bert, **PLANNED, **parts)
    adapter = first_adapter(spec)
    with edge_server() as edge:
        run = edge.open_run(spec, adapter, ["ann"])
        carrier = Carrier(spec, data, edge)
        for edge_round, split in enumerate((HALF, MORE, HALF)):
            if edge_round:
                run.rounds.open(0, edge_round, adapter)
            before = carrier.trainers._trainer
            adapter, report = whole_adapter(edge, carrier.tell(split), adapter, edge_round)
            assert before is None or carrier.now()._end is not before._end
            assert all(np.isfinite(values).all() for values in adapter.values()) and report.loss < 10
