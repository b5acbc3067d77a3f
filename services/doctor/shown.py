"""What a peer's certificate says: whom it names, and whether it is what should be there."""

from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from elsa.errors import UnauthenticatedError
from services.doctor.peer import Peer
from services.rpc.certificates import identity_of, names_of
from services.rpc.keypair import TlsFiles
from services.rpc.revoked import Revoked


def fault_of(peer: Peer, certificate: x509.Certificate, files: TlsFiles, now: datetime) -> tuple[str, str] | None:
    """What is wrong with a certificate of our authority, and the remedy; None if it is what should be there."""
    whom, until = who(certificate), certificate.not_valid_after_utc
    if now > until:
        return (
            f"shows a certificate that expired at {until:%Y-%m-%d %H:%M} UTC, of {whom}",
            "renew it there: elsa pki renew, elsa pki sign",
        )
    if now < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc
        return (
            f"shows a certificate that is valid from {begins:%Y-%m-%d %H:%M} UTC on, of {whom}",
            "check both clocks",
        )
    if not _serves(certificate):
        return f"shows the certificate of {whom}, which may not serve", "check the --tls-cert of that server"
    if not _is_of(peer, certificate):
        return f"shows the certificate of {whom}, and {peer} should be there", "check the address, and its --tls-cert"
    if files.crl is not None and Revoked(files.crl, files.ca)(certificate.serial_number):
        return (
            f"shows a certificate of {whom} that {files.crl} revokes",
            "trust nothing there; have another signed for it",
        )
    return None


def who(certificate: x509.Certificate) -> str:
    """Whom it names; others' words are shown escaped."""
    try:
        return str(identity_of(certificate))
    except UnauthenticatedError:
        return f"{certificate.subject.rfc4514_string()!a:.100}"


def one_issuer(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether both say that the same key of the same authority signed them."""
    try:
        keys = [each.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value for each in (one, other)]
    except x509.ExtensionNotFound:
        return False
    return one.issuer == other.issuer and keys[0] == keys[1]


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
