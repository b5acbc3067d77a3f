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
from services.rpc.keypair import Keypair, Stamp, TlsFiles, read_keypair, stamp_of
from services.rpc.revoked import Revoked

log = logging.getLogger(__name__)


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
        self._stamp = self._stamp_now()
        self._keypair = self._read()
        self._name = self._keypair.identity.name

    def now(self) -> Keypair:
        """What the files hold; the last that could be used while they cannot be, which the log says once a change."""
        with self._lock:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self._stamp = stamp
                self._take()
            return self._keypair

    def _take(self) -> None:
        try:
            found = self._read()
        except InputError as error:
            log.warning("the certificate of before stays in use: %s", error)
            return
        if found != self._keypair:
            self._keypair = found
            log.info("a renewed certificate of %s is in use, from %s", found.identity, self.files.certificate)

    def _read(self) -> Keypair:
        return read_keypair(self.files, self._role, self._name, datetime.fromtimestamp(self._clock(), UTC))

    def _stamp_now(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(path) for path in (self.files.ca, self.files.certificate, self.files.key))


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
