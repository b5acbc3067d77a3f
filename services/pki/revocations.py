"""Lists of revoked certificates: reading, extending and signing them anew."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from elsa.errors import InputError
from services.pki.files import read
from services.pki.issuing import SKEW, issuer_key
from services.rpc.certificates import UNREADABLE

DAYS = 30
"""For how long a list speaks, unless told otherwise."""
BEGIN = b"-----BEGIN X509 CRL-----"
WHAT = "the crl.pem of an authority"
MOST_LIST_BYTES = 1 << 25
"""Of some half a million revoked certificates: they stay on the list."""


class Reason(StrEnum):
    """Why a certificate is revoked, in the words of RFC 5280."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


def read_list(path: Path) -> x509.CertificateRevocationList:
    """The list in a file. Raises InputError."""
    return list_from_pem(read(path, WHAT, MOST_LIST_BYTES), str(path))


def read_lists(path: Path) -> list[x509.CertificateRevocationList]:
    """All lists in a file, one at least. Raises InputError."""
    return lists_in(read(path, WHAT, MOST_LIST_BYTES), str(path))


def list_from_pem(pem: bytes, where: str) -> x509.CertificateRevocationList:
    """The list in `pem`. Raises InputError."""
    try:
        found = x509.load_pem_x509_crl(pem)
        _ = found.extensions, found.issuer, found.next_update_utc  # parsed when asked for
        _ = [(one.revocation_date_utc, reason_of(one)) for one in found]
    except UNREADABLE as error:
        raise InputError(f"{where}: no list of revoked certificates in PEM; give {WHAT}") from error
    return found


def lists_in(pem: bytes, where: str) -> list[x509.CertificateRevocationList]:
    """All lists in `pem`, one at least: several while a fleet goes over to another authority. Raises InputError."""
    parts = [BEGIN + part for part in pem.split(BEGIN)[1:]]
    return [list_from_pem(part, where) for part in parts or [pem]]


def entry(serial: int, reason: Reason, now: datetime) -> x509.RevokedCertificate:
    """One line of a list."""
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
    if reason is not Reason.UNSPECIFIED:  # which RFC 5280 has said by saying nothing
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags[reason.name.lower()]), critical=False)
    return builder.build()


def new_list(
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    entries: Iterable[x509.RevokedCertificate],
    *,
    number: int,
    days: int,
    now: datetime,
) -> bytes:
    """A list in PEM, signed, that speaks from now on for `days`."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - SKEW).next_update(now + timedelta(days=days))
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(issuer_key(key), critical=False)
    for one in entries:
        builder = builder.add_revoked_certificate(one)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def number_of(found: x509.CertificateRevocationList) -> int:
    """Which of its authority's lists it is, counted from 1; 0 if it does not say."""
    try:
        return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def reason_of(revoked: x509.RevokedCertificate) -> str:
    """Why, in the word of `Reason`."""
    try:
        flag = revoked.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return str(Reason.UNSPECIFIED)
    return flag.name.replace("_", "-")
