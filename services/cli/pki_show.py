"""`elsa pki show`: what a file says, and whether it can be used."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.printing import print_table

if TYPE_CHECKING:
    from services.pki.shown import Row


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

    "checked" says what was looked at: without --ca no signature, without --crl not whether it is revoked. Of a
    private key its kind alone is shown.

    Example: elsa pki show clinic-a.pem --ca ca.pem --crl crl.pem
    """
    from services.pki.certificates import read_certificates, utc_now
    from services.pki.revocations import read_lists
    from services.pki.shown import Against
    from services.pki.shown import show as shown_of

    authorities = None if ca is None else read_certificates(ca)
    revoked = None if crl is None else read_lists(crl)
    against = Against(authorities=authorities, revoked=revoked, now=utc_now(), ca=str(ca), crl=str(crl))
    found = shown_of(file, against)
    for one in found:
        print_rows(one.rows)
    faults = [fault for one in found for fault in one.faults]
    if not faults:
        return 0
    typer.secho(f"error: {file}: {'; '.join(faults)}", fg=typer.colors.RED, err=True)
    return 1


def print_rows(rows: Iterable["Row"]) -> None:
    """Print rows of a label and a value as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(label), Text(value))  # others' words: no markup
    print_table(table)
