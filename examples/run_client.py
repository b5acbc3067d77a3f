"""Submits a run, follows it, and fetches its adapter: RunService, with nothing but grpcio and elsa.v1.

    python examples/run_client.py examples/docstrings.yaml adapter [HOST:PORT]

Writes the adapter, a PEFT folder, to the folder `adapter`. Over TLS set ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY
to the files of an admin (docs/identity.md); without them it calls this machine alone.
"""

import ipaddress
import os
import sys
from pathlib import Path

import grpc

from elsa.v1 import fleet_pb2, run_pb2, run_pb2_grpc

CLOUD = "127.0.0.1:7400"


def connect(address: str) -> grpc.Channel:
    files = [os.environ.get(f"ELSA_TLS_{part}") for part in ("CA", "KEY", "CERT")]
    if not any(files) and is_loopback(address):
        return grpc.insecure_channel(address)
    if not all(files):
        sys.exit(f"to call {address}, set all of ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY")
    credentials = grpc.ssl_channel_credentials(*(Path(file or "").read_bytes() for file in files))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "cloud.elsa.internal")])


def is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(spec: str, folder: str, address: str = CLOUD) -> int:
    if Path(folder).exists():
        sys.exit(f"{folder} is there already; name a folder that is not")
    runs, state = run_pb2_grpc.RunServiceStub(connect(address)), ""
    run_id = runs.SubmitRun(run_pb2.SubmitRunRequest(spec=Path(spec).read_text()), timeout=30).run_id
    for message in runs.WatchRun(run_pb2.WatchRunRequest(run_id=run_id)):
        if message.event.HasField("state_changed"):
            state = fleet_pb2.RunState.Name(message.event.state_changed.state)
            sys.stdout.write(f"{run_id}: {state} {message.event.state_changed.reason}\n")
        elif message.event.HasField("evaluation_reported"):
            total = message.event.evaluation_reported.total
            sys.stdout.write(f"{run_id}: version {total.version}, accuracy {total.accuracy:.3f}\n")
    if state != "RUN_STATE_COMPLETED":
        return 1
    Path(folder).mkdir(parents=True)
    for part in runs.ExportAdapter(run_pb2.ExportAdapterRequest(run_id=run_id), timeout=300):
        if part.HasField("file"):
            file = Path(folder, Path(part.file.name).name)
        with file.open("ab") as out:
            out.write(part.chunk.data)
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except grpc.RpcError as error:
        where = f"; check that a cloud answers at {[*sys.argv, CLOUD][3]}, and the files of TLS"
        sys.exit(f"{error.code().name}: {error.details()}{where if error.code().name == 'UNAVAILABLE' else ''}")
    except OSError as error:
        sys.exit(f"{error}; check the name")
