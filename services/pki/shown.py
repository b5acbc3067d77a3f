"""What a file of the authority's says, as rows for a table, and what is wrong with it; never a private key."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from elsa.errors import InputError, UnauthenticatedError
from services.pki import keys
from services.pki.certificates import is_authority, issued_by
from services.pki.files import read
from services.pki.names import hosts_in
from services.pki.requests import Requested, read_request
from services.pki.revocations import MOST_LIST_BYTES, lists_in, number_of, reason_of
from services.rpc.certificates import certificates_in, identity_of, is_list_of, names_of

Row = tuple[str, str]
DAY_S = 86_400
_USES = {ExtendedKeyUsageOID.SERVER_AUTH: "serve", ExtendedKeyUsageOID.CLIENT_AUTH: "call"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Rows of a label and a value, and each fault as a clause; no faults: it can be used."""

    rows: tuple[Row, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Against:
    """What a file is held against: the authorities to be trusted, if given, the lists of revoked ones, the time.

    Attributes:
        ca, crl: where they were read, for people.
    """

    authorities: Sequence[x509.Certificate] | None
    revoked: Sequence[x509.CertificateRevocationList] | None
    now: datetime
    ca: str = "--ca"
    crl: str = "--crl"


def show(path: Path, against: Against) -> list[Shown]:
    """What a file holds: certificates, a request, a list, or that it is a key. Raises InputError, MalformedError."""
    pem = read(path, "a file of elsa pki", MOST_LIST_BYTES)
    if b"-----BEGIN CERTIFICATE-----" in pem:
        return [shown_certificate(one, against) for one in certificates_in(pem, str(path))]
    if b"-----BEGIN CERTIFICATE REQUEST-----" in pem:
        return [shown_request(read_request(pem, str(path)))]
    if b"-----BEGIN X509 CRL-----" in pem:
        return [shown_list(one, against) for one in lists_in(pem, str(path))]
    if b"PRIVATE KEY-----" in pem:
        return [_shown_key(pem, path)]
    raise InputError(f"{path}: neither certificate, request, list of revoked ones nor key in PEM; give one")


def shown_certificate(certificate: x509.Certificate, against: Against) -> Shown:
    """A certificate's facts and faults."""
    rows = (
        ("kind", "certificate of an authority" if is_authority(certificate) else "certificate"),
        ("subject", _printable(certificate.subject.rfc4514_string())),
        *_identity_rows(certificate),
        ("hosts", _joined(_printable(host) for host in hosts_in(names_of(certificate)))),
        ("may", _uses(certificate)),
        ("serial", f"{certificate.serial_number:x}"),
        *_dates(certificate.not_valid_before_utc, certificate.not_valid_after_utc, against.now),
        ("issuer", _printable(certificate.issuer.rfc4514_string())),
        ("SHA-256", certificate.fingerprint(hashes.SHA256()).hex()),
        ("key SHA-256", keys.sha256_of(certificate.public_key())),
        ("checked", _checked(against)),
        ("revoked", _revoked(certificate, against)),
    )
    return Shown(rows=rows, faults=tuple(_faults(certificate, against)))


def shown_request(requested: Requested) -> Shown:
    """What a request asks for; its signature has been checked."""
    identity = requested.identity
    rows = (
        ("kind", "request"),
        *(("role", identity.role), ("name", identity.name)),
        ("hosts", _joined(requested.hosts)),
        ("key SHA-256", keys.sha256_of(requested.public_key)),
        ("checked", "its signature, by this key"),
    )
    return Shown(rows=rows)


def shown_list(found: x509.CertificateRevocationList, against: Against) -> Shown:
    """A list of revoked certificates, its dates, and a row for each on it."""
    begin, until = found.last_update_utc, found.next_update_utc
    rows = (
        ("kind", "list of revoked certificates"),
        ("number", str(number_of(found))),
        *(_dates(begin, until, against.now) if until else [("from", _date(begin)), ("until", "it does not say")]),
        ("issuer", _printable(found.issuer.rfc4514_string())),
        ("checked", f"its dates; {_signature(against)}"),
        ("revokes", "no certificate" if not len(found) else f"{len(found)} certificate{'s' * (len(found) > 1)}:"),
        *((f"{one.serial_number:x}", f"{_date(one.revocation_date_utc)}, {reason_of(one)}") for one in found),
    )
    faults = [*_time_faults(begin, until, against.now)]
    if against.authorities is not None and not any(is_list_of(found, one) for one in against.authorities):
        faults.append("is not signed by the authority of --ca")
    return Shown(rows=rows, faults=tuple(faults))


def _shown_key(pem: bytes, path: Path) -> Shown:
    locked = keys.encrypted(pem, str(path))
    public = () if locked else (("key SHA-256", keys.sha256_of(keys.key_from_pem(pem, str(path)).public_key())),)
    said = "yes" if locked else "no"
    return Shown(rows=(("kind", "private key"), ("encrypted", said), ("open to", keys.users_of(path)), *public))


def _identity_rows(certificate: x509.Certificate) -> list[Row]:
    try:
        identity = identity_of(certificate)
    except UnauthenticatedError:
        return [("role", "none"), ("name", "none")]
    return [("role", identity.role), ("name", identity.name)]


def _faults(certificate: x509.Certificate, against: Against) -> list[str]:
    faults = _time_faults(certificate.not_valid_before_utc, certificate.not_valid_after_utc, against.now)
    if not is_authority(certificate):
        try:
            identity_of(certificate)
        except UnauthenticatedError as error:
            faults.append(str(error))
    trusted = against.authorities
    if trusted is not None and not any(certificate == one or issued_by(certificate, one) for one in trusted):
        faults.append("is not issued by the authority of --ca")
    return faults + ([] if against.revoked is None else _revocation_faults(certificate, against))


def _checked(against: Against) -> str:
    """What was looked at, and against what; how it came out is the faults' to say."""
    listed = "not whether it is revoked (--crl)"
    if against.revoked is not None:
        listed = (
            f"whether it is on the list of its authority in {against.crl}; that list's dates; {_signature(against)}"
        )
    return f"its dates; {_signature(against)}; {listed}"


def _signature(against: Against) -> str:
    return "not its signature (--ca)" if against.authorities is None else f"its signature, by {against.ca}"


def _revoked(certificate: x509.Certificate, against: Against) -> str:
    if against.revoked is None:
        return "not looked at"
    known = _list_of(certificate, against)
    if known is None:
        return "not known: no list there is of its authority"
    found = known.get_revoked_certificate_by_serial_number(certificate.serial_number)
    if found is not None:
        return f"yes, on {_date(found.revocation_date_utc)} ({reason_of(found)})"
    return f"no, says list number {number_of(known)}, of {_date(known.last_update_utc)}"


def _list_of(certificate: x509.Certificate, against: Against) -> x509.CertificateRevocationList | None:
    """The newest list of the certificate's authority, if there is one that is to be trusted."""
    trusted = [
        one
        for one in against.revoked or ()
        if against.authorities is None or any(is_list_of(one, authority) for authority in against.authorities)
    ]
    own = [
        one for one in trusted if one.issuer == certificate.issuer and _issuer_key(one) == _issuer_key(certificate)
    ]
    return max(own, key=number_of, default=None)


def _revocation_faults(certificate: x509.Certificate, against: Against) -> list[str]:
    """What the lists of --crl say; only its own authority's, in its time, says anything."""
    known = _list_of(certificate, against)
    if known is None:
        return ["is of another authority than the list of --crl, which says nothing of it"]
    faults = [f"the list of --crl {fault}" for fault in _list_time_faults(known, against.now)]
    found = known.get_revoked_certificate_by_serial_number(certificate.serial_number)
    if found is not None:
        faults.append(f"was revoked on {_date(found.revocation_date_utc)} ({reason_of(found)})")
    return faults


def _list_time_faults(found: x509.CertificateRevocationList, now: datetime) -> list[str]:
    return _time_faults(found.last_update_utc, found.next_update_utc, now)


def _time_faults(begin: datetime, until: datetime | None, now: datetime) -> list[str]:
    early = [f"is not valid before {_date(begin)}"] if now < begin else []
    return early + ([f"has expired on {_date(until)}"] if until is not None and now > until else [])


def _issuer_key(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes | None:
    try:
        return signed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def _dates(begin: datetime, until: datetime, now: datetime) -> list[Row]:
    left = int((until - now).total_seconds() // DAY_S)
    return [("from", _date(begin)), ("until", _date(until)), ("days left", str(max(left, 0)))]


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _uses(certificate: x509.Certificate) -> str:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "sign others" if is_authority(certificate) else "it does not say"
    return _joined(_USES.get(use, use.dotted_string) for use in usage)


def _joined(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


def _printable(text: str) -> str:
    """Others' words, which might steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
