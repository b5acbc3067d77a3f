"""Trunk tensors that stay with their client: what turned states of different keys have trained is never averaged.

With `privacy.ssop` blind and a key a client, each client's trunk lives in coordinates of its own. This edge keeps it
from round to round, and after a restart has what was kept on disk; where that is gone it begins again from the run's
first one, which is logged.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from elsa.aggregate.fednova import averaged

log = logging.getLogger(__name__)

FIRST = (0, 0)
"""The version and edge round in which no client can have trained."""
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
        self._told: set[str] = set()

    def of(self, client: str) -> Adapter | None:
        """A client's own tensors, once it has delivered some."""
        return self._kept.get(client)

    @property
    def kept(self) -> Mapping[str, Adapter]:
        """All that are here, by client."""
        return self._kept

    def part_of(self, adapter: Adapter) -> Adapter:
        """Those tensors of an adapter that stay with each client."""
        return {name: adapter[name] for name in sorted(self._own(adapter))}

    def resume(self, kept: Mapping[str, Adapter]) -> None:
        """Go on with what clients had before a restart."""
        self._kept |= kept

    def take(self, theirs: Mapping[str, Adapter], clients: Collection[str]) -> None:
        """Keep what clients have trained for themselves; of those that are not among `clients` any more nothing."""
        self._kept |= {client: tensors for client, tensors in theirs.items() if client in clients}

    def keep(self, clients: Collection[str]) -> None:
        """Forget the tensors of all clients but these."""
        for client in self._kept.keys() - set(clients):
            del self._kept[client]

    def start(self, client: str, adapter: Adapter, place: tuple[int, int] = FIRST) -> Adapter:
        """What a session of the client starts from: the edge's adapter, with its own tensors in place.

        Logs once a client if there are none though the run is past its first round.

        Args:
            place: version and edge round of the session.
        """
        own = self.of(client)
        if own is not None:
            return {**adapter, **own}
        if place > FIRST and client not in self._told and self._own(adapter):
            self._told.add(client)
            log.warning(
                "version %d, edge round %d: no trunk of %s's own is here, so it starts from the run's adapter again; "
                "whatever it had trained before this edge was restarted, or at another edge, is lost",
                *place,
                client,
            )
        return adapter

    def aggregate(
        self, updates: Mapping[str, tuple[float, float, Adapter]], before: Adapter
    ) -> tuple[dict[str, np.ndarray], float]:
        """The mean of whole adapters by weight and steps, as `elsa.aggregate.fednova.averaged`, and its steps.

        In place of their own tensors stand those of `before`, from which all began.
        """
        own = self._own(before)

        def shared(tensors: Adapter) -> Adapter:
            return {name: tensor for name, tensor in tensors.items() if name not in own}

        theirs = {client: (weight, steps, shared(tensors)) for client, (weight, steps, tensors) in updates.items()}
        mean, steps = averaged(shared(before), theirs)
        return mean | {name: before[name] for name in own}, steps
