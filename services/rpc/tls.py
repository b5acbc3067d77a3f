"""TLS of this process: its own certificate, taken anew when its files change, for servers and for callers.

Both ends of a connection show a certificate of the fleet's authority. What a caller may do with it is the guard's
to say; here it is about who speaks with whom.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import grpc

from elsa.errors import InputError
from services.rpc.identity import Role
from services.rpc.keypair import Keypair, TlsFiles, read_keypair
from services.rpc.rereading import Rereading
from services.rpc.revoked import Revoked
from services.rpc.waiting import Telling

log = logging.getLogger(__name__)

DAY_S = 24 * 3600.0


class Own:
    """The certificate of this process, a `role` called `name` (None: whatever name the certificate says).

    Any thread may call it. Raises InputError if the files cannot be used.
    """

    def __init__(
        self, files: TlsFiles, role: Role, name: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.files = files
        self._role: Role = role
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._rereading = Rereading((files.ca, files.certificate, files.key), clock)
        self._fault, self._daily = "", Telling(growth=1.0, first_s=DAY_S)
        self._keypair = self._read()
        self._name = self._keypair.identity.name
        self._warn()

    def now(self) -> Keypair:
        """What the files hold; the last that could be used while they cannot be.

        The log says why they cannot, at once and then every hour, and every day that it is late for a new one.
        """
        with self._lock:
            if self._rereading.is_due():
                self._take()
            self._warn()
            return self._keypair

    def _take(self) -> None:
        try:
            found = self._read()
        except InputError as error:
            self._fault = str(error)
            return
        self._rereading.succeed()
        self._fault = ""
        if found != self._keypair:
            self._keypair = found
            log.info("a renewed certificate of %s is in use, from %s", found.identity, self.files.certificate)

    def _warn(self) -> None:
        if self._rereading.is_to_be_told(self._fault):
            log.warning("the certificate of before stays in use: %s", self._fault)
        if self._now() >= self._keypair.late and self._daily.is_due(str(self._keypair.serial), self._clock()):
            log.warning(
                "--tls-cert %s: expires at %s UTC; have a new one signed (elsa pki renew)",
                self.files.certificate,
                f"{self._keypair.ends:%Y-%m-%d %H:%M}",
            )

    def _read(self) -> Keypair:
        return read_keypair(self.files, self._role, self._name, self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def own_certificate(files: TlsFiles | None, insecure: bool, role: Role, name: str | None = None) -> Own | None:
    """What a role does first: see that its certificate is its own and can be used; None where there is no TLS.

    Raises InputError.
    """
    if files is None:
        if insecure:
            log.warning(
                "insecure: no TLS; whoever is on the way may read and change what is sent, and pose as anyone"
            )
        return None
    own = Own(files, role, name)
    if revoked_of(own)(own.now().serial):
        raise InputError(f"--tls-cert {files.certificate}: revoked by {files.crl}; have another signed (elsa pki)")
    return own


def revoked_of(own: Own, clock: Callable[[], float] = time.time) -> Callable[[int], bool]:
    """Whether the certificate of a serial number is revoked; none is where no list is given. Raises InputError."""
    files = own.files
    return (lambda _: False) if files.crl is None else Revoked(files.crl, files.ca, clock)


def server_credentials(own: Own) -> grpc.ServerCredentials:
    """Credentials that ask callers for a certificate, and take a renewed one of ours with the next connection."""
    served = own.now()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        newest = own.now()
        if newest is served:
            return None
        served = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        renewed,  # type: ignore[arg-type]  # None says that nothing changed, which the stubs leave out
        require_client_authentication=True,
    )


def channel_credentials(keypair: Keypair) -> grpc.ChannelCredentials:
    """Credentials of a caller that shows its certificate, and takes servers of its authority alone."""
    return grpc.ssl_channel_credentials(keypair.ca, keypair.key, keypair.certificate)


def _configuration(keypair: Keypair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(keypair.key, keypair.certificate)], root_certificates=keypair.ca
    )
