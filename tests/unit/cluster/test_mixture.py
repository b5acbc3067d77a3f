"""Balanced groups: each a mixture near the whole's, of nearly equal size, within its room."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.cluster.mixture import mixed
from elsa.errors import CapacityError, SpecError

fleets = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(
    lambda labels: {f"c{at:02d}": label for at, label in enumerate(labels)}
)


@given(fleets, st.integers(1, 7))
def test_every_group_is_near_the_mixture_of_the_whole_and_of_equal_size(labels, groups):
    dealt = mixed(labels, groups)
    assert set(dealt) == set(labels)
    sizes = [list(dealt.values()).count(group) for group in range(groups)]
    assert max(sizes) - min(sizes) <= 1
    whole, pairs = Counter(labels.values()), Counter((dealt[name], labels[name]) for name in labels)
    for group in range(groups):
        for cluster, clients in whole.items():
            assert abs(pairs[group, cluster] - clients * sizes[group] / len(labels)) <= 2


@given(fleets, st.lists(st.integers(0, 80), min_size=1, max_size=6))
def test_no_group_holds_more_than_its_room_and_the_others_share_the_rest(labels, room):
    if sum(room) < len(labels):
        with pytest.raises(CapacityError, match="room for"):
            mixed(labels, len(room), room)
        return
    counts = Counter(mixed(labels, len(room), room).values())
    sizes = [counts[group] for group in range(len(room))]
    assert all(size <= most for size, most in zip(sizes, room, strict=True))
    spare = [size for size, most in zip(sizes, room, strict=True) if size < most]
    assert not spare or max(sizes) - min(spare) <= 1


@given(fleets, st.integers(1, 5), st.randoms())
def test_the_order_of_clients_is_irrelevant(labels, groups, random):
    order = list(labels)
    random.shuffle(order)
    assert mixed({name: labels[name] for name in order}, groups) == mixed(labels, groups)


def test_what_cannot_be_asked_for_is_named():
    with pytest.raises(SpecError, match="0; give"):
        mixed({"a": 0}, 0)
    with pytest.raises(SpecError, match="one number"):
        mixed({"a": 0}, 2, [1])
    with pytest.raises(SpecError, match="one number"):
        mixed({"a": 0}, 2, [-1, 2])


@given(st.integers(2, 5), st.lists(st.integers(0, 3), min_size=4, max_size=40), st.randoms(use_true_random=False))
def test_who_stood_in_a_group_stays_as_far_as_the_mixture_allows(groups, marks, draw):
    labels = {f"c{n:02}": mark for n, mark in enumerate(marks)}
    dealt = mixed(labels, groups)
    stood = {client: draw.randrange(groups) for client in labels if draw.random() < 0.8}
    settled = mixed(labels, groups, stood=stood)
    count = Counter((labels[client], group) for client, group in dealt.items())
    assert Counter((labels[client], group) for client, group in settled.items()) == count
    wanted = Counter((labels[client], group) for client, group in stood.items())
    for place, there in count.items():
        stayed = sum(settled[c] == place[1] for c in stood if (labels[c], stood[c]) == place)
        assert stayed == min(there, wanted[place])
    assert mixed(labels, groups, stood=dealt) == dealt
