"""One run at one edge: the adapters of the current (version, edge round), and the updates that make the next.

Every version begins from the run's adapter for all. What the clients make of it is aggregated apart for each cluster,
and within the version's later edge rounds a cluster's clients may go on from their own cluster's. A run that does not
cluster is one cluster, 0. A round closes when the quorum of the edge's clients has delivered, or at its deadline with
what has come. All methods may be called from any thread.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping

from elsa.errors import DrainingError, ElsaError, RoundGivenUpError
from services.edge.own_trunks import Adapter, NamesOf, none_of
from services.edge.parts import Closed, Standing, Update, check_fit, check_steps, part_of
from services.edge.saved import Kept
from services.edge.served import Place, Served
from services.edge.serving import Serving
from services.edge.waiting import Waits
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
        self._changed = threading.Condition()
        self._serving = Serving(own)
        self._roster, self._taken, self._own = self._serving.roster, self._serving.taken, self._serving.own
        self._waits = Waits(self._changed)
        self._draining = False
        self._making = False

    def admit(
        self,
        clients: Collection[str],
        standings: Mapping[str, Standing] | None = None,
        clusters_version: int | None = None,
        offered_rows: Mapping[str, int] | None = None,
        away: Collection[str] = (),
    ) -> None:
        """Take these clients, and no others any more, as the run's members at this edge; the quorum is of them.

        But for those who are `away`: nobody waits for them, and what they deliver counts as any other's.

        Where nothing is said of a client it is in cluster 0 and counts in full, with the rows that it claims. What
        one that has left delivered in this round still counts, as it stood.
        """
        with self._changed:
            self._roster.admit(clients, standings or {}, clusters_version, offered_rows or {}, away)
            self._own.keep(clients)
            self._changed.notify_all()

    def wait_for_clients(self) -> None:
        """Wait until there is a client. Raises what `end` was given, if that came meanwhile."""
        with self._changed:
            self._making = False
            self._changed.wait_for(lambda: self._serving.ended or self._draining or self._roster.clients)
            self._serving.check_ended()
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
            self._taken.begin(self._serving.served.place, served.place)
            self._serving.served = served
            if edge_round == 0:
                self._roster.begin()
            self._serving.taking = True
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
            self._serving.resume(kept, adapter, same_version=same_version)

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
            quorate = self._serving.taking and self._roster.clients is not None and self._is_quorate()
            return not (self._making or quorate) and (
                not self._serving.taking or self._taken.updates.keys() >= set(finished)
            )

    def end(self, error: ElsaError) -> None:
        """Answer every call, now and later, with `error`: what its clients are to make of it."""
        with self._changed:
            self._serving.ended = error
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
            return self._serving.start(client, (version, edge_round))

    def instead(self, client: str, cluster: int | None = None) -> Adapter | None:
        """What a client predicts with instead of the run's adapter of this version; None if that is it.

        Its own tensors where it has any; the adapter of `cluster` where that is asked for. Raises NotFoundError where
        that cluster has none of this version, or is not the client's.
        """
        with self._changed:
            return self._serving.instead(client, cluster)

    def check_version(self, client: str, version: int) -> None:
        """Raise StaleRoundError unless (version, any edge round) is the current one."""
        with self._changed:
            self._serving.check_version(client, version)

    def check_member(self, client: str) -> None:
        """Raise DrainingError while it is not known who our clients are, PermissionDeniedError for another client."""
        with self._changed:
            self._serving.check(client)

    def check_may_join(self, client: str) -> None:
        """As `check_member`, but for anyone while it is not known who our clients are: any of them may become one."""
        with self._changed:
            self._serving.check_ended()
            if self._roster.clients is not None:
                self._serving.check(client)

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
            return self._serving.served.place

    @property
    def most_bytes(self) -> int:
        """Size of the whole adapter's file, which no part of it exceeds."""
        with self._changed:
            return self._serving.served.most_bytes

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
        place, now = (version, edge_round), self._serving
        with self._changed:
            now.check(client)
            newest = self._waits.until(client, lambda: now.has_answer(client, place) or not is_there(), wait_s)
            now.check(client)
            if not newest:
                raise DrainingError(f"{client} asked again; the newer call is answered")
            return now.pulled(client, place)

    def of_cluster(self, client: str, version: int, cluster: int) -> Pulled:
        """The adapter of a client's cluster, of the current version. Raises StaleRoundError, and as `instead`."""
        with self._changed:
            return self._serving.of_cluster(client, version, cluster)

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
            self._serving.check_open(client, place)
            check_fit(update.tensors, self._serving.served.adapter)
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
            in_time = self._changed.wait_for(lambda: self._serving.ended or self._is_quorate(), timeout=deadline_s)
            self._serving.check_ended()
            self._serving.taking = False  # what comes from now on is late
            self._making = True
            missing = tuple(sorted((self._roster.clients or frozenset()) - self._taken.updates.keys()))
            of_cluster = self._taken.by_cluster(self._roster.cluster)
            served, standings = self._serving.served, dict(self._roster.standings)
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

    def _is_quorate(self) -> bool:
        return self._taken.is_quorum(self._roster.expected(self._taken.updates), self._quorum)

    def _check_not_draining(self) -> None:
        if self._draining:
            raise RoundGivenUpError("this edge is stopping and opens no round any more")
