"""The testbed in containers: one command trains an adapter; images and containers are what they should be."""

import json
import re

import pytest
from containers import IMAGES, NAMED, REVISION, ROLES, SERVERS, VERSION

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

LAYERS_MB = 320
"""The cloud's own layers; with the 125 MB of the official base image it stays below 450."""
BASE = "python:3.11-slim"


@pytest.fixture(scope="module")
def first(testbed):
    """`docker compose up --exit-code-from submit`, its status and what it said."""
    done = testbed.compose("up", "--exit-code-from", "submit", check=False, timeout_s=300, ELSA_SPEC=testbed.spec())
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(testbed, first):
    """All roles, of `client` three."""
    testbed.up(*ROLES, "--scale", "client=3")
    return testbed


def test_one_command_trains_an_adapter_and_ends_with_0(testbed, first, tmp_path):
    status, said = first
    assert status == 0, said
    testbed.compose("cp", "submit:/var/lib/elsa/adapters/testbed-1", str(tmp_path))
    folder = tmp_path / "testbed-1"
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert (folder / "adapter_model.safetensors").stat().st_size > 10_000


def test_every_container_that_it_stopped_ended_in_order(testbed, first):
    ended = {role: testbed.inspect(testbed.container(role))["State"] for role in ROLES}
    assert {role: (state["Status"], state["ExitCode"]) for role, state in ended.items()} == dict.fromkeys(
        ROLES, ("exited", 0)
    )


def test_what_is_begun_again_keeps_its_certificates(running):
    assert re.search(r"19 nodes have certificates, 0 of them new", running.logs("pki"))


@pytest.mark.parametrize("role", ROLES)
def test_a_container_is_nobody_in_particular_and_can_write_only_its_volume(running, role):
    code = """
import os, pathlib, sys
def writes(folder):
    try:
        pathlib.Path(folder, ".probe").touch()
    except OSError:
        return False
    pathlib.Path(folder, ".probe").unlink()
    return True
status = pathlib.Path("/proc/1/status").read_text()
figures = dict(line.split(":", 1) for line in status.splitlines())
print(os.getuid(), os.getgid(), *(writes(f) for f in ("/", "/opt/elsa", "/etc/elsa/tls", "/tmp", "/var/lib/elsa")))
print(figures["Uid"].split()[0], int(figures["CapEff"], 16), figures["NoNewPrivs"].strip())
"""
    said = running.python(role, code).stdout.splitlines()
    assert said == ["10001 10001 False False False True True", "10001 0 1"]


def test_every_replica_has_a_name_and_rows_of_its_own(running):
    said = [running.docker("logs", running.container("client", index)).stderr for index in (1, 2, 3)]
    names = {re.findall(r"registered with .* as (client-\d+)", text)[-1] for text in said}
    assert names == {"client-1", "client-2", "client-3"}


def test_the_cloud_has_no_torch_and_is_small(testbed):
    code = "import importlib.util as i; print(*filter(i.find_spec, ('torch', 'transformers', 'pyarrow', 'pip')))"
    said = testbed.docker("run", "--rm", "--entrypoint", "/opt/elsa/bin/python", IMAGES["cloud"], "-Ic", code).stdout
    assert said.strip() == ""
    added = testbed.inspect(IMAGES["cloud"])["Size"] - testbed.inspect(BASE)["Size"]
    assert added <= LAYERS_MB * 1e6


def test_edge_and_client_share_all_layers_of_packages(testbed):
    edge, client = (testbed.inspect(IMAGES[role])["RootFS"]["Layers"] for role in ("edge", "client"))
    shared = next((at for at, (one, other) in enumerate(zip(edge, client, strict=True)) if one != other), len(edge))
    sizes = testbed.docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}", IMAGES["edge"]).stdout
    filled = [int(size) for size in reversed(sizes.split()) if int(size) > 0]
    own = sum(filled[len(filled) - (len(edge) - shared) :]) if shared < len(edge) else 0
    assert shared >= len(edge) - 1
    assert own < 20e6


@pytest.mark.parametrize("role", IMAGES)
def test_an_image_is_labelled(testbed, role):
    labels = testbed.inspect(IMAGES[role])["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert labels["org.opencontainers.image.title"] == f"ELSA {role}"


REACHES = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
        print("yes")
    except OSError:
        print("no")
"""


@pytest.mark.parametrize("client", NAMED)
def test_a_client_reaches_servers_and_no_other_client(running, client):
    others = [other for other in (*NAMED, "client") if other != client]
    addresses = [
        network["IPAddress"]
        for other in others
        for network in running.inspect(running.container(other))["NetworkSettings"]["Networks"].values()
    ]
    targets = [f"{place}:7490" for place in (*others, *addresses)]
    servers = [f"{server}:{7400 if server == 'cloud' else 7500}" for server in SERVERS]
    said = running.python(client, REACHES, *servers, *targets).stdout.split()
    assert said == ["yes"] * len(servers) + ["no"] * len(targets)


@pytest.mark.parametrize("client", NAMED)
def test_what_others_are_kept_from_does_listen(running, client):
    """Or else the test before would say nothing."""
    assert running.python(client, REACHES, "127.0.0.1:7490").stdout.split() == ["yes"]
