"""A process's own certificate with its key, read from files and found to belong together.

A handshake that fails says next to nothing, so what can be told beforehand is told here: at a role's start, and
whenever the files change.
"""

import logging
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from elsa.errors import InputError, UnauthenticatedError
from services.rpc.certificates import UNREADABLE, certificates_in, identity_of, is_signed_by, names_of
from services.rpc.identity import SERVERS, Identity, Role

log = logging.getLogger(__name__)

LATE_SHARE = 0.1
"""Of a certificate's life; when less is left, it is late for a new one."""
SERVES, CALLS = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where the authority's certificate, one's own, its key and the list of revoked certificates are, as PEM."""

    ca: Path
    certificate: Path
    key: Path
    crl: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Keypair:
    """What the files held, as PEM; who it says we are; and which certificate it is.

    Attributes:
        ends: when it runs out.
        late: from when on it is late for a new one.
    """

    ca: bytes
    certificate: bytes
    key: bytes
    identity: Identity
    serial: int
    ends: datetime
    late: datetime


def read_keypair(files: TlsFiles, role: Role, name: str | None, now: datetime) -> Keypair:
    """The certificate and key of a `role` called `name` (None: whatever name it says), usable at `now`.

    Raises:
        InputError: one line that says which file cannot be used, why, and what to do.
    """
    ca, own = read_file("--tls-ca", files.ca), read_file("--tls-cert", files.certificate)
    authorities = certificates_in(ca, f"--tls-ca {files.ca}")
    certificate, said = certificates_in(own, f"--tls-cert {files.certificate}")[0], f"--tls-cert {files.certificate}"
    key = _read_key(files.key, certificate, said)
    _check_time(certificate, said, now)
    if not any(is_signed_by(certificate, authority) for authority in authorities):
        raise InputError(f"{said}: not signed by the authority in --tls-ca {files.ca}; give the CA that signed it")
    identity = _identity_of(certificate, said)
    _check_identity(identity, role, name, said)
    _check_purposes(certificate, identity, said)
    _warn_of_group(files.key)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Keypair(
        ca=ca,
        certificate=own,
        key=key,
        identity=identity,
        serial=certificate.serial_number,
        ends=ends,
        late=ends - LATE_SHARE * (ends - begins),
    )


def read_file(flag: str, path: Path) -> bytes:
    """What the file of a flag holds. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{flag} {path}: cannot be read ({error.strerror}); check the path and its rights"
        ) from error


def _read_key(path: Path, certificate: x509.Certificate, said: str) -> bytes:
    pem = read_file("--tls-key", path)
    _check_rights(path)
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise InputError(f"--tls-key {path}: has a passphrase; a service needs a key without one") from error
    except UNREADABLE as error:
        raise InputError(f"--tls-key {path}: holds no private key in PEM; elsa pki request writes one") from error
    if key.public_key() != certificate.public_key():
        raise InputError(f"--tls-key {path}: not the key of {said}; give the key that was made with its request")
    return pem


def _check_rights(path: Path) -> None:
    if _mode_of(path) & stat.S_IRWXO:
        raise InputError(f"--tls-key {path}: everyone on this machine may use it; chmod 600 {path}")


def _warn_of_group(path: Path) -> None:
    if _mode_of(path) & stat.S_IRWXG:
        log.warning("--tls-key %s: its group may use it too; chmod 600 unless that is meant", path)


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:  # it was replaced meanwhile
        raise InputError(f"--tls-key {path}: cannot be read ({error.strerror}); check the path") from error


def _check_time(certificate: x509.Certificate, said: str, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise InputError(f"{said}: valid from {begins:%Y-%m-%d %H:%M} UTC on; check this machine's clock")
    if now > ends:
        raise InputError(f"{said}: expired at {ends:%Y-%m-%d %H:%M} UTC; have a new one signed (elsa pki renew)")


def _identity_of(certificate: x509.Certificate, said: str) -> Identity:
    try:
        return identity_of(certificate)
    except UnauthenticatedError as error:
        raise InputError(f"{said}: {error}") from error


def _check_identity(identity: Identity, role: Role, name: str | None, said: str) -> None:
    if identity.role != role or name not in (None, identity.name):
        wanted = role if name is None else Identity(role, name)
        raise InputError(
            f"{said}: is of {identity}, and this is {wanted}; give the certificate that was signed for it"
        )


def _check_purposes(certificate: x509.Certificate, identity: Identity, said: str) -> None:
    """Raise InputError where peers would refuse it for what it may be used for, or for the host that it lacks."""
    needed = [*([SERVES] if identity.role in SERVERS else []), *([CALLS] if identity.role != "cloud" else [])]
    try:
        given: Iterable[x509.ObjectIdentifier] = certificate.extensions.get_extension_for_class(
            x509.ExtendedKeyUsage
        ).value
    except x509.ExtensionNotFound:
        given = needed  # for any purpose
    if not set(needed) <= set(given):
        lacking = "serve" if SERVES in set(needed) - set(given) else "call"
        raise InputError(f"{said}: may not be used to {lacking}; have it signed by elsa pki sign")
    hosts = names_of(certificate).get_values_for_type(x509.DNSName)
    if identity.role in SERVERS and identity.host.lower() not in [host.lower() for host in hosts]:
        raise InputError(f"{said}: lacks the host name {identity.host}; have it signed by elsa pki sign")
