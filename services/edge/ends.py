"""The edge's ends of its clients' tensors in one run: what codecs have learned and which rows are kept.

They outlive sessions and go when their client leaves the run. All methods run on the compute thread.
"""

from collections.abc import Collection

from elsa.spec import RunSpec
from elsa.train.edge_end import EdgeEnd
from elsa.train.fitting import codecs_for
from elsa.train.reuse import EdgeRows
from elsa.wire.kept import KeptRows, Shelf


class ClientEnds:
    """The ends of one run, by client, made when they are first asked for."""

    def __init__(self, spec: RunSpec, width: int, shelf: Shelf) -> None:
        self._spec = spec
        self._width = width
        self._shelf = shelf
        self._codecs = codecs_for(spec, width)
        self._ends: dict[str, EdgeEnd] = {}

    def of(self, client: str) -> EdgeEnd:
        """A client's end."""
        if client not in self._ends:
            rows = None
            if self._spec.reuse.enabled:
                kept = KeptRows(self._shelf)
                rows = EdgeRows(kept, self._width, frozen=not self._spec.lora.bottom_adapters)
            self._ends[client] = EdgeEnd(self._codecs, self._width, rows=rows)
        return self._ends[client]

    def keep(self, clients: Collection[str]) -> None:
        """Forget all clients but these."""
        for client in self._ends.keys() - set(clients):
            self._ends.pop(client).close()
