"""Laws of the seconds that a device measures of itself: what they are by an exact clock, and what they grow with."""

import itertools
import time
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planned_fleets import model_of
from tiny_models import DECODERS, ENCODERS, LABELS

from elsa.model import adapter as adapters
from elsa.model.weights import Checkpoint
from elsa.plan.memory import BLOCK_BYTES
from elsa.spec import RunSpec
from elsa.train import measuring
from elsa.train.measuring import (
    REST_S,
    ClientSeconds,
    EdgeSeconds,
    client_seconds,
    edge_seconds,
    median_seconds,
    sampled_blocks,
    turned_seconds,
)

CASES = [(family, "classification") for family in (*ENCODERS, *DECODERS)]
CASES += [(family, "causal-lm") for family in DECODERS]


def no_rest(seconds):
    pass


def run_of(task="classification", **parts):
    labels = [f"label-{n}" for n in range(LABELS)] if task == "classification" else []
    model = {"task": task, "max_tokens": 16, **parts.pop("model", {})}
    training = {"batch": 4, **parts.pop("training", {})}
    return RunSpec.model_validate(
        {"model": model, "training": training, "data": {"labels": labels}, "lora": {"rank": 2}, **parts}
    )


def opened(folder, spec):
    checkpoint = Checkpoint.open(str(folder))
    return checkpoint, adapters.adapter_config(checkpoint, spec.lora, spec.model.task, LABELS)


class Clock:
    """Stands still but for what is said to have passed."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def passing(self, *durations):
        """A run that takes each of these in turn, and the last ones again and again."""
        left = itertools.cycle(durations)

        def run():
            self.now += next(left)

        return run


def ticking():
    """A clock that goes on by a second whenever it is asked."""
    return itertools.count().__next__


@pytest.mark.parametrize(("family", "task"), CASES)
def test_seconds_are_the_clocks(make_folder, family, task):
    spec = run_of(task)
    arguments = (spec, *opened(make_folder(family, task), spec), 8.0)
    client = ClientSeconds(block_s=0.5, embeddings_s=1, head_s=1, codec_s=4)  # 2 blocks in a step; 4 crossings
    assert client_seconds(*arguments, 2, clock=ticking(), sleep=no_rest) == client
    assert edge_seconds(*arguments, 3, 2, clock=ticking(), sleep=no_rest) == EdgeSeconds(
        block_s=0.5, crowding_s=0, step_s=2
    )


@pytest.mark.parametrize(
    "parts",
    [
        {"training": {"checkpointing": True}},
        {"training": {"dropout": True, "checkpointing": True}},
        {"training": {"micro_batches": 3}},
        {"training": {"batch": 1}},
        {"model": {"base_dtype": "bfloat16"}},
        {"model": {"base_dtype": "int8"}, "training": {"checkpointing": True}},
        {"lora": {"rank": 2, "bottom_adapters": False}},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_kind_of_run_can_be_measured(make_folder, monkeypatch, family, parts):
    monkeypatch.setattr(measuring, "BUDGET_S", 0.05)
    spec = run_of(**parts)
    arguments = (spec, *opened(make_folder(family, "classification"), spec), 7.6)
    client, edge = client_seconds(*arguments, 2, sleep=no_rest), edge_seconds(*arguments, 2, 2, sleep=no_rest)
    assert min(*astuple(client), edge.block_s, edge.step_s) > 0
    assert edge.crowding_s >= 0


def test_a_block_takes_longer_for_a_larger_batch_and_a_longer_row(make_folder, monkeypatch):
    """Loosely: 128 times the tokens take at least 4 times as long, and not 400 times."""
    monkeypatch.setattr(measuring, "BUDGET_S", 0.6)
    wide = {"hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 64}
    folder = make_folder("bert", "classification", wide)
    few, many = run_of(training={"batch": 2}), run_of(training={"batch": 64}, model={"max_tokens": 64})
    small = client_seconds(few, *opened(folder, few), 8.0, 1, clock=time.process_time, sleep=no_rest)
    large = client_seconds(many, *opened(folder, many), 32.0, 1, clock=time.process_time, sleep=no_rest)
    assert 4 < large.block_s / small.block_s < 400


def test_a_row_is_measured_no_longer_than_rows_may_be(make_folder):
    """A table of 32 positions would not hold it."""
    spec = run_of(model={"max_tokens": 32})
    client_seconds(spec, *opened(make_folder("bert", "classification"), spec), 1e6, 2, clock=ticking(), sleep=no_rest)


def test_measuring_draws_no_random_number_of_the_run(make_folder):
    spec = run_of(training={"dropout": True})
    arguments = (spec, *opened(make_folder("bert", "classification"), spec), 8.0)
    before = torch.random.get_rng_state()
    client_seconds(*arguments, 2, clock=ticking(), sleep=no_rest)
    edge_seconds(*arguments, 2, 2, clock=ticking(), sleep=no_rest)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_first_run_is_not_counted_and_of_the_others_the_median_is():
    clock = Clock()
    assert median_seconds(clock.passing(100.0, 1.0, 2.0, 9.0), 12.0, clock, no_rest) == 2.0


@pytest.mark.parametrize(("each_s", "budget_s", "runs"), [(10.0, 1.0, 2), (1.0, 7.0, 7), (1e-3, 1e3, 12)])
def test_runs_are_as_many_as_go_into_the_budget_and_neither_too_few_nor_too_many(each_s, budget_s, runs):
    clock = Clock()
    median_seconds(clock.passing(each_s), budget_s, clock, no_rest)
    assert clock.now == pytest.approx((1 + runs) * each_s)


def turns(clock, sessions, own_s, other_s):
    """Steps that take `other_s` after another's and `own_s` after one of their own."""
    latest = []

    def step_of(number):
        def run():
            clock.now += own_s if latest == [number] else other_s
            latest[:] = [number]

        return run

    return [step_of(number) for number in range(sessions)]


@pytest.mark.parametrize("sessions", [2, 3, 4])
def test_what_turns_cost_is_spread_over_the_further_sessions(sessions):
    clock = Clock()
    measured = turned_seconds(turns(clock, sessions, 1.0, 1.75), 50.0, clock, no_rest)
    assert measured == (1.0, 0.75 / (sessions - 1))


def test_turns_that_cost_nothing_are_not_said_to_save_anything():
    clock = Clock()
    assert turned_seconds(turns(clock, 3, 1.0, 0.5), 50.0, clock, no_rest) == (1.0, 0.0)


def test_an_edge_with_one_session_has_no_turns(make_folder):
    spec = run_of()
    arguments = (spec, *opened(make_folder("bert", "classification"), spec), 8.0)
    assert edge_seconds(*arguments, 1, 2, clock=ticking(), sleep=no_rest) == EdgeSeconds(
        block_s=0.5, crowding_s=0, step_s=2
    )


def test_no_more_than_four_adapters_take_turns(make_folder, monkeypatch):
    seen = []
    monkeypatch.setattr(measuring, "turned_seconds", lambda steps, *_: seen.append(len(steps)) or (1.0, 0.0))
    spec = run_of()
    edge_seconds(spec, *opened(make_folder("bert", "classification"), spec), 8.0, 1_000, 1, sleep=no_rest)
    assert seen == [4]


@given(st.integers(1, 10**9), st.integers(2, 100), st.integers(0, 50), st.sampled_from([*BLOCK_BYTES]))
def test_blocks_that_are_measured_are_few_small_and_never_none(values, blocks, most, base):
    shape = model_of(blocks=blocks, block_weights=values)
    measured = sampled_blocks(shape, base, most)
    assert measured == 1 or measured <= min(8, most, blocks - 1)
    assert measured == 1 or measured * BLOCK_BYTES[base] * values <= 128 * 2**20
    assert measured >= 1


def test_a_device_rests_before_all_that_counts():
    clock, said = Clock(), []
    step = clock.passing(1.0)

    def run():
        said.append("run")
        step()

    median_seconds(run, 3.0, clock, lambda seconds: said.append(seconds))
    assert said == ["run", *[REST_S, "run"] * 3]


def rests_of(measure):
    """How often a measurement rests."""
    rests = []
    measure(rests.append)
    assert set(rests) <= {REST_S}
    return len(rests)


def test_turns_and_tensors_are_measured_after_rests_too(make_folder, monkeypatch):
    monkeypatch.setattr(measuring, "MOST_REPEATS", 2)
    spec = run_of()
    arguments = (spec, *opened(make_folder("bert", "classification"), spec), 8.0)
    own = rests_of(lambda rest: client_seconds(*arguments, 2, clock=ticking(), sleep=rest))
    assert own == 3 * 2 + 8 * 4, "twice each of three parts; eight times what goes and comes"
    alone, turns = (
        rests_of(lambda rest, many=many: edge_seconds(*arguments, many, 2, clock=ticking(), sleep=rest))
        for many in (1, 2)
    )
    assert (alone, turns) == (2 + 8 * 2, 2 * 2 + 8 * 2)
