"""What a value says takes effect where it should, and nowhere else."""

import json
from pathlib import PurePath
from typing import Any

import pytest
from helm_python import HelmError
from rendered import SETS, Object, Pod, every_pod, objects_in, objects_of, of_kind, pods, render

from deploy.settings_schema import ROLES, settings_schema
from services.rpc.identity import Identity

CLIENT = {"name": "a", "data": {"rows": "builtin"}}
ALL: dict[str, Any] = {"clients": [CLIENT], "nodeClients": {"enabled": True, "data": {"rows": "builtin"}}}
COMPONENT = {"cloud": "cloud", "edges": "edge", "clientDefaults": "client", "nodeClients": "node-client"}
PLACE: dict[str, Any] = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "slow", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "high",
}
AFFINITY: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
AMOUNTS = {"requests": {"cpu": "3", "memory": "5Gi"}, "limits": {"cpu": "4", "memory": "6Gi"}}
AUTHORITY = "elsa-authority"


def given_to(role: str, values: dict[str, Any]) -> dict[str, Any]:
    """A release with pods of all roles, with these values for one."""
    return ALL | {role: ALL.get(role, {}) | values}


def of_role(role: str, values: dict[str, Any]) -> tuple[list[Pod], list[Pod]]:
    """The pods of a role that was given these values, and all others."""
    every = list(pods(objects_in(render(given_to(role, values)))))
    own = [pod for pod in every if pod.component == COMPONENT[role]]
    return own, [pod for pod in every if pod not in own]


@pytest.mark.parametrize("role", COMPONENT)
def test_a_pod_is_placed_as_the_values_of_its_role_say(role: str) -> None:
    asked = PLACE | ({} if role == "nodeClients" else {"affinity": AFFINITY})
    own, others = of_role(role, asked)
    assert own
    for pod in own:
        assert asked["nodeSelector"].items() <= pod.spec["nodeSelector"].items()
        assert all(pod.spec[name] == value for name, value in asked.items() if name != "nodeSelector")
    for pod in others:
        assert not {"tolerations", "priorityClassName", "affinity"} & set(pod.spec)


@pytest.mark.parametrize("role", COMPONENT)
def test_a_container_may_use_what_the_values_of_its_role_say(role: str) -> None:
    own, others = of_role(role, {"resources": AMOUNTS})
    assert own
    assert all(pod.container["resources"] == AMOUNTS for pod in own)
    assert all(pod.container["resources"] != AMOUNTS for pod in others)


def test_as_many_gpus_are_asked_for_as_the_values_say() -> None:
    own, _ = of_role("edges", {"gpu": {"count": 2, "resource": "amd.com/gpu"}})
    assert [pod.container["resources"]["limits"]["amd.com/gpu"] for pod in own] == [2, 2]


@pytest.mark.parametrize("role", ["cloud", "edges", "clientDefaults"])
def test_a_claim_asks_for_the_size_and_class_that_the_values_say(role: str) -> None:
    given = objects_in(render(given_to(role, {"storage": {"size": "7Gi", "className": "fast"}})))
    claims = {component(each): each["spec"] for each in of_kind(given, "PersistentVolumeClaim")}
    for workload in of_kind(given, "StatefulSet"):
        (claims[component(workload)],) = [each["spec"] for each in workload["spec"]["volumeClaimTemplates"]]
    asked = {name: (spec["resources"], spec.get("storageClassName")) for name, spec in claims.items()}
    assert len(asked) == 3
    assert asked.pop(COMPONENT[role]) == ({"requests": {"storage": "7Gi"}}, "fast")
    assert all(size != {"requests": {"storage": "7Gi"}} and kind is None for size, kind in asked.values())


def component(each: Object) -> str:
    return str(each["metadata"]["labels"]["app.kubernetes.io/component"])


@every_pod
def test_a_role_keeps_its_state_on_its_volume(pod: Pod) -> None:
    claims = [each["metadata"]["name"] for each in pod.workload["spec"].get("volumeClaimTemplates", [])]
    places = [each["mountPath"] for each in pod.container["volumeMounts"] if each["name"] in claims]
    if pod.role in ("cloud", "edge"):
        assert any(PurePath(pod.environment["ELSA_STATE"]).is_relative_to(place) for place in places)


def test_pods_pull_images_with_the_secrets_that_are_named() -> None:
    for pod in pods(objects_in(render(ALL | {"images": {"pullSecrets": ["first", "second"]}}))):
        assert pod.spec["imagePullSecrets"] == [{"name": "first"}, {"name": "second"}]


@pytest.mark.parametrize("role", ["cloud", "edges"])
def test_a_longer_grace_is_told_to_the_role_and_granted_by_the_cluster(role: str) -> None:
    stops = []
    for grace_s in (20, 220):
        own, _ = of_role(role, {"graceS": grace_s})
        assert {pod.environment["ELSA_GRACE_S"] for pod in own} == {str(grace_s)}
        stops.append(own[0].spec["terminationGracePeriodSeconds"])
    assert stops[1] - stops[0] == 200


@every_pod
def test_a_role_is_given_minutes_to_start(pod: Pod) -> None:
    if pod.role != "admin":
        startup = pod.container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 240


@pytest.mark.parametrize("name", SETS)
def test_accounts_give_no_pod_a_token(name: str) -> None:
    accounts = of_kind(objects_of(name), "ServiceAccount")
    assert accounts
    assert all(each["automountServiceAccountToken"] is False for each in accounts)


def test_as_many_pods_may_be_away_as_the_values_say_and_broken_ones_go_first() -> None:
    given = objects_in(render(ALL | {"edges": {"maxUnavailable": 2}, "clientsMaxUnavailable": 3}))
    budgets = {each["metadata"]["name"]: each["spec"] for each in of_kind(given, "PodDisruptionBudget")}
    away = {name: spec["maxUnavailable"] for name, spec in budgets.items()}
    assert away == {"elsa-cloud": 1, "elsa-edge": 2, "elsa-clients": 3}
    assert all(spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for spec in budgets.values())


@pytest.mark.parametrize("name", SETS)
def test_every_way_that_a_policy_opens_is_to_ports_that_it_names(name: str) -> None:
    for policy in of_kind(objects_of(name), "NetworkPolicy"):
        for way in ("ingress", "egress"):
            assert all(rule.get("ports") for rule in policy["spec"].get(way, []))


def test_edges_are_spread_over_machines_as_far_as_there_are_any() -> None:
    for spread in (True, False):
        own, _ = of_role("edges", {"spread": spread})
        asked = [each["whenUnsatisfiable"] for each in own[0].spec.get("topologySpreadConstraints", [])]
        assert asked == (["ScheduleAnyway"] if spread else [])


def test_the_autoscaler_goes_by_the_values() -> None:
    own: list[dict[str, Any]] = [{"type": "Pods", "pods": {"metric": {"name": "elsa_sessions"}}}]
    scaling = {"enabled": True, "least": 3, "cpuPercent": 55, "scaleDownAfterS": 1900, "scaleDownEveryS": 700}
    for metrics in ([], own):
        values = {"edges": {"most": 5, "autoscaling": scaling | {"metrics": metrics}}}
        (scaler,) = [each["spec"] for each in of_kind(objects_in(render(values)), "HorizontalPodAutoscaler")]
        assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 5)
        down = scaler["behavior"]["scaleDown"]
        assert (down["stabilizationWindowSeconds"], down["policies"][0]["periodSeconds"]) == (1900, 700)
        by_cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 55}}
        assert scaler["metrics"] == (metrics or [{"type": "Resource", "resource": by_cpu}])


def outside(name: str) -> dict[str, Object]:
    """The Services that lead in from outside, by name."""
    every = of_kind(objects_of(name), "Service")
    return {each["metadata"]["name"]: each for each in every if "type" in each["spec"]}


def test_a_load_balancer_lets_nobody_in_but_the_ranges_that_are_named() -> None:
    found = outside("outside-loadbalancer")
    assert len(found) == 5
    assert all(each["spec"]["loadBalancerSourceRanges"] == ["203.0.113.0/24"] for each in found.values())


def test_each_server_has_the_name_outside_that_is_made_of_its_own() -> None:
    key = "external-dns.alpha.kubernetes.io/hostname"
    for name, each in outside("outside-loadbalancer").items():
        assert each["metadata"]["annotations"][key] == f"{name.removesuffix('-outside')}.fleet.example.org"


def test_each_server_has_the_port_of_every_machine_that_is_named_for_it() -> None:
    found = {name: each["spec"]["ports"][0]["nodePort"] for name, each in outside("outside-nodeport").items()}
    assert found == {"elsa-cloud-outside": 30740, "elsa-edge-0": 30750, "elsa-edge-1": 30751}


def test_an_ingress_is_of_the_class_that_is_named_and_says_what_it_is_told() -> None:
    (ingress,) = of_kind(objects_of("outside-ingress"), "Ingress")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["metadata"]["annotations"] == {"nginx.ingress.kubernetes.io/ssl-passthrough": "true"}


@pytest.mark.parametrize("name", SETS)
def test_an_edge_has_its_name_before_it_is_ready_as_it_is_called_at_it(name: str) -> None:
    for each in of_kind(objects_of(name), "Service"):
        if component(each) == "edge":
            assert each["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("source", ["cert-manager", "csi"])
def test_certificates_last_as_long_as_the_values_say_and_their_keys_are_made_anew(source: str) -> None:
    asked = {"from": source, "duration": "48h", "renewBefore": "12h"}
    given = objects_in(render(ALL | {"certificates": asked}))
    found = [each["spec"] for each in of_kind(given, "Certificate") if each["metadata"]["name"] != AUTHORITY]
    assert found
    assert all((each["duration"], each["renewBefore"]) == ("48h", "12h") for each in found)
    assert all(each["privateKey"]["rotationPolicy"] == "Always" for each in found)
    asked_of_driver = [pod.volume("tls")["csi"]["volumeAttributes"] for pod in pods(given) if in_csi(pod)]
    assert bool(asked_of_driver) is (source == "csi")
    for attributes in asked_of_driver:
        told = [attributes[f"csi.cert-manager.io/{name}"] for name in ("duration", "renew-before")]
        assert told == ["48h", "12h"]


def in_csi(pod: Pod) -> bool:
    return "csi" in pod.volume("tls")


def test_the_authority_of_a_release_outlives_what_it_signs_and_keeps_its_key() -> None:
    given = objects_in(render({"certificates": {"from": "cert-manager"}}))
    (authority,) = [each["spec"] for each in of_kind(given, "Certificate") if each["metadata"]["name"] == AUTHORITY]
    assert authority["isCA"] is True
    assert authority["privateKey"]["rotationPolicy"] == "Never"
    left_h = int(authority["renewBefore"].removesuffix("h"))
    others = [each["spec"] for each in of_kind(given, "Certificate") if "isCA" not in each["spec"]]
    assert all(int(each["duration"].removesuffix("h")) <= left_h for each in others)


def test_the_databases_url_is_read_from_the_key_that_is_named() -> None:
    allowed = SETS["postgres"]["networkPolicy"]
    database = {"secretName": "records", "secretKey": "dsn"}
    own = [
        pod
        for pod in pods(objects_in(render({"cloud": {"database": database}, "networkPolicy": allowed})))
        if pod.role == "cloud"
    ]
    assert [pod.environment["ELSA_DATABASE_URL"] for pod in own] == ["postgresql+pg8000://records/dsn"]


def test_a_monitor_asks_as_often_as_the_values_say() -> None:
    (monitor,) = of_kind(objects_of("metrics"), "ServiceMonitor")
    assert [each["interval"] for each in monitor["spec"]["endpoints"]] == ["15s"]


def test_the_admin_of_a_release_is_called_as_the_values_say() -> None:
    given = objects_in(render({"certificates": {"from": "cert-manager", "admin": "ops"}}))
    uris = [uri for each in of_kind(given, "Certificate") for uri in each["spec"].get("uris", [])]
    assert Identity("admin", "ops").uri in uris
    assert Identity("admin", "operator").uri not in uris


def test_a_client_is_told_which_rows_it_offers_and_which_it_keeps_back() -> None:
    rows = {"data": {"notes": "/data/notes.jsonl"}, "heldout": {"notes": "/data/kept.jsonl"}}
    values = {"clients": [CLIENT | rows], "nodeClients": {"enabled": True} | rows}
    told = [pod.environment for pod in pods(objects_in(render(values))) if pod.role == "client"]
    assert len(told) == 2
    for variables in told:
        assert {name: json.loads(variables[f"ELSA_{name.upper()}"]) for name in rows} == rows


def test_what_the_chart_says_to_a_role_its_settings_cannot_say_otherwise() -> None:
    """But for the threads, which are the pod's unless settings say otherwise."""
    for pod in pods(objects_in(render(ALL | {"metrics": {"enabled": True}}))):
        if pod.role != "admin":
            variables = [each["name"] for each in pod.container["env"]]
            free = {f"ELSA_{name.upper()}" for name in settings_schema(ROLES[pod.role])["properties"]}
            assert len(set(variables)) == len(variables)
            assert set(variables) & free <= {"ELSA_THREADS"}


def test_volumes_of_edges_that_are_taken_away_are_kept_or_deleted_and_nothing_else() -> None:
    for asked in ("Retain", "Delete"):
        given = objects_in(render({"edges": {"storage": {"whenScaled": asked}}}))
        kept = [
            each["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] for each in stateful(given, "edge")
        ]
        assert kept == [asked]
    with pytest.raises(HelmError):
        render({"edges": {"storage": {"whenScaled": "Never"}}})


def stateful(given: tuple[Object, ...], name: str) -> list[Object]:
    return [each for each in of_kind(given, "StatefulSet") if component(each) == name]
