"""Takes part in one run, then ends.

    elsa cloud                                                     in one terminal,
    elsa edge --name edge-1                                        in a second,
    elsa data partition builtin --parts 6 --to shards              in a third: rows to train on, then
    PYTHONPATH=.:examples python -m numpy_client --name np-1 --data shards/client-1.jsonl
    elsa run submit examples/numpy_client/run.yaml                 in a fourth.

The client itself needs numpy, grpcio, protobuf and pyyaml, and of this repository elsa/v1 alone. Over TLS give
ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY, or the flags, with the certificate of client np-1 (docs/identity.md);
without them it calls this machine alone.
"""

import argparse
import ipaddress
import os
import sys
from pathlib import Path

import grpc

from numpy_client.cloud import Cloud, RunOverError
from numpy_client.member import Member


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The flags, with what the environment says where they are not given."""
    parser = argparse.ArgumentParser(
        prog="python -m numpy_client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default=os.environ.get("ELSA_NAME", "numpy-1"), help="of this client")
    parser.add_argument("--cloud", default=os.environ.get("ELSA_CLOUD", "127.0.0.1:7400"), help="HOST:PORT")
    parser.add_argument("--dataset", default="default", help="the name under which the rows are offered")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of rows")
    parser.add_argument("--heldout", type=Path, help="rows to evaluate on; default: a share of --data")
    for part in ("ca", "cert", "key"):
        parser.add_argument(f"--tls-{part}", type=Path, default=os.environ.get(f"ELSA_TLS_{part.upper()}") or None)
    return parser.parse_args(given)


def dialed(address: str, host: str, tls: list[Path | None]) -> grpc.Channel:
    """A channel to the server that is known as `host`, over TLS but to this machine.

    Raises ValueError without the three files, if there is one of them or the server is elsewhere.
    """
    if not any(tls) and is_loopback(address):
        return grpc.insecure_channel(address)
    if not all(tls):
        raise ValueError(f"to call {host} at {address}, give all of --tls-ca, --tls-cert and --tls-key")
    ca, certificate, key = (Path(path).read_bytes() for path in tls if path)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", host)])


def is_loopback(address: str) -> bool:
    """Whether it is one of this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(given: list[str] | None = None) -> int:
    """The exit code: 0 once the run's last version is evaluated, 1 if this client took no part to the end."""
    flags = arguments(given)
    tls = [flags.tls_ca, flags.tls_cert, flags.tls_key]
    try:
        cloud = Cloud(dialed(flags.cloud, "cloud.elsa.internal", tls), flags.name, flags.dataset)
        offered = cloud.offered()
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except grpc.RpcError as error:
        print(f"cloud {flags.cloud}: {error.details()}", file=sys.stderr)  # noqa: T201
        return 1
    try:
        member = Member(
            cloud,
            lambda edge, address: dialed(address, f"{edge}.edge.elsa.internal", tls),
            offered,
            lambda line: print(line, flush=True),  # noqa: T201
        )
        member.join(flags.data, flags.heldout)
        member.work(cloud.training(offered.run_id))
        return 0
    except RunOverError as error:
        print(error, file=sys.stderr)  # noqa: T201
    except (ValueError, grpc.RpcError) as error:
        reason = error.details() if isinstance(error, grpc.RpcError) else str(error)
        print(f"leaves run {offered.run_id}: {reason}", file=sys.stderr)  # noqa: T201
        if not isinstance(error, grpc.RpcError) or error.code() is not grpc.StatusCode.ABORTED:
            cloud.answer(offered.run_id, refusal=str(reason)[:500])
    finally:
        cloud.close()
    return 1


if __name__ == "__main__":
    sys.exit(main())
