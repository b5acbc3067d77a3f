"""The updates that an edge has taken in its open round, and the digests by which a push that comes again is known."""

import math
from collections.abc import Callable, Collection, Mapping

from services.edge.parts import Update
from services.edge.served import Place


class Taken:
    """One update a client, the newest; digests are kept for a round longer."""

    def __init__(self) -> None:
        self.updates: dict[str, Update] = {}
        """By client."""
        self.digests: dict[tuple[Place, str], str] = {}
        """SHA-256 of what was pushed, by place and client."""

    def begin(self, before: Place, place: Place) -> None:
        """The round at `before` is over, and `place` is next, which may be one that is made again.

        A push that is made again comes soon: older digests are of no use. Nor are those of what is to be made again:
        the same bytes count there once more.
        """
        again = place <= before
        self.digests = {} if again else {key: value for key, value in self.digests.items() if key[0] == before}
        self.updates = {}

    def add(self, place: Place, sha256: str, update: Update) -> None:
        """Take the update of a client, in place of what it delivered before in the round."""
        client = update.report.client
        self.updates[client] = update
        self.digests[place, client] = sha256

    def has(self, place: Place, client: str, sha256: str) -> bool:
        """Whether this very update was taken already."""
        return self.digests.get((place, client)) == sha256

    def is_quorum(self, clients: Collection[str], quorum: float) -> bool:
        """Whether so large a part of `clients` has delivered."""
        wanted = math.ceil(quorum * len(clients) - 1e-9)  # 0.07 * 100 is a little more than 7
        return len(self.updates.keys() & set(clients)) >= wanted

    def by_cluster(self, cluster_of: Callable[[str], int]) -> Mapping[int, Mapping[str, Update]]:
        """The updates of each cluster, both in order."""
        found: dict[int, dict[str, Update]] = {}
        for client, update in sorted(self.updates.items()):
            found.setdefault(cluster_of(client), {})[client] = update
        return dict(sorted(found.items()))
