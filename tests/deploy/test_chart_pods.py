"""Every pod of the chart: what it may do, what it may use, and how it is watched."""

import pytest
from rendered import SETS, Pod, every_pod, notes_of, objects_of, of_kind, pods

from services.edge import service as edge
from services.edge.settings import EdgeSettings
from services.rpc.node import CALL_TIMEOUT_S

RESTRICTED = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
}
"""Kinds of volumes that Pod Security "restricted" lets a pod have."""
USER = 10001


@every_pod
def test_pods_are_restricted(pod: Pod) -> None:
    whole, own = pod.spec["securityContext"], pod.container["securityContext"]
    assert whole["runAsNonRoot"] is True
    assert whole["runAsUser"] == whole["runAsGroup"] == whole["fsGroup"] == USER
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["privileged"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod.spec)
    assert not any("hostPort" in port for port in pod.container.get("ports", []))


@every_pod
def test_only_clients_of_nodes_mount_folders_of_the_node(pod: Pod) -> None:
    kinds = {kind for volume in pod.spec["volumes"] for kind in set(volume) - {"name"}}
    assert kinds <= (RESTRICTED | {"hostPath"} if pod.component == "node-client" else RESTRICTED)
    mounts = {mount["name"]: mount.get("readOnly", False) for mount in pod.container["volumeMounts"]}
    assert all(mounts[volume["name"]] for volume in pod.spec["volumes"] if "hostPath" in volume)


@every_pod
def test_pods_have_no_token_and_no_links(pod: Pod) -> None:
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.spec["enableServiceLinks"] is False  # a Service named `elsa` would set ELSA_PORT


@every_pod
def test_a_container_writes_to_its_state_and_to_tmp_alone(pod: Pod) -> None:
    assert pod.container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = pod.container["volumeMounts"]
    assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == {"/var/lib/elsa", "/tmp"}
    assert "sizeLimit" in pod.volume("temporary")["emptyDir"]


@every_pod
def test_mounts_and_volumes_match(pod: Pod) -> None:
    claims = [each["metadata"]["name"] for each in pod.workload["spec"].get("volumeClaimTemplates", [])]
    volumes = [volume["name"] for volume in pod.spec["volumes"]] + claims
    mounts = [mount["name"] for mount in pod.container["volumeMounts"]]
    assert len(set(volumes)) == len(volumes)
    assert sorted(volumes) == sorted(mounts)


@every_pod
def test_a_container_has_requests_and_limits(pod: Pod) -> None:
    for amounts in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(pod.container["resources"][amounts])


@every_pod
def test_a_service_is_probed_where_it_listens_for_probes(pod: Pod) -> None:
    if pod.role == "admin":
        return  # ends by itself
    opened = {port["containerPort"] for port in pod.container["ports"]}
    assert int(pod.environment["ELSA_PROBE_PORT"]) in opened
    for probe, service in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", None)):
        asked = pod.container[probe]["grpc"]
        assert asked["port"] == int(pod.environment["ELSA_PROBE_PORT"])
        assert asked.get("service") == service


@every_pod
def test_what_is_served_is_opened(pod: Pod) -> None:
    opened = {port["containerPort"] for port in pod.container.get("ports", [])}
    for variable in ("ELSA_PORT", "ELSA_METRICS_PORT"):
        if variable in pod.environment:
            assert int(pod.environment[variable]) in opened


@every_pod
def test_a_pod_gets_longer_than_its_role_takes_to_stop(pod: Pod) -> None:
    if "ELSA_GRACE_S" in pod.environment:
        afterwards = edge.ANSWER_S + edge.JOIN_S + CALL_TIMEOUT_S if pod.role == "edge" else 0
        least = int(pod.environment["ELSA_GRACE_S"]) + afterwards + 20
        assert pod.spec["terminationGracePeriodSeconds"] >= least


@pytest.mark.parametrize("name", SETS)
def test_a_pod_mounts_no_secret_that_is_neither_made_nor_told(name: str) -> None:
    made = {each["spec"]["secretName"] for each in of_kind(objects_of(name), "Certificate")}
    for pod in pods(objects_of(name)):
        for secret in secrets_of(pod):
            assert secret in made or f"  {secret}\t" in notes_of(name)


def secrets_of(pod: Pod) -> set[str]:
    """The Secrets with certificates that a pod mounts."""
    tls = pod.volume("tls")
    if "secret" in tls:
        return {tls["secret"]["secretName"]}
    return {source["secret"]["name"] for source in tls.get("projected", {}).get("sources", [])}


def test_a_gpu_is_asked_for_by_value_alone() -> None:
    (edge, *_) = [pod for pod in pods(objects_of("gpu")) if pod.role == "edge"]
    assert edge.container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert edge.spec["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in edge.spec["tolerations"]
    for pod in pods(objects_of("default")):
        assert set(pod.container["resources"]["limits"]) == {"cpu", "memory"}
        assert "runtimeClassName" not in pod.spec


def test_what_an_edge_keeps_of_rows_fits_into_tmp() -> None:
    (edge_pod, *_) = [pod for pod in pods(objects_of("default")) if pod.role == "edge"]
    room = edge_pod.volume("temporary")["emptyDir"]["sizeLimit"]
    assert int(room.removesuffix("Gi")) * 1024 > EdgeSettings.model_fields["reuse_disk_mib"].default


def test_the_cloud_has_one_writer() -> None:
    for name in SETS:
        for workload in of_kind(objects_of(name), "StatefulSet", "Deployment"):
            if workload["metadata"]["labels"]["app.kubernetes.io/component"] == "cloud":
                assert workload["kind"] == "StatefulSet"
                assert workload["spec"]["replicas"] == 1


def test_an_upgrade_stops_a_client_before_it_starts_the_next() -> None:
    for name in SETS:
        for workload in of_kind(objects_of(name), "Deployment"):
            assert workload["spec"]["replicas"] == 1
            assert workload["spec"]["strategy"] == {"type": "Recreate"}
        for workload in of_kind(objects_of(name), "DaemonSet"):
            assert workload["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_clients_own_values_win_over_the_defaults_and_leave_others_alone() -> None:
    clients = {pod.environment["ELSA_NAME"]: pod for pod in pods(objects_of("clients")) if pod.role == "client"}
    assert clients["clinic-b"].container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert clients["clinic-b"].container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert clients["clinic-a"].container["resources"]["limits"] == {"cpu": "1", "memory": "3Gi"}
    assert clients["clinic-b"].environment["ELSA_PATIENCE_S"] == "600"
    assert "ELSA_WEIGHTS" not in clients["clinic-a"].environment
