"""Roles and gRPC take what the authority makes: an edge is known by its identity, wherever it stands."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.pki.files import write_key
from services.pki.requests import new_request
from services.rpc.identity import ROLES, Identity
from services.rpc.keypair import TlsFiles
from services.rpc.tls import Own, revoked_of

CLINIC, EDGE, OTHER = Identity("client", "clinic-a"), Identity("edge", "edge-1"), Identity("edge", "edge-2")


@pytest.fixture
def pair(authority):
    """`pair(identity)`: the authority's certificate, a key and its certificate, in PEM."""
    root = authority.certificate.public_bytes(serialization.Encoding.PEM)

    def call(identity):
        key, request = new_request(identity)
        return root, key, authority.sign(request)

    return call


@pytest.fixture
def address(pair, request):
    root, key, certificate = pair(getattr(request, "param", EDGE))
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials([(key, certificate)], root, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(address, credentials, host):
    with grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", host)]) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status


@pytest.mark.parametrize("address", [EDGE, Identity("edge", "Edge_1.North")], indirect=True, ids=str)
def test_a_caller_with_a_certificate_is_served(address, pair, request):
    server = request.node.callspec.params["address"]
    assert (
        ask(address, grpc.ssl_channel_credentials(*pair(CLINIC)), server.host)
        == health_pb2.HealthCheckResponse.SERVING
    )


def test_an_edge_is_not_taken_for_another(address, pair):
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        ask(address, grpc.ssl_channel_credentials(*pair(CLINIC)), OTHER.host)


def test_a_caller_without_a_certificate_is_not_served(address, pair):
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        ask(address, grpc.ssl_channel_credentials(pair(CLINIC)[0]), EDGE.host)


@pytest.mark.parametrize("address", [CLINIC], indirect=True)
def test_a_client_cannot_serve(address, pair):
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        ask(address, grpc.ssl_channel_credentials(*pair(CLINIC)), CLINIC.host)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_takes_its_files_and_knows_when_it_is_revoked(authority, tmp_path, role):
    identity = Identity(role, "Node_1.north")
    key, request = new_request(identity)
    write_key(tmp_path / "own.key", key)
    (tmp_path / "own.pem").write_bytes(authority.sign(request, expect=identity))
    folder = tmp_path / "authority"
    files = TlsFiles(
        ca=folder / "ca.pem", certificate=tmp_path / "own.pem", key=tmp_path / "own.key", crl=folder / "crl.pem"
    )
    own = Own(files, role, identity.name)
    revoked = revoked_of(own)
    serial = own.now().serial
    assert not revoked(serial)
    authority.revoke(serial)
    assert revoked(serial)
