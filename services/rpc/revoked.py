"""Which certificates are revoked: the authority's signed list (CRL), read again whenever its file changes.

While a fleet goes over from one authority to another the file may hold the lists of both, one after the other. What
stands there and what stands in the file of authorities need not come in the same moment, nor in any order.

A server asks with every message, on its event loop if it has one, so a long list is read beside it.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from elsa.errors import InputError
from services.rpc.certificates import UNREADABLE, certificates_in, is_list_of
from services.rpc.keypair import read_file
from services.rpc.rereading import REMIND_S, Rereading

log = logging.getLogger(__name__)

AT_ONCE_BYTES = 256 * 1024
"""The longest file that is read by who asks, some 5000 certificates; a longer one is read by a thread of its own."""
_BEGIN = b"-----BEGIN X509 CRL-----"
NONE = "no list of revoked certificates in PEM; elsa pki revoke writes one"


@dataclass(frozen=True, kw_only=True)
class _List:
    """Of one authority: the numbers on it, and when the next is due in unix seconds."""

    serials: frozenset[int] = frozenset()
    ends: float = float("inf")

    def with_(self, other: "_List") -> "_List":
        return _List(serials=self.serials | other.serials, ends=min(self.ends, other.ends))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the file says: the list of each authority by its key, and what is wrong with the rest, if anything.

    Attributes:
        lacks: whether an authority has no list there.
    """

    lists: Mapping[bytes, _List]
    fault: str = ""
    lacks: bool = False


class Revoked:
    """`Revoked(...)(serial)`: whether the list in the file `crl`, signed by a certificate in `ca`, revokes it.

    Any thread may call it. It is read again when either file changes: before the answer if it is no longer than
    AT_ONCE_BYTES, else the list of before holds until it is read. A list that cannot be used leaves its authority's
    list of before in force, which the log says at once and then once an hour.

    Raises InputError if none can be used at first, or if one cannot and an authority in `ca` has no other.
    """

    def __init__(self, crl: Path, ca: Path, clock: Callable[[], float] = time.time) -> None:
        self._crl, self._ca, self._clock = crl, ca, clock
        self._lock = threading.Lock()
        self._rereading = Rereading((crl, ca), clock)
        self._reader: threading.Thread | None = None
        self._remind_at = 0.0
        found = self._read()
        if found.fault and found.lacks:
            raise InputError(found.fault)
        self._take(found)

    def __call__(self, serial: int) -> bool:
        """Whether the certificate of this number is revoked."""
        with self._lock:
            self._refresh()
            self._warn()
            self._remind()
            return serial in self._serials

    def _refresh(self) -> None:
        if self._is_reading() or not self._rereading.is_due():
            return
        if not self._is_long():
            self._reread(nullcontext())
            return
        self._reader = threading.Thread(target=self._reread, args=(self._lock,), name="revoked", daemon=True)
        self._reader.start()

    def _reread(self, lock: AbstractContextManager[object]) -> None:
        """Read the files, and hold `lock` for what follows from them."""
        try:
            found = self._read()
        except InputError as error:
            with lock:
                self._fault = f"the list of revoked certificates of before stays in force: {error}"
            return
        with lock:
            self._rereading.succeed()
            self._take(_Found(lists={**self._lists, **found.lists}, fault=found.fault) if found.fault else found)
            count = len(self._serials)
        log.info("%s revokes %d certificate%s", self._crl, count, "" if count == 1 else "s")

    def _is_reading(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def _is_long(self) -> bool:
        try:
            return self._crl.stat().st_size > AT_ONCE_BYTES
        except OSError:  # reading it says why
            return False

    def _take(self, found: _Found) -> None:
        self._lists = found.lists
        self._serials = frozenset[int]().union(*(each.serials for each in found.lists.values()))
        self._ends = min((each.ends for each in found.lists.values()), default=float("inf"))
        self._fault, self._remind_at = found.fault, 0.0

    def _warn(self) -> None:
        """Say at once, and then once an hour, what cannot be used."""
        if not self._is_reading() and self._rereading.is_to_be_told(self._fault):
            log.warning("%s", self._fault)

    def _remind(self) -> None:
        """Say once an hour that a newer list is due."""
        now = self._clock()
        if now > self._ends and now >= self._remind_at:
            self._remind_at = now + REMIND_S
            due = f"{datetime.fromtimestamp(self._ends, UTC):%Y-%m-%d %H:%M}"
            log.warning("--tls-crl %s: a newer list was due at %s UTC; sign one and put it there", self._crl, due)

    def _read(self) -> _Found:
        """What the file says. Raises InputError where no authority signed any list in it."""
        said, lists = f"--tls-crl {self._crl}", dict[bytes, _List]()
        found = _lists_in(read_file("--tls-crl", self._crl), said)
        authorities = certificates_in(read_file("--tls-ca", self._ca), f"--tls-ca {self._ca}")
        unsigned = 0
        for one, said_by in found:
            by = next((authority for authority in authorities if is_list_of(one, authority)), None)
            if by is None:
                unsigned += 1
                continue
            lists[_key_of(by)] = lists.get(_key_of(by), _List()).with_(said_by)
        if not lists:
            raise InputError(
                f"{said}: not signed by the authority in --tls-ca {self._ca}; give that authority's list"
            )
        fault = f"{said}: no authority in --tls-ca {self._ca} has signed {unsigned} of its {len(found)} lists"
        return _Found(
            lists=lists,
            fault=f"{fault}; put their authority there, or take them out" if unsigned else "",
            lacks=any(_key_of(authority) not in lists for authority in authorities),
        )


def _lists_in(pem: bytes, said: str) -> list[tuple[x509.CertificateRevocationList, _List]]:
    """All lists in `pem` with what they say, one at least, each of which can be read. Raises InputError."""
    try:
        lists = [x509.load_pem_x509_crl(_BEGIN + rest) for rest in pem.split(_BEGIN)[1:]]
        found = [(each, _said_by(each)) for each in lists]
    except UNREADABLE as error:
        raise InputError(f"{said}: {NONE}") from error
    if not found:
        raise InputError(f"{said}: {NONE}")
    return found


def _said_by(found: x509.CertificateRevocationList) -> _List:
    """What a list says, whose fields are parsed only now."""
    _ = found.issuer
    due = found.next_update_utc
    ends = float("inf") if due is None else due.timestamp()
    return _List(serials=frozenset(each.serial_number for each in found), ends=ends)


def _key_of(authority: x509.Certificate) -> bytes:
    """By which an authority is known, though its certificate be renewed."""
    return authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
