"""What an edge tells of itself when it joins a run, and what it does for that."""

import threading
from types import SimpleNamespace

import pytest
from split_harness import BLOCKS, WIDTH, spec_of

from elsa.errors import CapacityError
from elsa.plan.memory import edge_needs
from elsa.plan.messages import edge_from_proto, shape_from_proto
from elsa.train.measuring import EdgeSeconds
from elsa.train.sizes import model_shape
from services.edge import profile
from services.edge.profile import Profiler
from services.edge.worker import Worker
from services.rpc.pace import Pace

MIB = 1 << 20


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.stop()


def profiler_of(worker, folder, pace="1", memory_bytes=64 * MIB):
    """Prepares runs that may take so many bytes."""
    profiler = Profiler(worker, capacity=8, pace=Pace.parse(pace), folder=folder / "profiles")
    return SimpleNamespace(prepared=lambda spec, joins: profiler.prepared(spec, lambda: memory_bytes, joins=joins))


@pytest.fixture
def measured(monkeypatch):
    """Names of the threads on which was measured, instead of seconds that no test could foretell."""
    threads = []

    def seconds(spec, checkpoint, config, row_tokens, sessions, blocks):
        threads.append(threading.current_thread().name)
        return EdgeSeconds(block_s=row_tokens / 1000, crowding_s=sessions / 1000, step_s=row_tokens / 500)

    monkeypatch.setattr(profile, "edge_seconds", seconds)
    return threads


def planned(folder, **parts):
    return spec_of(folder, plan={"method": "measured"}, **parts)


def test_a_planned_run_is_told_measured_seconds_memory_and_the_models_shape(worker, tiny_bert, tmp_path):
    spec = planned(tiny_bert)
    ready = profiler_of(worker, tmp_path).prepared(spec, joins=True)
    offer = ready.offer("edge-1", 3)
    told = edge_from_proto("edge-1", offer.profile, offer.room)
    assert (told.memory_bytes, told.capacity, offer.room) == (64 * MIB, 3, 3)
    assert 0 < told.block_s < 10 and 0 <= told.crowding_s < told.block_s
    assert told.step_s > 0 and told.quarter_block_s > 0 and told.quarter_step_s > 0
    shape = shape_from_proto(offer.shape)
    assert shape == model_shape(spec, ready.checkpoint, ready.config)
    assert (shape.blocks, shape.width) == (BLOCKS, WIDTH)


def test_a_given_run_is_told_room_alone_and_nothing_is_timed(worker, tiny_bert, tmp_path, measured):
    offer = profiler_of(worker, tmp_path).prepared(spec_of(tiny_bert), joins=True).offer("edge-1", 3)
    assert offer.room == 3 and not offer.HasField("profile") and not offer.HasField("shape")
    assert not measured


def test_seconds_are_taken_once_on_the_compute_thread_and_pace_is_put_on_top(worker, tiny_bert, tmp_path, measured):
    spec = planned(tiny_bert)
    seconds = [
        profiler_of(worker, tmp_path, pace).prepared(spec, joins=True).seconds for pace in ("1", "1", "2.5,1:9")
    ]
    assert [name.rpartition("_")[0] for name in measured] == ["compute"] * 2  # longest rows, and a quarter of them
    known = {"block_s": 0.1, "crowding_s": 0.008, "step_s": 0.2, "quarter_block_s": 0.025, "quarter_step_s": 0.05}
    assert seconds[0] == seconds[1] == known
    assert seconds[2] == pytest.approx({name: 2.5 * figure for name, figure in known.items()})


@pytest.mark.parametrize(
    "parts",
    [
        {"training": {"batch": 4}},
        {"training": {"dropout": True}},
        {"model": {"max_tokens": 50}},
        {"lora": {"rank": 4}},
        {"codecs": {"h2": "bf16"}},
    ],
    ids=["batch", "dropout", "tokens", "rank", "codec"],
)
def test_seconds_of_other_work_are_measured_apart(worker, tiny_bert, tmp_path, measured, parts):
    profiler = profiler_of(worker, tmp_path)
    for spec in (planned(tiny_bert), planned(tiny_bert, **parts), planned(tiny_bert)):
        profiler.prepared(spec, joins=True)
    assert len(measured) == 2 * 2


def test_an_edge_that_comes_back_to_its_run_does_not_measure(worker, tiny_bert, tmp_path, measured):
    assert profiler_of(worker, tmp_path).prepared(planned(tiny_bert), joins=False).seconds is None
    assert not measured


def test_what_does_not_fit_is_refused_before_anything_is_timed(worker, tiny_bert, tmp_path, measured):
    with pytest.raises(CapacityError, match=r"blocks 1 to 2 .* 0\.1 MiB are there"):
        profiler_of(worker, tmp_path, memory_bytes=MIB // 10).prepared(planned(tiny_bert), joins=True)
    assert not measured


def test_no_more_blocks_are_measured_on_than_a_session_has_memory_for(worker, tiny_bert, tmp_path, monkeypatch):
    seen = []

    def seconds(spec, checkpoint, config, row_tokens, sessions, blocks):
        seen.append(blocks)
        return EdgeSeconds(block_s=1, crowding_s=0, step_s=0)

    monkeypatch.setattr(profile, "edge_seconds", seconds)
    spec = planned(tiny_bert)
    fit = profiler_of(worker, tmp_path).prepared(spec, joins=False).fit
    needs = edge_needs(fit.shape, fit.workload, len(fit.held))
    for blocks in (1, 2):
        there = needs.of(1, blocks + 1).total - 1
        profiler_of(worker, tmp_path / str(blocks), memory_bytes=there).prepared(spec, joins=True)
    assert seen == [1, 1, 2, 2]
