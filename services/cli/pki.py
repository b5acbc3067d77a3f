"""`elsa pki …`: an authority for the fleet, requests made where keys stay, certificates, renewal and revocation."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elsa.errors import InputError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.x509 import Certificate

    from services.pki.authority import Authority
    from services.pki.requests import Requested
    from services.pki.revocations import Reason
    from services.pki.shown import Row
    from services.rpc.identity import Identity

PASSPHRASE = "ELSA_CA_PASSPHRASE"
FOLDER = Path("elsa-pki")
HERE = Path()
MOST_DAYS = 36_500
PIPE_WIDTH = 10_000
AuthorityFolder = Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="The authority's folder.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Say who is who: keys, requests and certificates of a fleet (docs/identity.md).")
    for command in (init, request, sign, renew, revoke, show):
        group.command(command.__name__)(command)
    app.add_typer(group, name="pki")


def init(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder for the authority.")] = FOLDER,
    name: Annotated[str, typer.Option(help="What certificates call their issuer.")] = "ELSA",
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="For how long it may sign.")] = 3650,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help=f"Ask for a passphrase for its key, unless {PASSPHRASE} gives one.")
    ] = False,
) -> None:
    """Make an authority: ca.pem, which everybody of the fleet gets, and ca.key, which nobody does.

    Example: elsa pki init

    Example: elsa pki init --folder /safe/elsa-pki --name "Clinics of the north" --encrypt
    """
    from services.pki.authority import Authority

    passphrase = _asked_passphrase(folder / "ca.key", twice=True) if encrypt or os.environ.get(PASSPHRASE) else None
    Authority.create(folder, name=name, days=days, passphrase=passphrase)
    kept = "encrypted" if passphrase else "not encrypted (--encrypt would)"
    typer.echo(f"{folder} is made; ca.key, {kept}, never leaves it, ca.pem goes to everybody of the fleet")


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

    identity = _identity(role, name, "ROLE NAME")
    key_path, request_path = folder / f"{name}.key", folder / f"{name}.csr"
    write_request(request_path, identity, host or (), new_key(), key_path)
    typer.echo(f"{key_path} is written and stays here; have {request_path} signed: elsa pki sign {request_path.name}")


def sign(
    request: Annotated[Path, typer.Argument(metavar="FILE.csr", help="What elsa pki request made.")],
    folder: AuthorityFolder = FOLDER,
    days: Annotated[
        int, typer.Option(min=1, max=MOST_DAYS, help="For how long, at most to the authority's own end.")
    ] = 365,
    expect: Annotated[
        str | None, typer.Option(metavar="ROLE/NAME", help="Sign for nobody else; required for an admin or a cloud.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.pem", help="Else beside the request, as .pem.")
    ] = None,
) -> None:
    """Sign a request, after it is shown: its role and its name decide what its holder may do.

    Compare the key's SHA-256 with elsa pki show NAME.key there if you do not trust the way that the request came.

    Example: elsa pki sign clinic-a.csr

    Example: elsa pki sign ops.csr --expect admin/ops --days 90
    """
    from services.pki.files import read, replace
    from services.pki.places import check_certificate_place
    from services.pki.requests import read_request
    from services.pki.shown import shown_request
    from services.rpc.certificates import certificates_in

    expected = None if expect is None else _identity(*_halves(expect), "--expect")
    pem, to = read(request, "a request in PEM"), output or request.with_suffix(".pem")
    asked = read_request(pem, str(request))
    check_certificate_place(to, asked.identity)
    authority = _authority(folder)
    _print(shown_request(asked).rows)
    _tell_of_others(authority, asked)
    signed = authority.sign(pem, expect=expected, days=days)
    replace(to, signed)
    [made] = certificates_in(signed, str(to))
    typer.echo(f"{to} is signed, until {made.not_valid_after_utc:%Y-%m-%d}; it goes back with {folder / 'ca.pem'}")


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


def revoke(
    certificate: Annotated[
        str | None, typer.Argument(metavar="CERT.pem|SERIAL", help="Which; none: the list is only signed anew.")
    ] = None,
    reason: Annotated[str, typer.Option(metavar="REASON", help="Why, in a word of RFC 5280.")] = "unspecified",
    folder: AuthorityFolder = FOLDER,
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="For how long the list speaks.")] = 30,
) -> None:
    """Take a certificate's rights away: crl.pem, the list of the revoked, is signed anew and goes to all servers.

    Reasons: unspecified, key-compromise, affiliation-changed, superseded,
    cessation-of-operation, privilege-withdrawn.

    Without a certificate the list's dates are renewed, which it needs before it expires.

    Example: elsa pki revoke clinic-a.pem --reason key-compromise

    Example: elsa pki revoke --days 30
    """
    from services.pki.revocations import list_from_pem

    why, path = _reason(reason), folder / "crl.pem"
    subject = None if certificate is None else _named_certificate(certificate)
    authority = _authority(folder)
    new = subject is not None and authority.revoke(subject, why, days=days)
    if subject is not None:
        typer.echo(f"{certificate} is revoked" if new else f"{certificate} was revoked before")
    else:
        authority.revocations(days=days)
    until = list_from_pem(path.read_bytes(), str(path)).next_update_utc
    typer.echo(f"{path} is signed, until {until:%Y-%m-%d}; it goes to every cloud and edge, as tls_crl")


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate, a request, a list or a key.")],
    ca: Annotated[
        Path | None, typer.Option(metavar="CA.pem", help="Also ask whether this authority issued it.")
    ] = None,
    crl: Annotated[
        Path | None, typer.Option(metavar="CRL.pem", help="Also ask whether it is revoked; --ca proves the list.")
    ] = None,
) -> int:
    """Show what a file says, and exit with 1 if it cannot be used: expired, not yet valid, revoked, of another CA.

    Of a private key its kind alone is shown.

    Example: elsa pki show clinic-a.pem --ca ca.pem --crl crl.pem
    """
    from services.pki.certificates import read_certificates, utc_now
    from services.pki.revocations import read_list
    from services.pki.shown import Against
    from services.pki.shown import show as shown_of

    authorities = None if ca is None else read_certificates(ca)
    revoked = None if crl is None else read_list(crl)
    found = shown_of(file, Against(authorities=authorities, revoked=revoked, now=utc_now()))
    for one in found:
        _print(one.rows)
    faults = [fault for one in found for fault in one.faults]
    if not faults:
        return 0
    typer.secho(f"error: {file}: {'; '.join(faults)}", fg=typer.colors.RED, err=True)
    return 1


def _authority(folder: Path) -> "Authority":
    from services.pki.authority import Authority

    return Authority.open(folder, lambda: _asked_passphrase(folder / "ca.key"))


def _asked_passphrase(path: Path, *, twice: bool = False) -> bytes:
    """The passphrase from the environment or, on a terminal, from whoever sits there. Raises InputError."""
    given = os.environ.get(PASSPHRASE)
    if not given:
        if not sys.stdin.isatty():
            raise InputError(f"{path}: needs its passphrase; set {PASSPHRASE}, or run this on a terminal")
        given = typer.prompt(f"Passphrase of {path}", hide_input=True, confirmation_prompt=twice, err=True)
    return os.fsencode(given)


def _identity(role: str, name: str, origin: str) -> "Identity":
    from services.rpc.identity import SCHEME, Identity

    try:
        return Identity.from_uri(f"{SCHEME}{role}/{name}")
    except UnauthenticatedError as error:
        raise InputError(f"{origin}: {str(error).replace(SCHEME, '')}") from error


def _halves(expect: str) -> tuple[str, str]:
    role, _, name = expect.partition("/")
    return role, name


def _reason(word: str) -> "Reason":
    from services.pki.revocations import Reason

    try:
        return Reason(word)
    except ValueError as error:
        raise InputError(f"--reason {word!r:.100}: is none; give one of {', '.join(Reason)}") from error


def _named_certificate(text: str) -> "int | Certificate":
    """A certificate's file, or a serial number in hex as `show` prints it. Raises InputError."""
    from services.pki.certificates import read_certificate

    if Path(text).is_file():
        return read_certificate(Path(text))
    if not re.fullmatch(r"[0-9a-fA-F:]{1,60}", text) or not text.strip(":"):
        raise InputError(f"{text!r:.200}: neither a file nor a serial number in hex; elsa pki show prints it")
    return int(text.replace(":", ""), 16)


def _tell_of_others(authority: "Authority", asked: "Requested") -> None:
    """Say if the same identity has a certificate already that still holds: renewed, lost, or somebody else's?"""
    for one in authority.holding(asked.identity):
        whose = "the same key" if one.public_key() == asked.public_key else "ANOTHER KEY"
        until = f"{one.not_valid_after_utc:%Y-%m-%d}"
        typer.echo(f"signed before with {whose}, until {until}: serial {one.serial_number:x}", err=True)


def _print(rows: "Iterable[Row]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(label), Text(value))  # others' words: no markup
    Console(width=None if Console().is_terminal else PIPE_WIDTH).print(table)
