"""Balanced groups: every edge gets a mixture of clusters near the whole fleet's."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from elsa.errors import CapacityError, SpecError


def mixed(
    labels: Mapping[str, int],
    groups: int,
    sizes: Sequence[int] | None = None,
    stood: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Deal the clients to `groups` so that each holds every cluster in about its share of the fleet.

    The clients are lined up by cluster, then id, and each group's places are spread evenly over the line, so that
    of any cluster a group gets its share to within two. The groups are equal to within one client, except where
    `sizes`, the most that each may hold, lets one take fewer: the others share the rest. Which of a cluster's clients
    go to which group makes no difference to the mixtures: those who `stood` in a group stay, as far as it takes them.

    Raises SpecError for no groups or other than one size a group, CapacityError when the sizes add up to too few.
    """
    if groups < 1:
        raise SpecError(f"balanced groups: {groups}; give 1 or more")
    line = sorted(labels, key=lambda client: (labels[client], client))
    shares = _shares(len(line), [len(line)] * groups if sizes is None else sizes, groups)
    places = np.concatenate([(np.arange(share) + 0.5) / share for share in shares if share])
    owners = np.repeat(np.arange(groups), shares)
    dealt = dict(zip(line, owners[np.argsort(places, kind="stable")].tolist(), strict=True))
    return dealt if not stood else _settled(dealt, labels, stood)


def _settled(dealt: Mapping[str, int], labels: Mapping[str, int], stood: Mapping[str, int]) -> dict[str, int]:
    """The same number of each cluster's clients in each group, as many of them as can be where they stood."""
    places = Counter((labels[client], group) for client, group in dealt.items())
    result: dict[str, int] = {}
    for client in sorted(dealt):
        place = (labels[client], stood.get(client, -1))
        if places[place] > 0:
            places[place] -= 1
            result[client] = place[1]
    left: dict[int, list[int]] = {}
    for cluster, group in sorted(places.elements(), reverse=True):
        left.setdefault(cluster, []).append(group)
    return {client: result[client] if client in result else left[labels[client]].pop() for client in sorted(dealt)}


def _shares(clients: int, sizes: Sequence[int], groups: int) -> NDArray[np.int64]:
    """Return how many clients each group takes, as equal as the sizes allow; of equals the first take one more."""
    room = np.array(sizes, np.int64)
    if len(room) != groups or (room < 0).any():
        raise SpecError(f"balanced groups: sizes {list(sizes)}; give one number from 0 for each of {groups} groups")
    if room.sum() < clients:
        raise CapacityError(
            f"balanced groups: {clients} clients and room for {room.sum()}; add an edge or raise a capacity"
        )
    shares = np.zeros(groups, np.int64)
    left = clients
    while left:
        open_groups = np.flatnonzero(shares < room)
        step = max(1, min(left // len(open_groups), int((room - shares)[open_groups].min())))
        taking = open_groups[:left] if left < len(open_groups) else open_groups
        shares[taking] += step
        left -= step * len(taking)
    return shares
