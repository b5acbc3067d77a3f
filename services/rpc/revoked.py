"""Which certificates are revoked: the authority's signed list (CRL), read again whenever its file changes.

While a fleet goes over from one authority to another the file may hold the lists of both, one after the other.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from elsa.errors import InputError
from services.rpc.keypair import UNREADABLE, certificates_in, read_file, stamp_of

log = logging.getLogger(__name__)

REMIND_S = 3600.0
_BEGIN = b"-----BEGIN X509 CRL-----"
_LIST = re.compile(_BEGIN + rb".+?-----END X509 CRL-----", re.DOTALL)


class Revoked:
    """`Revoked(...)(serial)`: whether the list in the file `crl`, signed by a certificate in `ca`, revokes it.

    Any thread may call it. A changed file that cannot be used leaves the list of before in force, which the log
    says. Raises InputError if the first cannot be used.
    """

    def __init__(self, crl: Path, ca: Path, clock: Callable[[], float] = time.time) -> None:
        self._crl, self._ca, self._clock = crl, ca, clock
        self._lock = threading.Lock()
        self._stamp = stamp_of(crl)
        self._serials, self._ends = self._read()
        self._remind_at = 0.0

    def __call__(self, serial: int) -> bool:
        """Whether the certificate of this number is revoked."""
        with self._lock:
            self._refresh()
            self._remind()
            return serial in self._serials

    def _refresh(self) -> None:
        stamp = stamp_of(self._crl)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._serials, self._ends = self._read()
        except InputError as error:
            log.warning("the list of revoked certificates of before stays in force: %s", error)
            return
        self._remind_at = 0.0
        log.info("%s revokes %d certificates", self._crl, len(self._serials))

    def _remind(self) -> None:
        """Say once an hour that a newer list is due."""
        now = self._clock()
        if now > self._ends and now >= self._remind_at:
            self._remind_at = now + REMIND_S
            due = f"{datetime.fromtimestamp(self._ends, UTC):%Y-%m-%d %H:%M}"
            log.warning("--tls-crl %s: a newer list was due at %s UTC; sign one and put it there", self._crl, due)

    def _read(self) -> tuple[frozenset[int], float]:
        """The numbers on the list, and when the next is due in unix seconds. Raises InputError."""
        said, pem = f"--tls-crl {self._crl}", read_file("--tls-crl", self._crl)
        try:
            lists = [x509.load_pem_x509_crl(part) for part in _LIST.findall(pem)]
            serials = frozenset(each.serial_number for found in lists for each in found)
            ends = [found.next_update_utc.timestamp() for found in lists if found.next_update_utc is not None]
        except UNREADABLE as error:
            raise InputError(f"{said}: no list of revoked certificates in PEM; elsa pki revoke writes one") from error
        if not lists or len(lists) != pem.count(_BEGIN):
            raise InputError(f"{said}: no list of revoked certificates in PEM; elsa pki revoke writes one")
        authorities = certificates_in(read_file("--tls-ca", self._ca), f"--tls-ca {self._ca}")
        if not all(any(_is_of(found, authority) for authority in authorities) for found in lists):
            raise InputError(
                f"{said}: not signed by the authority in --tls-ca {self._ca}; give that authority's list"
            )
        return serials, min(ends, default=float("inf"))


def _is_of(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    try:
        return found.issuer == authority.subject and found.is_signature_valid(key)  # type: ignore[arg-type]
    except (TypeError, *UNREADABLE):  # a kind of key or of signature that is not understood
        return False
