"""`python -m services.rpc.healthy`: whether the role on this machine is ready, for a container's health check.

It asks 127.0.0.1 at $ELSA_PROBE_PORT, and imports nothing of ours, so that it is quick.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0
OPTIONS = (("grpc.enable_http_proxy", 0),)
"""No proxy of the environment leads to this machine."""


def main() -> int:
    """0 if it is ready, else 1 with the reason on standard error."""
    port = os.environ.get("ELSA_PROBE_PORT", "")
    if not port:
        return _say("ELSA_PROBE_PORT is not set; set it for the role and for this check")
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return _say(f"127.0.0.1:{port} does not answer: {error.code().name}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return _say("not ready: not known to the cloud yet, or stopping")
    return 0


def _say(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
