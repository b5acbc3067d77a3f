"""Certificates: reading their files, whom they name, and who issued them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from elsa.errors import InputError, UnauthenticatedError
from services.pki.files import read
from services.pki.names import hosts_in
from services.rpc.identity import Identity
from services.rpc.keypair import UNREADABLE

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, in whole seconds as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a file, one at least. Raises InputError."""
    return certificates_from_pem(read(path, "a certificate in PEM"), str(path))


def certificates_from_pem(pem: bytes, where: str) -> list[x509.Certificate]:
    """All certificates in `pem`, one at least. Raises InputError for none, or one that cannot be understood."""
    try:
        found = x509.load_pem_x509_certificates(pem)
        for one in found:  # parsed when asked for
            _ = one.extensions, one.public_key(), one.subject, one.issuer, one.not_valid_before_utc
    except UNREADABLE as error:
        raise InputError(f"{where}: no certificate in PEM that can be read; give one from elsa pki sign") from error
    return found


def read_certificate(path: Path) -> x509.Certificate:
    """The one certificate of a file. Raises InputError."""
    found = read_certificates(path)
    if len(found) != 1:
        raise InputError(f"{path}: holds {len(found)} certificates; give a file with one")
    return found[0]


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    """The alternative names; none if it has none."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def identity_of(certificate: x509.Certificate) -> Identity:
    """Whom the certificate names. Raises UnauthenticatedError."""
    return Identity.among(names_of(certificate).get_values_for_type(x509.UniformResourceIdentifier))


def names_just(certificate: x509.Certificate, identity: Identity) -> bool:
    """Whether it is a certificate of `identity`."""
    try:
        return identity_of(certificate) == identity
    except UnauthenticatedError:
        return False


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The hosts that were asked for, without the one that is made of the identity. Raises UnauthenticatedError."""
    own = identity_of(certificate).host.lower()
    return tuple(host for host in hosts_in(names_of(certificate)) if host.lower() != own)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may issue others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority`, and none of the same name, signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return is_authority(authority)
