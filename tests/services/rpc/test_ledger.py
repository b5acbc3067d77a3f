"""Runs of one process are not promised the same memory, and those that need it to themselves have it so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_harness import spec_of

from elsa.errors import CapacityError
from services.rpc.ledger import Ledger

MIB = 1 << 20
SPEC = spec_of("model")
ALONE = spec_of("model", training={"dropout": True, "checkpointing": True})


def ledger_of(*free_mib):
    """One that sees these figures of free memory, one after the other, and the last from then on."""
    figures = list(free_mib)
    return Ledger(lambda: (figures.pop(0) if len(figures) > 1 else figures[0]) * MIB)


def test_what_one_run_reserved_is_not_there_for_another_until_it_ends():
    ledger = ledger_of(100)
    first, second = ledger.begin("one", SPEC), ledger.begin("two", SPEC)
    assert first.there() == 100 * MIB
    first.reserve(70 * MIB)
    assert (first.there(), second.there()) == (100 * MIB, 30 * MIB)
    first.reserve(20 * MIB)
    assert second.there() == 80 * MIB
    first.close()
    first.reserve(90 * MIB)
    assert second.there() == 100 * MIB, "what comes after the end reserves nothing"


def test_of_two_that_saw_the_same_only_as_many_get_it_as_there_is_room_for():
    ledger = ledger_of(100)
    first, second = ledger.begin("one", SPEC), ledger.begin("two", SPEC)
    assert first.there() == second.there() == 100 * MIB
    first.reserve(60 * MIB)
    with pytest.raises(CapacityError, match=r"two needs 41.0 MiB, and 60.0 MiB of 100.0 MiB .* for one; wait"):
        second.reserve(41 * MIB)
    second.reserve(40 * MIB)


def test_what_the_first_has_loaded_does_not_count_twice_and_what_others_took_counts():
    ledger = ledger_of(100, 55, 10)
    first, second = ledger.begin("one", SPEC), ledger.begin("two", SPEC)
    first.there()
    first.reserve(60 * MIB)
    assert second.there() == 40 * MIB, "45 of the 60 are taken already"
    assert second.there() == 10 * MIB, "somebody else took more"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 120) | st.none()), max_size=30))
def test_never_more_is_reserved_by_several_than_there_was(steps):
    ledger = ledger_of(100)
    accounts, held = {}, {}
    for name, size in steps:
        if size is None:
            ledger.end(name)
            accounts.pop(name, None)
            held.pop(name, None)
            continue
        account = accounts.setdefault(name, ledger.begin(name, SPEC))
        assert account.there() == (100 - sum(mib for other, mib in held.items() if other != name)) * MIB
        try:
            account.reserve(min(size, 100) * MIB)
            held[name] = min(size, 100)
        except CapacityError:
            assert sum(mib for other, mib in held.items() if other != name) + size > 100
        assert sum(held.values()) <= 100


@pytest.mark.parametrize(("there", "comes"), [(ALONE, SPEC), (SPEC, ALONE), (ALONE, ALONE)])
def test_a_run_with_dropout_and_checkpointing_has_its_process_to_itself(there, comes):
    ledger = ledger_of(100)
    first = ledger.begin("one", there)
    with pytest.raises(CapacityError, match=r"two cannot be .* with one: .*dropout and training\.checkpoint"):
        ledger.begin("two", comes)
    ledger.begin("one", there)  # the same run again
    first.close()
    ledger.begin("two", comes)


@pytest.mark.parametrize("training", [{"dropout": True}, {"checkpointing": True}], ids=str)
def test_dropout_or_checkpointing_alone_do_not_matter(training):
    ledger = ledger_of(100)
    parts = {"dropout": False, "checkpointing": False} | training
    for name in ("one", "two"):
        ledger.begin(name, spec_of("model", training=parts))
