"""One run at one edge: the adapters of the current (version, edge round), and the updates that make the next.

Every version begins from the run's adapter for all. What the clients make of it is aggregated apart for each cluster,
and within the version's later edge rounds a cluster's clients may go on from their own cluster's. A run that does not
cluster is one cluster, 0. A round closes when the quorum of the edge's clients has delivered, or at its deadline with
what has come. All methods may be called from any thread.
"""

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping

from elsa.errors import (
    DrainingError,
    ElsaError,
    NotFoundError,
    PermissionDeniedError,
    StaleRoundError,
)
from elsa.wire.adapter import encode_adapter
from services.edge.own_trunks import Adapter, NamesOf, OwnTrunks, none_of
from services.edge.parts import Closed, Standing, Update, check_fit, check_steps, part_of
from services.edge.roster import Roster
from services.rpc.adapters import Pulled

log = logging.getLogger(__name__)


class EdgeRounds:
    """The rounds of one run at this edge.

    Args:
        own: those of an adapter's names that stay with each client and are never averaged.
        seed: the run's, of the summaries of updates; None where nobody is weighed by them.
        most_steps: that a client takes in an edge round where they take different numbers of them, which the mean
            then evens out; None where all take as many.
    """

    def __init__(
        self, quorum: float, own: NamesOf = none_of, *, seed: int | None = 0, most_steps: int | None = None
    ) -> None:
        self._quorum = quorum
        self._seed = seed
        self._most_steps = most_steps
        self._own = OwnTrunks(own)
        self._changed = threading.Condition()
        self._roster = Roster()
        self._place: tuple[int, int] | None = None
        self._adapter: Adapter = {}
        self._encoded = b""
        self._of_clusters: Mapping[int, Adapter] = {}
        self._encoded_of: dict[int, bytes] = {}
        self._updates: dict[str, Update] = {}
        self._digests: dict[tuple[tuple[int, int], str], str] = {}
        self._taking = False
        self._waiting: dict[str, object] = {}
        self._ended: ElsaError | None = None

    def admit(
        self,
        clients: Collection[str],
        standings: Mapping[str, Standing] | None = None,
        clusters_version: int | None = None,
    ) -> None:
        """Take these clients, and no others any more, as the run's members at this edge; the quorum is of them.

        Where nothing is said of a client it is in cluster 0 and counts in full. What one that has left delivered in
        this round still counts, as it stood.
        """
        with self._changed:
            self._roster.admit(clients, standings or {}, clusters_version)
            self._own.keep(clients)
            self._changed.notify_all()

    def wait_for_clients(self) -> None:
        """Wait until there is a client. Raises what `end` was given, if that came meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._roster.clients)
            self._check_ended()

    def clusters(self) -> tuple[int, ...]:
        """The clusters of our clients, where the cloud has told of any."""
        with self._changed:
            return self._roster.clusters()

    @property
    def clusters_version(self) -> int | None:
        """From which the clusters hold by whose numbers this version is closed."""
        with self._changed:
            return self._roster.clusters_version

    def open(
        self,
        version: int,
        edge_round: int,
        adapter: Adapter,
        encoded: bytes | None = None,
        of_clusters: Mapping[int, Adapter] | None = None,
    ) -> None:
        """Serve (version, edge round) and take updates for it.

        Args:
            adapter: the run's of this version, which all start from at edge round 0.
            encoded: the same as a file.
            of_clusters: at edge round 0 the clusters' own adapters of this version, to be evaluated; later what the
                clients of each go on from, those of a cluster without one from `adapter`.
        """
        own = dict(of_clusters or {})
        data = encode_adapter(adapter) if encoded is None else encoded
        files = {cluster: encode_adapter(tensors) for cluster, tensors in own.items()}
        with self._changed:
            # A push that is made again comes soon after the first: digests of older rounds are of no use.
            self._digests = {key: value for key, value in self._digests.items() if key[0] == self._place}
            self._place, self._adapter, self._encoded = (version, edge_round), adapter, data
            self._of_clusters, self._encoded_of = own, files
            if edge_round == 0:
                self._roster.begin()
            self._updates = {}
            self._taking = True
            self._changed.notify_all()

    def end(self, error: ElsaError) -> None:
        """Answer every call, now and later, with `error`: what its clients are to make of it."""
        with self._changed:
            self._ended = error
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every pull that waits see whether its caller is still there."""
        with self._changed:
            self._changed.notify_all()

    def adapter_of(self, client: str, version: int, edge_round: int) -> Adapter:
        """The adapter that a session of `client` starts from.

        Raises PermissionDeniedError for another edge's client, StaleRoundError for another round.
        """
        with self._changed:
            self._check_open(client, version, edge_round)
            return self._own.start(client, self._before(self._roster.cluster(client)), (version, edge_round))

    def instead(self, client: str, cluster: int | None = None) -> Adapter | None:
        """What a client predicts with instead of the run's adapter of this version; None if that is it.

        Its own tensors where it has any; the adapter of `cluster` where that is asked for. Raises NotFoundError where
        that cluster has none of this version, or is not the client's.
        """
        with self._changed:
            if cluster is None:
                return self._own.of(client)
            self._check(client)
            if self._own_cluster(client) != cluster:
                raise NotFoundError(f"cluster {cluster} has no adapter for {client} at this edge ({self._now()})")
            return self._of_clusters[cluster]

    def check_version(self, client: str, version: int) -> None:
        """Raise StaleRoundError unless (version, any edge round) is the current one."""
        with self._changed:
            self._check(client)
            if self._place is None or self._place[0] != version:
                raise StaleRoundError(f"version {version} is not the current one ({self._now()})")

    def check_member(self, client: str) -> None:
        """Raise DrainingError while it is not known who our clients are, PermissionDeniedError for another client."""
        with self._changed:
            self._check(client)

    def check_may_join(self, client: str) -> None:
        """As `check_member`, but for anyone while it is not known who our clients are: any of them may become one."""
        with self._changed:
            if self._roster.clients is None:
                self._check_ended()
            else:
                self._check(client)

    @property
    def most_bytes(self) -> int:
        """Size of the whole adapter's file, which no part of it exceeds."""
        with self._changed:
            return max(len(self._encoded), *map(len, self._encoded_of.values()), 0)

    def wait_for(
        self,
        client: str,
        version: int,
        edge_round: int,
        wait_s: float,
        is_there: Callable[[], bool] = lambda: True,
    ) -> Pulled:
        """The current adapter that a client starts from, once it is at or past (version, edge round).

        A wait ends early when `is_there` is false at a `wake`, and when the same client asks again: a client waits
        once. Raises DrainingError (UNAVAILABLE) then, after `wait_s` seconds, and at once while it is not known who
        our clients are; StaleRoundError where what the client did before that is not here, as after a restart;
        PermissionDeniedError for another edge's client; what `end` was given.
        """
        key, place = object(), (version, edge_round)
        with self._changed:
            self._check(client)
            self._waiting[client] = key
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._has_answer(client, place, key, is_there), timeout=wait_s)
                self._check(client)
                if self._waiting.get(client) is not key:
                    raise DrainingError(f"{client} asked again; the newer call is answered")
            finally:
                if self._waiting.get(client) is key:
                    del self._waiting[client]
            if self._is_unmade(client, place):
                raise StaleRoundError(f"nothing of {client} is here ({self._now()}); do that round")
            if self._place is None or not self._is_past(place):
                raise DrainingError(f"version {version}, edge round {edge_round} is not there yet; ask again")
            cluster = self._roster.cluster(client)
            data = self._encoded if self._place[1] == 0 else self._encoded_of.get(cluster, self._encoded)
            own = self._own_cluster(client)
            return Pulled(version=self._place[0], edge_round=self._place[1], data=data, cluster=own)

    def of_cluster(self, client: str, version: int, cluster: int) -> Pulled:
        """The adapter of a client's cluster, of the current version. Raises StaleRoundError, and as `instead`."""
        adapter = self.instead(client, cluster)
        with self._changed:
            if self._place != (version, 0) or self._of_clusters.get(cluster) is not adapter:
                raise StaleRoundError(f"version {version} is not the current one ({self._now()})")
            return Pulled(version=version, data=self._encoded_of[cluster], cluster=cluster)

    def add(self, version: int, edge_round: int, sha256: str, update: Update) -> bool:
        """Take a client's update; False if the same had come before.

        Raises:
            StaleRoundError: for another round than the current one.
            MalformedError: the names or shapes are not those of the whole model's adapter, or the steps are too many.
        """
        client = update.report.client
        with self._changed:
            if self._digests.get(((version, edge_round), client)) == sha256:
                return False
            self._check_open(client, version, edge_round)
            check_fit(update.tensors, self._adapter)
            if self._most_steps is not None:
                check_steps(update.report, self._most_steps)
            self._updates[client] = update
            self._digests[(version, edge_round), client] = sha256
            self._changed.notify_all()
            return True

    def has(self, client: str, version: int, edge_round: int, sha256: str) -> bool:
        """Whether this very update was taken already."""
        with self._changed:
            return self._digests.get(((version, edge_round), client)) == sha256

    def close(self, deadline_s: float) -> Closed:
        """Wait for the quorum, at most `deadline_s` seconds, and aggregate what has come of each cluster.

        The updates of clients that are set aside, whose trust is 0, are reported and do not count.

        Raises what `end` was given, if that came meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._is_quorate(), timeout=deadline_s)
            self._check_ended()
            self._taking = False  # what comes from now on is late
            missing = tuple(sorted((self._roster.clients or frozenset()) - self._updates.keys()))
            of_cluster: dict[int, dict[str, Update]] = {}
            for client, update in sorted(self._updates.items()):
                of_cluster.setdefault(self._roster.cluster(client), {})[client] = update
            before = {cluster: self._before(cluster) for cluster in of_cluster}
            standings = dict(self._roster.standings)
        if missing:
            log.warning("round %s closes without %s", self._place, ", ".join(missing))
        parts = {
            cluster: part_of(
                updates, before[cluster], standings, self._own, seed=self._seed, most_steps=self._most_steps
            )
            for cluster, updates in sorted(of_cluster.items())
        }
        return Closed(parts=parts, missing=missing)

    def _before(self, cluster: int) -> Adapter:
        """What a cluster's clients start from; with the lock held."""
        in_version = self._place is not None and self._place[1] > 0
        return self._of_clusters.get(cluster, self._adapter) if in_version else self._adapter

    def _own_cluster(self, client: str) -> int | None:
        """The cluster of a client where it has an adapter of this version; with the lock held."""
        whole = self._place is not None and self._place[1] == 0
        cluster = self._roster.cluster(client)
        return cluster if whole and client in self._roster.standings and cluster in self._of_clusters else None

    def _has_answer(self, client: str, place: tuple[int, int], key: object, is_there: Callable[[], bool]) -> bool:
        gone = self._ended or client not in (self._roster.clients or ()) or self._waiting.get(client) is not key
        return bool(gone) or self._is_past(place) or self._is_unmade(client, place) or not is_there()

    def _is_past(self, place: tuple[int, int]) -> bool:
        return self._taking and self._place is not None and self._place >= place

    def _is_unmade(self, client: str, place: tuple[int, int]) -> bool:
        """Whether a client asks for what comes after a round that is open and has nothing of it."""
        open_now = self._taking and self._place is not None and self._place < place
        return open_now and client not in self._updates

    def _is_quorate(self) -> bool:
        clients = self._roster.clients or frozenset()
        wanted = math.ceil(self._quorum * len(clients) - 1e-9)  # 0.07 * 100 is a little more than 7
        return len(self._updates.keys() & clients) >= wanted

    def _check_ended(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))  # a new one: several threads raise it

    def _check(self, client: str) -> None:
        self._check_ended()
        if self._roster.clients is None:
            raise DrainingError("this edge does not know yet who its clients are; ask again")
        if client not in self._roster.clients:
            raise PermissionDeniedError(f"{client} is not assigned to this edge in this run")

    def _check_open(self, client: str, version: int, edge_round: int) -> None:
        self._check(client)
        if not self._taking or self._place != (version, edge_round):
            raise StaleRoundError(f"version {version}, edge round {edge_round} is not open ({self._now()})")

    def _now(self) -> str:
        if self._place is None:
            return "none is yet"
        state = "open" if self._taking else "closed"
        return f"version {self._place[0]}, edge round {self._place[1]} is {state}"
