"""Whether a role that serves can listen where its settings say."""

import errno
import os
import socket
from dataclasses import dataclass
from typing import Literal

from services.doctor.finding import Finding, Kind
from services.doctor.peer import Peer
from services.rpc.server import is_loopback

CALLED = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""How this machine calls who listens on all of its addresses, which nobody can call."""
PRIVILEGED = 1024
"""Ports below it are root's, unless the system is told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Where a role listens, and as whom it must show itself there.

    Attributes:
        port: 0: any that is free.
        name: of an edge.
    """

    role: Literal["cloud", "edge"]
    host: str
    port: int
    name: str = ""

    @property
    def peer(self) -> Peer:
        """The role itself, as this machine reaches it."""
        host = self.host.strip("[]")
        host = CALLED.get(host, host)
        address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return Peer(server=self.role, address=address, name=self.name, ours=True)


@dataclass(frozen=True, kw_only=True)
class Listening:
    """What was found of a place to listen, and whether somebody listens there: this role, or another program."""

    findings: tuple[Finding, ...]
    taken: bool = False


def check_listening(listener: Listener, *, tls: bool, insecure: bool) -> Listening:
    """Whether the role may listen there, and whether the place is free. Nothing listens for it."""
    openly = _openly(listener, tls=tls, insecure=insecure)
    finding, taken = _place(listener)
    return Listening(findings=(*openly, *([] if taken else [finding])), taken=taken)


def _openly(listener: Listener, *, tls: bool, insecure: bool) -> list[Finding]:
    """What is to be said of a role that listens to others than this machine without TLS."""
    if tls or is_loopback(listener.host):
        return []
    if insecure:
        what = f"it listens on {listener.host} without TLS, as insecure allows: nobody shows who they are"
        return [Finding(kind=Kind.TLS, verdict="warn", what=what, remedy="set tls_ca, tls_cert and tls_key")]
    return [
        Finding(
            kind=Kind.TLS,
            verdict="bad",
            what=f"no TLS, and {listener.host} is not loopback: elsa {listener.role} refuses to listen there",
            remedy="set tls_ca, tls_cert and tls_key (elsa pki), or --host 127.0.0.1, or spell out --insecure",
        )
    ]


def _place(listener: Listener) -> tuple[Finding, bool]:
    host, port = listener.host.strip("[]"), listener.port
    where = f"{host} port {port}" if port else host
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        what = f"--host {host} does not resolve ({getattr(error, 'strerror', None) or error})"
        return _finding("bad", what, "give an address of this machine, or 0.0.0.0 for all of them", Kind.NAME), False
    faults = [fault for family, _, _, _, place in found if (fault := _fault(family, place)) is not None]
    if any(fault.errno == errno.EADDRINUSE for fault in faults):
        return _finding("warn", f"{where} is taken"), True
    if len(faults) == len(found):  # one that can be had is enough
        return _finding(
            "bad", f"cannot listen on {where} ({faults[0].strerror})", _remedy(faults[0], listener)
        ), False
    if not port:
        return _finding("skipped", f"{host}, at any port that is free (port 0): nothing to look for"), False
    what = f"{where} is free: no {listener.role} serves there yet"
    return _finding("warn", what, f"start it: elsa {listener.role}"), False


def _fault(family: int, place: tuple[object, ...]) -> OSError | None:
    """Why a place cannot be had; it is given back at once. As gRPC does, past connections that linger."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    except OSError as error:
        return error
    return None


def _remedy(fault: OSError, listener: Listener) -> str:
    if fault.errno == errno.EACCES and listener.port < PRIVILEGED:
        return f"choose a --port from {PRIVILEGED} on; those below are not for user {os.geteuid()}"
    return "give an address of this machine as --host, or 0.0.0.0 for all of them"


def _finding(
    verdict: Literal["warn", "bad", "skipped"], what: str, remedy: str = "", kind: Kind = Kind.PORT
) -> Finding:
    return Finding(kind=kind, verdict=verdict, what=what, remedy=remedy)
