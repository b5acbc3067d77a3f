"""What the clients of one edge wait for each other: their steps played through, on arrays alone.

A step comes to the edge twice, for the trunk's forward and for its backward, and one compute thread takes what comes
in the order of its arrival:

    bottom, h1 up -> [ forward ] -> h2 down, top, dL/dh2 up -> [ backward ] -> dL/dh1 down, bottom

Played through is an edge round: all clients begin at once, and each takes the run's local steps, or 16 of more. The
thread then works the load of all of them that often, so the slowest client's mean step is never below the makespan of
`trunks.py`, and it exceeds it by what arrives at the same moment. Batches differ in length, and so do the steps that
are played: steps that all take the same time would fall into an order in which nobody waits, which no fleet does.
"""

import heapq

import numpy as np

from elsa.plan.cost import Floats, StepSeconds

MOST_STEPS = 16
"""Of each client that are played, at most, for the sake of time: longer rounds are like rounds of so many."""

SPREAD = 0.2
"""Standard deviation of a step's seconds, as a share of their mean: padded lengths of batches of a few rows vary so.
From 0.1 to 0.3 what a step takes in all changes by a few percent (docs/log.md)."""


def waiting_seconds(
    steps: StepSeconds, forward_share: float = 0.5, local_steps: int = MOST_STEPS, spread: float = SPREAD
) -> Floats:
    """What each client waits for the edge in a step, on average, (N,); 0 for one client by itself.

    Micro-batches count as one, network time falls on the ways to the edge and back evenly. Of two that arrive at the
    very same moment the first of `steps` goes first.

    Args:
        steps: of N clients, each phase (N, 1).
        forward_share: of a block's seconds.
        local_steps: of each client in an edge round.
        spread: of a client's steps about their mean, a share of it.
    """
    bottom, network, trunk, top = (phase[:, 0] for phase in (steps.bottom, steps.network, steps.trunk, steps.top))
    busy = np.stack([forward_share * trunk, (1 - forward_share) * trunk])  # (2, N): by pass
    away = np.stack([network / 2 + top, network / 2 + bottom])  # (2, N): from the pass to the next
    lengths = _lengths(min(local_steps, MOST_STEPS), len(bottom), spread)
    return _played(forward_share * bottom + network / 4, busy, away, lengths)


def _lengths(steps: int, clients: int, spread: float) -> Floats:
    """How long each step is of each client, as a share of that client's mean, (steps, clients).

    Always the same for the client at a place, however many follow: plans are compared, not what was drawn for them.
    """
    drawn = np.maximum(1 + spread * np.random.default_rng(0).standard_normal((clients, steps)).T, 0.1)
    shares: Floats = drawn / drawn.mean(axis=0)
    return shares


def _played(first: Floats, busy: Floats, away: Floats, lengths: Floats) -> Floats:
    """Mean waits a step of clients that first arrive at `first`, (N,), and then take turns."""
    steps = len(lengths)
    services = (lengths[:, None, :] * busy).reshape(2 * steps, -1).tolist()  # by visit, then client
    absences = (lengths[:, None, :] * away).reshape(2 * steps, -1).tolist()
    waits, free = [0.0] * len(first), 0.0
    arrivals = [(arrival, row, 0) for row, arrival in enumerate((lengths[0] * first).tolist())]  # visits before
    heapq.heapify(arrivals)
    while arrivals:
        arrival, row, visits = arrivals[0]
        begin = max(arrival, free)
        waits[row] += begin - arrival
        free = begin + services[visits][row]
        if visits + 1 == 2 * steps:
            heapq.heappop(arrivals)
        else:
            heapq.heapreplace(arrivals, (free + absences[visits][row], row, visits + 1))
    return np.array(waits) / steps
