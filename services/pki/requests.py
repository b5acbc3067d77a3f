"""Requests for certificates: made where the key stays, read by the authority, trusted in nothing but their names."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from elsa.errors import MalformedError
from services.pki.keys import is_p256, key_to_pem, new_key
from services.pki.names import checked_hosts, names_from_extension, names_to_extension, subject_of
from services.rpc.certificates import UNREADABLE
from services.rpc.identity import Identity

REMEDY = "make it by elsa pki request ROLE NAME"


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What a request asks for.

    Attributes:
        hosts: beside the host that is made of the identity.
    """

    identity: Identity
    hosts: tuple[str, ...]
    public_key: CertificatePublicKeyTypes


def new_request(identity: Identity, hosts: Sequence[str] = ()) -> tuple[bytes, bytes]:
    """A new key and a request signed by it, both in PEM. Raises InputError for hosts that it may not have."""
    key = new_key()
    return key_to_pem(key), request_with(key, identity, hosts)


def request_with(key: ec.EllipticCurvePrivateKey, identity: Identity, hosts: Sequence[str] = ()) -> bytes:
    """A request in PEM for a key that is there already. Raises InputError for hosts that it may not have."""
    names = names_to_extension(identity, checked_hosts(identity, hosts))
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_of(identity)).add_extension(names, False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes, where: str = "the request") -> Requested:
    """What a request asks for, after its signature has shown that who asks has the key.

    Whatever else it asks for (uses of the key, a subject, to be an authority) is not read: the role decides.

    Raises:
        MalformedError: one line that begins with `where`.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        signed, public_key = request.is_signature_valid, request.public_key()
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise MalformedError(f"{where}: names no identity; {REMEDY}") from error
    except UNREADABLE as error:
        raise MalformedError(f"{where}: no request for a certificate in PEM that can be read; {REMEDY}") from error
    if not signed:
        raise MalformedError(f"{where}: its signature is not by its key: it was altered; {REMEDY}")
    if not is_p256(public_key):
        raise MalformedError(f"{where}: its key is not of EC P-256; {REMEDY}")
    try:
        identity, hosts = names_from_extension(names)
    except MalformedError as error:
        raise MalformedError(f"{where}: {error}; {REMEDY}") from error
    return Requested(identity=identity, hosts=hosts, public_key=public_key)
