"""Dockerfiles, the compose file and what it provisions agree with each other and with what the roles tell."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from services.testbed import submission

ROOT = Path(__file__).parents[3]
DOCKERFILES = {role: (ROOT / "docker" / f"{role}.Dockerfile").read_text() for role in ("cloud", "edge", "client")}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OTHERS = {"postgres", "prometheus", "grafana"}
OURS = sorted(set(SERVICES) - OTHERS)
CLIENTS = [name for name in SERVICES if name.startswith("client")]


def instructions(text):
    """Lines of a Dockerfile without comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def shared(text):
    """From the first FROM to the last COPY."""
    lines = instructions(text)
    last = max(index for index, line in enumerate(lines) if line.startswith("COPY"))
    return lines[: last + 1]


def test_edge_and_client_are_built_alike_up_to_the_projects_code():
    assert shared(DOCKERFILES["edge"]) == shared(DOCKERFILES["client"])
    assert any("torch" in line for line in shared(DOCKERFILES["edge"]))


def test_the_cloud_is_built_without_torch():
    assert "torch" not in "\n".join(instructions(DOCKERFILES["cloud"]))
    assert "pyproject.toml postgres >" in DOCKERFILES["cloud"]


@pytest.mark.parametrize("role", DOCKERFILES)
def test_code_is_copied_after_packages_are_installed(role):
    lines = instructions(DOCKERFILES[role])
    packages = next(index for index, line in enumerate(lines) if "-r /requirements.txt" in line)
    code = [index for index, line in enumerate(lines) if re.match(r"COPY (elsa|services) ", line)]
    assert len(code) == 2
    assert min(code) > packages


@pytest.mark.parametrize("role", DOCKERFILES)
def test_nothing_but_the_one_base_image_is_pulled(role):
    assert "syntax=" not in DOCKERFILES[role]
    stages = [line.split() for line in instructions(DOCKERFILES[role]) if line.startswith("FROM")]
    named = {stage[3] for stage in stages if len(stage) == 4}
    assert {stage[1] for stage in stages} - named == {"python:3.11-slim"}


@pytest.mark.parametrize("role", DOCKERFILES)
def test_an_image_runs_as_nobody_in_particular_and_says_what_it_is(role):
    text = DOCKERFILES[role]
    for said in ("USER 10001:10001", "VOLUME /var/lib/elsa", 'ENTRYPOINT ["elsa"]', f'CMD ["{role}"]'):
        assert said in text
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    assert "services.rpc.healthy" in text


def test_extras_that_images_install_are_the_projects():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in DOCKERFILES.values():
        [named] = re.findall(r"/pyproject\.toml (.*) > /requirements", text)
        assert set(named.split()) <= set(extras)


@pytest.mark.parametrize("name", OURS)
def test_every_container_of_ours_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert not {"privileged", "user", "pid", "ipc", "ports"} & set(service)


def networks(name):
    return set(SERVICES[name].get("networks", ()))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_shares_its_network_with_servers_alone(name):
    [own] = networks(name)
    assert {other for other in OURS if own in networks(other)} == {name, "cloud", "edge-1", "edge-2"}
    assert COMPOSE["networks"][own] == {"internal": True}


def mounts(name):
    return {
        (volume["source"], volume.get("volume", {}).get("subpath"))
        for volume in SERVICES[name]["volumes"]
        if isinstance(volume, dict)
    }


@pytest.mark.parametrize("name", [*CLIENTS, "cloud", "edge-1", "edge-2", "submit"])
def test_a_container_sees_its_own_folder_of_certificates_alone(name):
    own = {"client": "replicas", "submit": "operator"}.get(name, name)
    assert {subpath for source, subpath in mounts(name) if source == "identities"} == {own}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_sees_its_own_rows_alone(name):
    own = "replicas" if name == "client" else name
    assert {subpath for source, subpath in mounts(name) if source == "rows"} == {own}
    others = [other for other in OURS if other not in (name, "data")]
    assert not any(("rows", own) in mounts(other) for other in others if "volumes" in SERVICES[other])


def test_clients_are_of_unlike_strength():
    limits = {name: (SERVICES[name]["cpus"], SERVICES[name]["mem_limit"]) for name in CLIENTS}
    assert len(limits) == 4
    assert len(set(limits.values())) >= 3


def test_everybody_who_is_served_is_given_a_certificate_and_rows():
    given = SERVICES["pki"]["command"]
    assert {"cloud/cloud", "edge/edge-1", "edge/edge-2", "admin/operator"} <= set(given)
    named = {name for name in CLIENTS if name != "client"}
    assert {f"client/{name}" for name in named} <= set(given)
    assert named <= set(SERVICES["data"]["command"])
    assert given[-2:] == SERVICES["data"]["command"][-2:]


def test_monitors_are_pointed_at_services_that_there_are():
    jobs = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {
        target.split(":")[0] for job in jobs for one in job.get("static_configs", ()) for target in one["targets"]
    }
    hosts |= {name for job in jobs for one in job.get("dns_sd_configs", ()) for name in one["names"]}
    assert hosts == {"cloud", "edge-1", "edge-2", *CLIENTS}
    assert all(networks(host) & networks("prometheus") for host in hosts)


def test_the_dashboard_shows_figures_that_roles_tell():
    told = set(re.findall(r"`(elsa_[a-z0-9_]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    dashboard = json.loads((ROOT / "compose" / "grafana" / "elsa.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"elsa_[a-z0-9_]+", target["expr"])
    }
    assert len(asked) > 10
    assert {re.sub(r"_(sum|count|bucket)$", "", name) for name in asked} <= told


@pytest.mark.parametrize("name", OURS)
def test_a_service_cannot_fill_the_table_of_processes(name):
    assert 100 <= SERVICES[name]["pids_limit"] <= 1000


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_who_reads_figures_has_no_capabilities(name):
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_the_run_is_submitted_by_who_remembers_it():
    """With `elsa` as its entrypoint, a container that is started again would submit another."""
    submit = SERVICES["submit"]
    assert submit["entrypoint"][-1] == "services.testbed.submission"
    assert submit["command"] == []
    mounted = [volume["target"] for volume in submit["volumes"] if isinstance(volume, dict)]
    assert str(submission.SPEC) in mounted
    assert f"adapters:{submission.VOLUME}" in submit["volumes"]
