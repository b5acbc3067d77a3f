"""Certificates as they are read: whole or not at all, whom they name, and who signed them.

What peers and files show is others' bytes. `cryptography` parses most of a certificate only when a field is asked
for, so here all that is used of it is asked for at once, and what is odd is an error of ours.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from elsa.errors import InputError
from services.rpc.identity import Identity

UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What parsing raises for bytes that are no certificate, request or list, many of them only when a field is read."""


def certificates_in(pem: bytes, said: str) -> list[x509.Certificate]:
    """All certificates in `pem`, one at least. Raises InputError, which begins with `said`."""
    try:
        return [_whole(one) for one in x509.load_pem_x509_certificates(pem)]
    except UNREADABLE as error:
        raise InputError(f"{said}: no certificate in PEM that can be read; elsa pki sign writes one") from error


def certificate_of(der: bytes) -> x509.Certificate:
    """The certificate that a peer shows. Raises InputError."""
    try:
        return _whole(x509.load_der_x509_certificate(der))
    except UNREADABLE as error:
        raise InputError(f"a certificate that cannot be read ({error}); have another signed by elsa pki") from error


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    """The alternative names; none if it has none."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def identity_of(certificate: x509.Certificate) -> Identity:
    """Whom the certificate names. Raises UnauthenticatedError."""
    return Identity.among(names_of(certificate).get_values_for_type(x509.UniformResourceIdentifier))


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` issued `certificate`: its name and its signature."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (TypeError, InvalidSignature, *UNREADABLE):
        return False
    return True


def is_list_of(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """Whether `authority` issued a list of the revoked: its name and its signature."""
    key = authority.public_key()
    try:
        return found.issuer == authority.subject and found.is_signature_valid(key)  # type: ignore[arg-type]
    except (TypeError, *UNREADABLE):  # a kind of key or of signature that is not understood
        return False


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """The same, once all that is used of it has been parsed."""
    _ = certificate.extensions, certificate.public_key(), certificate.subject, certificate.issuer
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if certificate.serial_number < 1:
        raise ValueError(f"its serial number is {certificate.serial_number}; it must be positive (RFC 5280, 4.1.2.2)")
    return certificate
