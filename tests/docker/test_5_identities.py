"""Certificates that do not do: refused with the reason, while everybody else goes on. Who is revoked stays so."""

import pytest
from containers import IMAGES, ROLES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

CALL = """
import sys, grpc
from pathlib import Path
from services.rpc.identity import CLOUD_HOST
from elsa.v1 import run_pb2, run_pb2_grpc
folder = Path(sys.argv[1])
ca, certificate, key = ((folder / name).read_bytes() for name in ("ca.pem", "tls.pem", "tls.key"))
credentials = grpc.ssl_channel_credentials(ca, key, certificate)
options = [("grpc.ssl_target_name_override", CLOUD_HOST)]
with grpc.secure_channel("cloud:7400", credentials, options) as channel:
    try:
        run_pb2_grpc.RunServiceStub(channel).ListRuns(run_pb2.ListRunsRequest(), timeout=20)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
    else:
        print("OK")
"""
ADMIN_THAT_EXPIRED = """
from pathlib import Path
from services.pki.authority import Authority
from services.pki.files import replace, write_key
from services.pki.requests import new_request
from services.rpc.identity import Identity
folder, admin = Path("/var/lib/elsa/expired"), Identity("admin", "late")
authority = Authority.open(Path("/var/lib/elsa/authority"))
key, request = new_request(admin)
begin = authority.certificate.not_valid_before_utc
folder.mkdir()
write_key(folder / "tls.key", key)
replace(folder / "tls.pem", authority.sign(request, expect=admin, days=0, clock=lambda: begin))
replace(folder / "ca.pem", Path("/var/lib/elsa/authority/ca.pem").read_bytes())
"""
OWN = "/etc/elsa/tls"


@pytest.fixture(scope="module")
def running(testbed):
    testbed.up(*ROLES)
    return testbed


def keeper(testbed, entrypoint, *arguments):
    """Run something where the authority is."""
    return testbed.compose("run", "--rm", "-T", "--entrypoint", entrypoint, "pki", *arguments)


def outsider(testbed, entrypoint, *arguments):
    """Run something in the network of the cloud, with all certificates at hand in /ids."""
    place = ("--network", f"{testbed.project}_fleet", "-v", f"{testbed.project}_identities:/ids:ro")
    command = ("run", "--rm", *place, "--entrypoint", entrypoint, IMAGES["cloud"], *arguments)
    return testbed.docker(*command, check=False)


def test_the_operators_certificate_is_let_in(running):
    """Or else the next tests would say nothing."""
    assert outsider(running, "python", "-c", CALL, "/ids/operator").stdout.strip() == "OK"


@pytest.mark.parametrize("node", ["client-large", "edge-1"])
def test_who_is_no_admin_is_refused_what_an_admin_may_do(running, node):
    said = outsider(running, "python", "-c", CALL, f"/ids/{node}").stdout
    assert said.startswith("PERMISSION_DENIED")
    assert node in said


@pytest.mark.parametrize("command", [("run", "list"), ("edge", "--name", "client-large"), ("client", "--name", "x")])
def test_a_role_with_anothers_certificate_does_not_start(running, command):
    done = running.docker(
        "exec", running.container("client-large"), "elsa", *command, "--cloud", "cloud:7400", check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "client client-large" in done.stderr


def test_an_expired_certificate_is_refused_by_its_owner_and_by_the_cloud(running):
    keeper(running, "python", "-c", ADMIN_THAT_EXPIRED)
    folder = "/ids/expired"
    flags = (f"--tls-ca={folder}/ca.pem", f"--tls-cert={folder}/tls.pem", f"--tls-key={folder}/tls.key")
    own = outsider(running, "elsa", "run", "list", "--cloud", "cloud:7400", *flags)
    assert own.returncode == 1
    assert "expired at" in own.stderr
    said = outsider(running, "python", "-c", CALL, folder).stdout
    assert said.split()[0] in ("UNAVAILABLE", "UNAUTHENTICATED")


def test_a_revoked_client_is_refused_with_the_reason_and_the_others_train(running, followed):
    certificate = "/var/lib/elsa/client-medium/tls.pem"
    keeper(running, "elsa", "pki", "revoke", certificate, "--folder", "/var/lib/elsa/authority")
    running.compose("run", "--rm", "-T", "pki")
    assert "client client-medium is revoked" in running.wait_said("client-medium", "is revoked")
    said = outsider(running, "python", "-c", CALL, "/ids/client-medium").stdout
    assert said.startswith("UNAUTHENTICATED")
    assert "revoked" in said
    run = followed(running.spec(fleet={"min_clients": 3}))
    assert run.end() == 0, "\n".join(run.lines)
    assert not run.said("(client-medium) trains with")
