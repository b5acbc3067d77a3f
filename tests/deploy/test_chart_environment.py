"""The environment that the chart gives a pod is one that its role understands."""

import dataclasses
import os
import re
from typing import Any

import pytest
from helm_python import HelmError
from rendered import NODE, SETS, Pod, every_pod, objects_in, objects_of, pods, render

from deploy.settings_schema import CHARTS_OWN, ROLES
from services.cli.reach import Reach
from services.edge.settings import EdgeSettings

OTHERS = {"POD_NAME", "POD_NAMESPACE", "NODE_NAME", "XDG_CACHE_HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
MODELS: dict[str, Any] = dict(ROLES)


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ELSA_")]:
        monkeypatch.delenv(name)


def known(pod: Pod) -> set[str]:
    """The variables that a pod's role reads."""
    if pod.role == "admin":
        return {f"ELSA_{field.name.upper()}" for field in dataclasses.fields(Reach)}
    return {f"ELSA_{field.upper()}" for field in MODELS[pod.role].model_fields}


@every_pod
def test_every_variable_is_a_setting_of_the_role(pod: Pod) -> None:
    assert set(pod.environment) - OTHERS <= known(pod)


@every_pod
def test_no_variable_is_given_twice(pod: Pod) -> None:
    names = [variable["name"] for variable in pod.container["env"]]
    assert len(set(names)) == len(names)


@every_pod
def test_every_reference_is_to_a_variable_before(pod: Pod) -> None:
    assert [value for value in pod.environment.values() if re.search(r"\$[({]", value)] == []


@pytest.mark.parametrize("name", SETS)
def test_settings_are_taken_as_they_are_given(name: str) -> None:
    for pod in pods(objects_of(name)):
        if pod.role == "admin":
            continue
        with pytest.MonkeyPatch.context() as environment:
            for variable, value in pod.environment.items():
                environment.setenv(variable, value)
            settings = MODELS[pod.role].load()
        assert settings.tls is not None
        for variable, value in pod.environment.items():
            given = getattr(settings, variable.removeprefix("ELSA_").lower(), None)
            if variable.startswith("ELSA_") and isinstance(given, str | int | float):
                assert str(given) in (value, f"{value}.0")


@every_pod
def test_nodes_call_the_cloud_of_their_release_or_the_one_that_was_named(pod: Pod) -> None:
    named = {"node-clients": "elsa-cloud.elsa.svc:7400", "site": "fleet.example.org:7400"}
    if pod.role != "cloud":
        expected = {"elsa-cloud.elsa.svc:7400", *named.values()}
        assert pod.environment["ELSA_CLOUD"] in expected


def test_threads_follow_the_limit_of_the_cpu_unless_settings_say_otherwise() -> None:
    for threads, values in (("8", SETS["gpu"]), ("3", {"edges": {"settings": {"threads": 3}}}), ("2", {})):
        edges = [pod for pod in pods(objects_in(render(values))) if pod.role == "edge"]
        assert {pod.environment["ELSA_THREADS"] for pod in edges} == {threads}


@pytest.mark.parametrize("bytes_", [1, 2**20, 10**9, 2**31, 2**53])
def test_whole_numbers_keep_all_their_digits(bytes_: int) -> None:
    cloud = _cloud({"max_adapter_bytes": bytes_, "heartbeat_s": 0.5})
    assert cloud.environment["ELSA_MAX_ADAPTER_BYTES"] == str(bytes_)
    assert cloud.environment["ELSA_HEARTBEAT_S"] == "0.5"


def _cloud(settings: dict[str, Any]) -> Pod:
    return next(pod for pod in pods(objects_in(render({"cloud": {"settings": settings}}))) if pod.role == "cloud")


def test_the_database_is_named_by_reference_alone() -> None:
    (cloud,) = [pod for pod in pods(objects_of("postgres")) if pod.role == "cloud"]
    (variable,) = [each for each in cloud.container["env"] if each["name"] == "ELSA_DATABASE_URL"]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "elsa-database", "key": "url"}}


def test_no_grace_is_given_that_an_edge_would_refuse() -> None:
    most = EdgeSettings.model_json_schema()["properties"]["grace_s"]["maximum"]
    with pytest.raises(HelmError, match="graceS"):
        render({"edges": {"graceS": most + 1}})
    assert render({"edges": {"graceS": most}})


def test_a_client_of_a_node_has_the_nodes_name_and_certificate() -> None:
    (client,) = pods(objects_of("node-clients"))
    assert client.environment["ELSA_NAME"] == NODE
    assert client.environment["ELSA_TLS_CERT"] == f"/etc/elsa/tls/{NODE}.pem"
    assert client.environment["ELSA_TLS_KEY"] == f"/etc/elsa/tls/{NODE}.key"
    assert client.environment["ELSA_TLS_CA"] == "/etc/elsa/tls/ca.pem"


def test_the_charts_own_settings_exist() -> None:
    fields = {field for model in ROLES.values() for field in model.model_fields}
    assert fields >= CHARTS_OWN


def test_servers_and_probes_listen_where_the_kubelet_and_peers_reach_them() -> None:
    for listen in ("0.0.0.0", "::"):
        for pod in pods(objects_in(render({"listen": listen, "metrics": {"enabled": True}}))):
            hosts = {name: value for name, value in pod.environment.items() if name.endswith("HOST")}
            assert set(hosts.values()) <= {listen}
            assert len(hosts) == (0 if pod.role == "admin" else 3)
