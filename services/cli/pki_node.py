"""`elsa pki request` and `renew`: what a node does, on the machine where its key stays."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elsa.errors import InputError, UnauthenticatedError

if TYPE_CHECKING:
    from services.rpc.identity import Identity

HERE = Path()


def request(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="admin, edge, client or cloud.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node's name, as its settings have it.")],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="For other programs that call it: a DNS name or an IP; may be repeated."),
    ] = None,
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the key is to stay.")] = HERE,
) -> None:
    """Make a key and a request for a certificate, on the machine where the key is to stay.

    NAME.csr goes to who has the authority; NAME.key goes nowhere.

    Example: elsa pki request client clinic-a

    Example: elsa pki request edge edge-1 --host edge.example --folder /etc/elsa
    """
    from services.pki.keys import new_key
    from services.pki.places import write_request

    identity = identity_of_words(f"{role}/{name}", "ROLE NAME")
    key_path, request_path = folder / f"{name}.key", folder / f"{name}.csr"
    write_request(request_path, identity, host or (), new_key(), key_path)
    typer.echo(f"{key_path} is written and stays here; have {request_path} signed: elsa pki sign {request_path.name}")


def renew(
    certificate: Annotated[Path, typer.Argument(metavar="CERT.pem", help="The certificate that is to go on.")],
    key: Annotated[Path, typer.Option(metavar="FILE.key", help="Its key; with --new-key, where a new one goes.")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make a new key, in a file that does not exist.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.csr", help="Else beside CERT.pem, as .csr.")
    ] = None,
) -> None:
    """Make a request for the next certificate of the same identity and hosts.

    The key stays, and so do all settings. With --new-key the node has two keys until the certificate is there:
    tls_key must then name the new one, or its file take the old one's place.

    Example: elsa pki renew clinic-a.pem --key clinic-a.key

    Example: elsa pki renew clinic-a.pem --key clinic-a-2.key --new-key
    """
    from services.pki import keys
    from services.pki.certificates import hosts_of, read_certificate
    from services.pki.places import write_request
    from services.rpc.certificates import identity_of

    present, to = read_certificate(certificate), output or certificate.with_suffix(".csr")
    try:
        identity, hosts = identity_of(present), hosts_of(present)
    except UnauthenticatedError as error:
        raise InputError(f"{certificate}: {error}") from error
    own = keys.new_key() if new_key else keys.read_key(key)
    if own.public_key() != present.public_key() and not new_key:
        raise InputError(f"{key}: is not the key of {certificate}; give its own, or --new-key with a new file")
    write_request(to, identity, hosts, own, key if new_key else None)
    typer.echo(f"{to} asks for {identity} again; have it signed: elsa pki sign {to.name}")
    typer.echo(_of_the_new(key, certificate) if new_key else _of_the_same(key, certificate))


def _of_the_new(key: Path, certificate: Path) -> str:
    return (
        f"{key} is the new key, and the one of before goes on with {certificate}: once the new certificate is here, "
        "either mv both over the files that tls_key and tls_cert name, and no setting changes, or set tls_key to "
        f"{key} and tls_cert to the new certificate, and start the node again"
    )


def _of_the_same(key: Path, certificate: Path) -> str:
    return f"{key} stays its key: put the new certificate in the place of {certificate}; no setting changes"


def identity_of_words(words: str, origin: str) -> "Identity":
    """The identity that ROLE/NAME names, with the `origin` of the words for the error. Raises InputError."""
    from services.rpc.identity import SCHEME, Identity

    try:
        return Identity.from_uri(f"{SCHEME}{words}")
    except UnauthenticatedError as error:
        raise InputError(f"{origin}: {str(error).replace(SCHEME, '')}") from error
