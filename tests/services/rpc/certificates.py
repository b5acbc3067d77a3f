"""A certificate authority for tests: certificates of any identity, good or bad in one way, and revocations."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.rpc.identity import SERVERS, Identity

SERVE, CALL = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
PURPOSES = {"admin": [CALL], "client": [CALL], "edge": [SERVE, CALL], "cloud": [SERVE]}
EARLIER = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Files:
    """A certificate with its key, as PEM and as files."""

    ca: Path
    certificate: Path
    key: Path
    serial: int

    @property
    def ca_pem(self) -> bytes:
        return self.ca.read_bytes()

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.read_bytes()

    @property
    def key_pem(self) -> bytes:
        return self.key.read_bytes()


class Authority:
    """Signs what it is told to; its files stand in `folder`, its own certificate as ca.pem."""

    def __init__(self, folder: Path, name: str = "ELSA tests") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public = self.key.public_key()
        limits = x509.BasicConstraints(ca=True, path_length=0)
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = _builder(self.subject, self.subject, public, 30).add_extension(limits, critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self._count = itertools.count()

    def issued(
        self,
        identity: Identity | None,
        hosts: Sequence[str] = (),
        days: float = 1,
        eku: Iterable[x509.ObjectIdentifier] | None = None,
        uris: Sequence[str] = (),
        odd: Sequence[x509.GeneralName] = (),
        begun: timedelta = EARLIER,
    ) -> Files:
        """A certificate of `identity`, in new files; with negative `days` one that is over.

        A server's has the identity's host name besides `hosts`, which are DNS names or IP addresses; `eku` takes the
        place of the role's own purposes; `uris` and `odd` names are added. It holds since `begun` before now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name if identity else "nobody")])
        builder = _builder(name, self.subject, key.public_key(), days, begun)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        names = [*_names(identity, hosts, uris), *odd]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        purposes = list(eku) if eku is not None else PURPOSES[identity.role] if identity else [CALL]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return self._written(builder.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256()), key)

    def crl(self, serials: Iterable[int], days: float = 30) -> bytes:
        """The signed list that revokes `serials`, as PEM; with negative `days` one whose next is overdue."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        builder = builder.last_update(now - EARLIER - max(timedelta(0), -timedelta(days=days)))
        builder = builder.next_update(now + timedelta(days=days))
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - EARLIER)
            builder = builder.add_revoked_certificate(one.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _written(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Files:
        stem = self.folder / f"{next(self._count)}"
        files = Files(
            ca=self.ca,
            certificate=stem.with_suffix(".pem"),
            key=stem.with_suffix(".key"),
            serial=certificate.serial_number,
        )
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.touch(mode=0o600)
        plain = serialization.NoEncryption()
        files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float, begun: timedelta = EARLIER
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begins = now - begun - max(timedelta(0), -timedelta(days=days))
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(begins).not_valid_after(now + timedelta(days=days))


def _names(identity: Identity | None, hosts: Sequence[str], uris: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    if identity is not None:
        names.append(x509.UniformResourceIdentifier(identity.uri))
        if identity.role in SERVERS:
            names.append(x509.DNSName(identity.host))
    return names + [_host(host) for host in hosts]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(**used: bool) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: used.get(name, False) for name in every})
