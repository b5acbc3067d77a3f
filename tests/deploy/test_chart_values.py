"""Wrong values are refused before anything is installed, in words that name them."""

import copy
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml
from helm_python import HelmError
from helm_python.chart import Chart
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rendered import SETS, objects_in, of_kind, pods, render

from deploy.render import CHART

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
FREE = {
    "settings",
    "models",
    "nodeSelector",
    "affinity",
    "annotations",
    "labels",
    "data",
    "heldout",
    "limits",
    "requests",
}
"""Maps whose keys are the user's; those of `settings` are the role's."""


ONE = {"name": "a", "data": {"x": "builtin"}}
CALLED = [{"ports": [{"protocol": "TCP", "port": 7400}]}]
FAR = {
    "cloud": {"enabled": False, "address": "cloud.example:7400"},
    "networkPolicy": {"egress": {"edges": CALLED, "clients": CALLED}},
}
"""A client, and a release whose cloud is elsewhere and may be called."""


def folders(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all maps whose keys are the chart's."""
    inner = [
        folders(value, (*path, key)) for key, value in values.items() if isinstance(value, dict) and key not in FREE
    ]
    return [path, *(each for found in inner for each in found)]


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def check(values: dict[str, Any]) -> None:
    with Chart.load(CHART) as chart:
        chart.validate_schema(values)


@settings(deadline=None)
@given(st.sampled_from(folders(VALUES)), st.from_regex(r"[a-z][a-zA-Z]{2,10}Q", fullmatch=True))
def test_a_key_that_is_mistyped_is_refused_wherever_it_stands(path: tuple[str, ...], key: str) -> None:
    with pytest.raises(HelmError, match=key):
        check(nested((*path, key), 1))


@pytest.mark.parametrize("role", ["cloud", "edges", "clientDefaults", "nodeClients"])
def test_a_setting_that_does_not_exist_is_refused(role: str) -> None:
    with pytest.raises(HelmError, match="patience"):
        check({role: {"settings": {"patience": 5}}})


def wrong(path: str, value: Any) -> Any:
    return pytest.param(nested(tuple(path.split(".")), value), id=f"{path}={value}")


@pytest.mark.parametrize(
    "values",
    [
        wrong("edges.replicas", 0),
        wrong("edges.replicas", "two"),
        wrong("edges.most", 0),
        wrong("edges.gpu.count", -1),
        wrong("edges.settings.capacity", 0),
        wrong("edges.settings.capacity", 10_000),
        wrong("edges.settings.name", "mine"),
        wrong("edges.resources", {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": None}}),
        wrong("edges.env", [{"name": "ELSA_NAME", "value": "other"}]),
        wrong("edges.storage.size", "much"),
        wrong("edges.autoscaling.cpuPercent", 150),
        wrong("cloud.replicas", 2),
        wrong("cloud.settings.insecure", True),
        wrong("cloud.settings.heartbeat_s", 0),
        wrong("cloud.maxUnavailable", 2),
        wrong("cloud.address", "cloud.example"),
        wrong("certificates.from", "nowhere"),
        wrong("certificates.duration", "90 days"),
        wrong("clients", [{"name": "A", "data": {"rows": "builtin"}}]),
        wrong("clients", [{"name": "a"}]),
        wrong("clients", [{"name": "a", "data": {}}]),
        wrong("clients", [{"name": "a", "data": {"rows": "builtin"}, "replicas": 2}]),
        wrong("nodeClients.enabled", True),
        wrong("outside.by", "Pigeon"),
        wrong("outside.nodePorts.cloud", 80),
        wrong("networkPolicy.dns", []),
        wrong("networkPolicy.callers", [{}]),
        wrong("listen", "127.0.0.1"),
        wrong("images.tag", "a b"),
    ],
)
def test_a_value_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        render(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"edges": {"replicas": 5}}, "raise edges.most"),
        ({"edges": {"autoscaling": {"enabled": True, "least": 9}}}, "raise edges.most"),
        ({"cloud": {"enabled": False}}, "cloud.address"),
        ({"outside": {"enabled": True}}, "networkPolicy.callers"),
        ({"outside": {"by": "NodePort", "sourceRanges": ["203.0.113.0/24"]}}, "networkPolicy.callers"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "set metrics.enabled"),
        ({"cloud": {"database": {"secretName": "database"}}}, "networkPolicy.egress.cloud"),
        ({"cloud": {"enabled": False, "address": "cloud.example:7400"}}, "networkPolicy.egress.edges"),
        (
            {
                "cloud": {"enabled": False, "address": "cloud.example:7400"},
                "edges": {"enabled": False},
                "clients": [{"name": "a", "data": {"x": "builtin"}}],
            },
            "networkPolicy.egress.clients",
        ),
        (
            {"cloud": {"settings": {"blobs_url": "s3://fleet/blobs"}}},
            "bucket .* networkPolicy.egress.cloud",
        ),
        ({"edges": {"enabled": False}, "clients": [ONE]}, "their edges elsewhere: .* networkPolicy.egress.clients"),
        (
            {"edges": {"enabled": False}, "nodeClients": {"enabled": True, "data": {"x": "builtin"}}},
            "their edges elsewhere: .* networkPolicy.egress.clients",
        ),
        (FAR | {"certificates": {"from": "cert-manager"}}, "cloud.example:7400 .* certificates.issuer.name"),
        (FAR | {"certificates": {"from": "csi"}}, "cloud.example:7400 .* certificates.issuer.name"),
        ({"certificates": {"from": "cert-manager", "revoked": "list"}}, "certificates.revoked: .* no list"),
        ({"certificates": {"from": "csi", "revoked": "list"}}, "certificates.revoked: .* no list"),
        (SETS["node-clients"] | {"certificates": {"revoked": "list"}}, "certificates.revoked .* no server"),
        ({"certificates": {"issuer": {"name": "fleet"}}}, "certificates.issuer.name .* certificates.from"),
        ({"certificates": {"duration": "24h"}}, "certificates.duration .* certificates.from"),
        ({"certificates": {"renewBefore": "8h"}}, "certificates.renewBefore .* certificates.from"),
        ({"certificates": {"issuer": {"kind": "ClusterIssuer"}}}, "issuer.kind .* certificates.issuer.name"),
        (
            {"certificates": {"from": "csi", "issuer": {"group": "example.org"}}},
            "issuer.group .* certificates.issuer.name",
        ),
        ({"outside": {"nodePorts": {"cloud": 30740}}}, "nodePorts .* outside.by LoadBalancer"),
        ({"outside": {"by": "Ingress", "nodePorts": {"edges": [30750]}}}, "nodePorts .* outside.by Ingress"),
        ({"outside": {"ingressClassName": "nginx"}}, "ingressClassName .* outside.by LoadBalancer"),
        (
            {
                "edges": {"replicas": 1, "most": 1},
                "outside": {"by": "NodePort", "nodePorts": {"edges": [30750, 30751]}},
            },
            "2 ports and edges.most is 1",
        ),
        ({"clients": [{"name": "a", "data": {"x": "builtin"}}] * 2}, "a is that of a client already"),
        ({"clients": [{"name": "elsa-edge-0", "data": {"x": "builtin"}}]}, "elsa-edge-0 is that of an edge already"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_the_remedy(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=said):
        render(values)


@pytest.mark.parametrize(
    "values",
    [
        FAR | {"certificates": {"from": "csi", "issuer": {"name": "fleet"}}},
        {"certificates": {"from": "cert-manager", "issuer": {"name": "fleet"}, "revoked": "list"}},
        {"cloud": {"settings": {"blobs_url": "/var/lib/elsa/elsewhere"}}},
        {"cloud": {"settings": {"blobs_url": "file:///var/lib/elsa/elsewhere"}}},
        {"cloud": {"settings": {"blobs_url": "s3://fleet/blobs"}}, "networkPolicy": {"enabled": False}},
        {"edges": {"enabled": False}, "clients": [ONE], "networkPolicy": FAR["networkPolicy"]},
        {"edges": {"enabled": False}},
        {"outside": {"by": "NodePort", "nodePorts": {"edges": [30750, 30751, 30752, 30753]}}},
    ],
)
def test_values_that_go_together_are_taken(values: dict[str, Any]) -> None:
    assert objects_in(render(values))


@pytest.mark.parametrize("name", SETS)
def test_the_values_that_are_shipped_are_taken(name: str) -> None:
    check(SETS[name])


def test_every_default_is_taken_when_it_is_spelled_out() -> None:
    assert objects_in(render(copy.deepcopy(VALUES))) == objects_in(render({}))


def test_every_value_is_explained_where_it_first_stands() -> None:
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    seen: set[str] = set()
    for above, line in pairwise(lines):
        found = re.match(r" *([a-zA-Z]+):", line)
        if found and found[1] not in seen:
            seen.add(found[1])
            assert above.lstrip().startswith("#"), line
    assert seen >= {"replicas", "storage", "callers"}


def test_images_are_named_by_registry_and_tag_or_by_digest() -> None:
    images = {"registry": "registry.example/team/", "tag": "7", "cloud": "other.example/cloud@sha256:ab"}
    used = {pod.component: pod.container["image"] for pod in pods(objects_in(render({"images": images})))}
    assert used["edge"] == "registry.example/team/elsa-edge:7"
    assert used["cloud"] == used["operator"] == "other.example/cloud@sha256:ab"


@settings(deadline=None, max_examples=10)
@given(st.from_regex(r"[a-z][a-z0-9-]{0,51}[a-z0-9]", fullmatch=True))
@example("a" * 53)
@example("a" * 39 + "-" + "b" * 13)
def test_names_fit_whatever_the_release_is_called(name: str) -> None:
    rendered = objects_in(render({"edges": {"most": 11, "replicas": 11}}, name))
    for pod in pods(rendered):
        assert len(pod.name) <= 63
    for each in of_kind(rendered, "StatefulSet"):
        assert len(each["metadata"]["name"]) <= 52  # with a revision's hash it is the value of a label


def test_the_name_of_a_release_that_says_elsa_is_not_said_twice() -> None:
    for release, expected in (("elsa", "elsa"), ("my-elsa", "my-elsa"), ("fleet", "fleet-elsa")):
        (account,) = of_kind(objects_in(render({}, release)), "ServiceAccount")
        assert account["metadata"]["name"] == expected
