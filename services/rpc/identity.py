"""Who somebody is: a role and a name, as a certificate says them, never a message.

A certificate of the fleet carries one URI `elsa:ROLE/NAME` among its alternative names. A server's carries besides a
host name made of its identity: callers ask for that name at whatever address they dial, so an edge is known by its
certificate and not by where it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from pydantic import TypeAdapter, ValidationError

from elsa.errors import UnauthenticatedError
from elsa.parsing import Name

Role = Literal["admin", "edge", "client", "cloud"]
"""An admin submits and watches runs; edges and clients take part in them; the cloud serves, and calls nobody."""
ROLES: tuple[Role, ...] = get_args(Role)
SERVERS: tuple[Role, ...] = ("edge", "cloud")
SCHEME = "elsa:"
DOMAIN = "elsa.internal"
"""Ends host names that are made of identities; `.internal` is for private use and never resolved publicly."""
CLOUD_HOST = f"cloud.{DOMAIN}"
"""The cloud's, whatever its name: a fleet has one."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Identity:
    """A role and a name.

    Raises:
        UnauthenticatedError: the name is none of a node.
    """

    role: Role
    name: str

    def __post_init__(self) -> None:
        try:
            _NAME.validate_python(self.name)
        except ValidationError as error:
            raise UnauthenticatedError(
                f"{self.name!r:.100} is no name: give letters, digits, '.', '_' and '-', at most 63"
            ) from error

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """What `elsa:ROLE/NAME` says. Raises UnauthenticatedError."""
        role, slash, name = uri.removeprefix(SCHEME).partition("/")
        for known in ROLES:
            if uri.startswith(SCHEME) and slash and role == known:
                return cls(known, name)
        raise UnauthenticatedError(f"{uri!r:.200} is no identity: elsa:ROLE/NAME, with a role of {', '.join(ROLES)}")

    @classmethod
    def among(cls, uris: Sequence[str]) -> Self:
        """The one identity among the URIs of a certificate. Raises UnauthenticatedError unless there is just one."""
        own = [uri for uri in uris if uri.startswith(SCHEME)]
        if len(own) != 1:
            raise UnauthenticatedError(
                f"the certificate names {len(own)} identities (elsa:ROLE/NAME); have one signed by elsa pki sign"
            )
        return cls.from_uri(own[0])

    @property
    def uri(self) -> str:
        """As a certificate carries it."""
        return f"{SCHEME}{self.role}/{self.name}"

    @property
    def host(self) -> str:
        """The host name by which callers know a server of this identity."""
        return CLOUD_HOST if self.role == "cloud" else f"{self.name}.{self.role}.{DOMAIN}"

    def __str__(self) -> str:
        return f"{self.role} {self.name}"
