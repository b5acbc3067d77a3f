"""`elsa doctor`: from any machine, what is wrong with it and with the way to its peers, and what to do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.doctor.finding import EXIT_CODES

if TYPE_CHECKING:
    from services.doctor.peer import Peer

CODES = "\n\n".join(f"{code}  {kind}" for kind, code in EXIT_CODES.items())
TEXT = f"""Say what is wrong: names, ports, TLS, roles, clocks, versions, model, memory, disk; each with the remedy.

It reads the settings that the role would read on this machine: flags, ELSA_..., --config. All checks run that can,
whatever others found; nothing is changed anywhere. docs/doctor.md says what each looks at.

Exit status: 0 if nothing is bad (there may be warnings), 1 for settings that cannot be used, 2 for a wrong flag, else
the kind of the first that is bad:

{CODES}

Example: elsa doctor --cloud cloud.example:7400 --tls-ca ca.pem --tls-cert ops.pem --tls-key ops.key

Example: elsa doctor --as edge --config edge.yaml --spec SPEC.yaml

Example: elsa doctor --as client --config client.yaml --edge edge.example:7500 --edge-name edge-1
"""
File = Path | None


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help=TEXT)(doctor)


def doctor(
    role: Annotated[
        str, typer.Option("--as", metavar="ROLE", help="What this machine is to be: admin, edge, client or cloud.")
    ] = "admin",
    name: Annotated[str | None, typer.Option(help="The node's name, if not that of its settings.")] = None,
    cloud: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The cloud's address, if not that of its settings.")
    ] = None,
    config: Annotated[File, typer.Option(metavar="FILE.yaml", help="The role's settings.")] = None,
    spec: Annotated[
        File, typer.Option(metavar="SPEC.yaml", help="A run: is its model here, and memory for its split?")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="SOURCE", help="A model to look at: minilm, a folder, or a hub name.")
    ] = "",
    edge: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="An edge that this machine must reach; may be repeated."),
    ] = None,
    edge_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who must be there, one for each --edge in order.")
    ] = None,
    edges: Annotated[
        bool, typer.Option(help="Admin: also call every edge that the cloud knows, at the address that it tells.")
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="For each thing that is waited for.")
    ] = 5.0,
    tls_ca: Annotated[File, typer.Option(metavar="FILE", help="PEM file of the fleet's authority.")] = None,
    tls_cert: Annotated[File, typer.Option(metavar="FILE", help="PEM file of this machine's certificate.")] = None,
    tls_key: Annotated[File, typer.Option(metavar="FILE", help="PEM file of its private key.")] = None,
    tls_crl: Annotated[
        File,
        typer.Option(
            envvar="ELSA_TLS_CRL", metavar="FILE", help="The list of the revoked: also held against servers here."
        ),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="No TLS is meant, off loopback too.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> int:
    """Look, and say what was found."""
    from services.cli.doctor_report import report
    from services.cli.doctor_subject import subject_of
    from services.cli.specification import read_specification
    from services.doctor.examination import examine
    from services.doctor.finding import exit_code

    given: dict[str, Any] = {
        "name": name,
        "cloud": cloud,
        "tls_ca": tls_ca,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "insecure": insecure,
    }
    subject = subject_of(
        role,
        {key: value for key, value in given.items() if value is not None},
        config,
        crl=tls_crl,
        edges=_peers(edge or [], edge_name or []),
        spec=None if spec is None else read_specification(spec),
        model=model,
        asks_edges=edges,
        timeout_s=timeout,
    )
    findings = list(examine(subject))
    report(role, findings, as_json=as_json)
    return exit_code(findings)


def _peers(addresses: list[str], names: list[str]) -> "list[Peer]":
    from elsa.errors import UnauthenticatedError
    from services.doctor.peer import Peer
    from services.rpc.identity import Identity

    if names and len(names) != len(addresses):
        raise typer.BadParameter(
            f"{len(names)} for {len(addresses)} of --edge; give one for each, or none", param_hint="--edge-name"
        )
    for name in names:
        try:
            Identity("edge", name)
        except UnauthenticatedError as error:
            raise typer.BadParameter(str(error), param_hint="--edge-name") from error
    names = names or [""] * len(addresses)
    return [Peer(server="edge", address=at, name=name) for at, name in zip(addresses, names, strict=True)]
