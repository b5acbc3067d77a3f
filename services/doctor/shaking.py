"""What is at a port: a TLS handshake with it, and where it speaks no TLS, what it speaks instead.

gRPC tells little of a handshake that fails, so this is one of its own, by the system's OpenSSL: it takes whatever the
peer shows, and judges nothing. No more is sent than the handshake, HTTP/2's opening and, to what understands neither,
a request of HTTP/1 for a page's header.
"""

import socket
import ssl
import time
from dataclasses import dataclass, replace
from typing import Literal, Self

from cryptography import x509

from elsa.errors import InputError
from services.doctor.peer import Peer
from services.rpc.certificates import certificate_of
from services.rpc.keypair import TlsFiles

OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""HTTP/2's preface and empty settings, which a server answers: with TLS 1.3 only then is it known whether it takes
our certificate."""
HTTP = b"HTTP/"
ASKING = b"HEAD / HTTP/1.0\r\n\r\n"
FRAME_BYTES = 9
"""Of the header of a frame of HTTP/2: three of length, one of kind, one of flags, four of its stream."""
SETTINGS = b"\4"
"""The kind of frame with which an HTTP/2 server begins, on stream 0."""
Speech = Literal["HTTP/2", "HTTP/1", ""]


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """What came of it.

    Attributes:
        certificate: the peer's; None where it speaks no TLS, or shows one that cannot be read.
        taken: whether the peer went on after our side of it.
        fault: why there was none, if it did not get so far.
        unreadable: what is wrong with a certificate that cannot be read.
        plain: what it speaks without TLS; empty where it speaks TLS, or something else.
    """

    certificate: x509.Certificate | None = None
    taken: bool = False
    fault: str = ""
    unreadable: str = ""
    plain: Speech = ""

    @classmethod
    def of(cls, der: bytes | None, *, taken: bool) -> Self:
        """One at whose end the peer has shown these bytes as its certificate."""
        try:
            return cls(certificate=certificate_of(der) if der else None, taken=taken)
        except InputError as error:
            return cls(unreadable=str(error), taken=taken)


def meet(peer: Peer, place: tuple[str, int], files: TlsFiles | None, timeout_s: float) -> Handshake:
    """A handshake with whoever is at `place`, to whom our certificate of `files` is shown; or what else it speaks.

    Takes `timeout_s` for the handshake, and as much again for each other thing that is tried.
    """
    shaken = shake_hands(peer, place, files, timeout_s)
    if not shaken.fault:
        return shaken
    return replace(shaken, plain=spoken(place, timeout_s))


def shake_hands(peer: Peer, place: tuple[str, int], files: TlsFiles | None, timeout_s: float) -> Handshake:
    """The handshake alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to look at what is shown, whoever's it is
    context.set_alpn_protocols(["h2"])
    try:
        if files is not None:
            context.load_cert_chain(files.certificate, files.key, password="")  # none is asked for on a terminal
        with (
            socket.create_connection(place, timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=peer.host or place[0]) as secure,
        ):
            return Handshake.of(secure.getpeercert(binary_form=True), taken=_goes_on(secure))
    except TimeoutError:
        return Handshake(fault=f"no handshake in {timeout_s:g} s")
    except (OSError, ValueError) as error:  # ssl.SSLError is one of the system's
        return Handshake(fault=getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error))


def spoken(place: tuple[str, int], timeout_s: float) -> Speech:
    """What a port speaks without TLS: HTTP/2, as gRPC does, HTTP/1, as other web servers do, or neither."""
    said = _answer(place, OPENING, timeout_s)
    if len(said) == FRAME_BYTES and said[3:4] == SETTINGS and said[5:] == bytes(4):
        return "HTTP/2"
    if not said.startswith(HTTP):  # some answer a version that they do not know without a header
        said = _answer(place, ASKING, timeout_s)
    return "HTTP/1" if said.startswith(HTTP) else ""


def _answer(place: tuple[str, int], words: bytes, timeout_s: float) -> bytes:
    """The first bytes of an answer, as many as a frame's header has; fewer where no more came."""
    said, end_s = b"", time.monotonic() + timeout_s
    try:
        with socket.create_connection(place, timeout=timeout_s) as plain:
            plain.sendall(words)
            while len(said) < FRAME_BYTES and (left_s := end_s - time.monotonic()) > 0:
                plain.settimeout(left_s)
                more = plain.recv(FRAME_BYTES - len(said))
                if not more:
                    break
                said += more
    except OSError:  # silent, or gone: what was said until then counts
        pass
    return said


def _goes_on(secure: ssl.SSLSocket) -> bool:
    try:
        secure.sendall(OPENING)
        return bool(secure.recv(1))
    except OSError:  # an alert, or a reset
        return False
