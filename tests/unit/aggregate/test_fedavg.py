"""Laws of federated averaging."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elsa.aggregate.fedavg import fedavg
from elsa.errors import MalformedError

VALUES = st.floats(-1e6, 1e6, width=32)
WEIGHTS = st.integers(1, 10**9).map(float)
LAYOUTS = st.dictionaries(st.text("abc.", min_size=1), st.sampled_from([(3,), (2, 2), (1, 4)]), min_size=1)


@st.composite
def updates(draw, min_size=1):
    layout = draw(LAYOUTS)
    names = draw(st.lists(st.text("xyz1", min_size=1), min_size=min_size, max_size=5, unique=True))
    tensors = st.fixed_dictionaries(
        {name: arrays(np.float32, shape, elements=VALUES) for name, shape in layout.items()}
    )
    return {name: (draw(WEIGHTS), draw(tensors)) for name in names}


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


@given(updates(), st.randoms())
def test_order_of_contributors_is_irrelevant(given_updates, random):
    names = list(given_updates)
    random.shuffle(names)
    assert same_bits(fedavg(given_updates), fedavg({name: given_updates[name] for name in names}))


@given(updates())
def test_one_contributor_is_identity(given_updates):
    name, (weight, tensors) = next(iter(given_updates.items()))
    assert same_bits(fedavg({name: (weight, tensors)}), tensors)


@given(updates(min_size=2))
def test_mean_equals_numpy_average(given_updates):
    mean = fedavg(given_updates)
    weights = [weight for weight, _ in given_updates.values()]
    for name, tensor in mean.items():
        stacked = np.stack([tensors[name] for _, tensors in given_updates.values()]).astype(np.float64)
        np.testing.assert_allclose(tensor, np.average(stacked, axis=0, weights=weights), rtol=1e-5, atol=1e-1)


@given(updates(min_size=2), st.integers(2, 1000))
def test_only_the_ratio_of_weights_matters(given_updates, factor):
    scaled = {name: (weight * factor, tensors) for name, (weight, tensors) in given_updates.items()}
    one, other = fedavg(given_updates), fedavg(scaled)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-1)


def test_weight_is_the_share_of_the_mean():
    light, heavy = {"a": np.zeros(2, np.float32)}, {"a": np.full(2, 4, np.float32)}
    assert fedavg({"light": (1, light), "heavy": (3, heavy)})["a"].tolist() == [3.0, 3.0]


def test_sign_of_zero_survives_one_contributor():
    zero = {"a": np.array([-0.0], np.float32)}
    assert same_bits(fedavg({"edge-1": (7, zero)}), zero)


def test_scalar_tensors_stay_arrays():
    mean = fedavg({"x": (1, {"a": np.array(1, np.float32)}), "y": (1, {"a": np.array(3, np.float32)})})
    assert mean["a"].shape == () and mean["a"].dtype == np.float32 and float(mean["a"]) == 2


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weight_must_be_positive(weight):
    with pytest.raises(MalformedError, match="edge-1"):
        fedavg({"edge-1": (weight, {"a": np.zeros(1, np.float32)})})


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"a": np.zeros(3, np.float32)},
        {"a": np.zeros(2, np.float64)},
        {"a": np.zeros(2, np.float32), "a2": np.zeros(1, np.float32)},
    ],
)
def test_difference_names_contributor_and_tensor(other):
    with pytest.raises(MalformedError, match=r"tensor a.*edge-2|edge-2.*tensor a"):
        fedavg({"edge-1": (1, {"a": np.zeros(2, np.float32)}), "edge-2": (1, other)})


def test_nothing_cannot_be_averaged():
    with pytest.raises(MalformedError, match="at least one"):
        fedavg({})


def test_order_is_irrelevant_even_where_sums_cancel():
    values = {"x": 1e30, "y": 1.0, "z": -1e30}
    alone = {name: (1.0, {"a": np.full(1, value, np.float32)}) for name, value in values.items()}
    sums = {fedavg({name: alone[name] for name in order})["a"].tobytes() for order in permutations(alone)}
    assert len(sums) == 1
