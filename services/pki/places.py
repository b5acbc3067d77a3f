"""Where requests and certificates may be written: at a free place, or over an earlier one of the same identity."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from elsa.errors import InputError, MalformedError, UnauthenticatedError
from services.pki.certificates import read_certificate
from services.pki.files import read, replace, write_key
from services.pki.keys import key_to_pem
from services.pki.requests import read_request, request_with
from services.rpc.certificates import identity_of
from services.rpc.identity import Identity


def write_request(
    path: Path,
    identity: Identity,
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    new_key: Path | None = None,
) -> None:
    """Write a request signed by `key`, and a new key to `new_key`: both, or neither. Raises InputError."""
    check_request_place(path, identity)
    request = request_with(key, identity, hosts)
    if new_key is not None:
        write_key(new_key, key_to_pem(key))
    try:
        replace(path, request)
    except BaseException:
        if new_key is not None:
            new_key.unlink()
        raise


def check_request_place(path: Path, identity: Identity) -> None:
    """Raise InputError unless a request of `identity` may be written to `path`."""
    _check(path, identity, lambda: read_request(read(path, "a request"), str(path)).identity)


def check_certificate_place(path: Path, identity: Identity) -> None:
    """Raise InputError unless a certificate of `identity` may be written to `path`."""
    _check(path, identity, lambda: identity_of(read_certificate(path)))


def _check(path: Path, identity: Identity, present: Callable[[], Identity]) -> None:
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        free = not path.exists() or present() == identity
    except (InputError, MalformedError, UnauthenticatedError):
        free = False
    if not free:
        raise InputError(f"{path}: exists and is not {identity}'s; choose another place, or move it away")
