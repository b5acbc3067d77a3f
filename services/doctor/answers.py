"""What a peer's answer says of this machine's role, of the clocks, and of the versions."""

import grpc

from services.doctor.asking import Answer
from services.doctor.finding import Finding, Kind, Verdict, parted
from services.doctor.peer import Peer
from services.pki.issuing import SKEW
from services.rpc.handshake import handshake_fault
from services.rpc.introduction import UNKNOWN

WARN_S = 5.0
"""Clocks further apart make logs and deadlines hard to read; further than `SKEW`, new certificates are refused."""
ANSWERED = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
"""How a call of no run ends at a peer that has let it in, with an error of ours."""


def check_role(peer: Peer, role: str, answer: Answer, *, tls: bool) -> Finding:
    """Whether the peer lets a `role` do what that role does; or how else the call ended."""

    def found(kind: Kind, verdict: Verdict, what: str, remedy: str = "") -> Finding:
        return Finding(kind=kind, verdict=verdict, what=what, remedy=remedy, of=str(peer))

    code, said = answer.code, " ".join(answer.text.split())[:300]
    if (code is grpc.StatusCode.OK and answer.version) or (code in ANSWERED and answer.error):
        if not answer.serving:
            return found(Kind.PORT, "warn", "answers that it is stopping (NOT_SERVING)", "start it again once it has")
        if not tls:
            return found(Kind.ROLE, "skipped", "without TLS it asks nobody who they are")
        return found(Kind.ROLE, "good", f"takes us for {'an' if role[0] in 'ae' else 'a'} {role}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return found(Kind.ROLE, "bad", *parted(said, "use the certificate of the role that this is to be"))
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return found(Kind.TLS, "bad", *parted(f"refuses us: {said}", "have another certificate signed"))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return found(Kind.ROLE, "warn", *parted(said, "ask again later"))
    if code is grpc.StatusCode.UNAVAILABLE and answer.error:
        return found(Kind.PORT, "warn", *parted(f"answers, but {said}", "ask again; its log says why"))
    if code is grpc.StatusCode.UNAVAILABLE and (fault := handshake_fault(answer.text)):
        return found(Kind.TLS, "bad", *parted(fault))
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return found(
            Kind.PORT, "bad", f"takes connections, but answers no call ({code.name})", "look at its log and load"
        )
    return found(
        Kind.PORT,
        "bad",
        f"answers as no {peer.server} of ELSA does ({code.name}: {said or 'no detail'})",
        f"check {peer.named_by}: another program, or another service of ELSA, listens there",
    )


def check_clock(peer: Peer, answer: Answer) -> Finding:
    """Whether both clocks agree, as far as one call can tell."""

    def found(verdict: Verdict, what: str, remedy: str = "") -> Finding:
        return Finding(kind=Kind.CLOCK, verdict=verdict, what=what, remedy=remedy, of=str(peer))

    if answer.clock_s is None:
        return found("skipped", "it told no time")
    apart_s = max(abs(answer.clock_s) - answer.unsure_s, 0.0)
    way = "ahead of" if answer.clock_s > 0 else "behind"
    what = f"its clock is {abs(answer.clock_s):.1f} s {way} ours (within {max(answer.unsure_s, 0.05):.2f} s)"
    if apart_s > SKEW.total_seconds():
        limit = f"{SKEW.total_seconds():.0f} s"
        return found(
            "bad", f"{what}; beyond {limit} new certificates are refused", "set both by NTP (chrony, timesyncd)"
        )
    if apart_s > WARN_S:
        return found("warn", what, "set both by NTP (chrony, timesyncd)")
    return found("good", what)


def check_version(peer: Peer, answer: Answer, own: str) -> Finding:
    """Whether the peer has the same major and minor version."""

    def found(verdict: Verdict, what: str, remedy: str = "") -> Finding:
        return Finding(kind=Kind.VERSION, verdict=verdict, what=what, remedy=remedy, of=str(peer))

    if not answer.version:
        return found("skipped", "it told no version")
    what = f"has version {answer.version!r:.40}, this machine {own!r}"
    if UNKNOWN in (own, answer.version):
        return found("warn", what, "install both, so that they know their version")
    if _minor(answer.version) != _minor(own):
        return found("bad", what, "install the same major.minor on both (docs/deploy.md)")
    return found("good", what)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
