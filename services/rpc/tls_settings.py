"""The settings of TLS that all roles have: three files, given together or not at all."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from services.rpc.keypair import TlsFiles

FILES = ("tls_ca", "tls_cert", "tls_key")
LONE_LIST = f"tls_crl is given without TLS; give {', '.join(FILES)} too"


class TlsSettings(BaseSettings):
    """A role's part in TLS."""

    tls_ca: Path | None = Field(None, description="PEM file of the fleet's authority; with it all calls use TLS")
    tls_cert: Path | None = Field(None, description="PEM file of this role's certificate, read again when it changes")
    tls_key: Path | None = Field(None, description="PEM file of its private key, which only its owner may read")
    insecure: bool = Field(
        False,
        description="allow addresses off loopback without TLS: everyone on the way may read and change what is sent",
    )

    @field_validator("tls_ca", "tls_cert", "tls_key", "tls_crl", mode="before", check_fields=False)
    @classmethod
    def _empty_is_none(cls, given: Any) -> Any:
        return None if given == "" else given

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        missing = missing_of(self.tls_ca, self.tls_cert, self.tls_key)
        if missing:
            raise ValueError(missing)
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """Where the files are; None without TLS."""
        return files_of(self.tls_ca, self.tls_cert, self.tls_key)


class ServerTlsSettings(TlsSettings):
    """Those of a role that serves."""

    tls_crl: Path | None = Field(
        None,
        description="PEM file of the authority's list of revoked certificates, read again when it changes; "
        "default: none is revoked",
    )

    @model_validator(mode="after")
    def _crl_needs_tls(self) -> Self:
        if self.tls_crl is not None and self.tls_ca is None:
            raise ValueError(LONE_LIST)
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """Where the files are; None without TLS."""
        return files_of(self.tls_ca, self.tls_cert, self.tls_key, self.tls_crl)


def missing_of(*given: Path | None) -> str:
    """What is wrong if of --tls-ca, --tls-cert and --tls-key some are given and others not; '' if nothing is."""
    missing = [name for name, path in zip(FILES, given, strict=True) if path is None]
    if len(missing) in (0, len(FILES)):
        return ""
    return f"TLS needs {', '.join(FILES)}; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


def files_of(ca: Path | None, certificate: Path | None, key: Path | None, crl: Path | None = None) -> TlsFiles | None:
    """The files of TLS, once all three are given; None if they are not."""
    if ca is None or certificate is None or key is None:
        return None
    return TlsFiles(ca=ca, certificate=certificate, key=key, crl=crl)
