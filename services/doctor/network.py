"""Whether a peer's name resolves, whether its port answers, and whether gRPC goes there at all."""

import errno
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from services.doctor.bounded import within
from services.doctor.finding import Finding, Kind
from services.doctor.peer import Peer
from services.rpc.server import is_loopback

LookUp = Callable[..., Sequence[Any]]
PROXIES, NO_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")
"""What gRPC reads, the first that is set, be it empty; in lower case alone."""
SCHEME = "http://"
"""Of a proxy that gRPC goes by; it goes by no other."""
RESOLVER = "check the name, and this machine's resolver (/etc/resolv.conf, /etc/hosts)"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a name stands for: socket addresses, none if there is none."""

    finding: Finding
    places: tuple[tuple[str, int], ...] = ()


def resolve(peer: Peer, timeout_s: float, look_up: LookUp = socket.getaddrinfo) -> Resolved:
    """Look the peer's name up, for at most `timeout_s` seconds."""

    def found(verdict: Any, what: str, remedy: str = "") -> Finding:
        return Finding(kind=Kind.NAME, verdict=verdict, what=what, remedy=remedy, of=str(peer))

    if peer.place is None:
        return Resolved(finding=found("bad", f"{peer.address!r:.100} is no address", "write HOST:PORT"))
    host, port = peer.place
    try:  # the system's look-up knows no timeout
        answer = within(timeout_s, lambda: look_up(host, port, type=socket.SOCK_STREAM))
    except TimeoutError:
        return Resolved(finding=found("bad", f"{host}: no answer from the resolver in {timeout_s:g} s", RESOLVER))
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        return Resolved(finding=found("bad", f"{host} does not resolve ({said})", RESOLVER))
    places = tuple(dict.fromkeys((str(each[4][0]), int(each[4][1])) for each in answer))
    shown = ", ".join(address for address, _ in places[:4])
    said = f"{host} is {shown}" if shown != host else f"{host} is an address"
    return Resolved(finding=found("good", said), places=places)


def reach(peer: Peer, places: Sequence[tuple[str, int]], timeout_s: float) -> tuple[Finding, tuple[str, int] | None]:
    """Open a connection to one of the places; which one took it. At most `timeout_s` seconds for all together."""
    faults = []
    for place in places:
        try:
            socket.create_connection(place, timeout=timeout_s / len(places)).close()
        except OSError as error:
            faults.append((place, error))
            continue
        what = f"{place[0]} port {place[1]} takes connections"
        return Finding(kind=Kind.PORT, verdict="good", what=what, of=str(peer)), place
    place, first = faults[0]
    what, remedy = _fault(first, timeout_s)
    what = f"{place[0]} port {place[1]} {what}"
    return Finding(kind=Kind.PORT, verdict="bad", what=what, remedy=remedy, of=str(peer)), None


def proxied(peer: Peer, environment: Mapping[str, str] | None = None, *, reached: bool = True) -> Finding | None:
    """A warning where gRPC would go by a proxy of the environment, which other programs may not use; else None.

    Args:
        reached: whether the peer takes connections from here, past the proxy: only then is a call made, by it.
    """
    environment = os.environ if environment is None else environment
    name = next((name for name in PROXIES if name in environment), None)
    if name is None or peer.place is None or not environment[name].lower().startswith(SCHEME):
        return None
    host = peer.place[0]
    spared = next((environment[each] for each in NO_PROXIES if each in environment), "")
    if is_loopback(host) or any(_spares(part, host) for part in map(str.strip, spared.split(","))):
        return None
    return Finding(
        kind=Kind.PORT,
        verdict="warn",
        what=f"calls go by the proxy {_host_of(environment[name])} ({name})"
        + ("" if reached else ", and what it reaches is not known: the doctor looked past it"),
        remedy=f"unless that is meant, set no_proxy={host}",
        of=str(peer),
    )


def _spares(part: str, host: str) -> bool:
    """Whether a part of no_proxy keeps calls to `host` from the proxy: how it ends, or a network that it is in."""
    if part and host.lower().endswith(part.lower()):
        return True
    network, _, bits = part.partition("/")
    try:
        return bits.isdecimal() and ip_address(host) in ip_network(f"{ip_address(network)}/{bits}", strict=False)
    except ValueError:  # no address, or no network
        return False


def _fault(error: OSError, timeout_s: float) -> tuple[str, str]:
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections", "start the server, check its --host and --port, or the address called here"
    if isinstance(error, TimeoutError):
        return (
            f"did not answer in {timeout_s:g} s",
            "check the address, and firewalls and network policies on the way",
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"cannot be reached ({error.strerror})", "check the address, and this machine's routes"
    return f"takes no connection ({error.strerror or error})", "check the address, the server and firewalls"


def _host_of(url: str) -> str:
    """Host and port of a proxy: what follows the last @, since a password may hold what elsewhere ends a host."""
    found = re.match(r"[^/?#]*", url[len(SCHEME) :].rpartition("@")[2])
    return (found[0] if found else "") or "of the environment"
