"""Laws of what a client is told whose memory does not hold its part."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_fleets import model_of, workload_of

from elsa.errors import CapacityError
from elsa.plan.admission import by_kind, check_client_fits, sized
from elsa.plan.memory import Need, client_needs
from elsa.spec import Split

SPLIT = Split(bottom=2, trunk=3, top=1)
LARGE = model_of(block_weights=2**22, embedding_weights=2**23, block_activations=2**14)
BUSY = workload_of(rows=8)


def needed(workload, model=LARGE):
    return client_needs(model, workload).of(SPLIT.bottom, SPLIT.top).total


def refusal(workload, memory_bytes=1):
    with pytest.raises(CapacityError) as caught:
        check_client_fits(LARGE, workload, SPLIT, memory_bytes, "client-7")
    return str(caught.value)


@settings(deadline=None)
@given(st.integers(-3, 3))
def test_a_client_fits_exactly_where_what_is_there_is_what_is_needed(spare):
    there = needed(BUSY) + spare
    if spare >= 0:
        check_client_fits(LARGE, BUSY, SPLIT, there, "client-7")
    else:
        assert refusal(BUSY, there).startswith("client-7 needs ")


def test_a_refusal_says_what_is_needed_of_each_kind_and_what_is_there():
    said, need = refusal(BUSY, 3 << 20), client_needs(LARGE, BUSY).of(2, 1)
    assert f"needs {sized(need.total)} for bottom 2 and top 1 (" in said
    assert "3.0 MiB are there" in said
    for kind in ("weights", "adapter", "gradients", "optimizer", "activations", "loading"):
        assert f"{kind} {sized(getattr(need, kind))}" in said


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0.0 MiB"), ((10 << 30) - (1 << 20), "10239.0 MiB"), (10 << 30, "10.00 GiB"), (45 << 30, "45.00 GiB")],
)
def test_sizes_are_told_in_gib_from_ten_of_them_on(size, said):
    assert sized(size) == said


def test_kinds_of_which_nothing_is_needed_are_not_told():
    assert by_kind(Need(weights=1 << 20, loading=1 << 21)) == "weights 1.0 MiB, loading 2.0 MiB"


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("training.checkpointing: true", {"checkpointing": True}),
        ("model.base_dtype: int8", {"base": "int8"}),
        ("training.micro_batches: 8", {"micro_batches": 8}),
    ],
)
def test_each_remedy_is_told_with_what_it_needs_and_only_where_it_is_left(setting, changed):
    other = replace(BUSY, **changed)
    assert f"{setting}, which needs {sized(needed(other))}" in refusal(BUSY)
    assert needed(other) < needed(BUSY)
    assert setting not in refusal(other)


def test_a_client_that_was_told_all_remedies_is_told_to_get_memory():
    last = replace(BUSY, checkpointing=True, base="int8", micro_batches=8)
    assert re.search(r"are there; give it more memory, or a split with smaller ends$", refusal(last))
