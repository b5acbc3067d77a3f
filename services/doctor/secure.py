"""The TLS handshake with a peer: whether it speaks TLS, whose certificate it shows, and whether it takes ours.

gRPC tells little of a handshake that fails, so this is one of its own, by the system's OpenSSL: it takes whatever the
peer shows, and judges it afterwards. Nothing but the handshake and HTTP/2's opening is sent.
"""

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from elsa.errors import ElsaError, InputError, UnauthenticatedError
from services.doctor.finding import Finding, Kind, parted
from services.doctor.peer import Peer
from services.rpc.certificates import certificate_of, certificates_in, identity_of, is_signed_by, names_of
from services.rpc.keypair import LATE_SHARE, Keypair, TlsFiles, read_file
from services.rpc.revoked import Revoked
from services.rpc.server import is_loopback

OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""HTTP/2's preface and empty settings, which a server answers: with TLS 1.3 only then is it known whether it takes
our certificate."""
NOT_THERE = "give --tls-ca, --tls-cert and --tls-key (elsa pki makes them)"


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """What came of it.

    Attributes:
        certificate: the peer's; None where it speaks no TLS, or shows one that cannot be read.
        taken: whether the peer went on after our side of it.
        fault: why there was none, if it did not get so far.
        unreadable: what is wrong with a certificate that cannot be read.
    """

    certificate: x509.Certificate | None = None
    taken: bool = False
    fault: str = ""
    unreadable: str = ""

    @classmethod
    def of(cls, der: bytes | None, *, taken: bool) -> Self:
        """One at whose end the peer has shown these bytes as its certificate."""
        try:
            return cls(certificate=certificate_of(der) if der else None, taken=taken)
        except InputError as error:
            return cls(unreadable=str(error), taken=taken)


def shake_hands(peer: Peer, place: tuple[str, int], files: TlsFiles | None, timeout_s: float) -> Handshake:
    """A handshake with whoever is at `place`; of `files` our certificate is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to look at what is shown, whoever's it is
    context.set_alpn_protocols(["h2"])
    try:
        if files is not None:
            context.load_cert_chain(files.certificate, files.key, password="")  # none is asked for on a terminal
        with (
            socket.create_connection(place, timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=peer.host or place[0]) as secure,
        ):
            return Handshake.of(secure.getpeercert(binary_form=True), taken=_goes_on(secure))
    except TimeoutError:
        return Handshake(fault=f"no handshake in {timeout_s:g} s")
    except (OSError, ValueError) as error:  # ssl.SSLError is one of the system's
        return Handshake(fault=getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error))


def check_tls(
    peer: Peer,
    shaken: Handshake,
    files: TlsFiles | None,
    now_s: float,
    *,
    insecure: bool = False,
    calls: bool = True,
) -> Finding:
    """What the handshake says of the peer: the first fault, or whose certificate it shows and until when.

    Args:
        files: with the authority to hold it against; None: TLS is not to be spoken.
        insecure: whether that is meant off loopback.
        calls: whether ours was shown, and has to be taken.
    """

    def found(verdict: str, what: str, remedy: str = "") -> Finding:
        return Finding(kind=Kind.TLS, verdict=verdict, what=what, remedy=remedy, of=str(peer))  # type: ignore[arg-type]

    if shaken.unreadable:
        return found("bad", *parted(f"shows {shaken.unreadable}"))
    if files is None:
        return _without_tls(peer, shaken, insecure)
    if shaken.certificate is None:
        said = f" ({shaken.fault})" if shaken.fault else ""
        return found(
            "bad", f"does not speak TLS{said}", "give it --tls-ca, --tls-cert and --tls-key, or check the port"
        )
    certificate, now = shaken.certificate, datetime.fromtimestamp(now_s, UTC)
    try:
        fault = _fault(peer, certificate, files, now)
    except ElsaError as error:  # files of ours
        return found("bad", *parted(error))
    if fault is not None:
        return found("bad", *fault)
    if calls and not shaken.taken:
        return found(
            "bad",
            "ends the connection once it has seen our own certificate",
            "see what is said of it here; else give that server the --tls-ca of the authority that signed ours",
        )
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    what = f"shows the certificate of {_who(certificate)}, until {ends:%Y-%m-%d %H:%M} UTC"
    what += ", and takes ours" if calls else ""
    if ends - now < max(LATE_SHARE * (ends - begins), timedelta(0)):
        return found("warn", what, "renew it soon: elsa pki renew, on that machine")
    return found("good", what)


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


def _goes_on(secure: ssl.SSLSocket) -> bool:
    try:
        secure.sendall(OPENING)
        return bool(secure.recv(1))
    except OSError:  # an alert, or a reset
        return False


def _without_tls(peer: Peer, shaken: Handshake, insecure: bool) -> Finding:
    def found(verdict: str, what: str, remedy: str = "") -> Finding:
        return Finding(kind=Kind.TLS, verdict=verdict, what=what, remedy=remedy, of=str(peer))  # type: ignore[arg-type]

    if shaken.certificate is not None:
        return found(
            "bad", f"speaks TLS, as {_who(shaken.certificate)}, and no files for it are given here", NOT_THERE
        )
    if insecure or is_loopback(peer.address.rpartition(":")[0]):
        why = "on loopback" if not insecure else "as --insecure allows"
        return found("warn" if insecure else "skipped", f"no TLS, {why}: nobody shows who they are")
    return found("bad", "no TLS, and it is not on loopback: no role would call it", NOT_THERE)


def _fault(peer: Peer, certificate: x509.Certificate, files: TlsFiles, now: datetime) -> tuple[str, str] | None:
    """What is wrong with a peer's certificate, and the remedy; None if it is the one that should be there."""
    who, until = _who(certificate), certificate.not_valid_after_utc
    authorities = certificates_in(read_file("--tls-ca", files.ca), f"--tls-ca {files.ca}")
    if not any(is_signed_by(certificate, authority) for authority in authorities):
        issuer = certificate.issuer.rfc4514_string()
        what = f"shows a certificate of another authority ({issuer!a:.100}) than --tls-ca {files.ca}"
        return what, "check the address, and that both sides have the ca.pem of one authority (elsa pki show --ca)"
    if now > until:
        return f"shows a certificate that expired at {until:%Y-%m-%d %H:%M} UTC, of {who}", "renew it there"
    if now < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc
        return f"shows a certificate that is valid from {begins:%Y-%m-%d %H:%M} UTC on, of {who}", "check both clocks"
    if not _serves(certificate):
        return f"shows the certificate of {who}, which may not serve", "check the --tls-cert of that server"
    if not _is_of(peer, certificate):
        return f"shows the certificate of {who}, and {peer} should be there", "check the address, and its --tls-cert"
    if files.crl is not None and Revoked(files.crl, files.ca)(certificate.serial_number):
        return (
            f"shows a certificate of {who} that {files.crl} revokes",
            "trust nothing there; have another signed for it",
        )
    return None


def _is_of(peer: Peer, certificate: x509.Certificate) -> bool:
    hosts = [host.lower() for host in names_of(certificate).get_values_for_type(x509.DNSName)]
    if peer.host:
        return peer.host.lower() in hosts
    try:
        identity = identity_of(certificate)
    except UnauthenticatedError:
        return False
    return identity.role == peer.server and identity.host.lower() in hosts


def _serves(certificate: x509.Certificate) -> bool:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in uses


def _who(certificate: x509.Certificate) -> str:
    """Whom it names; others' words are shown escaped."""
    try:
        return str(identity_of(certificate))
    except UnauthenticatedError:
        return f"{certificate.subject.rfc4514_string()!a:.100}"
