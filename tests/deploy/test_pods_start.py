"""A pod's command and environment start its role: probes say ready, it is known to the cloud, SIGTERM ends it well.

What a cluster would do around it is done here: names become addresses of this machine, volumes folders of the test.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from issuing import Authority, files_of, lay_out
from rendered import Pod, objects_in, pods, render

START_S, PERIOD_S = 240.0, 0.3
VALUES = {
    "certificates": {"from": "cert-manager"},
    "clients": [{"name": "clinic-a", "data": {"default": "builtin"}}],
    "metrics": {"enabled": True},
}


@contextmanager
def started(pod: Pod, places: Mapping[str, str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The pod's one container as a process; `places` says what stands for names, ports and paths of the cluster."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ELSA_")}
    known = re.compile("|".join(map(re.escape, places)))
    for name, value in pod.environment.items():
        environment[name] = known.sub(lambda found: places[found[0]], value)
    command = [sys.executable, "-m", "services.cli", *pod.container["args"]]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def probe(port: str, service: str) -> bool:
    """What the kubelet asks: whether the service is SERVING; not, too, where nobody answers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wait_ready(process: "subprocess.Popen[bytes]", pod: Pod, port: str, folder: Path) -> None:
    """Ask as the pod's probes say, until the last of them is content. Fails once the process ends."""
    end_s = time.monotonic() + START_S
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        while not probe(port, pod.container[name]["grpc"].get("service", "")):
            with suppress(subprocess.TimeoutExpired):
                process.wait(PERIOD_S)
            log = (folder / "log").read_text()
            assert process.returncode is None, log
            assert time.monotonic() < end_s, log


@pytest.fixture
def free_ports() -> Iterator[list[str]]:
    """Ports that nobody has now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(8)]
        ports = [str(each.getsockname()[1]) for each in sockets]
    yield ports


@pytest.mark.timeout(600)
def test_a_fleet_starts_from_its_pods_environments(free_ports: list[str], tmp_path: Path) -> None:
    given = objects_in(render(VALUES))
    by_role = {pod.role: pod for pod in pods(given, most=1)}
    authority, (cloud, edge, *others) = Authority(), free_ports
    servers = {
        "elsa-cloud.elsa.svc:7400": f"127.0.0.1:{cloud}",
        "elsa-edge-0.elsa-edge.elsa.svc:7500": f"127.0.0.1:{edge}",
        "7400": cloud,
        "7500": edge,
    }
    with ExitStack() as stack:
        processes = []
        for number, role in enumerate(("client", "edge", "cloud")):  # a cluster starts them in no order either
            probes, metrics = others[2 * number : 2 * number + 2]
            pod, folder = by_role[role], tmp_path / role
            lay_out(files_of(pod, given, authority), folder / "tls")
            own = {
                "/etc/elsa/tls": f"{folder}/tls",
                "/var/lib/elsa": f"{folder}/state",
                "7480": probes,
                "7490": metrics,
            }
            process = stack.enter_context(started(pod, servers | own, folder))
            processes.append((process, probes, pod, folder))
        for process, probes, pod, folder in processes:
            wait_ready(process, pod, probes, folder)
        for process, probes, *_ in processes:
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0
            assert not probe(probes, "live")
