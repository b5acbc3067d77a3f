"""Who calls: what the certificate of a connection says, as gRPC hands it to a server."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509

from elsa.errors import UnauthenticatedError
from services.rpc.certificates import UNREADABLE, identity_of
from services.rpc.identity import Identity

CERTIFICATE_KEY = "x509_pem_cert"
"""Where gRPC keeps the caller's certificate, once TLS has checked it against the authority."""
MOST_KEPT = 4096


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls, by which certificate, and until when it is good."""

    identity: Identity
    serial: int
    not_after: datetime

    def __str__(self) -> str:
        return str(self.identity)


def caller_of(auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
    """The caller of a connection, as `context.auth_context()` describes it.

    Raises UnauthenticatedError without a certificate, and for one that names no identity or several.
    """
    pem = b"".join(auth_context.get(CERTIFICATE_KEY, ()))
    if not pem:
        raise UnauthenticatedError("the call came without a certificate; have one signed by elsa pki sign")
    return _read(pem)


@lru_cache(maxsize=MOST_KEPT)
def _read(pem: bytes) -> Caller:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        identity, ends = identity_of(certificate), certificate.not_valid_after_utc
    except UNREADABLE as error:
        raise UnauthenticatedError(f"the certificate cannot be read: {error}") from error
    return Caller(identity=identity, serial=certificate.serial_number, not_after=ends)
