"""What a run takes of an edge's memory, before it is loaded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_harness import spec_of

from elsa.errors import CapacityError, SplitError
from elsa.plan.memory import edge_needs
from elsa.plan.shape import ModelShape, Workload
from services.edge.fit import Fit

SHAPE = ModelShape(
    blocks=12,
    width=64,
    block_weights=100_000,
    embedding_weights=500_000,
    head_weights=4_000,
    largest_weights=400_000,
    block_adapter=1_000,
    head_adapter=200,
    block_activations=900,
    head_activations=60,
)
PLANNED = {"plan": {"method": "measured"}}


def needs_of(spec, held, **workload):
    return edge_needs(SHAPE, Workload.of(spec, SHAPE.width, spec.model.max_tokens), held)


def fit_of(memory_bytes, **parts):
    spec = spec_of("model", split={"bottom": 2, "top": 1}, **parts)
    return spec, Fit.of(spec, SHAPE, memory_bytes)


@given(st.integers(1, 2**27), st.booleans())
def test_as_many_sessions_are_offered_as_there_is_memory_for(memory_bytes, planned):
    spec, fit = fit_of(memory_bytes, **(PLANNED if planned else {}))
    needs, must = needs_of(spec, 9), 1 if planned else 9
    assert (fit.held, fit.must) == (range(2, 11), must)
    least = needs.of(1, must).total
    if least > memory_bytes:
        with pytest.raises(CapacityError):
            fit.check()
        return
    fit.check()
    count = fit.sessions
    assert needs.of(count, must * count).total <= memory_bytes < needs.of(count + 1, must * (count + 1)).total


def test_an_edge_that_does_planned_work_for_a_single_block_takes_part_and_in_a_given_run_does_not():
    spec, _ = fit_of(1, **PLANNED)
    enough_for_one = needs_of(spec, 9).of(1, 1).total
    _, fit = fit_of(enough_for_one, **PLANNED)
    fit.check()
    assert fit.sessions == 1
    with pytest.raises(CapacityError):
        fit_of(enough_for_one - 1, **PLANNED)[1].check()
    with pytest.raises(CapacityError):
        fit_of(enough_for_one)[1].check()


def test_given_splits_that_differ_are_held_together_and_an_edge_must_hold_a_session_of_the_largest():
    splits = {"bob": {"bottom": 1, "top": 6}, "cat": {"bottom": 4, "top": 0}}
    spec, fit = fit_of(2**30, splits=splits)
    assert (fit.held, fit.must) == (range(1, 12), 9)
    enough = needs_of(spec, 11).of(1, 9).total
    fit_of(enough, splits=splits)[1].check()
    with pytest.raises(CapacityError):
        fit_of(enough - 1, splits=splits)[1].check()


def test_what_is_only_counted_is_refused_by_less_than_is_needed_and_said_to_be():
    spec, fit = fit_of(1)
    counted = replace(SHAPE, block_activations=0, head_activations=0)
    with pytest.raises(CapacityError) as caught:
        replace(fit, shape=counted).check(at_least=True)
    assert "one session need at least" in str(caught.value) and "checkpointing" not in str(caught.value)
    assert "int8, which needs at least" in str(caught.value)
    enough = edge_needs(counted, fit.workload, 9).of(1, 9).total
    assert enough < needs_of(spec, 9).of(1, 9).total
    replace(fit, shape=counted, memory_bytes=enough).check(at_least=True)


def test_a_refusal_says_what_is_needed_of_each_kind_what_is_there_and_what_would_do():
    _, fit = fit_of(2**20)
    with pytest.raises(CapacityError) as caught:
        fit.check()
    said = str(caught.value)
    need = needs_of(fit_of(1)[0], 9).of(1, 9)
    assert f"blocks 2 to 10 of model and one session need {need.total / 2**20:.1f} MiB" in said
    assert f"weights {need.weights / 2**20:.1f} MiB" in said and "activations" in said
    assert "1.0 MiB are there; raise max_memory_mib, or give clients more blocks" in said
    for setting in ("training.checkpointing: true", "model.base_dtype: int8", "training.micro_batches: 8"):
        assert f"ask for {setting}, which needs" in said
    _, frugal = fit_of(1, training={"checkpointing": True, "micro_batches": 8}, model={"base_dtype": "int8"})
    with pytest.raises(CapacityError) as caught:
        frugal.check()
    assert "ask for" not in str(caught.value)


def test_a_model_that_is_too_short_is_refused():
    with pytest.raises(SplitError, match="leaves no trunk"):
        Fit.of(spec_of("model", split={"bottom": 6, "top": 6}), SHAPE, 2**30)
