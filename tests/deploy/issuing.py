"""A stand-in for cert-manager: signs what its objects, and volumes of its driver, ask for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rendered import NAMESPACE, Object, Pod, of_kind

PURPOSES = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}
NOW = datetime.now(UTC).replace(microsecond=0)
DRIVER = "csi.cert-manager.io"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a certificate is to say."""

    uris: Sequence[str]
    hosts: Sequence[str]
    usages: Sequence[str]
    name: str = ""


class Authority:
    """Signs itself and others."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ELSA elsa")])
        begun = _builder(name, name, self._key.public_key())
        begun = begun.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._own = begun.sign(self._key, hashes.SHA256())

    def sign(self, asked: Asked) -> dict[str, bytes]:
        """The files of a Secret, or of a volume, with the certificate asked for."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, asked.name)] if asked.name else [])
        names = [
            *map(x509.UniformResourceIdentifier, asked.uris),
            *map(x509.DNSName, asked.hosts),
        ]
        uses = [PURPOSES[usage] for usage in asked.usages if usage in PURPOSES]
        begun = _builder(subject, self._own.subject, key.public_key())
        begun = begun.add_extension(x509.SubjectAlternativeName(names), critical=not asked.name)
        signed = begun.add_extension(x509.ExtendedKeyUsage(uses), critical=False).sign(self._key, hashes.SHA256())
        kind = serialization.PrivateFormat.PKCS8
        return {
            "ca.crt": self._own.public_bytes(serialization.Encoding.PEM),
            "tls.crt": signed.public_bytes(serialization.Encoding.PEM),
            "tls.key": key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()),
        }


def asked_by_object(certificate: Mapping[str, Any]) -> Asked:
    """What an object of kind Certificate asks for."""
    spec = certificate["spec"]
    hosts = spec.get("dnsNames", [])
    return Asked(uris=spec["uris"], hosts=hosts, usages=spec["usages"], name=spec["commonName"])


def asked_by_driver(attributes: Mapping[str, str], pod: Pod) -> Asked:
    """What a volume of the driver asks for: it knows names of the pod and of its namespace."""
    known = {"POD_NAME": pod.name, "POD_NAMESPACE": NAMESPACE}
    given = {
        key.removeprefix(f"{DRIVER}/"): re.sub(r"\$\{(\w+)\}", lambda found: known[found[1]], value)
        for key, value in attributes.items()
    }
    return Asked(
        uris=_list(given["uri-sans"]), hosts=_list(given.get("dns-names")), usages=_list(given["key-usages"])
    )


def files_of(pod: Pod, given: tuple[Object, ...], authority: Authority) -> dict[str, tuple[bytes, int]]:
    """The files of a pod's volume of certificates by their paths, and each one's mode."""
    tls = pod.volume("tls")
    if "csi" in tls:
        signed = authority.sign(asked_by_driver(tls["csi"]["volumeAttributes"], pod))
        return {path: (content, 0o440) for path, content in signed.items()}  # what the driver writes with fs-group
    secrets = {
        each["spec"]["secretName"]: authority.sign(asked_by_object(each))
        for each in of_kind(given, "Certificate")
        if not each["spec"].get("isCA")
    }
    if "secret" in tls:
        mode = tls["secret"]["defaultMode"]
        return {path: (content, mode) for path, content in secrets[tls["secret"]["secretName"]].items()}
    mode = tls["projected"]["defaultMode"]
    return {
        item["path"]: (secrets[source["secret"]["name"]][item["key"]], mode)
        for source in tls["projected"]["sources"]
        for item in source["secret"]["items"]
    }


def lay_out(files: Mapping[str, tuple[bytes, int]], folder: Path) -> Path:
    """The files in a folder, each with its mode."""
    for path, (content, mode) in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
    return folder


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    begun = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    begun = begun.not_valid_before(NOW - timedelta(minutes=1)).not_valid_after(NOW + timedelta(days=30))
    return begun.serial_number(x509.random_serial_number())


def _list(text: str | None) -> list[str]:
    return text.split(",") if text else []
