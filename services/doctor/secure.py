"""What a handshake says of a peer: whether it speaks TLS, whose certificate it shows, and whether it takes ours."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509

from elsa.errors import ElsaError
from services.doctor.finding import Finding, Kind, Verdict, parted
from services.doctor.own import Own
from services.doctor.peer import Peer
from services.doctor.shaking import Handshake
from services.doctor.shown import fault_of, one_issuer, who
from services.rpc.certificates import certificates_in, is_signed_by
from services.rpc.keypair import LATE_SHARE, Keypair, TlsFiles, read_file
from services.rpc.server import is_loopback

NOT_THERE = (
    "set tls_ca, tls_cert and tls_key here (--tls-ca …, ELSA_TLS_CA …): elsa pki request makes the key, elsa pki "
    "sign the certificate, and ca.pem comes with it"
)

OFF_LOOPBACK = (
    f"{NOT_THERE}; and the same there; or spell out insecure here, if everybody on the way may read and change all"
)


def check_tls(
    peer: Peer,
    shaken: Handshake,
    files: TlsFiles | None,
    now_s: float,
    *,
    insecure: bool = False,
    calls: bool = True,
    own: Own | None = None,
) -> Finding:
    """What the handshake says of the peer: the first fault, or whose certificate it shows and until when.

    Args:
        files: with the authority to hold it against; None: TLS is not to be spoken.
        insecure: whether that is meant off loopback.
        calls: whether ours was shown, and has to be taken.
        own: what was said of our own files, which is not said again of each peer; None: nothing was bad.
    """
    if shaken.plain == "HTTP/1":
        return _web_server(peer)
    if shaken.unreadable:
        return _found(peer, "bad", *parted(f"shows {shaken.unreadable}"))
    if files is None:
        return _without_tls(peer, shaken, insecure)
    if shaken.certificate is None:
        return _no_tls_there(peer, shaken)
    if own is not None and not own.judges:
        what = f"shows the certificate of {who(shaken.certificate)}, held against nothing: see our own files"
        return _found(peer, "skipped", what)
    try:
        fault = _held(peer, shaken.certificate, files, datetime.fromtimestamp(now_s, UTC), own)
    except ElsaError as error:  # files of ours, changed meanwhile
        return _found(peer, "bad", *parted(error))
    return fault or _sound(peer, shaken, shaken.certificate, files, now_s, calls, own)


def refuses(shaken: Handshake, *, calls: bool) -> bool:
    """Whether the peer has ended the connection once it had seen our certificate: it can be asked nothing."""
    return calls and shaken.certificate is not None and not shaken.taken


def doubt_clock(peer: Peer, own: Keypair | None, shaken: Handshake, now_s: float) -> Finding | None:
    """A warning where by our clock our certificate and the peer's are both over, or both to come; else None.

    Who shows a certificate that is out of its time cannot be asked what time it is: gRPC calls nobody whose
    certificate does not hold by this machine's clock.
    """
    if own is None or shaken.certificate is None:
        return None
    ours, now = certificates_in(own.certificate, "--tls-cert")[0], datetime.fromtimestamp(now_s, UTC)
    if now > max(ours.not_valid_after_utc, shaken.certificate.not_valid_after_utc):
        said = f"have both run out, ours at {ours.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    elif now < min(ours.not_valid_before_utc, shaken.certificate.not_valid_before_utc):
        said = f"are both not valid yet, ours from {ours.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    else:
        return None
    return Finding(
        kind=Kind.CLOCK,
        verdict="warn",
        what=f"by this machine's clock it is {now:%Y-%m-%d %H:%M} UTC: our certificate and its own {said}",
        remedy="if it is not, set the clock by NTP (chrony, timesyncd)",
        of=str(peer),
    )


def _of_another_authority(
    peer: Peer, shown: x509.Certificate, files: TlsFiles, authorities: Sequence[x509.Certificate], own: Own | None
) -> Finding:
    """Of one whose certificate no authority of ours has signed; no more than a pointer, if none has signed ours."""
    ours = None if own is None else own.certificate
    if ours is not None and not any(is_signed_by(ours, one) for one in authorities) and one_issuer(ours, shown):
        what = f"shows the certificate of {who(shown)}, of the authority that signed ours; --tls-ca is not of it"
        return _found(peer, "skipped", what)
    issuer = shown.issuer.rfc4514_string()
    what = f"shows a certificate of another authority ({issuer!a:.100}) than --tls-ca {files.ca}"
    remedy = f"check {peer.named_by}, and that both sides have the ca.pem of one authority (elsa pki show --ca)"
    return _found(peer, "bad", what, remedy)


def _held(peer: Peer, shown: x509.Certificate, files: TlsFiles, now: datetime, own: Own | None) -> Finding | None:
    """What is wrong with the certificate that it shows, if anything. Raises InputError for files of ours."""
    authorities = certificates_in(read_file("--tls-ca", files.ca), f"--tls-ca {files.ca}")
    if not any(is_signed_by(shown, one) for one in authorities):
        return _of_another_authority(peer, shown, files, authorities, own)
    fault = fault_of(peer, shown, files, now)
    return None if fault is None else _found(peer, "bad", *fault)


def _sound(
    peer: Peer,
    shaken: Handshake,
    shown: x509.Certificate,
    files: TlsFiles,
    now_s: float,
    calls: bool,
    own: Own | None,
) -> Finding:
    """Of one that shows what it should: until when, and whether it takes ours."""
    begins, ends = shown.not_valid_before_utc, shown.not_valid_after_utc
    what = f"shows the certificate of {who(shown)}, until {ends:%Y-%m-%d %H:%M} UTC"
    if refuses(shaken, calls=calls):
        return _refusal(peer, what, files, own)
    if ends - datetime.fromtimestamp(now_s, UTC) < max(LATE_SHARE * (ends - begins), timedelta(0)):
        return _found(peer, "warn", what, "renew it soon: elsa pki renew, on that machine")
    return _found(peer, "good", what)


def _web_server(peer: Peer) -> Finding:
    what = "is a web server (it speaks HTTP/1 without TLS), no role of ELSA"
    return _found(peer, "bad", what, f"{_elsewhere(peer)} (metrics_port speaks so, too)", Kind.PORT)


def _no_tls_there(peer: Peer, shaken: Handshake) -> Finding:
    """Of one that shows no certificate where we have TLS."""
    if not shaken.plain:
        what = f"speaks neither TLS nor HTTP/2 ({shaken.fault or 'it shows no certificate'})"
        return _found(peer, "bad", what, f"another program listens there, or it is stuck: {_elsewhere(peer)}")
    remedy = (
        f"if that is the {peer.server}, set tls_ca, tls_cert and tls_key there and start it again; if it is another "
        f"listener (probe_port speaks so, too), {_elsewhere(peer)}; only where the whole fleet is without TLS, leave "
        "out --tls-ca, --tls-cert and --tls-key (ELSA_TLS_…) here"
    )
    return _found(peer, "bad", "speaks gRPC's HTTP/2 without TLS, and we have TLS", remedy)


def _elsewhere(peer: Peer) -> str:
    """What to do where another program has the port."""
    if peer.ours:
        return f"end what has the port, or choose {peer.named_by}"
    return f"give the address that the log of that {peer.server} says it serves at, by {peer.named_by}"


def _refusal(peer: Peer, shown: str, files: TlsFiles, own: Own | None) -> Finding:
    if own is not None and not own.sound:
        return _found(peer, "skipped", f"{shown}; it does not take our certificate, of which see what is said here")
    return _found(
        peer,
        "bad",
        f"{shown}, and ends the connection once it has seen ours",
        f"put the authority that signed ours, of {files.ca}, into the tls_ca of that {peer.server} too; if it is "
        "there, compare the clocks",
    )


def _without_tls(peer: Peer, shaken: Handshake, insecure: bool) -> Finding:
    """Of one that is to be called without TLS."""
    if shaken.certificate is not None:
        what = f"speaks TLS, as {who(shaken.certificate)}, and no files for it are given here"
        return _found(peer, "bad", what, NOT_THERE)
    if shaken.fault and not shaken.plain:
        what = f"speaks no HTTP/2 without TLS, nor ends a handshake with TLS ({shaken.fault})"
        remedy = f"another program listens there, or one that wants other TLS than ours: {_elsewhere(peer)}"
        return _found(peer, "bad", what, remedy, Kind.PORT)
    if insecure or is_loopback(peer.address.rpartition(":")[0]):
        why = "on loopback" if not insecure else "as --insecure allows"
        return _found(peer, "warn" if insecure else "skipped", f"no TLS, {why}: nobody shows who they are")
    return _found(peer, "bad", "no TLS, and it is not on loopback: no role would call it", OFF_LOOPBACK)


def _found(peer: Peer, verdict: Verdict, what: str, remedy: str = "", kind: Kind = Kind.TLS) -> Finding:
    return Finding(kind=kind, verdict=verdict, what=what, remedy=remedy, of=str(peer))
