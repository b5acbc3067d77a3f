"""What each client's split hangs on, and how that is said on one line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elsa.plan.admission import sized
from elsa.plan.cost import Ints
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.result import Bound
from elsa.plan.splits import Splits
from elsa.plan.trunks import Choices


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """What is there to explain: trunks (N,) chosen by `larger_trunks` for one edge's clients."""

    edge: EdgeProfile
    clients: Sequence[ClientProfile]
    splits: Splits
    choices: Choices
    trunks: Ints
    within_s: float
    """The makespan that they were to keep within."""


def explain(it: Explained, row: int, need_bytes: int) -> tuple[Bound, str]:
    """What the split of the client in that row hangs on, and the reason on one line.

    Args:
        need_bytes: what the client's split takes.
    """
    steps, size = it.choices.step_s[row], int(it.trunks[row])
    client, edge, beyond = it.clients[row], it.edge.name, f"above {it.within_s:.3g}"
    if size == len(steps):
        return "privacy", f"keeps no more than the bounds ask; {edge} has room for the other {size} blocks"
    if size > 1 and not np.isfinite(steps[size - 2]):
        there = f"{sized(need_bytes)} of {sized(client.memory_bytes)}"
        return "memory", f"its memory holds no more blocks ({there}); {_full(it)}"
    if size > 1 and steps[size - 2] > it.within_s:
        return "speed", f"with one block more its step would take {steps[size - 2]:.3g} s, {beyond}"
    if steps[size] > it.within_s:
        longer = f"its step would take {steps[size]:.3g} s, {beyond}"
        return "speed", f"with one block less {longer}: a block is slower at {edge}"
    bottom, top = it.splits.bottom[row], it.splits.top[row]
    if bottom[size - 1] == client.max_bottom and top[size - 1] > top[-1]:
        return "cap", f"its bottom ends at max_bottom {client.max_bottom}, so the rest is at the top; {_full(it)}"
    return "edge", f"keeps blocks because {_full(it)}"


def _full(it: Explained) -> str:
    """Why the edge takes no block more."""
    blocks, edge = int(it.trunks.sum()), it.edge.name
    if blocks == it.choices.most_blocks:
        return f"{edge} has no memory for more: its {sized(it.edge.memory_bytes)} hold {blocks} trunk blocks"
    busy = f"{it.choices.load_s(blocks):.3g} of the {it.within_s:.3g} s that a step may take"
    return f"{edge} has no time for more: it computes {busy}"
