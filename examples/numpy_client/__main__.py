"""Waits for a run that it can do, takes part in it, and ends.

    elsa cloud                                                     in one terminal,
    elsa edge --name edge-1                                        in a second,
    elsa data partition builtin --parts 6 --to shards              in a third: rows to train on, then
    PYTHONPATH=.:examples python -m numpy_client --name np-1 --data shards/client-1.jsonl
    elsa run submit examples/numpy_client/run.yaml                 in a fourth.

A run that it cannot do it declines, with the reason, and waits on; so it does when a run ends before it has trained,
is cancelled, or goes on without it. With --run it takes part in that run alone, to be started before that enrolls
(names count up: the first run of run.yaml is numpy-1). It exits with 0 once it has evaluated the last version of its
run, and with 1 if it cannot go on, or if the run of --run is not for it or ends before.

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

from elsa.v1 import fleet_pb2
from numpy_client.cloud import Cloud, RunOverError
from numpy_client.member import Dial, Member


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The flags, with what the environment says where they are not given."""
    parser = argparse.ArgumentParser(
        prog="python -m numpy_client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default=os.environ.get("ELSA_NAME", "numpy-1"), help="of this client")
    parser.add_argument("--cloud", default=os.environ.get("ELSA_CLOUD", "127.0.0.1:7400"), help="HOST:PORT")
    parser.add_argument(
        "--run", help="the only run to take part in, such as numpy-1; default: the first that it can do"
    )
    parser.add_argument("--dataset", default="default", help="the name under which the rows are offered")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of rows")
    parser.add_argument("--heldout", type=Path, help="rows to evaluate on; default: a share of --data")
    for part in ("ca", "cert", "key"):
        parser.add_argument(f"--tls-{part}", type=Path, default=os.environ.get(f"ELSA_TLS_{part.upper()}") or None)
    flags = parser.parse_args(given)
    for path in filter(None, (flags.data, flags.heldout)):
        if not path.is_file():
            parser.error(f"{path} is not a file; give a JSONL file of rows")
    return flags


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
    """The exit code: 0 once a run's last version is evaluated, 1 if this client took no part to the end."""
    flags = arguments(given)
    tls = [flags.tls_ca, flags.tls_cert, flags.tls_key]
    try:
        cloud = Cloud(dialed(flags.cloud, "cloud.elsa.internal", tls), flags.name, flags.dataset)
    except (OSError, ValueError) as error:
        return failed(error)
    except grpc.RpcError as error:
        return failed(f"cloud {flags.cloud}: {error.details()}; is it up, and does it take this client?")
    say(f"registered as {flags.name}; waits for {f'run {flags.run}' if flags.run else 'a run that it can do'}")
    try:
        code = None
        while code is None:
            code = took_part(
                flags,
                cloud,
                cloud.offered(),
                lambda edge, address: dialed(address, f"{edge}.edge.elsa.internal", tls),
            )
        return code
    except grpc.RpcError as error:
        return failed(f"cloud {flags.cloud}: {error.details()}")
    finally:
        cloud.close()


def took_part(flags: argparse.Namespace, cloud: Cloud, offered: fleet_pb2.Assignment, dial: Dial) -> int | None:
    """The exit code after an offered run; None if it was none for this client, which waits on.

    Raises grpc.RpcError if the cloud is lost.
    """
    run_id = offered.run_id
    if flags.run not in (None, run_id):
        say(f"declines run {run_id}: it is here for run {flags.run}")
        cloud.refuse(run_id, f"this client takes part in run {flags.run} alone")
        return None
    passed = 1 if flags.run else None
    try:
        member = Member(cloud, dial, offered, say)
        member.join(flags.data, flags.heldout)
    except (ValueError, grpc.RpcError) as error:
        failed(f"declines run {run_id}: {reason_of(error)}")
        cloud.refuse(run_id, reason_of(error))
        return passed
    try:
        assignment = cloud.training(run_id)
    except RunOverError as error:
        failed(error)
        return passed
    try:
        member.work(assignment)
    except (ValueError, grpc.RpcError) as error:
        failed(f"leaves run {run_id}: {reason_of(error)}")
        if isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.ABORTED:
            return passed  # the run has ended
        cloud.refuse(run_id, reason_of(error))
        return 1
    return 0


def say(line: str) -> None:
    """Tell whoever started it."""
    print(line, flush=True)  # noqa: T201


def failed(reason: object) -> int:
    """Tell what went wrong, in a line; the exit code."""
    print(reason, file=sys.stderr, flush=True)  # noqa: T201
    return 1


def reason_of(error: ValueError | grpc.RpcError) -> str:
    """What an error says."""
    return str(error.details() if isinstance(error, grpc.RpcError) else error)


if __name__ == "__main__":
    sys.exit(main())
