"""The planner's core, on arrays alone: how many blocks each client of one edge leaves to it.

Two things bound a step of the edge's clients: the longest step of one of them by itself, and the edge's compute
thread, which works off the trunks of all of them one after another. The makespan of trunks q is the larger:

    T(q) = max( max_n step_n(q_n), trunk_block_s · Σ q_n + besides_s )

(the asymptotic bound of a closed queueing system with one server; Denning and Buzen 1978: what is really taken is at
least that, and more where clients come to the edge at the same moment). `least_makespan` is the
least T; `larger_trunks` then leaves as much to the edge as a little more time allows.
"""

from dataclasses import dataclass

import numpy as np

from elsa.plan.cost import Floats, Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """What each of N clients, at least one, may leave to the edge: 1 to Q blocks.

    For every T, the trunks whose step takes at most T are an interval: a step is convex in the trunk, and memory
    forbids small ones only.
    """

    step_s: Floats
    """(N, Q): a client's step by itself with a trunk of 1 to Q blocks, infinite where its memory forbids that; the
    last column is finite."""
    trunk_block_s: float
    """Seconds of one client's block at the edge."""
    besides_s: float
    """What the edge computes in a step of all clients besides blocks."""
    most_blocks: int
    """What the edge's memory allows of the sum of trunks: at least the smallest ones together."""
    own_s: Floats
    """(N, Q): seconds of the blocks that a client keeps; falling."""
    block_s: Floats
    """(N,): seconds of one of them."""

    def smallest(self, within_s: float) -> Ints:
        """The smallest trunk of each client whose step takes at most `within_s`, (N,); each has one."""
        sizes: Ints = 1 + np.argmax(self.step_s <= within_s, axis=1)
        return sizes

    def largest(self, within_s: float) -> Ints:
        """The largest trunk of each client whose step takes at most `within_s`, (N,); each has one."""
        sizes: Ints = self.step_s.shape[1] - np.argmax(self.step_s[:, ::-1] <= within_s, axis=1)
        return sizes

    def load_s(self, blocks: int) -> float:
        """Seconds that the edge computes in a step of all its clients, whose trunks have so many blocks in all."""
        return self.trunk_block_s * blocks + self.besides_s

    def makespan_s(self, trunks: Ints) -> float:
        """T of trunks (N,): the larger of the longest step and the edge's load."""
        steps = np.take_along_axis(self.step_s, trunks[:, None] - 1, axis=1)
        return max(float(steps.max()), self.load_s(int(trunks.sum())))


def least_makespan(choices: Choices) -> float:
    """The least T that the edge's memory allows.

    With the smallest trunks that keep within a time, the load falls as that time rises and changes only where it
    passes a step of some client. So a binary search over the steps finds the first that the load keeps within; the
    least T is that of the smallest trunks there, or of those just before it, where the load exceeds the steps.
    """
    fastest = float(choices.step_s.min(axis=1).max())
    times = np.unique(choices.step_s[np.isfinite(choices.step_s) & (choices.step_s >= fastest)])
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if _keeps_within(choices, float(times[middle])):
            high = middle
        else:
            low = middle + 1
    nearby = [choices.smallest(float(time)) for time in times[max(low - 1, 0) : low + 1]]
    return min(choices.makespan_s(trunks) for trunks in nearby if trunks.sum() <= choices.most_blocks)


def larger_trunks(choices: Choices, within_s: float) -> Ints:
    """The trunks, (N,), of largest sum whose makespan is at most `within_s`, which is at least the least makespan.

    Of several, the one in which the seconds of the clients' own blocks are least, compared from the longest down:
    blocks go to the edge one after another, each from the client whose own take longest at that moment; of equals,
    from the one whose single block does; of these, from the first.
    """
    smallest, largest = choices.smallest(within_s)[:, None], choices.largest(within_s)[:, None]
    spare = blocks_within(choices, within_s, int(largest.sum())) - int(smallest.sum())
    sizes = np.arange(1, choices.step_s.shape[1] + 1)
    rows, columns = np.nonzero((smallest <= sizes) & (sizes < largest))  # each a block that could be given
    in_turn = np.lexsort((rows, -choices.block_s[rows], -choices.own_s[rows, columns]))
    trunks: Ints = smallest[:, 0] + np.bincount(rows[in_turn[:spare]], minlength=len(smallest))
    return trunks


def blocks_within(choices: Choices, within_s: float, most: int) -> int:
    """The largest sum of trunks, at most `most`, that the edge's memory holds and its thread runs in `within_s`."""
    loads = choices.trunk_block_s * np.arange(most + 1) + choices.besides_s
    in_time = int(np.searchsorted(loads, within_s, side="right")) - 1
    return min(in_time, choices.most_blocks)


def _keeps_within(choices: Choices, time_s: float) -> bool:
    blocks = int(choices.smallest(time_s).sum())
    return blocks <= choices.most_blocks and choices.load_s(blocks) <= time_s
