"""The edge's ends of its clients' tensors in one run: what codecs have learned and which rows are kept.

They outlive sessions and go when their client leaves the run or its cuts move. All methods run on the compute thread.
"""

from collections.abc import Collection

from elsa.spec import RunSpec, Split
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
        self._ends: dict[str, tuple[Split, EdgeEnd]] = {}

    def of(self, client: str, split: Split, *, for_probes: bool = False) -> EdgeEnd:
        """A client's end at the cuts of `split`: a new one where they were others, as that has learned of those.

        For what a client answers to probes always a new one, of which nothing is kept.
        """
        if for_probes:
            return edge_end(ends.for_probes(self._spec), self._width, self._shelf)
        if client in self._ends:
            before, end = self._ends[client]
            if before == split:
                return end
            end.close()
        end = edge_end(self._spec, self._width, self._shelf)
        self._ends[client] = split, end
        return end

    def keep(self, clients: Collection[str]) -> None:
        """Forget all clients but these."""
        for client in self._ends.keys() - set(clients):
            _, end = self._ends.pop(client)
            end.close()
