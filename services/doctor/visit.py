"""One machine's calls on its peers: the name of each, port, TLS, role, clock and version, each if it can be asked."""

from collections.abc import Iterator
from dataclasses import replace

import grpc

from elsa.errors import UnauthenticatedError
from services.doctor import answers, asking, network, own, secure, shaking
from services.doctor.finding import Finding, Kind
from services.doctor.peer import Peer
from services.doctor.subject import Instruments, Subject
from services.rpc.certificates import identity_of
from services.rpc.introduction import own_version
from services.rpc.keypair import Keypair

SILENT_S = 60.0
"""For so long a cloud waits for an edge, unless its settings say otherwise."""


class Visit:
    """This machine's calls on its peers, with what was found of its own certificate."""

    def __init__(self, subject: Subject, by: Instruments, mine: own.Own) -> None:
        self._subject, self._by, self._mine = subject, by, mine
        self.cloud_answers = False

    def of(self, peer: Peer, *, again: bool = False) -> Iterator[Finding]:
        """What is found of a peer; and of our own certificate, unless that was said before (`again`)."""
        mine = [] if again else [*self._mine.findings]
        arrived: list[tuple[str, int]] = []
        yield from self._arrive(peer, arrived)
        yield from (finding for finding in mine if finding.kind is Kind.TLS)
        if not arrived:
            yield from (finding for finding in mine if finding.kind is not Kind.TLS)
            return
        calls = self._mine.keypair is not None and self._mine.keypair.identity.role != "cloud"
        shaken, finding = self._shake(peer, arrived[0], calls=calls)
        yield finding
        yield from (each for each in mine if each.kind is not Kind.TLS)
        if finding.verdict != "bad" and not secure.refuses(shaken, calls=calls):
            yield from self._ask(self._named(peer, shaken), self._mine.keypair if calls else None)
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

    def _arrive(self, peer: Peer, arrived: list[tuple[str, int]]) -> Iterator[Finding]:
        """Name, port and proxy; the place that takes a connection is added to `arrived`."""
        limit = self._subject.timeout_s
        resolved = network.resolve(peer, limit, self._by.look_up)
        yield resolved.finding
        if resolved.places:
            reached, place = network.reach(peer, resolved.places, limit)
            yield reached
            arrived += [] if place is None else [place]
        if (proxied := network.proxied(peer, reached=bool(arrived))) is not None:
            yield proxied

    def _shake(self, peer: Peer, place: tuple[str, int], *, calls: bool) -> tuple[shaking.Handshake, Finding]:
        subject = self._subject
        shaken = shaking.meet(peer, place, subject.files if calls else None, subject.timeout_s)
        finding = secure.check_tls(
            peer,
            shaken,
            subject.files,
            self._by.clock(),
            insecure=subject.insecure,
            calls=calls,
            own=self._mine,
        )
        return shaken, finding

    def _named(self, peer: Peer, shaken: shaking.Handshake) -> Peer:
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
