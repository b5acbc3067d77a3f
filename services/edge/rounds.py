"""One run at one edge: the adapter of the current (version, edge round), and the updates that make the next.

A round closes when the quorum of its clients has delivered, or at its deadline with what has come. All methods may
be called from any thread.
"""

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from elsa.cluster.summary import summary
from elsa.errors import DrainingError, ElsaError, MalformedError, PermissionDeniedError, StaleRoundError
from elsa.wire.adapter import encode_adapter
from services.edge.own_trunks import Adapter, NamesOf, OwnTrunks, none_of
from services.rpc.adapters import Pulled

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a client says of its training in one edge round, as an opaque value for those who watch."""

    client: str
    rows: int
    message: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Update:
    """A client's whole-model adapter."""

    report: Report
    tensors: Adapter = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A closed edge round: the aggregate, or what was there before if nobody delivered."""

    adapter: Adapter = field(repr=False)
    rows: int
    """Behind it, each client's times its trust; at least 1 where anybody delivered, so that it is pushed."""
    reports: tuple[Report, ...]
    missing: tuple[str, ...]
    moved: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    """By client, a summary of how far its adapter went from the round's, where the cloud weighs clients by trust."""


class EdgeRounds:
    """The rounds of one run at this edge.

    Args:
        own: those of an adapter's names that stay with each client and are never averaged.
        seed: the run's.
    """

    def __init__(self, quorum: float, own: NamesOf = none_of, *, seed: int = 0) -> None:
        self._quorum = quorum
        self._seed = seed
        self._own = OwnTrunks(own)
        self._changed = threading.Condition()
        self._clients: frozenset[str] | None = None
        self._trust: Mapping[str, float] = {}
        self._place: tuple[int, int] | None = None
        self._adapter: Adapter = {}
        self._encoded = b""
        self._updates: dict[str, Update] = {}
        self._digests: dict[tuple[tuple[int, int], str], str] = {}
        self._taking = False
        self._waiting: dict[str, object] = {}
        self._ended: ElsaError | None = None

    def admit(self, clients: Collection[str], trust: Mapping[str, float] | None = None) -> None:
        """Take these clients, and no others any more, as the run's members at this edge; the quorum is of them.

        Args:
            trust: by which the rows behind a client's update are multiplied, 0 to 1; 1 where it is not said.
        """
        with self._changed:
            self._clients = frozenset(clients)
            self._trust = dict(trust or {})
            self._changed.notify_all()

    def open(self, version: int, edge_round: int, adapter: Adapter, encoded: bytes | None = None) -> None:
        """Serve `adapter` as (version, edge round) and take updates for it."""
        data = encode_adapter(adapter) if encoded is None else encoded
        with self._changed:
            # A push that is made again comes soon after the first: digests of older rounds are of no use.
            self._digests = {key: value for key, value in self._digests.items() if key[0] == self._place}
            self._place, self._adapter, self._encoded = (version, edge_round), adapter, data
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
            return self._own.start(client, self._adapter, (version, edge_round))

    def own_of(self, client: str) -> Adapter | None:
        """The tensors that are this client's alone, if it has any."""
        with self._changed:
            return self._own.of(client)

    def check_version(self, client: str, version: int) -> None:
        """Raise StaleRoundError unless (version, any edge round) is the current one."""
        with self._changed:
            self._check(client)
            if self._place is None or self._place[0] != version:
                raise StaleRoundError(f"version {version} is not the current one ({self._now()})")

    @property
    def most_bytes(self) -> int:
        """Size of the whole adapter's file, which no part of it exceeds."""
        with self._changed:
            return len(self._encoded)

    def wait_for(
        self,
        client: str,
        version: int,
        edge_round: int,
        wait_s: float,
        is_there: Callable[[], bool] = lambda: True,
    ) -> Pulled:
        """The current adapter, for one of our clients, once it is at or past (version, edge round).

        A wait ends early when `is_there` is false at a `wake`, and when the same client asks again: a client waits
        once. Raises DrainingError (UNAVAILABLE) then, after `wait_s` seconds, and at once while it is not known who
        our clients are; PermissionDeniedError for another edge's client; what `end` was given.
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
            if self._place is None or not self._is_past(place):
                raise DrainingError(f"version {version}, edge round {edge_round} is not there yet; ask again")
            return Pulled(version=self._place[0], edge_round=self._place[1], data=self._encoded)

    def add(self, version: int, edge_round: int, sha256: str, update: Update) -> bool:
        """Take a client's update; False if the same had come before.

        Raises:
            StaleRoundError: for another round than the current one.
            MalformedError: the names or shapes are not those of the whole model's adapter.
        """
        client = update.report.client
        with self._changed:
            if self._digests.get(((version, edge_round), client)) == sha256:
                return False
            self._check_open(client, version, edge_round)
            _check_fit(update.tensors, self._adapter)
            self._updates[client] = update
            self._digests[(version, edge_round), client] = sha256
            self._changed.notify_all()
            return True

    def has(self, client: str, version: int, edge_round: int, sha256: str) -> bool:
        """Whether this very update was taken already."""
        with self._changed:
            return self._digests.get(((version, edge_round), client)) == sha256

    def close(self, deadline_s: float) -> Closed:
        """Wait for the quorum, at most `deadline_s` seconds, and aggregate what has come, weighted by rows and trust.

        The updates of clients that are set aside, whose trust is 0, are reported and do not count.

        Raises what `end` was given, if that came meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._is_quorate(), timeout=deadline_s)
            self._check_ended()
            self._taking = False  # what comes from now on is late
            updates, trust = dict(self._updates), self._trust
            before = self._adapter
            missing = tuple(sorted((self._clients or frozenset()) - updates.keys()))
        if missing:
            log.warning("round %s closes without %s", self._place, ", ".join(missing))
        weights = {client: u.report.rows * trust.get(client, 1.0) for client, u in updates.items()}
        weighted = {client: (weights[client], u.tensors) for client, u in updates.items() if weights[client] > 0}
        if updates and not weighted:
            log.warning("round %s: no client that delivered is trusted; the adapter stays as it is", self._place)
        return Closed(
            adapter=self._own.aggregate(weighted, before) if weighted else before,
            rows=max(round(sum(weights.values())), 1) if updates else 0,
            reports=tuple(updates[client].report for client in sorted(updates)),
            missing=missing,
            moved={c: summary(u.tensors, before, self._seed).tolist() for c, u in updates.items() if c in trust},
        )

    def _has_answer(self, client: str, place: tuple[int, int], key: object, is_there: Callable[[], bool]) -> bool:
        gone = self._ended or client not in (self._clients or ()) or self._waiting.get(client) is not key
        return bool(gone) or self._is_past(place) or not is_there()

    def _is_past(self, place: tuple[int, int]) -> bool:
        return self._taking and self._place is not None and self._place >= place

    def _is_quorate(self) -> bool:
        clients = self._clients or frozenset()
        wanted = math.ceil(self._quorum * len(clients) - 1e-9)  # 0.07 * 100 is a little more than 7
        return len(self._updates.keys() & clients) >= wanted

    def _check_ended(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))  # a new one: several threads raise it

    def _check(self, client: str) -> None:
        self._check_ended()
        if self._clients is None:
            raise DrainingError("this edge does not know yet who its clients are; ask again")
        if client not in self._clients:
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


def _check_fit(tensors: Adapter, whole: Adapter) -> None:
    for name, values in whole.items():
        if name not in tensors:
            raise MalformedError(f"adapter: tensor {name} is missing")
        if tensors[name].shape != values.shape:
            raise MalformedError(f"adapter: tensor {name} is {tensors[name].shape}, expected {values.shape}")
        if not np.isfinite(tensors[name]).all():
            raise MalformedError(f"adapter: tensor {name} holds values that are not finite; lower the learning rate")
    extra = sorted(set(tensors) - set(whole))
    if extra:
        raise MalformedError(f"adapter: tensor {extra[0]} is not part of this model's adapter")
