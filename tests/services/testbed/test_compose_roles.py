"""What the compose file tells each container: who it is, by what it is known, whom it waits for, who may call it."""

import re
from pathlib import Path, PurePath

import pytest
import yaml

from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
SERVERS, EDGES = ("cloud", "edge-1", "edge-2"), ("edge-1", "edge-2")
CLIENTS = tuple(name for name in SERVICES if name.startswith("client"))
NAMED = tuple(name for name in CLIENTS if name != "client")
ROLES = (*SERVERS, *CLIENTS)
ONE_SHOTS = ("pki", "data")
DOCKERFILES = {role: (ROOT / "docker" / f"{role}.Dockerfile").read_text() for role in ("cloud", "edge", "client")}
PLACE = PurePath("/etc/elsa/tls")


def environment(name):
    return SERVICES[name]["environment"]


def waits_for(name):
    return {other: each["condition"] for other, each in SERVICES[name]["depends_on"].items()}


@pytest.mark.parametrize("name", [*SERVERS, *CLIENTS, "submit"])
def test_everybody_shows_a_certificate_and_nobody_speaks_in_the_clear(name):
    told = environment(name)
    files = {part: PurePath(told[f"ELSA_TLS_{part}"]) for part in ("CA", "CERT", "KEY")}
    assert files == {"CA": PLACE / "ca.pem", "CERT": PLACE / "tls.pem", "KEY": PLACE / "tls.key"}
    assert "ELSA_INSECURE" not in told
    assert ("ELSA_TLS_CRL" in told) is (name in SERVERS)


@pytest.mark.parametrize("name", [*SERVERS, *CLIENTS, "submit"])
def test_nobody_may_change_certificates_or_rows(name):
    given = [each for each in SERVICES[name]["volumes"] if isinstance(each, dict)]
    assert {each["source"]: each["target"] for each in given}["identities"] == str(PLACE)
    assert all(each["read_only"] is True for each in given)


@pytest.mark.parametrize("name", [*EDGES, *NAMED])
def test_a_node_is_called_as_its_service(name):
    assert environment(name)["ELSA_NAME"] == name


@pytest.mark.parametrize("name", EDGES)
def test_an_edge_tells_clients_its_own_address(name):
    assert environment(name)["ELSA_ADVERTISE"] == f"{name}:7500"


def test_each_waits_until_those_that_it_needs_are_ready():
    ready, done = "service_healthy", "service_completed_successfully"
    assert waits_for("cloud")["pki"] == done
    for name in EDGES:
        assert waits_for(name) == {"cloud": ready}
    for name in CLIENTS:
        assert waits_for(name) == {"data": done, **dict.fromkeys(SERVERS, ready)}
    assert waits_for("submit") == dict.fromkeys(ROLES, ready)


def test_what_has_done_its_work_ends_nothing_else():
    assert all(SERVICES[name]["attach"] is False for name in ONE_SHOTS)


def test_a_container_gets_longer_than_its_role_takes_to_stop():
    graces = {kind.model_fields["grace_s"].default for kind in (CloudSettings, EdgeSettings)}
    for name in ROLES:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= max(graces) + 5


def test_figures_are_asked_for_where_they_are_told():
    jobs = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in jobs for one in job.get("static_configs", ()) for target in one["targets"]]
    asked = dict(target.split(":") for target in targets)
    asked |= {name: one["port"] for job in jobs for one in job.get("dns_sd_configs", ()) for name in one["names"]}
    assert {name: int(port) for name, port in asked.items()} == {
        name: environment(name)["ELSA_METRICS_PORT"] for name in ROLES
    }


def test_nothing_is_open_to_other_machines():
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_network_leads_outside_but_that_of_servers_and_that_of_the_dashboard():
    assert {name for name, network in COMPOSE["networks"].items() if not network} == {"fleet", "host"}
    inside = {name for name, service in SERVICES.items() if "fleet" in service.get("networks", ())}
    assert inside == {*SERVERS, "submit", "prometheus"}


@pytest.mark.parametrize("role", DOCKERFILES)
def test_an_image_opens_what_it_listens_on_and_keeps_its_state_on_its_volume(role):
    text = DOCKERFILES[role]
    told = dict(re.findall(r"(ELSA_[A-Z_]+)=(\S+)", text))
    [volume], [opened] = re.findall(r"^VOLUME (\S+)$", text, re.M), re.findall(r"^EXPOSE (.+)$", text, re.M)
    assert told["ELSA_PROBE_PORT"] in opened.split()
    if role != "client":
        assert told["ELSA_HOST"] == "0.0.0.0"
        assert PurePath(told["ELSA_STATE"]).is_relative_to(volume)
        assert told.get("ELSA_PORT", "7400") in opened.split()


@pytest.mark.parametrize("role", DOCKERFILES)
def test_an_image_has_the_versions_that_are_tested(role):
    text = re.sub(r"\\\n", "", DOCKERFILES[role])
    installs = [part for line in text.splitlines() if not line.startswith("#") for part in re.split("&&|;", line)]
    installs = [part for part in installs if re.search(r"pip .*install", part) and "/wheels/" not in part]
    assert installs
    assert all("-c /constraints.txt" in part for part in installs)
