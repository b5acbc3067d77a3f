"""How a process reaches its peers: by TLS to who they are, or without it on loopback.

A peer is known by the host name that its certificate carries, whatever the address at which it is dialled: an edge
that shows another edge's certificate is refused before anything is sent.
"""

from dataclasses import dataclass

import grpc

from elsa.errors import AddressError
from services.rpc.channel import connect
from services.rpc.keypair import Keypair
from services.rpc.server import is_loopback
from services.rpc.tls import Own, channel_credentials


@dataclass(frozen=True, kw_only=True)
class Dialer:
    """Makes channels: with our `own` certificate where there is one, else to loopback alone unless `insecure`."""

    own: Own | None = None
    insecure: bool = False

    @property
    def certificate(self) -> Keypair | None:
        """Which certificate the next channel shows; another object once it is renewed."""
        return self.own.now() if self.own is not None else None

    def connect(self, address: str, peer_host: str) -> grpc.Channel:
        """A channel to the peer known as `peer_host` at `address`, host:port. Nothing is sent yet.

        Raises AddressError off loopback without TLS, unless that was spelled out.
        """
        if self.own is not None:
            return connect(address, channel_credentials(self.own.now()), peer_host)
        if not self.insecure and not is_loopback(address.rpartition(":")[0]):
            raise AddressError(
                f"refusing to call {address} without TLS: give --tls-ca, --tls-cert and --tls-key (elsa pki makes "
                "them), or --insecure if everyone on the way may read and change what is sent"
            )
        return connect(address)


LOOPBACK = Dialer()
"""Without TLS, and on loopback alone."""
