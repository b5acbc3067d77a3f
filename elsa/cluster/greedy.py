"""A cheap placement of many clients at edges: greedy with regret, then exchanges while one lowers the cost.

An exchange is a cycle of edges along which clients move one edge on (Klein 1967); a chain that ends where there is
room is a cycle over one more node, the *hole*. Who is left over stands at one more edge, *nowhere*, with room for
all at a price above any exchange, so that the same exchanges, being augmenting paths, bring it in.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int_]

TOLERANCE = 1e-11  # of the spread of costs: what an exchange must save, a hundred times what sums are off by


def by_regret(costs: Floats, room: Ints, start: Ints, most: int) -> tuple[Ints, bool]:
    """The edge of each client, (N,), and whether no exchange is left, which proves that it is the cheapest.

    `costs` is (N, E), infinite out of reach, `room` (E,); `start` (N,) holds where clients stand already, -1 for
    none. The caller has seen that every client finds room. At most `most` searches for exchanges, except that it
    goes on until everyone is placed.
    """
    placed, left = np.full(len(costs), -1), room.copy()
    rows = np.flatnonzero(start >= 0)
    standing = np.full_like(costs, np.inf)
    standing[rows, start[rows]] = costs[rows, start[rows]]
    for offered in (standing, costs):
        _fill(offered, left, placed)
    exchange = _Exchange(costs, room, placed)
    searches = 0
    while searches < most or exchange.someone_is_left_over:
        searches += 1
        if not exchange.improve():
            return exchange.placed, True
    return exchange.placed, False


def _fill(costs: Floats, left: Ints, placed: Ints) -> None:
    """Place who is not placed, always the one who would lose most by its second choice; writes `left`, `placed`.

    Regrets change only when an edge fills, so all up to there are placed at once, in order of regret.
    """
    while True:
        waiting = np.flatnonzero(placed < 0)
        offered = np.where(left > 0, costs[waiting], np.inf)
        has_choice = np.isfinite(offered).any(axis=1)
        waiting, offered = waiting[has_choice], offered[has_choice]
        if not waiting.size:
            return
        choice = offered.argmin(axis=1)
        order = np.argsort(-_regret(offered), kind="stable")
        batch = order[: _until_full(choice[order], left)]
        placed[waiting[batch]] = choice[batch]
        left -= np.bincount(choice[batch], minlength=len(left))


def _regret(costs: Floats) -> Floats:
    """What each row loses by its second choice: infinite without one."""
    if costs.shape[1] == 1:
        return np.full(len(costs), np.inf)
    lowest = np.partition(costs, 1, axis=1)
    regret: Floats = lowest[:, 1] - lowest[:, 0]
    return regret


def _until_full(choice: Ints, left: Ints) -> int:
    """How many of these choices, in this order, can be granted until an edge that is wanted again is full."""
    order = np.argsort(choice, kind="stable")
    starts = np.searchsorted(choice[order], np.arange(len(left)))
    rank = np.empty_like(choice)
    rank[order] = np.arange(len(choice)) - starts[choice[order]]
    beyond = np.flatnonzero(rank >= left[choice])
    return int(beyond[0]) if beyond.size else len(choice)


class _Exchange:
    """Where the clients stand, and for each pair of edges who could move most cheaply from one to the other.

    Nodes are the E edges, nowhere (E) and the hole (E + 1).
    """

    def __init__(self, costs: Floats, room: Ints, placed: Ints) -> None:
        count, width = costs.shape
        finite = costs[np.isfinite(costs)]
        spread = float(np.ptp(finite)) or 1.0
        nowhere = float(finite.max(initial=0.0)) + (width + 2) * spread
        self._nowhere, self._hole = width, width + 1
        self._least = TOLERANCE * spread
        self._costs = np.column_stack([costs, np.full(count, nowhere)])  # (N, E + 1)
        self._room = np.append(room, count)
        self.placed = np.where(placed < 0, self._nowhere, placed)
        self._price = np.full((width + 2, width + 2), np.inf)  # of moving one client from row to column
        self._mover = np.zeros((width + 1, width + 1), int)  # who that is
        self._price[self._hole, :] = 0.0
        for edge in range(width + 1):
            self._refresh(edge)

    @property
    def someone_is_left_over(self) -> bool:
        return bool((self.placed == self._nowhere).any())

    def improve(self) -> bool:
        """Carry out the exchanges that one search finds; False if there is none that saves anything."""
        cycles = self._cycles()
        for cycle in cycles:
            steps = list(zip(cycle, cycle[1:] + cycle[:1], strict=True))
            moves = [(self._mover[a, b], b) for a, b in steps if self._hole not in (a, b)]
            for client, edge in moves:
                self.placed[client] = edge
        for edge in {edge for cycle in cycles for edge in cycle if edge != self._hole}:
            self._refresh(edge)
        return bool(cycles)

    def _refresh(self, edge: int) -> None:
        here = np.flatnonzero(self.placed == edge)
        self._price[edge, self._hole] = 0.0 if len(here) < self._room[edge] else np.inf
        if not here.size:
            self._price[edge, : self._hole] = np.inf
            return
        change = self._costs[here] - self._costs[here, [edge]][:, None]
        change[:, edge] = np.inf
        best = change.argmin(axis=0)
        self._mover[edge] = here[best]
        self._price[edge, : self._hole] = change[best, np.arange(self._hole)]

    def _cycles(self) -> list[list[int]]:
        """Cycles without a common node, each with a negative sum of prices; none if there is no such cycle.

        Bellman and Ford's recursion from every node at once: a cycle among the nodes' predecessors is negative.
        """
        nodes = np.arange(len(self._price))
        distance, before = np.zeros(len(nodes)), np.full(len(nodes), -1)
        for _ in nodes:
            reached = distance[:, None] + self._price
            origin = reached.argmin(axis=0)
            nearer = reached[origin, nodes] < distance - self._least
            if not nearer.any():
                return []
            distance = np.where(nearer, reached[origin, nodes], distance)
            before = np.where(nearer, origin, before)
            if cycles := _closed(before):
                return cycles
        return []


def _closed(before: Ints) -> list[list[int]]:
    """The cycles of the map from each node to its predecessor (-1: none), each in forward order."""
    seen: dict[int, int] = {}
    cycles = []
    for begin in range(len(before)):
        node, path = begin, []
        while node >= 0 and node not in seen:
            seen[node] = begin
            path.append(node)
            node = int(before[node])
        if node >= 0 and seen[node] == begin:
            cycles.append(path[path.index(node) :][::-1])
    return cycles
