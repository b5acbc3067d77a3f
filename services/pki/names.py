"""What a certificate calls its holder: one identity as a URI and, for who serves, names of hosts.

Hosts under `elsa.internal` are made of identities, so nobody may ask for one: it would be another's.
"""

import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from elsa.errors import InputError, MalformedError, UnauthenticatedError
from services.rpc.identity import DOMAIN, SCHEME, SERVERS, Identity

MOST_HOSTS = 64
MOST_HOST_LETTERS = 253
MOST_COMMON_NAME = 64
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS = re.compile(rf"(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}")
REMEDY = "give a DNS name in ASCII or an IP address, without port or wildcard"


def checked_host(host: str) -> str:
    """A DNS name or an IP address as certificates carry it. Raises InputError."""
    address = _address(host)
    if address is not None:
        if address.is_unspecified or getattr(address, "scope_id", None):
            raise InputError(f"host {host!r:.100} is no address to be called at; {REMEDY}")
        return str(address)
    name = host.lower().removesuffix(".")
    if len(name) > MOST_HOST_LETTERS or not _DNS.fullmatch(name):
        raise InputError(f"{host!r:.100} is no name of a host; {REMEDY}")
    return name


def checked_hosts(identity: Identity, hosts: Sequence[str]) -> tuple[str, ...]:
    """The hosts that `identity` may have beside its own, without repeats. Raises InputError."""
    if identity.role in SERVERS and not _DNS.fullmatch(identity.host.lower()):
        raise InputError(f"{identity}: {identity.host!r} is no host name; end no part of the name with '.' or '-'")
    asked = dict.fromkeys(checked_host(host) for host in hosts)
    asked.pop(identity.host.lower(), None)
    if asked and identity.role not in SERVERS:
        raise InputError(f"{identity} serves nobody, so it has no hosts; leave out {', '.join(asked):.200}")
    if len(asked) > MOST_HOSTS:
        raise InputError(f"{len(asked)} hosts are more than a certificate should have; give at most {MOST_HOSTS}")
    for host in asked:
        if host == DOMAIN or host.endswith(f".{DOMAIN}"):
            raise InputError(
                f"host {host} is not {identity}'s: names under {DOMAIN} say who somebody is; leave it out"
            )
    return tuple(asked)


def names_to_extension(identity: Identity, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    """The names as an extension: the identity first, then the hosts, which must have been checked."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri), *map(_general, hosts)])


def names_from_extension(names: x509.SubjectAlternativeName) -> tuple[Identity, tuple[str, ...]]:
    """The identity and the hosts that a request asks for. Raises MalformedError for anything else in it."""
    for name in names:
        if not isinstance(name, x509.UniformResourceIdentifier | x509.DNSName | x509.IPAddress):
            raise MalformedError(f"asks for a {type(name).__name__}; only an identity and hosts are signed")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(SCHEME):
        said = ", ".join(uris) or "none"
        raise MalformedError(f"must name just one identity, {SCHEME}ROLE/NAME, and names {said!r:.200}")
    try:
        identity = Identity.from_uri(uris[0])
        return identity, checked_hosts(identity, hosts_in(names))
    except (UnauthenticatedError, InputError) as error:
        raise MalformedError(str(error)) from error


def hosts_in(names: x509.SubjectAlternativeName) -> list[str]:
    """The DNS names and IP addresses among the names, as they stand."""
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)]


def subject_of(identity: Identity) -> x509.Name:
    """What people read; no program does. A common name ends at 64 letters, a long identity is cut."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity)[:MOST_COMMON_NAME])])


def _general(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
