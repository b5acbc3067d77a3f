"""An edge and a client are ready once their cloud knows them, and live before that."""

import socket
import threading

import grpc
import pytest
from fleet_harness import cloud_serving
from grpc_health.v1 import health_pb2, health_pb2_grpc

from elsa.errors import AddressError, UnreachableError
from services.client.service import Client
from services.client.settings import ClientSettings
from services.edge.service import Edge
from services.edge.settings import EdgeSettings

WAIT_S = 20.0
KINDS = {"edge": (Edge, EdgeSettings), "client": (Client, ClientSettings)}
roles = pytest.mark.parametrize("role", KINDS)


def serves(node, name=""):
    with grpc.insecure_channel(node.monitoring.probes.address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def node_of(role, cloud, **given):
    kind, settings = KINDS[role]
    return kind(settings(name=f"some-{role}", cloud=cloud, patience_s=60, **given), threading.Event())


@roles
def test_without_a_cloud_a_role_lives_and_is_not_ready(role):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        node = node_of(role, f"127.0.0.1:{silent.getsockname()[1]}", probe_port=0)
        refused = []

        def start():
            try:
                node.start()
            except UnreachableError as error:
                refused.append(error)

        starting = threading.Thread(target=start)
        starting.start()
        with silent.accept()[0]:  # it calls its cloud, so it listens
            assert serves(node, "live") and not serves(node)
            node.close()
        starting.join(WAIT_S)
        assert refused and not node.monitoring.readiness.ready


@roles
def test_a_role_that_is_registered_is_ready_until_it_ends(role, tmp_path):
    with cloud_serving(tmp_path) as cloud:
        node = node_of(role, cloud, probe_port=0)
        node.start()
        assert serves(node) and serves(node, "live")
        node.close()
        assert not node.monitoring.readiness.ready and node.monitoring.probes is None


@roles
@pytest.mark.parametrize("port", ["probe_port", "metrics_port"])
def test_a_port_that_is_taken_ends_a_role_before_its_cloud_is_asked(role, port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        node = node_of(role, "127.0.0.1:9", **{port: number})
        with pytest.raises(AddressError, match=rf"127.0.0.1:{number}.*--{port.replace('_', '-')}$"):
            node.start()
        node.close()
