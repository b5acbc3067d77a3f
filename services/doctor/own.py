"""This machine's own certificate: whether it can be used, and whether it is of who this machine is to be."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from cryptography import x509

from elsa.errors import ElsaError
from services.doctor.finding import Finding, Kind, parted
from services.pki.revocations import read_lists
from services.rpc.certificates import certificates_in, identity_of
from services.rpc.identity import Identity, Role
from services.rpc.keypair import LATE_SHARE, Keypair, TlsFiles, read_file, read_keypair
from services.rpc.revoked import Revoked

AGAIN = "have another signed (elsa pki request, elsa pki sign)"
SOURCES = {
    "tls_ca": "copy ca.pem here from the authority's folder (elsa pki init makes it)",
    "tls_cert": "ask for it by {request}, and elsa pki sign at the authority writes it",
    "tls_key": "{request} writes it beside the request; if it is lost, elsa pki renew --new-key makes another",
    "tls_crl": "copy crl.pem here from the authority's folder (elsa pki init and revoke write it)",
}
"""How one comes by the file of each setting."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """What was found of the certificate, and the certificate with its key if a server may be shown it.

    Attributes:
        judges: whether the authority, and the list of the revoked if there is one, can be read: others' certificates
            can be held against them.
        certificate: as it was read, whatever is wrong with it.
    """

    findings: tuple[Finding, ...]
    keypair: Keypair | None = None
    judges: bool = False
    certificate: x509.Certificate | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing of the files of TLS is bad."""
        return not any(finding.kind is Kind.TLS and finding.verdict == "bad" for finding in self.findings)


def check_own(files: TlsFiles | None, role: Role, name: str | None, now_s: float) -> Own:
    """What its files hold, against the `role` called `name` (None: whatever name it says).

    What is wrong with each file is told once, here; nothing that is said of a peer repeats it.
    """
    if files is None:
        return Own(findings=(Finding(kind=Kind.TLS, verdict="skipped", what="no certificate is given (--tls-cert)"),))
    absent = dict(_absent(files, role, name))
    findings = tuple(absent.values())
    if absent.keys() & {"tls_ca", "tls_crl"}:
        return Own(findings=findings)
    try:
        certificates_in(read_file("--tls-ca", files.ca), f"--tls-ca {files.ca}")
        revoked = None if files.crl is None else Revoked(files.crl, files.ca)
        findings += tuple(_overdue(files, now_s))
    except ElsaError as error:
        return Own(findings=(*findings, _bad(error)))
    if absent:
        return Own(findings=findings, judges=True)
    certified = _certified(files, role, name, now_s, revoked)
    return replace(certified, findings=(*findings, *certified.findings))


def _certified(files: TlsFiles, role: Role, name: str | None, now_s: float, revoked: Revoked | None) -> Own:
    """What the certificate and its key are worth; the authority has been read."""
    try:
        flag = f"--tls-cert {files.certificate}"
        certificate = certificates_in(read_file("--tls-cert", files.certificate), flag)[0]
    except ElsaError as error:
        return Own(findings=(_bad(error),), judges=True)
    found = partial(Own, judges=True, certificate=certificate)
    try:
        said = identity_of(certificate)
        keypair = read_keypair(files, said.role, None, certificate.not_valid_before_utc)
        gone = revoked is not None and revoked(keypair.serial)
    except ElsaError as error:
        return found(findings=(_bad(error),))
    whose = _role(said, role, name)
    if gone:
        return found(findings=(_bad(f"{flag}: revoked by {files.crl}; {AGAIN}"), whose))
    try:
        read_keypair(files, said.role, None, datetime.fromtimestamp(now_s, UTC))
    except ElsaError as error:  # out of its time; by the server's clock it may hold
        return found(findings=(_bad(error), whose), keypair=keypair)
    return found(findings=(_usable(certificate, files, now_s), whose), keypair=keypair)


def _overdue(files: TlsFiles, now_s: float) -> Iterator[Finding]:
    """A warning of each list of the revoked that should have been replaced. Roles go by it all the same."""
    for found in [] if files.crl is None else read_lists(files.crl):
        due = found.next_update_utc
        if due is not None and due.timestamp() < now_s:
            what = f"{files.crl}: a newer list was due at {due:%Y-%m-%d %H:%M} UTC; who is revoked since is not known"
            remedy = "sign one by elsa pki revoke at the authority, and put it there"
            yield Finding(kind=Kind.TLS, verdict="warn", what=what, remedy=remedy)


def _usable(certificate: x509.Certificate, files: TlsFiles, now_s: float) -> Finding:
    """What was looked at of a certificate with which nothing is wrong, but that it may end soon."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    unlisted = "" if files.crl is None else f", is not on the list {files.crl}"
    what = f"{files.certificate} fits its key, is of {files.ca}{unlisted}, and holds until {ends:%Y-%m-%d %H:%M} UTC"
    if ends - datetime.fromtimestamp(now_s, UTC) < LATE_SHARE * (ends - begins):
        return Finding(kind=Kind.TLS, verdict="warn", what=what, remedy="renew it soon: elsa pki renew")
    return Finding(kind=Kind.TLS, verdict="good", what=what)


def _absent(files: TlsFiles, role: Role, name: str | None) -> Iterator[tuple[str, Finding]]:
    """Each setting of TLS whose file cannot be read, with how one comes by it."""
    request = f"elsa pki request {role} {name or 'NAME'}"
    paths = {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key, "tls_crl": files.crl}
    for setting, path in paths.items():
        if path is None:
            continue
        flag, variable = f"--{setting.replace('_', '-')}", f"ELSA_{setting.upper()}"
        try:
            path.open("rb").close()
        except PermissionError:
            remedy = f"let user {os.geteuid()} read it (chown or chmod)"
            yield setting, _fault(f"{flag} {path}: may not be read", remedy)
        except OSError as error:
            remedy = (
                f"{SOURCES[setting].format(request=request)}; or name its place by {flag}, {setting} or {variable}"
            )
            yield setting, _fault(f"{flag} {path}: cannot be read ({error.strerror})", remedy)


def _role(said: Identity, role: Role, name: str | None) -> Finding:
    if said.role == role and name in (None, said.name):
        return Finding(kind=Kind.ROLE, verdict="good", what=f"the certificate is of {said}")
    wanted = role if name is None else f"{role} {name}"
    return Finding(
        kind=Kind.ROLE,
        verdict="bad",
        what=f"the certificate is of {said}, and this is to be {wanted}",
        remedy="give the certificate that was signed for it (--tls-cert, --tls-key), or say who this is by --as and "
        "--name",
    )


def _bad(error: object) -> Finding:
    return _fault(*parted(error, AGAIN))


def _fault(what: str, remedy: str) -> Finding:
    return Finding(kind=Kind.TLS, verdict="bad", what=what, remedy=remedy)
