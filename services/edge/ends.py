"""The edge's ends of its clients' tensors in one run: what codecs have learned and which rows are kept.

They outlive sessions and go when their client leaves the run. All methods run on the compute thread.
"""

from collections.abc import Collection

from elsa.spec import RunSpec
from elsa.train import ends
from elsa.train.edge_end import EdgeEnd
from elsa.train.ends import edge_end
from elsa.wire.kept import Shelf


class ClientEnds:
    """The ends of one run, by client, made when they are first asked for."""

    def __init__(self, spec: RunSpec, width: int, shelf: Shelf) -> None:
        self._spec = spec
        self._width = width
        self._shelf = shelf
        self._ends: dict[str, EdgeEnd] = {}

    def of(self, client: str, *, for_probes: bool = False) -> EdgeEnd:
        """A client's end; a new one, of which nothing is kept, for what it answers to probes."""
        if for_probes:
            return edge_end(ends.for_probes(self._spec), self._width, self._shelf)
        if client not in self._ends:
            self._ends[client] = edge_end(self._spec, self._width, self._shelf)
        return self._ends[client]

    def keep(self, clients: Collection[str]) -> None:
        """Forget all clients but these."""
        for client in self._ends.keys() - set(clients):
            self._ends.pop(client).close()
