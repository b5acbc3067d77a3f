"""What a run's clients are served at this edge, and what has come of them. Not locked: `rounds.py` does that."""

from elsa.errors import DrainingError, ElsaError, NotFoundError, StaleRoundError
from services.edge.own_trunks import Adapter, NamesOf, OwnTrunks
from services.edge.parts import check_fit
from services.edge.roster import Roster
from services.edge.saved import Kept
from services.edge.served import NOTHING, Place
from services.edge.taken import Taken
from services.rpc.adapters import Pulled


class Serving:
    """One run's clients, what they start from, and what has come of them.

    Args:
        own: those of an adapter's names that stay with each client.

    Attributes:
        taking: whether updates are taken for what is served.
        ended: what every call is answered with, once the run has ended here.
    """

    def __init__(self, own: NamesOf) -> None:
        self.roster = Roster()
        self.own = OwnTrunks(own)
        self.served = NOTHING
        self.taken = Taken()
        self.taking = False
        self.ended: ElsaError | None = None

    @property
    def words(self) -> str:
        """What is served, in words."""
        return self.served.state(taking=self.taking)

    def check_ended(self) -> None:
        """Raise what the run ended with, if it has."""
        if self.ended is not None:
            raise type(self.ended)(str(self.ended))  # a new one: several threads raise it

    def check(self, client: str) -> None:
        """Raise what the run ended with, and as `Roster.check`."""
        self.check_ended()
        self.roster.check(client)

    def check_open(self, client: str, place: Place) -> None:
        """Raise StaleRoundError unless updates are taken for `place`, and as `check`."""
        self.check(client)
        if not self.taking or self.served.place != place:
            version, edge_round = place
            raise StaleRoundError(f"version {version}, edge round {edge_round} is not open ({self.words})")

    def check_version(self, client: str, version: int) -> None:
        """Raise StaleRoundError unless that version is served, and as `check`."""
        self.check(client)
        if self.served.place[0] != version:
            raise StaleRoundError(f"version {version} is not the current one ({self.words})")

    def resume(self, kept: Kept, adapter: Adapter, *, same_version: bool) -> None:
        """See `EdgeRounds.resume`."""
        wanted = self.own.part_of(adapter)
        own = {client: tensors for client, tensors in kept.own.items() if client in (self.roster.clients or ())}
        for tensors in own.values():
            check_fit(tensors, wanted)
        self.own.resume(own)
        if same_version:
            self.roster.resume(kept.clusters, kept.clusters_version)

    def start(self, client: str, place: Place) -> Adapter:
        """What a session of `client` starts from. Raises as `check_open`."""
        self.check_open(client, place)
        return self.own.start(client, self.served.start(self.roster.cluster(client)), place)

    def instead(self, client: str, cluster: int | None) -> Adapter | None:
        """See `EdgeRounds.instead`."""
        if cluster is None:
            return self.own.of(client)
        self.check(client)
        if self.own_cluster(client) != cluster:
            raise NotFoundError(f"cluster {cluster} has no adapter for {client} at this edge ({self.words})")
        return self.served.of_clusters[cluster]

    def own_cluster(self, client: str) -> int | None:
        """The cluster of a client where it has an adapter of this version."""
        cluster = self.roster.cluster(client)
        told = self.served.is_whole and client in self.roster.standings
        return cluster if told and cluster in self.served.of_clusters else None

    def pulled(self, client: str, place: Place) -> Pulled:
        """What a client starts from at or past `place`, as a file.

        Raises StaleRoundError where what it did before that is not here, DrainingError where that is not there yet.
        """
        version, edge_round = place
        if self.is_unmade(client, place):
            raise StaleRoundError(f"nothing of {client} is here ({self.words}); do that round")
        if not self.is_past(place):
            raise DrainingError(f"version {version}, edge round {edge_round} is not there yet; ask again")
        version, edge_round = self.served.place
        data = self.served.file(self.roster.cluster(client))
        return Pulled(version=version, edge_round=edge_round, data=data, cluster=self.own_cluster(client))

    def of_cluster(self, client: str, version: int, cluster: int) -> Pulled:
        """The adapter of a client's cluster, as a file. Raises StaleRoundError, and as `instead`."""
        self.instead(client, cluster)
        if self.served.place != (version, 0):
            raise StaleRoundError(f"version {version} is not the current one ({self.words})")
        return Pulled(version=version, data=self.served.encoded_of[cluster], cluster=cluster)

    def is_past(self, place: Place) -> bool:
        """Whether what is open is at or past `place`."""
        return self.taking and self.served.place >= place

    def is_unmade(self, client: str, place: Place) -> bool:
        """Whether a client asks for what comes after a round that is open and has nothing of it."""
        return self.taking and self.served.place < place and client not in self.taken.updates

    def has_answer(self, client: str, place: Place) -> bool:
        """Whether a client that asks for what is at or past `place` need not wait, be it for a refusal."""
        gone = self.ended is not None or client not in (self.roster.clients or ())
        return gone or self.is_past(place) or self.is_unmade(client, place)
