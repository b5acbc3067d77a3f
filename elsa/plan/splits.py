"""Which splits a client may have: one for each size of its trunk, and whether its memory holds it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elsa.plan.cost import Floats, Ints
from elsa.plan.memory import ClientNeeds
from elsa.plan.problem import Problem
from elsa.plan.profile import ClientProfile


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """Of N clients, each with a trunk of 1 to Q blocks."""

    bottom: Ints
    """(N, Q)."""
    trunk: Ints
    """(1, Q)."""
    top: Ints
    """(N, Q)."""
    fits: NDArray[np.bool_]
    """(N, Q): whether the client's memory holds it. A larger trunk needs less."""


def possible_splits(problem: Problem, needs: ClientNeeds, clients: Sequence[ClientProfile]) -> Splits:
    """The splits of `clients`, whose caps allow the bounds.

    What a client keeps beyond the bounds goes to its bottom, since deeper states give less of the text away, and to
    its top only once the bottom is at the client's cap.
    """
    blocks = problem.model.blocks
    trunk = np.arange(1, problem.most_trunk + 1).reshape(1, -1)
    caps = np.array([client.max_bottom or blocks for client in clients]).reshape(-1, 1)
    bottom = np.minimum(caps, blocks - problem.min_top - trunk)
    top = blocks - trunk - bottom
    return Splits(bottom=bottom, trunk=trunk, top=top, fits=within_memory(needs, clients, bottom, top))


def within_memory(needs: ClientNeeds, clients: Sequence[ClientProfile], bottom: Ints, top: Ints) -> NDArray[np.bool_]:
    """Whether each client's memory holds so many blocks at its ends; `bottom` and `top` (N, K)."""
    there: Floats = np.array([client.memory_bytes for client in clients], float).reshape(-1, 1)
    needed = needs.ends.total + float(needs.bottom_block.total) * bottom + float(needs.top_block.total) * top
    fits: NDArray[np.bool_] = needed <= there
    return fits
