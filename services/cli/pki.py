"""`elsa pki …`: an authority for the fleet, requests made where keys stay, certificates, renewal and revocation."""

import typer

from services.cli.pki_authority import init, revoke, sign
from services.cli.pki_node import renew, request
from services.cli.pki_show import show


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Say who is who: keys, requests and certificates of a fleet (docs/identity.md).")
    for command in (init, request, sign, renew, revoke, show):
        group.command(command.__name__)(command)
    app.add_typer(group, name="pki")
