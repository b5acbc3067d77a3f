"""All checks of one machine in their order; each runs whatever others found, unless it needs what they lack."""

import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from elsa.errors import UnauthenticatedError
from elsa.spec import RunSpec
from services.doctor import answers, asking, model, network, own, room, secure
from services.doctor.bounded import within
from services.doctor.finding import Finding, Kind
from services.doctor.peer import Peer
from services.rpc.certificates import identity_of
from services.rpc.identity import Role
from services.rpc.introduction import own_version
from services.rpc.keypair import Keypair, TlsFiles
from services.rpc.memory import available_bytes

LOOK_S = 120.0
"""For looking at a model and counting what it takes, which is no matter of the network."""
AT_ONCE = 16
SILENT_S = 60.0
"""For so long a cloud waits for an edge, unless its settings say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a machine is to be, and whom it must reach.

    Attributes:
        name: None: whatever name its certificate says.
        cloud: None: nobody is asked.
        edges: those that it must reach itself; an admin asks the cloud for the others if `asks_edges`.
        model: the model to look at; empty: none.
        models: where this site has models.
    """

    role: Role
    name: str | None = None
    cloud: Peer | None = None
    edges: tuple[Peer, ...] = ()
    asks_edges: bool = True
    files: TlsFiles | None = None
    insecure: bool = False
    model: str = ""
    spec: RunSpec | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    max_memory_mib: int | None = None
    folders: tuple[room.Folder, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """By what is measured."""

    clock: Callable[[], float] = time.time
    look_up: network.LookUp = socket.getaddrinfo
    available: Callable[[], int | None] = available_bytes
    usage: Callable[[Path], Any] = shutil.disk_usage


def examine(subject: Subject, by: Instruments | None = None) -> Iterator[Finding]:
    """Every finding, as it is made."""
    by = by or Instruments()
    mine = own.check_own(subject.files, subject.role, subject.name, by.clock())
    visit = Visit(subject, by, mine)
    if subject.cloud is not None:
        yield from visit.of(subject.cloud)
    else:
        yield from mine.findings
    yield from _machine(subject, by)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(lambda peer: list(visit.of(peer, again=True)), subject.edges):
            yield from found
        if subject.cloud is not None and visit.cloud_answers and subject.role == "admin" and subject.asks_edges:
            listed, peers = visit.edges(subject.cloud)
            yield from listed
            for found in pool.map(lambda peer: list(visit.of(peer, again=True)), peers):
                yield from found


class Visit:
    """This machine's calls on its peers, with what was found of its own certificate."""

    def __init__(self, subject: Subject, by: Instruments, mine: own.Own) -> None:
        self._subject, self._by, self._mine = subject, by, mine
        self.cloud_answers = False

    def of(self, peer: Peer, *, again: bool = False) -> Iterator[Finding]:
        """What is found of a peer; and of our own certificate, unless that was said before (`again`)."""
        limit, mine = self._subject.timeout_s, [] if again else [*self._mine.findings]
        resolved = network.resolve(peer, limit, self._by.look_up)
        yield resolved.finding
        place = None
        if resolved.places:
            reached, place = network.reach(peer, resolved.places, limit)
            yield self._own_server(reached) if self._serves(peer) else reached
            if place is not None and (proxied := network.proxied(peer)) is not None:
                yield proxied
        yield from (finding for finding in mine if finding.kind is Kind.TLS)
        if place is None:
            yield from (finding for finding in mine if finding.kind is not Kind.TLS)
            return
        shaken, finding, keypair = self._shake(peer, place)
        yield finding
        yield from (each for each in mine if each.kind is not Kind.TLS)
        if finding.verdict != "bad":
            yield from self._ask(self._named(peer, shaken), keypair)
        elif doubt := secure.doubt_clock(peer, self._mine.keypair, shaken, self._by.clock()):
            yield doubt

    def edges(self, cloud: Peer) -> tuple[list[Finding], list[Peer]]:
        """Those that the cloud knows, and what is to be said of them before they are called."""
        try:
            found = asking.edges_of(cloud, self._mine.keypair, self._subject.timeout_s)
        except grpc.RpcError as error:
            what = f"does not tell its edges ({error.code().name})"
            return [Finding(kind=Kind.PORT, verdict="skipped", what=what, of=str(cloud))], []
        silent = [
            Finding(
                kind=Kind.PORT,
                verdict="warn",
                what=f"the cloud has not heard it for {edge.silent_s:.0f} s",
                remedy="see whether it runs, and run elsa doctor --as edge there",
                of=f"edge {edge.edge_id}",
            )
            for edge in found
            if edge.silent_s > SILENT_S
        ]
        return silent, [Peer(server="edge", address=edge.address, name=edge.edge_id) for edge in found]

    def _serves(self, peer: Peer) -> bool:
        return self._subject.role == "cloud" and peer.server == "cloud"

    def _own_server(self, reached: Finding) -> Finding:
        """What to say of the port of the cloud that this machine is to be: it may not run yet."""
        if reached.verdict != "bad":
            return reached
        return replace(reached, verdict="warn", remedy="start it: elsa cloud")

    def _shake(self, peer: Peer, place: tuple[str, int]) -> tuple[secure.Handshake, Finding, Keypair | None]:
        subject, keypair = self._subject, self._mine.keypair
        calls = keypair is not None and keypair.identity.role != "cloud"
        shown = subject.files if calls else None
        shaken = secure.shake_hands(peer, place, shown, subject.timeout_s)
        finding = secure.check_tls(
            peer, shaken, subject.files, self._by.clock(), insecure=subject.insecure, calls=calls
        )
        return shaken, finding, keypair if calls else None

    def _named(self, peer: Peer, shaken: secure.Handshake) -> Peer:
        if peer.server == "cloud" or peer.name or shaken.certificate is None:
            return peer
        try:
            return replace(peer, name=identity_of(shaken.certificate).name)
        except UnauthenticatedError:
            return peer

    def _ask(self, peer: Peer, keypair: Keypair | None) -> Iterator[Finding]:
        subject, tls = self._subject, self._subject.files is not None
        if tls and keypair is None:
            what = "not asked: there is no certificate here that may call"
            for kind in (Kind.ROLE, Kind.CLOCK, Kind.VERSION):
                yield Finding(kind=kind, verdict="skipped", what=what, of=str(peer))
            return
        role = keypair.identity.role if keypair else subject.role
        name = keypair.identity.name if keypair else subject.name or subject.role
        answer = asking.ask(peer, role, name, keypair, subject.timeout_s, self._by.clock)
        found = answers.check_role(peer, role, answer, tls=tls)
        if peer.server == "cloud":
            self.cloud_answers = found.verdict in ("good", "skipped")
        yield found
        yield answers.check_clock(peer, answer)
        yield answers.check_version(peer, answer, own_version())


def _machine(subject: Subject, by: Instruments) -> Iterator[Finding]:
    """Model, memory and disk."""
    checkpoint = None
    if subject.model:
        try:
            looked = within(
                LOOK_S,
                lambda: model.check_model(
                    subject.model, subject.spec, subject.role, subject.models, subject.timeout_s
                ),
            )
        except TimeoutError as error:
            yield Finding(kind=Kind.MODEL, verdict="bad", what=f"looking at it {error}", remedy="check the disk")
        else:
            checkpoint = looked.checkpoint
            yield looked.finding
    else:
        yield Finding(kind=Kind.MODEL, verdict="skipped", what="no model is named (--model or --spec)")
    try:
        yield within(
            LOOK_S,
            lambda: room.check_memory(
                subject.spec,
                checkpoint,
                subject.role,
                subject.name or subject.role,
                subject.max_memory_mib,
                by.available,
            ),
        )
    except TimeoutError as error:
        yield Finding(kind=Kind.MEMORY, verdict="warn", what=f"counting what the model takes {error}")
    yield from room.check_disks(subject.folders, by.usage)
