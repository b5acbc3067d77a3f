"""With a key a client and a blind edge, trunks stay with their clients; all else is averaged as ever."""

import numpy as np
import pytest
import torch
from fleet_harness import system, write_rows
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load
from split_harness import (
    HALF,
    LABELS,
    Trainee,
    assert_same,
    config_of,
    edge_server,
    end_of,
    first_adapter,
    rows,
    spec_of,
)

from elsa.aggregate.fedavg import fedavg
from elsa.data.batches import sequential
from elsa.model.adapter import initial_adapter
from elsa.model.architecture import FAMILIES, trunk_names
from elsa.model.weights import Checkpoint
from elsa.train.step import predict
from elsa.v1 import fleet_pb2, split_pb2
from elsa.wire.codec.registry import codec_set_to_proto
from services.client.predict_trunk import PredictTrunk
from services.edge.own_trunks import OwnTrunks

CLIENTS = ("ann", "bob")
OWN_KEYS = {"ssop": {"rank": 4, "edge": "blind", "key": "client"}}
SHARED_KEY = {"ssop": {"rank": 4, "edge": "blind", "key": "run"}}


def trunk_of(tensors):
    names = trunk_names(tensors, FAMILIES["bert"], HALF)
    assert names
    return {name: tensors[name] for name in names}


def rest_of(tensors):
    return {name: tensors[name] for name in tensors.keys() - trunk_of(tensors).keys()}


def round_of(edge, run, spec, adapter, edge_round, data):
    """One edge round of both clients: what each has trained, whole, and what the edge makes of it."""
    updates = {}
    for seed, name in enumerate(CLIENTS):
        trainee = Trainee(spec, adapter, data[name], client=name, seed=(seed, edge_round))
        trainee.connect(edge, edge_round=edge_round).train(2)
        updates[name] = trainee.finish(edge) | trainee.own()
        trainee.push(edge, edge_round=edge_round, count=10 * (seed + 1))
    closed = run.rounds.close(10).parts[0].adapter
    run.sessions.forget_round(run.run_id)
    return updates, closed


def alone(spec, name, seed, edge_round, data, shared, trunk):
    """What a client would train without any other there, from these tensors."""
    start = {**shared, **trunk}
    twin = Trainee(spec, start, data[name], client=name, seed=(seed, edge_round)).locally(start).train(2)
    return twin.session.finish(2) | twin.own()


def two_rounds(spec):
    start, data = first_adapter(spec), {name: rows(20, seed) for seed, name in enumerate(CLIENTS)}
    with edge_server() as edge:
        run = edge.open_run(spec, start, list(CLIENTS))
        first, between = round_of(edge, run, spec, start, 0, data)
        run.rounds.open(0, 1, between)
        second, after = round_of(edge, run, spec, between, 1, data)
    return start, data, first, between, second, after


def test_trunks_of_two_clients_never_mix_and_equal_training_alone(tiny_bert):
    spec = spec_of(tiny_bert, privacy=OWN_KEYS)
    start, data, first, between, second, after = two_rounds(spec)
    for seed, name in enumerate(CLIENTS):
        assert_same(first[name], alone(spec, name, seed, 0, data, start, {}))
        assert_same(second[name], alone(spec, name, seed, 1, data, between, trunk_of(first[name])))
    for made in (between, after):  # what clients and the cloud are given
        assert_same(trunk_of(made), trunk_of(start))
    weights = {"ann": 10.0, "bob": 20.0}
    for updates, made in ((first, between), (second, after)):
        assert_same(rest_of(made), fedavg({name: (weights[name], rest_of(updates[name])) for name in CLIENTS}))
        assert any(np.abs(made[name] - start[name]).max() > 1e-4 for name in rest_of(made))
    apart = [np.abs(second["ann"][name] - second["bob"][name]).max() for name in trunk_of(start)]
    assert min(apart) > 1e-4


@pytest.mark.parametrize("privacy", [{}, SHARED_KEY])
def test_in_other_runs_trunks_are_averaged(tiny_bert, privacy):
    _, _, first, between, _, _ = two_rounds(spec_of(tiny_bert, privacy=privacy))
    assert_same(between, fedavg({"ann": (10.0, first["ann"]), "bob": (20.0, first["bob"])}))


def predicted(edge, spec, name, adapter, data):
    opening = split_pb2.PredictOpen(
        run_id="tiny-1",
        client_id=name,
        version=1,
        split=split_pb2.Split(bottom=HALF.bottom, trunk=HALF.trunk, top=HALF.top),
        codecs=codec_set_to_proto(spec.codecs, 16),
        window=1,
    )
    trunk = PredictTrunk(edge.split, opening, "edge", end=end_of(spec))
    segment = Trainee(spec, adapter, data).segment
    try:
        batches = sequential(data.by_length(), 8)
        return torch.cat([logits for _, logits in predict(segment, trunk, batches, split=HALF, window=1)])
    finally:
        trunk.close()


def test_each_client_predicts_with_its_own_trunk(tiny_bert):
    spec = spec_of(tiny_bert, privacy=OWN_KEYS)
    start, data = first_adapter(spec), {name: rows(20, seed) for seed, name in enumerate(CLIENTS)}
    with edge_server() as edge:
        run = edge.open_run(spec, start, [*CLIENTS, "cyd"])
        run.rounds._quorum = 0.5
        updates, made = round_of(edge, run, spec, start, 0, data)
        edge.open_round(run, 1, made)
        for name in (*CLIENTS, "ann", "cyd"):  # cyd has trained nothing
            got = predicted(edge, spec, name, made, data["ann"])
            whole = {**made, **trunk_of(updates.get(name, start))}
            want = logits_of(spec, whole, data["ann"])
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def logits_of(spec, adapter, data):
    """Of the whole adapter, split within this process."""
    twin = Trainee(spec, adapter, data).locally(adapter)
    edge, shown = twin.session._segment, []
    with torch.no_grad():
        for batch in sequential(data.by_length(), 8):
            mask = batch.attention_mask
            hidden = twin.segment.bottom(batch.input_ids, mask, batch.token_type_ids, split=HALF)
            hidden = edge.trunk(hidden, mask, HALF)
            shown.append(twin.segment.top(hidden, batch.input_ids, mask, split=HALF))
    return torch.cat(shown)


def begun_at(spec, version, caplog):
    """What an edge that has been started says when ann begins two sessions in `version`."""
    caplog.clear()
    start = first_adapter(spec)
    with edge_server() as edge:
        run = edge.open_run(spec, start, list(CLIENTS), version=version)
        for _ in range(2):
            Trainee(spec, start, rows(8, 0)).connect(edge, version=version)
        assert run.rounds.instead("ann") is None
    return [record.getMessage() for record in caplog.records if record.name == "services.edge.own_trunks"]


def test_a_restarted_edge_says_once_whose_trunk_is_lost(tiny_bert, caplog):
    own, shared = (spec_of(tiny_bert, privacy=privacy) for privacy in (OWN_KEYS, SHARED_KEY))
    (line,) = begun_at(own, 1, caplog)
    assert "version 1, edge round 0: no trunk of ann's own is here" in line and "is lost" in line
    assert begun_at(own, 0, caplog) == [], "in the first round there is none to lose"
    assert begun_at(shared, 1, caplog) == [], "the run's adapter has the trunk"


def test_a_trunk_that_is_there_is_no_loss(caplog):
    trunks = OwnTrunks(lambda names: frozenset(names) & {"own"})
    adapter = {"a": np.zeros(1, np.float32), "own": np.zeros(1, np.float32)}
    trunks.take({"ann": trunks.part_of(adapter)}, ["ann"])
    trunks.start("ann", adapter, (0, 1))
    assert not caplog.records
    trunks.start("bob", adapter, (0, 1))
    assert ["bob" in record.getMessage() for record in caplog.records] == [True]


SIZES = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3)


@given(SIZES, SIZES, SIZES, st.integers(1, 100), st.sampled_from([(0, 0), (2, 2), (1, 5)]))
def test_own_tensors_pass_an_aggregation_untouched(one, other, before, weight, steps):
    def adapter(values):
        return {name: np.array([value], np.float32) for name, value in zip(("a", "own", "z"), values, strict=True)}

    trunks = OwnTrunks(lambda names: frozenset(names) & {"own"})
    assert trunks.start("ann", adapter(before)) == adapter(before) and trunks.of("ann") is None
    updates = {"ann": (1.0, steps[0], adapter(one)), "bob": (float(weight), steps[1], adapter(other))}
    made, _ = trunks.aggregate(updates, adapter(before))
    assert made["own"] == adapter(before)["own"]
    trunks.take({client: trunks.part_of(tensors) for client, (*_, tensors) in updates.items()}, updates)
    assert trunks.start("ann", made) == {**made, "own": adapter(one)["own"]}
    assert trunks.start("bob", made) == {**made, "own": adapter(other)["own"]}
    assert trunks.start("cyd", made) == made


def test_what_the_cloud_exports_has_the_first_trunk_unchanged(tiny_bert, tmp_path):
    fleet = {"min_clients": 3, "min_edges": 2, "enroll_timeout_s": 60}
    spec = spec_of(tiny_bert, privacy=OWN_KEYS, fleet=fleet)
    with system(tmp_path) as at:
        for edge in ("edge-1", "edge-2"):
            at.edge(edge, capacity=2)
        for seed, name in enumerate(("ann", "bob", "cyd")):
            at.client(name, write_rows(tmp_path / f"{name}.jsonl", 24, seed))
        run_id = at.submit(spec)
        *_, last = at.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        files = at.export(run_id)
    got = load(files["adapter_model.safetensors"])
    checkpoint = Checkpoint.open(str(tiny_bert))
    first = initial_adapter(checkpoint, config_of(spec), len(LABELS), spec.seed)
    assert_same(trunk_of(got), trunk_of(first))
    assert all(np.abs(got[name] - first[name]).max() > 0 for name in rest_of(first) if ".lora_B." in name)
    card = files["README.md"].decode()
    assert "privacy.ssop" in card and "PeftModel" not in card
