"""This machine's own certificate: whether it can be used, and whether it is of who this machine is to be."""

from dataclasses import dataclass
from datetime import UTC, datetime

from elsa.errors import ElsaError
from services.doctor.finding import Finding, Kind, parted
from services.pki.certificates import read_certificates
from services.rpc.certificates import identity_of
from services.rpc.identity import Identity, Role
from services.rpc.keypair import Keypair, TlsFiles, read_keypair
from services.rpc.revoked import Revoked

AGAIN = "have another signed (elsa pki request, elsa pki sign)"


@dataclass(frozen=True, kw_only=True)
class Own:
    """What was found of the certificate, and the certificate with its key if a server may be shown it."""

    findings: tuple[Finding, ...]
    keypair: Keypair | None = None


def check_own(files: TlsFiles | None, role: Role, name: str | None, now_s: float) -> Own:
    """What its files hold, against the `role` called `name` (None: whatever name it says)."""
    if files is None:
        return Own(findings=(Finding(kind=Kind.TLS, verdict="skipped", what="no certificate is given (--tls-cert)"),))
    try:
        certificate = read_certificates(files.certificate)[0]
        said = identity_of(certificate)
        begins = certificate.not_valid_before_utc
        keypair = read_keypair(files, said.role, None, begins)
        revoked = files.crl is not None and Revoked(files.crl, files.ca)(keypair.serial)
    except ElsaError as error:
        return Own(findings=(_bad(error),))
    if revoked:
        return Own(findings=(_bad(f"{files.certificate}: revoked by {files.crl}; {AGAIN}"), _role(said, role, name)))
    try:
        read_keypair(files, said.role, None, datetime.fromtimestamp(now_s, UTC))
    except ElsaError as error:  # out of its time; by the server's clock it may hold
        return Own(findings=(_bad(error), _role(said, role, name)), keypair=keypair)
    until = f"until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    good = Finding(kind=Kind.TLS, verdict="good", what=f"{files.certificate} can be used, {until}")
    return Own(findings=(good, _role(said, role, name)), keypair=keypair)


def _role(said: Identity, role: Role, name: str | None) -> Finding:
    if said.role == role and name in (None, said.name):
        return Finding(kind=Kind.ROLE, verdict="good", what=f"the certificate is of {said}")
    wanted = role if name is None else f"{role} {name}"
    return Finding(
        kind=Kind.ROLE,
        verdict="bad",
        what=f"the certificate is of {said}, and this is to be {wanted}",
        remedy="give the certificate that was signed for it, or say who this is by --as and --name",
    )


def _bad(error: object) -> Finding:
    what, remedy = parted(error, AGAIN)
    return Finding(kind=Kind.TLS, verdict="bad", what=what, remedy=remedy)
