"""The authority of a fleet: a folder with its certificate, its key, all that it signed, and what it revoked.

    ca.pem  ca.key (0600)  crl.pem  issued/SERIAL.pem  lock

It reads requests and never sees the keys of those who ask.
"""

import shutil
import uuid
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from elsa.errors import InputError, UnauthenticatedError
from services.pki.certificates import (
    Clock,
    is_authority,
    issued_by,
    names_just,
    read_certificate,
    utc_now,
)
from services.pki.files import FOLDER, locked, replace, write_key
from services.pki.issuing import authority_certificate, node_certificate
from services.pki.keys import Passphrase, key_to_pem, new_key, read_key
from services.pki.requests import read_request
from services.pki.revocations import DAYS, Reason, entry, new_list, number_of, read_list
from services.rpc.certificates import identity_of, is_list_of
from services.rpc.identity import Identity, Role

SPELLED_OUT: tuple[Role, ...] = ("admin", "cloud")
"""Roles that nobody gets because a request says so: who signs must name them."""


class Authority:
    """An authority whose key is at hand."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._folder = folder
        self._key = key
        self.certificate = certificate

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str = "ELSA",
        days: int = 3650,
        passphrase: bytes | None = None,
        clock: Clock = utc_now,
    ) -> Self:
        """A new authority in a folder that must not exist; it appears whole or not at all. Raises InputError."""
        if folder.exists() or folder.is_symlink():
            raise InputError(f"{folder}: exists; choose a new --folder, an authority is never written over")
        key, now = new_key(), clock()
        made = cls(folder, authority_certificate(key, name, days, now), key)
        aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
        try:
            aside.mkdir(FOLDER)
            (aside / "issued").mkdir(FOLDER)
            write_key(aside / "ca.key", key_to_pem(key, passphrase))
            replace(aside / "ca.pem", _pem(made.certificate))
            replace(aside / "crl.pem", new_list(made.certificate, key, (), number=1, days=DAYS, now=now))
            aside.rename(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --folder") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return made

    @classmethod
    def open(cls, folder: Path, passphrase: Passphrase | None = None) -> Self:
        """The authority in a folder; `passphrase` is asked only if its key is encrypted. Raises InputError."""
        if not (folder / "ca.pem").is_file():
            raise InputError(
                f"{folder}: holds no authority (ca.pem); give its --folder, or make one by elsa pki init"
            )
        certificate = read_certificate(folder / "ca.pem")
        key = read_key(folder / "ca.key", passphrase)
        if key.public_key() != certificate.public_key() or not is_authority(certificate):
            raise InputError(f"{folder}: ca.key is not the key of ca.pem; restore both from one copy")
        return cls(folder, certificate, key)

    def issued(self) -> list[x509.Certificate]:
        """All certificates that it signed. Raises InputError."""
        return [read_certificate(path) for path in sorted((self._folder / "issued").glob("*.pem"))]

    def holding(self, identity: Identity, clock: Clock = utc_now) -> list[x509.Certificate]:
        """Certificates of `identity` that have neither expired nor been revoked. Raises InputError."""
        revoked, now = self._list(), clock()
        return [
            one
            for one in self.issued()
            if names_just(one, identity)
            and now <= one.not_valid_after_utc
            and revoked.get_revoked_certificate_by_serial_number(one.serial_number) is None
        ]

    def sign(
        self, request: bytes, *, expect: Identity | None = None, days: int = 365, clock: Clock = utc_now
    ) -> bytes:
        """A certificate in PEM for a request in PEM; a copy stays in `issued`.

        Args:
            expect: whom the request must name; for an admin and a cloud it must be given.
            days: for how long; never beyond the authority's own end.

        Raises:
            MalformedError: the request is none, was altered, or asks for what nobody gets.
            InputError: it names another than expected, or one that would be taken for an earlier one: in case alone
                another, or an edge of a client's name.
        """
        requested, now = read_request(request), clock()
        _check_expected(requested.identity, expect)
        if not self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc:
            until = self.certificate.not_valid_after_utc
            raise InputError(f"{self._folder}: the authority is valid until {until:%Y-%m-%d} alone; make a new one")
        with locked(self._folder):
            self._check_apart(requested.identity)
            certificate = node_certificate(requested, self.certificate, self._key, days, now)
            replace(self._path_of(certificate.serial_number), _pem(certificate))
        return _pem(certificate)

    def revoke(
        self,
        revoked: int | x509.Certificate,
        reason: Reason = Reason.UNSPECIFIED,
        *,
        days: int = DAYS,
        clock: Clock = utc_now,
    ) -> bool:
        """Put a certificate, or its serial number, on the list; False if it was there already, which keeps its date.

        Raises:
            InputError: it is none of this authority's.
        """
        serial = self._serial_of(revoked)
        with locked(self._folder):
            present = self._list()
            new = present.get_revoked_certificate_by_serial_number(serial) is None
            added = [entry(serial, reason, clock())] if new else []
            self._write_list(present, added, days, clock)
        return new

    def revocations(self, *, days: int = DAYS, clock: Clock = utc_now) -> bytes:
        """The list in PEM, signed anew, so that it speaks for `days` from now on. Raises InputError."""
        with locked(self._folder):
            return self._write_list(self._list(), [], days, clock)

    def _list(self) -> x509.CertificateRevocationList:
        """The present list. One that is lost must come back: an empty one would let the revoked in again."""
        path = self._folder / "crl.pem"
        if not path.exists():
            raise InputError(f"{path}: is lost; restore it from a copy, such as a server's, and do this again")
        found = read_list(path)
        if not is_list_of(found, self.certificate):
            raise InputError(f"{path}: is not signed by this authority; restore it from a copy, such as a server's")
        return found

    def _write_list(
        self,
        present: x509.CertificateRevocationList,
        added: list[x509.RevokedCertificate],
        days: int,
        clock: Clock,
    ) -> bytes:
        entries = [*present, *added]
        number = number_of(present) + 1
        pem = new_list(self.certificate, self._key, entries, number=number, days=days, now=clock())
        replace(self._folder / "crl.pem", pem)
        return pem

    def _serial_of(self, revoked: int | x509.Certificate) -> int:
        if isinstance(revoked, int):
            if not self._path_of(revoked).is_file():
                raise InputError(f"{revoked:x}: no serial number that {self._folder} issued; give the certificate")
            return revoked
        if revoked == self.certificate or not issued_by(revoked, self.certificate):
            raise InputError(
                f"serial {revoked.serial_number:x} is none that {self._folder} issued; give its --folder"
            )
        return revoked.serial_number

    def _check_apart(self, identity: Identity) -> None:
        """TLS compares host names without regard to case; a fleet knows edges and clients by their names alone."""
        for certificate in self.issued():
            try:
                known = identity_of(certificate)
            except UnauthenticatedError as error:
                raise InputError(f"{self._path_of(certificate.serial_number)}: {error}") from error
            if known != identity and known.name.lower() == identity.name.lower() and _in_one_list(known, identity):
                raise InputError(
                    f"{known}, who has a certificate, would be taken for {identity}; choose another name"
                )

    def _path_of(self, serial: int) -> Path:
        return self._folder / "issued" / f"{serial:x}.pem"


def _in_one_list(one: Identity, other: Identity) -> bool:
    return one.role == other.role or {one.role, other.role} == {"edge", "client"}


def _check_expected(identity: Identity, expect: Identity | None) -> None:
    if expect is None and identity.role in SPELLED_OUT:
        spelled = f"--expect {identity.role}/{identity.name}"
        raise InputError(f"the request is for {identity}; if it may be that, spell it out: {spelled}")
    if expect is not None and expect != identity:
        raise InputError(f"the request is for {identity}, not for {expect} as expected; ask who made it")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
