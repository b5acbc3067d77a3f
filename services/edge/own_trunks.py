"""Trunk tensors that stay with their client: what turned states of different keys have trained is never averaged.

With `privacy.ssop` blind and a key a client, each client's trunk lives in coordinates of its own. This edge keeps it
from round to round, in memory: after a restart a client's trunk begins again from the run's first one.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from elsa.aggregate.fedavg import fedavg

Adapter = Mapping[str, np.ndarray]
NamesOf = Callable[[Iterable[str]], frozenset[str]]


def none_of(names: Iterable[str]) -> frozenset[str]:
    """What clients keep to themselves in all other runs."""
    return frozenset()


class OwnTrunks:
    """The clients' own tensors in one run.

    Args:
        own: those of the names of a whole adapter that are never averaged.
    """

    def __init__(self, own: NamesOf = none_of) -> None:
        self._own = own
        self._kept: dict[str, Adapter] = {}

    def of(self, client: str) -> Adapter | None:
        """A client's own tensors, once it has delivered some."""
        return self._kept.get(client)

    def start(self, client: str, adapter: Adapter) -> Adapter:
        """What a session of the client starts from: the edge's adapter, with its own tensors in place."""
        own = self.of(client)
        return adapter if own is None else {**adapter, **own}

    def aggregate(self, updates: Mapping[str, tuple[float, Adapter]], before: Adapter) -> dict[str, np.ndarray]:
        """The weighted mean of whole adapters; their own tensors are kept, and `before`'s stand in their place."""
        own = self._own(before)
        shared = {
            client: (weight, {name: tensor for name, tensor in tensors.items() if name not in own})
            for client, (weight, tensors) in updates.items()
        }
        mean = fedavg(shared)
        if own:
            self._kept |= {client: {name: tensors[name] for name in own} for client, (_, tensors) in updates.items()}
        return mean | {name: before[name] for name in own}
