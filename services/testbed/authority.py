"""The authority of a testbed of containers, as a one-shot: a folder for each node, with what it shows and trusts.

    authority/         elsa pki's own folder, for nobody else
    NAME/              ca.pem  tls.pem  tls.key, and of a cloud and an edge crl.pem
    replicas/client-N/ the same, for clients that take whatever name is free (services.testbed.replica)

A container gets its own folder alone to see. Done again it keeps all that still holds, renews what soon ends, and
takes the list of the revoked to the servers; a revoked node stays revoked. That keys are made here, and not where
they are used, is fit for a testbed only: elsewhere elsa pki request makes them (docs/identity.md).
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from elsa.errors import ElsaError
from services.pki.authority import Authority
from services.pki.certificates import Clock, issued_by, names_just, read_certificate, utc_now
from services.pki.files import replace, write_key
from services.pki.keys import key_to_pem, new_key, read_key
from services.pki.requests import request_with
from services.rpc.identity import SCHEME, SERVERS, Identity
from services.rpc.process import set_up_logging
from services.testbed.replica import pool_names

log = logging.getLogger(__name__)

AUTHORITY, REPLICAS = "authority", "replicas"
RENEWED_BEFORE = timedelta(days=30)


def keep(folder: Path, nodes: Mapping[Path, Identity], clock: Clock = utc_now) -> list[Identity]:
    """Make the authority in `folder`, or keep it, and give each node what it lacks; for whom it signed.

    Args:
        nodes: whose folder, relative to `folder`, is whose.

    Raises:
        InputError: files of an earlier time cannot be used, or nothing can be written.
    """
    place = folder / AUTHORITY
    authority = Authority.open(place) if place.exists() else Authority.create(place, name="ELSA testbed", clock=clock)
    revoked = authority.revocations(clock=clock)
    signed = [node for own, node in nodes.items() if _provide(authority, folder / own, node, clock)]
    for own, node in nodes.items():
        replace(folder / own / "ca.pem", (place / "ca.pem").read_bytes())
        if node.role in SERVERS:
            replace(folder / own / "crl.pem", revoked)
    return signed


def _provide(authority: Authority, own: Path, node: Identity, clock: Clock) -> bool:
    """See that a node has a key and a certificate; whether one had to be signed."""
    own.mkdir(parents=True, exist_ok=True)
    key, certificate = own / "tls.key", own / "tls.pem"
    if not key.exists():
        write_key(key, key_to_pem(new_key()))
    if certificate.exists() and _holds(authority, key, certificate, node, clock):
        return False
    hosts = (node.name, "localhost") if node.role in SERVERS else ()
    replace(certificate, authority.sign(request_with(read_key(key), node, hosts), expect=node, clock=clock))
    return True


def _holds(authority: Authority, key: Path, path: Path, node: Identity, clock: Clock) -> bool:
    certificate = read_certificate(path)
    return (
        issued_by(certificate, authority.certificate)
        and names_just(certificate, node)
        and certificate.public_key() == read_key(key).public_key()
        and certificate.not_valid_after_utc - clock() > RENEWED_BEFORE
    )


def main(arguments: list[str] | None = None) -> int:
    """`python -m services.testbed.authority FOLDER ROLE/NAME … [--replicas N]`; the exit status."""
    parser = argparse.ArgumentParser(description="Make or keep a testbed's authority, and a folder for each node.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("nodes", nargs="+", metavar="ROLE/NAME")
    parser.add_argument(
        "--replicas", type=int, default=0, metavar="N", help="further clients, with names to be taken"
    )
    given = parser.parse_args(arguments)
    set_up_logging()
    try:
        named = [Identity.from_uri(f"{SCHEME}{node}") for node in given.nodes]
        nodes = {Path(node.name): node for node in named}
        nodes |= {Path(REPLICAS) / name: Identity("client", name) for name in pool_names(given.replicas)}
        signed = keep(given.folder, nodes)
    except ElsaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    log.info("%d nodes have certificates, %d of them new, in %s", len(nodes), len(signed), given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
