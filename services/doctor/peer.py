"""Whom to reach: an address, and who must be there."""

from dataclasses import dataclass
from typing import Literal

from services.rpc.identity import CLOUD_HOST, Identity


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server of the fleet.

    Attributes:
        address: host:port.
        name: of an edge; empty: whichever edge is there.
        ours: whether it is what this machine is to be.
    """

    server: Literal["cloud", "edge"]
    address: str
    name: str = ""
    ours: bool = False

    @property
    def host(self) -> str:
        """The host name that its certificate must carry; empty if any edge's will do."""
        if self.server == "cloud":
            return CLOUD_HOST
        return Identity("edge", self.name).host if self.name else ""

    @property
    def named_by(self) -> str:
        """The settings and flags that say its address."""
        if self.ours:
            return "another --port (setting port, ELSA_PORT)"
        if self.server == "cloud":
            return "--cloud (setting cloud, ELSA_CLOUD)"
        return "--edge or edge_addresses here, or that edge's own advertise"

    @property
    def place(self) -> tuple[str, int] | None:
        """Host and port; None if the address does not say them."""
        host, _, port = self.address.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        whole = bool(host) and port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535
        return (host, int(port)) if whole else None

    def __str__(self) -> str:
        return f"{self.server} {self.name}".strip()
