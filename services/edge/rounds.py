"""One run at one edge: the adapters of the current (version, edge round), and the updates that make the next.

Every version begins from the run's adapter for all. What the clients make of it is aggregated apart for each cluster,
and within the version's later edge rounds a cluster's clients may go on from their own cluster's. A run that does not
cluster is one cluster, 0. A round closes when the quorum of the edge's clients has delivered, or at its deadline with
what has come. All methods may be called from any thread.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping

from elsa.errors import (
    DrainingError,
    ElsaError,
    NotFoundError,
    RoundGivenUpError,
    StaleRoundError,
)
from services.edge.own_trunks import Adapter, NamesOf, OwnTrunks, none_of
from services.edge.parts import Closed, Standing, Update, check_fit, check_steps, part_of
from services.edge.roster import Roster
from services.edge.saved import Kept
from services.edge.served import NOTHING, Place, Served
from services.edge.taken import Taken
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
        self._served = NOTHING
        self._taken = Taken()
        self._taking = False
        self._waiting: dict[str, object] = {}
        self._draining = False
        self._making = False
        self._ended: ElsaError | None = None

    def admit(
        self,
        clients: Collection[str],
        standings: Mapping[str, Standing] | None = None,
        clusters_version: int | None = None,
        offered_rows: Mapping[str, int] | None = None,
    ) -> None:
        """Take these clients, and no others any more, as the run's members at this edge; the quorum is of them.

        Where nothing is said of a client it is in cluster 0 and counts in full, with the rows that it claims. What
        one that has left delivered in this round still counts, as it stood.
        """
        with self._changed:
            self._roster.admit(clients, standings or {}, clusters_version, offered_rows or {})
            self._own.keep(clients)
            self._changed.notify_all()

    def wait_for_clients(self) -> None:
        """Wait until there is a client. Raises what `end` was given, if that came meanwhile."""
        with self._changed:
            self._making = False
            self._changed.wait_for(lambda: self._ended or self._draining or self._roster.clients)
            self._check_ended()
            self._check_not_draining()

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
        served = Served.of((version, edge_round), adapter, encoded, of_clusters)
        with self._changed:
            self._making = False
            self._check_not_draining()
            self._taken.begin(self._served.place, served.place)
            self._served = served
            if edge_round == 0:
                self._roster.begin()
            self._taking = True
            self._changed.notify_all()

    def kept(self) -> Kept:
        """What, besides its adapters, makes this version here what it is."""
        with self._changed:
            clusters, clusters_version = self._roster.fixed
            return Kept(clusters=clusters, clusters_version=clusters_version, own=dict(self._own.kept))

    def resume(self, kept: Kept, adapter: Adapter, *, same_version: bool) -> None:
        """Take up what was kept before a restart: our clients' own tensors and, in the same version, its clusters.

        Raises MalformedError for tensors that are not a client's own of the run's `adapter`.
        """
        with self._changed:
            wanted = self._own.part_of(adapter)
            own = {client: tensors for client, tensors in kept.own.items() if client in (self._roster.clients or ())}
            for tensors in own.values():
                check_fit(tensors, wanted)
            self._own.resume(own)
            if same_version:
                self._roster.resume(kept.clusters, kept.clusters_version)

    def others_of(self, clients: Collection[str]) -> frozenset[str]:
        """Those of `clients` that are not ours."""
        with self._changed:
            return frozenset(clients) - (self._roster.clients or frozenset())

    def drain(self) -> None:
        """Open no round any more; the one that is open may be finished."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def at_rest(self, finished: Collection[str]) -> bool:
        """Whether nothing is to come of this round but what clients have not begun.

        Args:
            finished: clients whose sessions have, and which may have to push their tensors yet.
        """
        with self._changed:
            quorate = self._taking and self._roster.clients is not None and self._is_quorate()
            return not (self._making or quorate) and (not self._taking or self._taken.updates.keys() >= set(finished))

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
            return self._own.start(client, self._served.start(self._roster.cluster(client)), (version, edge_round))

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
            return self._served.of_clusters[cluster]

    def check_version(self, client: str, version: int) -> None:
        """Raise StaleRoundError unless (version, any edge round) is the current one."""
        with self._changed:
            self._check(client)
            if self._served.place[0] != version:
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

    def counted_rows(self, client: str, rows: int) -> int:
        """The rows that an update of a client counts for that says it has so many: at most what it offered."""
        with self._changed:
            counted = min(rows, self._roster.offered_rows.get(client, rows))
        if counted < rows:
            log.warning("%s claims %d rows and offered %d: so many count", client, rows, counted)
        return counted

    @property
    def place(self) -> Place:
        """The version that is served, and the edge rounds done on top of it; (-1, -1) before there is any."""
        with self._changed:
            return self._served.place

    @property
    def most_bytes(self) -> int:
        """Size of the whole adapter's file, which no part of it exceeds."""
        with self._changed:
            return self._served.most_bytes

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
            if not self._is_past(place):
                raise DrainingError(f"version {version}, edge round {edge_round} is not there yet; ask again")
            at_version, at_round = self._served.place
            data, own = self._served.file(self._roster.cluster(client)), self._own_cluster(client)
            return Pulled(version=at_version, edge_round=at_round, data=data, cluster=own)

    def of_cluster(self, client: str, version: int, cluster: int) -> Pulled:
        """The adapter of a client's cluster, of the current version. Raises StaleRoundError, and as `instead`."""
        adapter = self.instead(client, cluster)
        with self._changed:
            served = self._served
            if served.place != (version, 0) or served.of_clusters.get(cluster) is not adapter:
                raise StaleRoundError(f"version {version} is not the current one ({self._now()})")
            return Pulled(version=version, data=served.encoded_of[cluster], cluster=cluster)

    def add(self, version: int, edge_round: int, sha256: str, update: Update) -> bool:
        """Take a client's update; False if the same had come before.

        Raises:
            StaleRoundError: for another round than the current one.
            MalformedError: the names or shapes are not those of the whole model's adapter, or the steps are too many.
        """
        client, place = update.report.client, (version, edge_round)
        with self._changed:
            if self._taken.has(place, client, sha256):
                return False
            self._check_open(client, version, edge_round)
            check_fit(update.tensors, self._served.adapter)
            if self._most_steps is not None:
                check_steps(update.report, self._most_steps)
            self._taken.add(place, sha256, update)
            self._changed.notify_all()
            return True

    def has(self, client: str, version: int, edge_round: int, sha256: str) -> bool:
        """Whether this very update was taken already."""
        with self._changed:
            return self._taken.has((version, edge_round), client, sha256)

    def close(self, deadline_s: float) -> Closed:
        """Wait for the quorum, at most `deadline_s` seconds, and aggregate what has come of each cluster.

        The updates of clients that are set aside, whose trust is 0, are reported and do not count.

        Raises what `end` was given, if that came meanwhile.
        """
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._ended or self._is_quorate(), timeout=deadline_s)
            self._check_ended()
            self._taking = False  # what comes from now on is late
            self._making = True
            missing = tuple(sorted((self._roster.clients or frozenset()) - self._taken.updates.keys()))
            of_cluster = self._taken.by_cluster(self._roster.cluster)
            served, standings = self._served, dict(self._roster.standings)
        if missing:
            log.warning("round %s closes without %s", served.place, ", ".join(missing))
        parts = {
            cluster: part_of(
                updates, served.start(cluster), standings, self._own, seed=self._seed, most_steps=self._most_steps
            )
            for cluster, updates in of_cluster.items()
        }
        with self._changed:
            for part in parts.values():
                self._own.take(part.own, self._roster.clients or ())
        return Closed(parts=parts, missing=missing, cut_short=not in_time)

    def _own_cluster(self, client: str) -> int | None:
        """The cluster of a client where it has an adapter of this version; with the lock held."""
        served, cluster = self._served, self._roster.cluster(client)
        told = served.is_whole and client in self._roster.standings
        return cluster if told and cluster in served.of_clusters else None

    def _has_answer(self, client: str, place: Place, key: object, is_there: Callable[[], bool]) -> bool:
        gone = self._ended or client not in (self._roster.clients or ()) or self._waiting.get(client) is not key
        return bool(gone) or self._is_past(place) or self._is_unmade(client, place) or not is_there()

    def _is_past(self, place: Place) -> bool:
        return self._taking and self._served.place >= place

    def _is_unmade(self, client: str, place: Place) -> bool:
        """Whether a client asks for what comes after a round that is open and has nothing of it."""
        return self._taking and self._served.place < place and client not in self._taken.updates

    def _is_quorate(self) -> bool:
        return self._taken.is_quorum(self._roster.clients or (), self._quorum)

    def _check_ended(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))  # a new one: several threads raise it

    def _check_not_draining(self) -> None:
        if self._draining:
            raise RoundGivenUpError("this edge is stopping and opens no round any more")

    def _check(self, client: str) -> None:
        self._check_ended()
        self._roster.check(client)

    def _check_open(self, client: str, version: int, edge_round: int) -> None:
        self._check(client)
        if not self._taking or self._served.place != (version, edge_round):
            raise StaleRoundError(f"version {version}, edge round {edge_round} is not open ({self._now()})")

    def _now(self) -> str:
        return self._served.state(taking=self._taking)
