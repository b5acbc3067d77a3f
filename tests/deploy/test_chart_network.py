"""Who reaches whom within the chart: what a role needs, and nothing else."""

from collections.abc import Mapping

import pytest
from reaching import Place, reaches, selects
from rendered import NAMESPACE, SETS, Object, objects_in, objects_of, of_kind, pods, render

NEEDED = {
    *(
        ("edge", "cloud", 7400),
        ("client", "cloud", 7400),
        ("node-client", "cloud", 7400),
        ("operator", "cloud", 7400),
    ),
    *(("client", "edge", 7500), ("node-client", "edge", 7500)),
}
PORTS = (7400, 7480, 7490, 7500)
STRANGER = Place(labels={"app": "other"})
SCRAPER = Place(namespace="observability", labels={"app": "prometheus"})
OUTSIDE = Place(namespace=None, address="203.0.113.9")
FULL = {
    "nodeClients": {"enabled": True, "data": {"rows": "builtin"}},
    "clients": [{"name": "a", "data": {"rows": "builtin"}}, {"name": "b", "data": {"rows": "builtin"}}],
    "metrics": {"enabled": True, "fromNamespace": "observability"},
}


def everything() -> tuple[tuple[Object, ...], dict[str, Place]]:
    given = objects_in(render(FULL))
    return given, {pod.name: Place(labels=pod.labels) for pod in pods(given)}


def component(place: Place) -> str:
    return place.labels["app.kubernetes.io/component"]


def test_pods_reach_what_their_role_needs_and_nothing_else() -> None:
    given, places = everything()
    policies = of_kind(given, "NetworkPolicy")
    for one in places.values():
        for other in places.values():
            for port in PORTS:
                needed = (component(one), component(other), port) in NEEDED
                assert reaches(policies, one, other, port) is needed, (component(one), component(other), port)


def test_clients_do_not_reach_each_other() -> None:
    given, places = everything()
    clients = [place for place in places.values() if "client" in component(place)]
    assert len(clients) == 3
    for one in clients:
        for other in clients:
            for port in (*PORTS, 22, 443):
                assert not reaches(of_kind(given, "NetworkPolicy"), one, other, port)


def test_nobody_else_reaches_a_pod_and_pods_reach_nobody_else() -> None:
    given, places = everything()
    policies = of_kind(given, "NetworkPolicy")
    for place in places.values():
        for port in (*PORTS, 443):
            for other in (STRANGER, OUTSIDE, Place(namespace="default")):
                assert not reaches(policies, other, place, port)
                assert not reaches(policies, place, other, port)


def test_names_are_asked_for_where_they_are_answered() -> None:
    given, places = everything()
    answering = Place(namespace="kube-system", labels={"k8s-app": "kube-dns"})
    for place in places.values():
        for protocol in ("UDP", "TCP"):
            assert reaches(of_kind(given, "NetworkPolicy"), place, answering, 53, protocol)
        assert not reaches(of_kind(given, "NetworkPolicy"), place, answering, 443)


def test_names_are_asked_for_at_the_cache_of_ones_own_node() -> None:
    given, places = everything()
    cache = Place(namespace=None, address="169.254.20.10")  # NodeLocal DNSCache listens there, in the node's network
    for place in places.values():
        for protocol in ("UDP", "TCP"):
            assert reaches(of_kind(given, "NetworkPolicy"), place, cache, 53, protocol)
        assert not reaches(of_kind(given, "NetworkPolicy"), place, cache, 443)


def test_metrics_are_read_from_their_namespace_alone() -> None:
    given, places = everything()
    policies = of_kind(given, "NetworkPolicy")
    for place in places.values():
        assert reaches(policies, SCRAPER, place, 7490)
        assert not reaches(policies, SCRAPER, place, 7400)
        assert not reaches(policies, Place(namespace="default"), place, 7490)


@pytest.mark.parametrize("name", SETS)
def test_policies_choose_pods_that_exist(name: str) -> None:
    given = objects_of(name)
    labels = [pod.labels for pod in pods(given)]
    for policy in of_kind(given, "NetworkPolicy"):
        chosen = [each for each in labels if _chosen(policy, each)]
        assert chosen, policy["metadata"]["name"]


def _chosen(policy: Object, labels: Mapping[str, str]) -> bool:
    return selects(policy["spec"]["podSelector"], labels)


@pytest.mark.parametrize("name", SETS)
def test_every_pod_is_under_the_default_denial(name: str) -> None:
    given = objects_of(name)
    (denial,) = [
        each for each in of_kind(given, "NetworkPolicy") if each["metadata"]["name"].endswith("default-deny")
    ]
    assert set(denial["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in denial["spec"]
    assert all(_chosen(denial, pod.labels) for pod in pods(given))


def test_callers_by_value_reach_servers_alone() -> None:
    given = objects_of("outside-loadbalancer")
    policies = of_kind(given, "NetworkPolicy")
    for pod in pods(given):
        place = Place(labels=pod.labels)
        assert reaches(policies, OUTSIDE, place, 7400) is (component(place) == "cloud")
        assert reaches(policies, OUTSIDE, place, 7500) is (component(place) == "edge")
        assert not reaches(policies, Place(namespace=None, address="198.51.100.9"), place, 7400)


def test_a_port_of_every_machine_lets_machines_in_and_not_whom_they_stand_for() -> None:
    given = objects_of("outside-nodeport")
    machine, caller = Place(namespace=None, address="192.0.2.17"), OUTSIDE
    for pod in pods(given):
        if pod.role != "admin":
            place, port = Place(labels=pod.labels), {"cloud": 7400, "edge": 7500}[component(Place(labels=pod.labels))]
            assert reaches(of_kind(given, "NetworkPolicy"), machine, place, port)
            assert not reaches(of_kind(given, "NetworkPolicy"), caller, place, port)


def test_the_cloud_reaches_its_bucket_and_no_other_role_does() -> None:
    given = objects_of("bucket")
    for pod in pods(given):
        place = Place(labels=pod.labels)
        assert reaches(of_kind(given, "NetworkPolicy"), place, OUTSIDE, 443) is (component(place) == "cloud")


def test_the_cloud_reaches_its_database_and_no_other_role_does() -> None:
    given = objects_of("postgres")
    database = Place(labels={"app.kubernetes.io/name": "postgresql"})
    for pod in pods(given):
        place = Place(labels=pod.labels)
        assert reaches(of_kind(given, "NetworkPolicy"), place, database, 5432) is (component(place) == "cloud")


def test_clients_of_another_release_reach_the_cloud_that_was_named() -> None:
    given = objects_of("node-clients")
    (client,) = [Place(labels=pod.labels) for pod in pods(given)]
    elsewhere = Place(namespace="elsa-of-others")
    fleet = Place(namespace=NAMESPACE, labels={"app.kubernetes.io/instance": "fleet"})
    policies = of_kind(given, "NetworkPolicy")
    assert reaches(policies, client, fleet, 7400)
    assert reaches(policies, client, fleet, 7500)
    assert not reaches(policies, client, elsewhere, 7400)


def test_policies_may_be_left_to_others() -> None:
    assert not of_kind(objects_in(render({"networkPolicy": {"enabled": False}})), "NetworkPolicy")
