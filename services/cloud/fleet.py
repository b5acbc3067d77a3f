"""Who is registered and who is alive.

Names, addresses and offers are in the database; when a node was last heard is in memory alone, and after a restart
every known node counts as just heard. So does it after a time in which nobody at all was heard: then it was the cloud
that slept or was cut off, and what follows from a node's silence must not befall all of them.
"""

import logging
import math
import re
from collections.abc import Callable

from elsa.errors import CapacityError, MalformedError, NotFoundError, PermissionDeniedError
from services.cloud.pace import Pace
from services.cloud.records import Node, Role
from services.cloud.store import Store, Transaction

MOST = 2**31 - 1
"""Largest count that is taken: what every database keeps in an integer."""

MOST_DATASETS = 64

MOST_LISTED = 500
"""Edges that are listed at once; so many go into a message."""

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAMES_ARE = "1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first"
_LONGEST_HOST = 255
_HOST = re.compile(r"\[[0-9A-Za-z:.%_-]+\]|[^:/,@\[\]]+")
"""A name or an IPv4 address, or one of IPv6 in brackets."""
_SCHEMES = {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "google-c2p"}
"""What gRPC takes for no host before a colon."""


class Fleet:
    """Nodes in `store`; one is alive if it was heard within three heartbeats and a second.

    Args:
        pace: how often nodes are to be heard.
        max_nodes: most that are registered.
    """

    def __init__(self, store: Store, *, pace: Pace, max_nodes: int, clock: Callable[[], float]) -> None:
        self._pace = pace
        self._store = store
        self._max_nodes = max_nodes
        self._clock = clock
        self.begin_unix_s = self._listens_unix_s = self._last_unix_s = clock()
        self._heard: dict[str, float] = {}
        self._serials: dict[str, set[int]] = {}
        """Numbers of the certificates under which who bears a name was let in and has not been refused."""
        self._refused: dict[str, str] = {}
        """Nodes that are not let in any more, with why."""
        with store.transaction() as transaction:
            self._roles = transaction.roles()

    @property
    def heartbeat_s(self) -> float:
        """Seconds between heartbeats of a node, in a fleet as large as this one."""
        return self._pace.heartbeat_s(len(self._roles))

    def register_edge(self, edge_id: str, address: str, capacity: int) -> None:
        """Make an edge known, or known again. Raises MalformedError, CapacityError, PermissionDeniedError."""
        if not _is_address(address):
            raise MalformedError(f"address: {address[:80]!r} is not host:port, a port being 1 to 65535")
        check_number("capacity", capacity, 1, MOST)
        self._register(Node(node_id=edge_id, role=Role.EDGE, address=address, capacity=capacity))

    def register_client(self, client_id: str, datasets: tuple[str, ...]) -> None:
        """Make a client known, or known again. Raises as `register_edge`."""
        check_number("datasets, their count", len(datasets), 0, MOST_DATASETS)
        for name in datasets:
            if not _NAME.fullmatch(name):
                raise MalformedError(f"datasets: {name[:80]!r} is not a name; {_NAMES_ARE}")
        self._register(Node(node_id=client_id, role=Role.CLIENT, datasets=datasets))

    def edges(self, after: str = "") -> tuple[list[Node], bool]:
        """Edges whose names come after `after`, in order of their names, and whether there are more."""
        with self._store.transaction() as transaction:
            later = sorted(
                (node for node in transaction.all(Node, role=Role.EDGE) if node.node_id > after),
                key=lambda node: node.node_id,
            )
        return later[:MOST_LISTED], len(later) > MOST_LISTED

    def heartbeat(self, node_id: str) -> bool:
        """Note that a node is alive; True if it had been silent. Raises NotFoundError if it is unknown."""
        if node_id not in self._roles:
            raise _unknown(node_id)
        back = not self.is_alive(node_id)
        self._hear(node_id)
        return back

    def check_role(self, name: str, role: str) -> None:
        """Raise PermissionDeniedError if a node is registered under a name as something else than `role`."""
        known = self._roles.get(name, role)
        if known != role:
            raise _taken(name, known)

    def let_in(self, name: str, serial: int) -> None:
        """Note by which certificate somebody calls who may use that name."""
        self._serials.setdefault(name, set()).add(serial)

    def refuse(self, name: str, role: str, serial: int, why: str) -> None:
        """Note that a certificate of the fleet's authority for that name and role is good no more.

        Its node is silent from now on, at once if it has called by no other. While another certificate of the same
        node is in use, or may be as after a restart, it is so only once it is not heard: whoever goes on with one
        that was replaced, be it a thief, silences nobody.
        """
        if self._roles.get(name) != role:
            return
        serials = self._serials.get(name, set())
        alone = serials == {serial}
        serials.discard(serial)
        if alone or not self.is_alive(name):
            self._refused[name] = why

    def refusal(self, node_id: str) -> str:
        """Why a node is not let in, since it was heard last; empty where that is not known of it."""
        return self._refused.get(node_id, "")

    def is_alive(self, node_id: str) -> bool:
        """Whether a registered node was heard lately, and has not been refused since."""
        lately = self._clock() - self._heard.get(node_id, self.begin_unix_s) <= self._lately_s
        return lately and node_id not in self._refused

    def is_heard(self, node_id: str) -> bool:
        """As `is_alive`, and for a fact: after a restart nobody is at first."""
        return node_id in self._heard and self.is_alive(node_id)

    def silent_s(self, node_id: str) -> float:
        """Seconds since a registered node was heard, of those in which it could have been."""
        return self._clock() - max(self._heard.get(node_id, self.begin_unix_s), self._listens_unix_s)

    @property
    def _lately_s(self) -> float:
        return self._pace.alive_s(len(self._roles))

    def _hear(self, node_id: str) -> None:
        now = self._clock()
        if now - self._last_unix_s > self._lately_s:
            if self._roles.keys() - {node_id}:
                log.warning("nobody was heard for %.0f s; all nodes have time to come back", now - self._last_unix_s)
            self._listens_unix_s = now
        self._heard[node_id] = self._last_unix_s = now
        self._refused.pop(node_id, None)

    def _register(self, node: Node) -> None:
        if not _NAME.fullmatch(node.node_id):
            raise MalformedError(f"name {node.node_id[:80]!r}: {_NAMES_ARE}")
        with self._store.transaction() as transaction:
            known = transaction.get(Node, node_id=node.node_id)
            if known is not None and known.role is not node.role:
                raise _taken(node.node_id, known.role)
            if known is None and transaction.count(Node) >= self._max_nodes:
                raise CapacityError(f"the fleet is full with {self._max_nodes} nodes; raise ELSA_MAX_NODES")
            if known is not None and known.address != node.address and self.is_alive(node.node_id):
                log.warning(
                    "%s is at %s now and was at %s a moment ago: unless it was restarted, two use that name",
                    *(node.node_id, node.address, known.address),
                )
            transaction.put(node)
        self._roles[node.node_id] = node.role
        self._hear(node.node_id)


def known_node(transaction: Transaction, node_id: str) -> Node:
    """A registered node. Raises NotFoundError."""
    node = transaction.get(Node, node_id=node_id)
    if node is None:
        raise _unknown(node_id)
    return node


def _is_address(text: str) -> bool:
    """Whether clients that dial it go to a port of a host: gRPC takes other things too, as sockets of their own."""
    host, _, port = text.rpartition(":")
    visible = host.isascii() and host.isprintable() and " " not in host
    plain = bool(_HOST.fullmatch(host)) and host.lower() not in _SCHEMES
    fits = 0 < len(host) <= _LONGEST_HOST and len(port) <= 5
    return visible and plain and fits and port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535


def _taken(name: str, role: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{name} is registered as {role}; choose another name")


def _unknown(node_id: str) -> NotFoundError:
    return NotFoundError(f"{node_id[:80] or 'a node without a name'} is not registered; register it first")


def check_number(field: str, value: float, least: float = 0.0, most: float = math.inf) -> None:
    """Raise MalformedError unless `value` is finite and within its bounds."""
    if not (math.isfinite(value) and least <= value <= most):
        raise MalformedError(f"{field}: {value}; it must be between {least:g} and {most:g}")
