"""What a client finds out before it joins, with nothing loaded: whether the run fits it, and how fast it is."""

import threading
from types import SimpleNamespace

import pytest
from split_harness import HALF, config_of, edge_server, first_adapter, rows, spec_of
from test_client_moves import TRAINING, close_round, driving, told

from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import Split
from elsa.train.measuring import ClientSeconds, client_seconds
from elsa.v1 import fleet_pb2
from services.client import profile
from services.client.limits import Limits, mean_tokens
from services.client.profile import like_tokens, profile_of
from services.client.settings import ClientSettings
from services.client.stay import Stays
from services.rpc.ledger import Ledger

ENROLLING = fleet_pb2.RUN_STATE_ENROLLING
PLANNED = {"plan": {"method": "measured"}}
MIB = 1 << 20
SECONDS = ClientSeconds(block_s=0.5, embeddings_s=0.25, head_s=0.125, codec_s=0.0625)


@pytest.fixture
def measured(monkeypatch):
    """Figures that are known; the row lengths that were measured."""
    asked = []

    def seconds(spec, checkpoint, config, row_tokens, blocks):
        asked.append(row_tokens)
        return SECONDS

    monkeypatch.setattr(profile, "client_seconds", seconds)
    return asked


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def loaded(*_, **given):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(Segment, "client", loaded)
    monkeypatch.setattr(Checkpoint, "read", loaded)


def offered(spec, folder, edge, **settings):
    """What a client offers, or why it refuses."""
    with driving(spec, folder, profiles=folder / "profiles", **settings) as (driver, link):
        offers, done = [], threading.Event()

        def join(request, timeout):
            offers.append(request.client)
            done.set()

        link.fleet = SimpleNamespace(JoinRun=join)
        link.refuse = lambda run_id, reason: (offers.append(reason), done.set())
        driver.update(told(spec, "edge-1", edge.address, ENROLLING))
        assert done.wait(30)
        return offers[0]


def test_where_splits_are_planned_a_client_tells_how_fast_it_is_and_measures_that_once(
    tiny_bert, tmp_path, measured, nothing_is_loaded
):
    spec = spec_of(tiny_bert, **PLANNED)
    with edge_server() as edge:
        offer = offered(spec, tmp_path, edge, pace="3,1:9", max_memory_mib=100, max_bottom=2)
        again = offered(spec, tmp_path, edge, max_memory_mib=50)
        other = offered(spec_of(tiny_bert, training={"batch": 9}, **PLANNED), tmp_path, edge)
        offered(spec_of(tiny_bert, training={"dropout": not spec.training.dropout}, **PLANNED), tmp_path, edge)
    said = offer.profile
    assert (said.block_s, said.embeddings_s, said.head_s) == (1.5, 0.75, 0.375)
    assert said.codec_s == 0.0625, "which no pace slows: it counts as network"
    assert (said.memory_bytes, said.max_bottom) == (100 << 20, 2)
    assert 5 <= said.row_tokens <= 11, "words of 3 to 9, and two that the tokenizer adds"
    assert (again.profile.block_s, again.profile.memory_bytes) == (0.5, 50 << 20)
    assert again.profile.row_tokens == said.row_tokens and again.profile.max_bottom == 0
    assert other.profile.block_s == 0.5 and len(measured) == 3, "figures of other work are others"
    assert list((tmp_path / "profiles").glob("*.json")) and [link.edge_id for link in offer.links]


def test_where_splits_are_given_nothing_is_measured(tiny_bert, tmp_path, measured):
    with edge_server() as edge:
        offer = offered(spec_of(tiny_bert, plan={"method": "given"}), tmp_path, edge)
    assert not offer.HasField("profile") and not measured and offer.train_rows


@pytest.mark.parametrize("plan", [{"plan": {"method": "given"}}, PLANNED], ids=["given", "planned"])
@pytest.mark.parametrize("state", [ENROLLING, TRAINING], ids=["joins", "comes back"])
def test_what_memory_does_not_hold_is_refused_with_the_figures_before_anything_is_loaded(
    tiny_bert, tmp_path, nothing_is_loaded, plan, state
):
    spec = spec_of(tiny_bert, **plan)
    with edge_server() as edge, driving(spec, tmp_path, max_memory_mib=1) as (driver, link):
        driver.update(told(spec, "edge-1", edge.address, state))
        driver.join(30)
    (reason,) = link.refusals
    assert reason.startswith("ann needs") and "for bottom 1 and top 1 (weights" in reason
    assert "1.0 MiB are there" in reason


def test_a_given_split_beyond_the_owners_cap_is_refused(tiny_bert, tmp_path, nothing_is_loaded):
    spec = spec_of(tiny_bert, split={"bottom": 2, "top": 1}, plan={"method": "given"})
    with edge_server() as edge:
        reason = offered(spec, tmp_path, edge, max_bottom=1)
    assert "ann takes at most 1 blocks before the cut (max_bottom)" in reason


def test_edges_are_measured_and_trained_with_at_the_owners_addresses(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert, training={"rounds": 1})
    with edge_server() as edge:
        wrong = SimpleNamespace(address="127.0.0.1:9")
        offer = offered(spec, tmp_path, wrong, edge_addresses={"edge-1": edge.address})
        assert [link.edge_id for link in offer.links] == ["edge-1"]
        run = edge.open_run(spec, first_adapter(spec), ["ann"])
        with driving(spec, tmp_path, edge_addresses={"edge-1": edge.address}) as (driver, link):
            driver.update(told(spec, "edge-1", wrong.address))
            assert close_round(run, edge, spec, (0, 0)) == ("ann",)
            driver.update(told(spec, "edge-1", "127.0.0.1:10"))  # moved, but not for us
            assert close_round(run, edge, spec, (0, 1)) == ("ann",)
        assert not link.refusals


def test_real_figures_are_those_of_this_machine(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert, **PLANNED)
    settings = ClientSettings(name="ann", profiles=tmp_path, max_memory_mib=200)
    checkpoint, config, data = Checkpoint.open(str(tiny_bert)), config_of(spec), rows(20, 1)
    limits = Limits.of(spec, checkpoint, config, data, settings, Ledger(lambda: 200 * MIB).begin("one", spec))
    said = profile_of(spec, checkpoint, config, limits, settings)
    assert said.row_tokens == mean_tokens(data) == pytest.approx(sum(len(row.ids) for row in data.rows) / 20)
    assert all(0 < seconds < 60 for seconds in (said.block_s, said.embeddings_s, said.head_s))
    assert limits.least == HALF and limits.shape.blocks == 4
    assert client_seconds is profile.client_seconds


def test_lengths_of_rows_that_are_alike_are_measured_as_one():
    for tokens in (1.0, 2.0, 7.3, 64.0, 130.2, 8000.0):
        assert abs(like_tokens(tokens) / tokens - 1) < 0.06
    assert like_tokens(100.0) == like_tokens(101.0) and like_tokens(100.0) != like_tokens(120.0)


def carried(edge):
    """Splits and steps of the sessions that train, in order."""
    seen, real = [], edge.sessions.add
    edge.sessions.add = lambda session: (seen.append(session.agreed.split), real(session))[1]
    return seen


def shared(spec, edge, split, local_steps=2):
    assignment = told(spec, "edge-1", edge.address)
    assignment.share.CopyFrom(fleet_pb2.ClientShare(bottom=split.bottom, top=split.top, local_steps=local_steps))
    return assignment


def test_a_client_waits_for_its_share_and_follows_it_between_edge_rounds(tiny_bert, tmp_path, monkeypatch):
    waits, real = threading.Event(), Stays.wait

    def wait(stays, *states, shared=False):
        if shared:
            waits.set()
        return real(stays, *states, shared=shared)

    monkeypatch.setattr(Stays, "wait", wait)
    spec = spec_of(tiny_bert, training={"rounds": 2}, **PLANNED)
    more = Split(bottom=2, trunk=1, top=1)
    with edge_server() as edge, driving(spec, tmp_path) as (driver, link):
        run, seen = edge.open_run(spec, first_adapter(spec), ["ann"]), carried(edge)
        driver.update(told(spec, "edge-1", edge.address))  # of a cloud that has not planned yet
        assert waits.wait(30)
        driver.update(shared(spec, edge, HALF, 3))
        assert close_round(run, edge, spec, (0, 0)) == ("ann",)
        driver.update(shared(spec, edge, more, 1))
        assert close_round(run, edge, spec, (0, 1)) == ("ann",)
        assert close_round(run, edge, spec, (1, 0)) == ("ann",)
        driver.update(shared(spec, edge, Split(bottom=1, trunk=3, top=0)))  # less than the least
        assert close_round(run, edge, spec, (1, 1)) == ("ann",)
        driver.join(30)
        assert link.evaluated == [0, 1, 2] and not link.refusals
    assert seen[0] == HALF and seen[-1] == more and set(seen) == {HALF, more}
    steps = {(version, edge_round): step for _, version, edge_round, step in link.activity if step}
    assert steps[0, 0] == 3 and steps[1, 1] == 2, "what it is told, though it carries what it did"


def test_a_client_that_cannot_carry_its_first_share_leaves_at_once_with_the_figures(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert, **PLANNED)
    with edge_server() as edge, driving(spec, tmp_path, max_bottom=1, patience_s=1000) as (driver, link):
        edge.open_run(spec, first_adapter(spec), ["ann"])
        driver.update(shared(spec, edge, Split(bottom=2, trunk=1, top=1)))
        driver.join(30)
    assert link.refusals and "ann takes at most 1 blocks" in link.refusals[0]
