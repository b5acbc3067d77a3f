"""Certificates of the authority's files: reading them, whom they name, and who may issue."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from elsa.errors import InputError, UnauthenticatedError
from services.pki.files import read
from services.pki.names import hosts_in
from services.rpc.certificates import certificates_in, identity_of, is_signed_by, names_of
from services.rpc.identity import Identity

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, in whole seconds as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a file, one at least. Raises InputError."""
    return certificates_in(read(path, "a certificate in PEM"), str(path))


def read_certificate(path: Path) -> x509.Certificate:
    """The one certificate of a file. Raises InputError."""
    found = read_certificates(path)
    if len(found) != 1:
        raise InputError(f"{path}: holds {len(found)} certificates; give a file with one")
    return found[0]


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
    return is_signed_by(certificate, authority) and is_authority(authority)
