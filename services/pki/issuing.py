"""Making certificates: the authority's own, and those of who asks it."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from elsa.errors import InputError
from services.pki.names import MOST_COMMON_NAME, names_to_extension, subject_of
from services.pki.requests import Requested
from services.rpc.identity import SERVERS, Role

SKEW = timedelta(minutes=5)
"""By how much clocks of a fleet may differ before a new certificate is taken for one of the future."""
USES: dict[Role, tuple[ObjectIdentifier, ...]] = {
    "admin": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "edge": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "cloud": (ExtendedKeyUsageOID.SERVER_AUTH,),
}
"""A role's uses: what may call has no certificate to serve with, but an edge, which does both."""


def authority_certificate(key: ec.EllipticCurvePrivateKey, name: str, days: int, now: datetime) -> x509.Certificate:
    """A certificate signed by its own key, which signs those of the fleet and lists, and no other authority's.

    Raises:
        InputError: for a name that no certificate can carry.
    """
    if not 0 < len(name) <= MOST_COMMON_NAME or not name.isprintable():
        raise InputError(f"--name {name!r:.100}: give 1 to {MOST_COMMON_NAME} printable letters")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(key.public_key(), subject, issuer=subject, now=now - SKEW, until=now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return builder.add_extension(issuer_key(key), critical=False).sign(key, hashes.SHA256())


def node_certificate(
    requested: Requested, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, days: int, now: datetime
) -> x509.Certificate:
    """A certificate for who asked, valid for `days` but never longer than the authority's."""
    identity = requested.identity
    own = [identity.host] if identity.role in SERVERS else []
    begin = max(now - SKEW, authority.not_valid_before_utc)
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    builder = _builder(requested.public_key, subject_of(identity), issuer=authority.subject, now=begin, until=until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(USES[identity.role]), critical=False)
    builder = builder.add_extension(names_to_extension(identity, [*own, *requested.hosts]), critical=False)
    return builder.add_extension(issuer_key(key), critical=False).sign(key, hashes.SHA256())


def issuer_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    """By which one tells authorities of the same name apart."""
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _builder(
    public_key: CertificatePublicKeyTypes, subject: x509.Name, *, issuer: x509.Name, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        **dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False),
        encipher_only=False,
        decipher_only=False,
    )
