"""`elsa pki init`, `sign` and `revoke`: what the authority does, on its own machine."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elsa.errors import InputError
from services.cli.pki_node import identity_of_words
from services.cli.pki_show import print_rows

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from services.pki.authority import Authority
    from services.pki.requests import Requested
    from services.pki.revocations import Reason

PASSPHRASE = "ELSA_CA_PASSPHRASE"
LENGTH = "12 characters at least"
FOLDER = Path("elsa-pki")
MOST_DAYS = 36_500
AuthorityFolder = Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="The authority's folder.")]


def init(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder for the authority.")] = FOLDER,
    name: Annotated[str, typer.Option(help="What certificates call their issuer.")] = "ELSA",
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="For how long it may sign.")] = 3650,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt", help=f"Ask for a passphrase for its key ({LENGTH}), unless {PASSPHRASE} gives one."
        ),
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
    from services.rpc.identity import SERVERS

    expected = None if expect is None else identity_of_words(expect, "--expect")
    pem, to = read(request, "a request in PEM"), output or request.with_suffix(".pem")
    asked = read_request(pem, str(request))
    check_certificate_place(to, asked.identity)
    authority = _authority(folder)
    print_rows(shown_request(asked).rows)
    _tell_of_others(authority, asked)
    signed = authority.sign(pem, expect=expected, days=days)
    replace(to, signed)
    [made] = certificates_in(signed, str(to))
    with_it = f"{folder / 'ca.pem'}" + (f" and {folder / 'crl.pem'}" if asked.identity.role in SERVERS else "")
    typer.echo(f"{to} is signed, until {made.not_valid_after_utc:%Y-%m-%d}; it goes back with {with_it}")


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


def _authority(folder: Path) -> "Authority":
    from services.pki.authority import Authority

    return Authority.open(folder, lambda: _asked_passphrase(folder / "ca.key"))


def _asked_passphrase(path: Path, *, twice: bool = False) -> bytes:
    """The passphrase from the environment or, on a terminal, from whoever sits there. Raises InputError."""
    given = os.environ.get(PASSPHRASE)
    if not given:
        if not sys.stdin.isatty():
            raise InputError(f"{path}: needs its passphrase; set {PASSPHRASE}, or run this on a terminal")
        asked = f"Passphrase of {path}" + (f" ({LENGTH})" if twice else "")
        given = typer.prompt(asked, hide_input=True, confirmation_prompt=twice, err=True)
    return os.fsencode(given)


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
