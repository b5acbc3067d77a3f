"""What the chart renders is what Kubernetes takes: with every set of values that the tree ships."""

import json
from collections import Counter
from typing import Any

import kubernetes_validate
import pytest
from cluster import STATEFUL_SETS, answering, render_in
from helm_python.chart import lint
from rendered import SETS, WORKLOADS, Object, notes_of, objects_in, objects_of, of_kind, pods, render, render_anew

from deploy.render import CHART

OLDEST, NEWEST = "1.27", "1.37"
"""The oldest that Chart.yaml allows, and what there is after it."""
KNOWN_ELSEWHERE = ("cert-manager.io/v1", "monitoring.coreos.com/v1")
every_set = pytest.mark.parametrize("name", SETS)


@every_set
def test_lint_finds_nothing(name: str) -> None:
    found = lint(CHART, SETS[name], strict=True, namespace="elsa")
    assert [message for message in found["messages"] if "icon is recommended" not in message["error"]] == []
    assert found["errors"] == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid(version: str) -> None:
    different = {json.dumps(each, sort_keys=True): each for name in SETS for each in objects_of(name)}
    for each in different.values():
        if each["apiVersion"] not in KNOWN_ELSEWHERE:
            kubernetes_validate.validate(each, version, strict=True)


@every_set
def test_rendering_twice_is_the_same(name: str) -> None:
    assert render_anew(SETS[name]) == render(SETS[name])


@every_set
def test_no_two_objects_share_a_name(name: str) -> None:
    names = Counter((each["kind"], each["metadata"]["name"]) for each in objects_of(name))
    assert [each for each, count in names.items() if count > 1] == []


@every_set
def test_no_two_workloads_share_a_name_or_pods(name: str) -> None:
    workloads = of_kind(objects_of(name), *WORKLOADS)
    assert len({each["metadata"]["name"] for each in workloads}) == len(workloads)
    own = [tuple(sorted(pod.labels.items())) for pod in pods(objects_of(name))]
    assert len(set(own)) == len(own)


@every_set
def test_workloads_select_their_own_pods_alone(name: str) -> None:
    everyone = list(pods(objects_of(name)))
    for workload in of_kind(objects_of(name), "StatefulSet", "Deployment", "DaemonSet"):
        wanted = workload["spec"]["selector"]["matchLabels"].items()
        chosen = [pod for pod in everyone if wanted <= pod.labels.items()]
        assert chosen
        assert all(pod.workload is workload for pod in chosen)


@every_set
def test_two_releases_of_a_namespace_share_nothing(name: str) -> None:
    first, second = objects_in(render(SETS[name], "north")), objects_in(render(SETS[name], "south"))
    assert not _names(first) & _names(second)
    for one in of_kind(first, "StatefulSet", "Deployment", "DaemonSet"):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        assert not any(wanted <= pod.labels.items() for pod in pods(second))


def _names(given: tuple[Object, ...]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in given}


@every_set
def test_services_lead_to_ports_that_containers_open(name: str) -> None:
    everyone = list(pods(objects_of(name), most=100))
    for service in of_kind(objects_of(name), "Service"):
        chosen = [pod for pod in everyone if service["spec"]["selector"].items() <= pod.labels.items()]
        serving = [pod for pod in chosen if pod.role != "admin"]
        assert serving, service["metadata"]["name"]
        for pod in serving:
            opened = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
            for port in service["spec"]["ports"]:
                assert opened[port["targetPort"]] == port["port"]


@every_set
def test_what_names_an_object_of_the_release_names_one(name: str) -> None:
    given = objects_of(name)
    services = {each["metadata"]["name"]: each for each in of_kind(given, "Service")}
    for each in of_kind(given, "StatefulSet"):
        assert each["spec"]["serviceName"] in services
    for each in of_kind(given, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in _names(given)
    for each in of_kind(given, "Ingress"):
        for rule in each["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                ports = [port["name"] for port in services[backend["name"]]["spec"]["ports"]]
                assert backend["port"]["name"] in ports
    for pod in pods(given):
        assert ("ServiceAccount", pod.spec["serviceAccountName"]) in _names(given)


@every_set
def test_an_edge_is_reached_at_the_name_that_it_tells(name: str) -> None:
    if SETS[name].get("outside", {}).get("advertise"):
        return  # told is a name outside
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects_of(name), "Service")}
    for pod in pods(objects_of(name)):
        if pod.role == "edge":
            host, service, namespace, rest = pod.environment["ELSA_ADVERTISE"].split(".")
            assert (host, namespace, rest) == (pod.name, "elsa", "svc:7500")
            assert service == pod.workload["spec"]["serviceName"]
            assert services[service]["clusterIP"] == "None"  # else pods would have no names


def test_clients_inside_stay_inside_where_others_are_told_a_name_outside() -> None:
    given = objects_of("outside-loadbalancer")
    (client,) = [pod for pod in pods(given) if pod.role == "client"]
    edges = [pod for pod in pods(given, most=4) if pod.role == "edge"]
    inside = {pod.name: f"{pod.name}.elsa-edge.elsa.svc:7500" for pod in edges}
    assert json.loads(client.environment["ELSA_EDGE_ADDRESSES"]) == inside
    assert {pod.environment["ELSA_ADVERTISE"] for pod in edges} == {
        f"{pod.name}.fleet.example.org:7500" for pod in edges
    }


def test_each_edge_has_a_service_outside_that_leads_to_it_alone() -> None:
    for name in ("outside-loadbalancer", "outside-nodeport", "outside-ingress"):
        given = objects_of(name)
        edges = [pod for pod in pods(given, most=10) if pod.role == "edge"]
        for service in of_kind(given, "Service"):
            if service["metadata"]["name"].startswith("elsa-edge-"):
                chosen = [pod.name for pod in edges if service["spec"]["selector"].items() <= pod.labels.items()]
                assert chosen == [service["metadata"]["name"]]


def test_a_machine_without_the_pod_passes_on_what_comes_to_a_port_of_every_machine() -> None:
    expected = {"NodePort": "Cluster", "LoadBalancer": "Local", "ClusterIP": None}
    for name in ("outside-loadbalancer", "outside-nodeport", "outside-ingress"):
        outside = [each["spec"] for each in of_kind(objects_of(name), "Service") if "type" in each["spec"]]
        assert outside
        for spec in outside:
            assert spec.get("externalTrafficPolicy") == expected[spec["type"]]


def test_nothing_is_open_to_the_outside_by_default() -> None:
    for name in SETS:
        types = {service["spec"].get("type", "ClusterIP") for service in of_kind(objects_of(name), "Service")}
        if "outside" not in SETS[name]:
            assert types <= {"ClusterIP"}
            assert not of_kind(objects_of(name), "Ingress")


def test_a_service_monitor_finds_the_service_of_metrics() -> None:
    (monitor,) = of_kind(objects_of("metrics"), "ServiceMonitor")
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"namespaceSelector", "selector", "podTargetLabels", "endpoints"}
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["elsa"]}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [
        each for each in of_kind(objects_of("metrics"), "Service") if wanted <= each["metadata"]["labels"].items()
    ]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


@every_set
def test_disruption_budgets_let_a_node_be_drained(name: str) -> None:
    for budget in of_kind(objects_of(name), "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] != 0
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= pod.labels.items() for pod in pods(objects_of(name)))


def test_the_autoscaler_takes_edges_away_slowly_and_sets_no_replicas() -> None:
    given = objects_of("autoscaling")
    (scaler,) = of_kind(given, "HorizontalPodAutoscaler")
    (edges,) = [each for each in of_kind(given, "StatefulSet") if each["metadata"]["name"] == "elsa-edge"]
    assert "replicas" not in edges["spec"]
    down = scaler["spec"]["behavior"]["scaleDown"]
    (policy,) = down["policies"]
    assert policy["type"] == "Pods"
    assert policy["value"] == 1
    assert policy["periodSeconds"] >= edges["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert down["stabilizationWindowSeconds"] >= policy["periodSeconds"]
    assert scaler["spec"]["maxReplicas"] == 10


@pytest.mark.parametrize("live", [1, 7, 10])
def test_an_upgrade_that_turns_autoscaling_on_keeps_the_edges_that_there_are(live: int) -> None:
    with answering({STATEFUL_SETS: {"elsa-edge": {"replicas": live}}}) as address:
        (edges,) = [each for each in render_in(address, SETS["autoscaling"]) if _is_edges(each)]
    assert edges["spec"]["replicas"] == live


def test_an_installation_leaves_the_count_of_edges_to_the_autoscaler() -> None:
    with answering({STATEFUL_SETS: {}}) as address:
        (edges,) = [each for each in render_in(address, SETS["autoscaling"]) if _is_edges(each)]
    assert "replicas" not in edges["spec"]


def test_without_autoscaling_the_count_is_that_of_the_values() -> None:
    with answering({STATEFUL_SETS: {"elsa-edge": {"replicas": 7}}}) as address:
        (edges,) = [each for each in render_in(address, {}) if _is_edges(each)]
    assert edges["spec"]["replicas"] == 2


def _is_edges(each: Object) -> bool:
    return (each["kind"], each["metadata"]["name"]) == ("StatefulSet", "elsa-edge")


@every_set
def test_volumes_of_edges_that_are_scaled_away_stay(name: str) -> None:
    for each in of_kind(objects_of(name), "StatefulSet"):
        assert each["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }


@every_set
def test_scaling_edges_restarts_none(name: str) -> None:
    values = SETS[name]
    if values.get("edges", {}).get("enabled") is False:
        return
    more: dict[str, Any] = values | {"edges": values.get("edges", {}) | {"replicas": 1}}
    assert _edge_template(render(values)) == _edge_template(render(more))


def _edge_template(rendered: dict[str, str]) -> Any:
    workloads = of_kind(objects_in(rendered), "StatefulSet")
    return next(each["spec"]["template"] for each in workloads if each["metadata"]["name"] == "elsa-edge")


@every_set
def test_notes_say_how_to_go_on(name: str) -> None:
    cloud_here = SETS[name].get("cloud", {}).get("enabled", True)
    assert ("elsa run submit" in notes_of(name)) is cloud_here


def test_the_log_of_the_test_is_there_to_be_read_after_it() -> None:
    """Many versions of Helm delete what has succeeded before `helm test --logs` reads it."""
    (pod,) = of_kind(objects_of("default"), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
