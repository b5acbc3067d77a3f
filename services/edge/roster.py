"""Who an edge's clients are in one run, and how each counts there, as the cloud says.

Within one version a client stays in its cluster and in the count, whatever is said meanwhile: what it has made does
not change sides, and one that leaves keeps the trust that it had. Not locked: `rounds.py` does that.
"""

from collections.abc import Collection, Mapping

from elsa.errors import DrainingError, PermissionDeniedError
from services.edge.parts import IN_FULL, Standing


class Roster:
    """The clients of one run at this edge."""

    def __init__(self) -> None:
        self.clients: frozenset[str] | None = None
        """None until the cloud has told who they are."""
        self.offered_rows: Mapping[str, int] = {}
        """What each client offered to train on, as far as the cloud says."""
        self._away: frozenset[str] = frozenset()
        self._told: dict[str, Standing] = {}
        self._version: int | None = None
        self._fixed: tuple[Mapping[str, int], int | None] | None = None

    def admit(
        self,
        clients: Collection[str],
        standings: Mapping[str, Standing],
        clusters_version: int | None,
        offered_rows: Mapping[str, int],
        away: Collection[str] = (),
    ) -> None:
        """Take these clients and no others.

        Args:
            standings: of those of whom the cloud says anything.
            clusters_version: from which the clusters hold that these are of.
            offered_rows: likewise of those of whom it says anything.
            away: those of whom it says that nobody is to wait for them now.
        """
        self.clients = frozenset(clients)
        self.offered_rows = dict(offered_rows)
        self._away = frozenset(away)
        self._told |= standings
        self._version = clusters_version

    def check(self, client: str) -> None:
        """Raise DrainingError while it is not known who our clients are, PermissionDeniedError for another client."""
        if self.clients is None:
            raise DrainingError("this edge does not know yet who its clients are; ask again")
        if client not in self.clients:
            raise PermissionDeniedError(f"{client} is not assigned to this edge in this run")

    def expected(self, delivered: Collection[str]) -> frozenset[str]:
        """Our clients of whom a round's quorum is: those who have delivered, and those who are waited for.

        All of them where that is nobody: whoever comes back first may still deliver.
        """
        clients = self.clients or frozenset()
        return clients - (self._away - frozenset(delivered)) or clients

    def begin(self) -> None:
        """A version begins: clusters are as told last, and those who left are forgotten."""
        self._told = {client: told for client, told in self._told.items() if client in (self.clients or ())}
        self._fixed = None

    def cluster(self, client: str) -> int:
        """A client's cluster in this version."""
        fixed, _ = self._fix()
        return fixed.get(client, self._told.get(client, IN_FULL).cluster)

    def clusters(self) -> tuple[int, ...]:
        """The clusters of our clients, where the cloud has told of any."""
        return tuple(sorted({self._told[client].cluster for client in self.clients or () if client in self._told}))

    @property
    def clusters_version(self) -> int | None:
        """From which the clusters hold that `cluster` speaks of."""
        return self._fix()[1]

    @property
    def fixed(self) -> tuple[Mapping[str, int], int | None]:
        """The clusters of this version that `cluster` speaks of, and from which version they hold."""
        return self._fix()

    def resume(self, clusters: Mapping[str, int], clusters_version: int | None) -> None:
        """A version goes on in which the clusters are those, whatever is told since."""
        self._fixed = clusters, clusters_version

    @property
    def standings(self) -> Mapping[str, Standing]:
        """Of all clients of this version of whom the cloud says anything: their trust as told last."""
        return self._told

    def _fix(self) -> tuple[Mapping[str, int], int | None]:
        """At the first question in a version: later answers are of the same clusters."""
        if self._fixed is None:
            self._fixed = {client: told.cluster for client, told in self._told.items()}, self._version
        return self._fixed
