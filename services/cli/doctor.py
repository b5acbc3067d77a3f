"""`elsa doctor`: from any machine, what is wrong with it and with the way to its peers, and what to do."""

from typing import TYPE_CHECKING

import typer

from services.cli.doctor_flags import Flags, with_flags
from services.doctor.finding import EXIT_CODES

if TYPE_CHECKING:
    from services.doctor.peer import Peer

CODES = "\n\n".join(f"{code}  {kind}" for kind, code in EXIT_CODES.items())
TEXT = f"""Say what is wrong, from names, ports and TLS to model, memory, disk and stores; each with the remedy.

It reads the settings that the role would read on this machine: flags, ELSA_..., --config (which
has those that are no flags here). All checks run that can,
whatever others found; nothing is changed anywhere. docs/doctor.md says what each looks at.

Exit status: 0 if nothing is bad (there may be warnings), 1 for settings that cannot be used, 2 for a wrong flag, else
the kind of the first that is bad:

{CODES}

Example: elsa doctor --cloud cloud.example:7400 --tls-ca ca.pem --tls-cert ops.pem --tls-key ops.key

Example: elsa doctor --as edge --config edge.yaml --spec SPEC.yaml

Example: elsa doctor --as cloud --host 0.0.0.0 --state /srv/elsa --config cloud.yaml

Example: elsa doctor --as client --config client.yaml --edge edge.example:7500 --edge-name edge-1
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help=TEXT)(with_flags(doctor))


def doctor(flags: Flags) -> int:
    """Look, and say what was found."""
    from services.cli.doctor_report import report
    from services.cli.doctor_subject import check_flags, subject_of
    from services.cli.specification import read_specification
    from services.doctor.examination import examine
    from services.doctor.finding import exit_code

    check_flags(flags.role, flags.given)
    subject = subject_of(
        flags.role,
        flags.settings,
        flags.config,
        crl=flags.tls_crl,
        edges=_peers(flags.edge or [], flags.edge_name or []),
        spec=None if flags.spec is None else read_specification(flags.spec),
        model=flags.model,
        asks_edges=flags.edges,
        timeout_s=flags.timeout,
    )
    findings = list(examine(subject))
    report(flags.role, findings, as_json=flags.as_json)
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
