"""What the clients of one edge wait for each other: their steps played through, on arrays alone.

A step comes to the edge twice, for the trunk's forward and for its backward, and one compute thread takes what comes
in the order of its arrival:

    bottom, h1 up -> [ forward ] -> h2 down, top, dL/dh2 up -> [ backward ] -> dL/dh1 down, bottom

Played through is an edge round: all clients begin at once, and each takes the run's local steps, or 16 of more. The
thread then works the load of all of them that often, so the slowest client's mean step is never below the makespan of
`trunks.py`, and it exceeds it by what arrives at the same moment.
"""

import heapq

import numpy as np

from elsa.plan.cost import Floats, StepSeconds

MOST_STEPS = 16
"""Of each client that are played, at most, for the sake of time: longer rounds are like rounds of so many."""


def waiting_seconds(steps: StepSeconds, forward_share: float = 0.5, local_steps: int = MOST_STEPS) -> Floats:
    """What each client waits for the edge in a step, on average, (N,); 0 for one client by itself.

    Micro-batches count as one, network time falls on the ways to the edge and back evenly. Of two that arrive at the
    very same moment the first of `steps` goes first.

    Args:
        steps: of N clients, each phase (N, 1).
        forward_share: of a block's seconds.
        local_steps: of each client in an edge round.
    """
    bottom, network, trunk, top = (phase[:, 0] for phase in (steps.bottom, steps.network, steps.trunk, steps.top))
    busy = np.stack([forward_share * trunk, (1 - forward_share) * trunk])  # (2, N): by pass
    away = np.stack([network / 2 + top, network / 2 + bottom])  # (2, N): from the pass to the next
    return _played(forward_share * bottom + network / 4, busy, away, min(local_steps, MOST_STEPS))


def _played(first: Floats, busy: Floats, away: Floats, steps: int) -> Floats:
    """Mean waits a step of clients that first arrive at `first`, (N,), and then take turns."""
    services, absences = busy.tolist(), away.tolist()
    waits, free = [0.0] * len(first), 0.0
    arrivals = [(arrival, row, 0) for row, arrival in enumerate(first.tolist())]  # time, client, visits before
    heapq.heapify(arrivals)
    while arrivals:
        arrival, row, visits = arrivals[0]
        begin = max(arrival, free)
        waits[row] += begin - arrival
        free = begin + services[visits % 2][row]
        if visits + 1 == 2 * steps:
            heapq.heappop(arrivals)
        else:
            heapq.heapreplace(arrivals, (free + absences[visits % 2][row], row, visits + 1))
    return np.array(waits) / steps
