"""Laws of normalised averaging."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elsa.aggregate.fedavg import fedavg
from elsa.aggregate.fednova import MOST_STRETCH, averaged, fednova, least_steps
from elsa.errors import MalformedError

VALUES = st.floats(-1e3, 1e3, width=32)
WEIGHTS = st.integers(1, 10**6).map(float)
STEPS = st.integers(1, 100).map(float)
LAYOUTS = st.dictionaries(st.text("abc.", min_size=1), st.sampled_from([(3,), (2, 2), (1, 4)]), min_size=1)
START = {"a": np.array([2.0, -0.0], np.float32)}


@st.composite
def rounds(draw, min_size=1):
    """What all began from, and by contributor weight, steps and tensors."""
    layout = draw(LAYOUTS)
    names = draw(st.lists(st.text("xyz1", min_size=1), min_size=min_size, max_size=5, unique=True))
    tensors = st.fixed_dictionaries(
        {name: arrays(np.float32, shape, elements=VALUES) for name, shape in layout.items()}
    )
    return draw(tensors), {name: (draw(WEIGHTS), draw(STEPS), draw(tensors)) for name in names}


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def close(a, b):
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-1)


def at(*values):
    return {"a": np.array(values, np.float32)}


@given(rounds(), STEPS)
def test_equal_steps_are_federated_averaging_bit_by_bit(given_round, steps):
    before, updates = given_round
    made, effective = fednova(before, {name: (weight, steps, own) for name, (weight, _, own) in updates.items()})
    assert same_bits(made, fedavg({name: (weight, own) for name, (weight, _, own) in updates.items()}))
    assert effective == steps


@given(rounds())
def test_one_contributor_of_any_steps_is_identity(given_round):
    before, updates = given_round
    name, (weight, steps, own) = next(iter(updates.items()))
    made, effective = fednova(before, {name: (weight, steps, own)})
    assert same_bits(made, own) and effective == steps


@given(rounds(), st.randoms())
def test_order_of_contributors_changes_no_bit(given_round, random):
    before, updates = given_round
    names = list(updates)
    random.shuffle(names)
    (one, steps), (other, again) = fednova(before, updates), fednova(before, {name: updates[name] for name in names})
    assert same_bits(one, other) and steps == again


@given(rounds(min_size=2), st.integers(2, 1000))
def test_only_the_ratios_of_weights_matter(given_round, factor):
    before, updates = given_round
    made, effective = fednova(before, updates)
    scaled, same = fednova(before, {name: (factor * w, steps, own) for name, (w, steps, own) in updates.items()})
    close(made, scaled)
    assert effective == pytest.approx(same)


@given(rounds(min_size=2), st.integers(2, 10))
def test_only_the_ratios_of_steps_move_the_result(given_round, factor):
    before, updates = given_round
    made, effective = fednova(before, updates)
    scaled, more = fednova(before, {name: (w, factor * steps, own) for name, (w, steps, own) in updates.items()})
    close(made, scaled)
    assert more == pytest.approx(factor * effective)


@given(rounds(min_size=2))
def test_steps_that_count_are_the_weighted_mean(given_round):
    before, updates = given_round
    steps = [steps for _, steps, _ in updates.values()]
    assert fednova(before, updates)[1] == pytest.approx(
        np.average(steps, weights=[w for w, _, _ in updates.values()])
    )


@given(rounds(min_size=2))
def test_who_went_straight_on_counts_by_its_way_a_step(given_round):
    """Each of τ steps goes d: the result is τ' times the mean of d, whoever took how many."""
    before, updates = given_round
    ways = {name: (weight, own) for name, (weight, _, own) in updates.items()}
    gone = {
        name: (weight, steps, {key: (before[key] + steps * own[key]).astype(np.float64) for key in before})
        for name, (weight, steps, own) in updates.items()
    }
    wide = {key: tensor.astype(np.float64) for key, tensor in before.items()}
    made, effective = fednova(wide, gone)
    mean = fedavg(ways)
    for key, tensor in made.items():
        np.testing.assert_allclose(tensor, before[key] + effective * mean[key], rtol=1e-4, atol=1.0)


@given(rounds(min_size=2), st.integers(1, 4))
def test_aggregate_of_aggregates_is_that_of_all(given_round, cut):
    before, updates = given_round
    names = sorted(updates)
    edges = [part for part in (names[:cut], names[cut:]) if part]
    parts = {}
    for number, own in enumerate(edges):
        made, steps = fednova(before, {name: updates[name] for name in own})
        parts[f"edge-{number}"] = (math.fsum(updates[name][0] for name in own), steps, made)
    made, effective = fednova(before, parts)
    whole, same = fednova(before, updates)
    assert effective == pytest.approx(same)
    for key in whole:  # edges give theirs in float32: what that rounds is stretched by the ratio of steps
        np.testing.assert_allclose(made[key], whole[key], rtol=1e-3, atol=1.0)


def test_result_of_two_is_as_calculated_by_hand():
    updates = {"fast": (1, 4, at(10, 0)), "slow": (3, 1, at(3, 3))}
    made, effective = fednova(START, updates)
    assert effective == 0.25 * 4 + 0.75 * 1
    np.testing.assert_array_equal(made["a"], at(2 + 1.75 * (0.25 * 8 / 4 + 0.75 * 1), 1.75 * 0.75 * 3)["a"])


def test_order_is_irrelevant_even_where_sums_cancel():
    values = {"x": (2, 1e30), "y": (3, 1.0), "z": (4, -1e30)}
    alone = {name: (1.0, steps, at(value)) for name, (steps, value) in values.items()}
    made = {fednova(at(0), {name: alone[name] for name in order})[0]["a"].tobytes() for order in permutations(alone)}
    assert len(made) == 1


def test_scalar_tensors_stay_arrays():
    one, two = ({"a": np.array(value, np.float32)} for value in (1, 3))
    made, _ = fednova({"a": np.array(0, np.float32)}, {"x": (1, 1, one), "y": (1, 3, two)})
    assert made["a"].shape == () and made["a"].dtype == np.float32 and float(made["a"]) == 2


@pytest.mark.parametrize("steps", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("others", [{}, {"b": (1, 2, at(0, 0))}])
def test_steps_must_be_positive_and_finite(steps, others):
    with pytest.raises(MalformedError, match="steps of edge-1"):
        fednova(START, {"edge-1": (1, steps, at(0, 0)), **others})


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weight_must_be_positive(weight):
    with pytest.raises(MalformedError, match="weight of edge-1"):
        fednova(START, {"edge-1": (weight, 1, at(0, 0)), "edge-2": (1, 2, at(0, 0))})


@pytest.mark.parametrize(
    "other",
    [{}, at(0, 0, 0), {"a": np.zeros(2)}, {**at(0, 0), "a2": np.zeros(1, np.float32)}],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_difference_names_contributor_and_tensor(other, steps):
    with pytest.raises(MalformedError, match=r"tensor a.*edge-2|edge-2.*tensor a"):
        fednova(START, {"edge-1": (1, 1, at(0, 0)), "edge-2": (1, steps, other)})


def test_what_all_began_from_must_have_their_names():
    with pytest.raises(MalformedError, match="tensor b is in what it began from but not in the update of edge-1"):
        fednova({**START, "b": np.zeros(1, np.float32)}, {"edge-1": (1, 1, at(0, 0))})


def test_nothing_cannot_be_averaged():
    with pytest.raises(MalformedError, match="at least one"):
        fednova(START, {})


def test_values_that_leave_their_type_are_refused():
    with pytest.raises(MalformedError, match="tensor a: leaves the range of float32"):
        fednova(at(0, 0), {"a": (1, 1, at(3e37, 0)), "b": (1, 100, at(0, 0))})


@given(most=st.floats(100, 1e6), weight=st.floats(1e-6, 1e6))
def test_least_steps_are_taken_with_any_others_and_half_as_many_are_not(most, weight):
    least = least_steps(most)
    both = {"many": (weight, most, at(1, 0)), "few": (1.0, least, at(0, 1))}
    assert fednova(START, both)[1] <= MOST_STRETCH * least * (1 + 1e-6)
    with pytest.raises(MalformedError, match=r"steps of few are .* stretched more than 100 times"):
        fednova(START, {"many": (1e3, most, at(1, 0)), "few": (1.0, least / 2, at(0, 1))})


@given(rounds())
def test_steps_that_are_not_counted_change_nothing(given_round):
    before, updates = given_round
    made, steps = averaged(before, {name: (weight, 0.0, own) for name, (weight, _, own) in updates.items()})
    assert steps == 0 and same_bits(made, fedavg({name: (weight, own) for name, (weight, _, own) in updates.items()}))
    assert same_bits(averaged(before, updates)[0], fednova(before, updates)[0])


def test_steps_count_for_all_or_for_none():
    with pytest.raises(MalformedError, match="steps of edge-1 are 0"):
        averaged(START, {"edge-1": (1, 0.0, at(0, 0)), "edge-2": (1, 2.0, at(0, 0))})


WEIGHT = np.array([1.0, 2.0, 3.0])
TAKEN = np.array([1, 5, 20])
CURVATURE = np.array([[1.0, 0.5], [0.5, 2.0], [2.0, 1.0]])  # (client, coordinate)
CENTRE = np.array([[1.0, -1.0], [3.0, 0.0], [-2.0, 4.0]])


def minimiser(weights):
    """Of the sum over clients of weight · ½ Σ curvature (x − centre)²."""
    scaled = weights[:, None] * CURVATURE
    return (scaled * CENTRE).sum(axis=0) / scaled.sum(axis=0)


def fixed_point(rate, rule):
    """Where rounds of plain gradient descent end, each client taking its own number of steps."""
    x = np.zeros(2)
    for _ in range(100_000):
        updates = {}
        for n, steps in enumerate(TAKEN):
            own = CENTRE[n] + (1 - rate * CURVATURE[n]) ** steps * (x - CENTRE[n])
            updates[str(n)] = (WEIGHT[n], float(steps), {"x": own})
        made = rule({"x": x}, updates)
        if np.abs(made - x).max() < 1e-9 * rate:
            return made
        x = made
    raise AssertionError("no fixed point was found")


def by_nova(before, updates):
    return fednova(before, updates)[0]["x"]


def by_mean(before, updates):
    return fedavg({name: (weight, own) for name, (weight, _, own) in updates.items()})["x"]


def test_rounds_of_unequal_steps_end_at_the_minimiser_of_the_weighted_sum():
    off = [np.abs(fixed_point(rate, by_nova) - minimiser(WEIGHT)).max() for rate in (1e-2, 1e-3)]
    assert off[1] < 0.02 and off[1] == pytest.approx(off[0] / 10, rel=0.2)  # what is left is of the rate's order


def test_rounds_of_plain_means_end_elsewhere():
    reached = fixed_point(1e-3, by_mean)
    assert np.abs(reached - minimiser(WEIGHT)).max() > 0.5
    np.testing.assert_allclose(reached, minimiser(WEIGHT * TAKEN), atol=0.02)
