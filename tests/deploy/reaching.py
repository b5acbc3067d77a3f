"""Who reaches whom: NetworkPolicies as a cluster applies them (networking.k8s.io/v1, an allow list that adds up)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from rendered import NAMESPACE, Object

Selector = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """An end of a connection: a pod of a namespace, or an address outside."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = NAMESPACE
    address: str = "192.0.2.1"


def reaches(policies: Iterable[Object], source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether `source` may open a connection to `port` of `target`."""
    given = list(policies)
    return _allows(given, "egress", source, target, (port, protocol)) and _allows(
        given, "ingress", target, source, (port, protocol)
    )


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses what has these labels."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()  # type: ignore[no-any-return]


def _allows(given: list[Object], way: str, own: Place, peer: Place, to: tuple[int, str]) -> bool:
    if own.namespace != NAMESPACE:
        return True  # what others may do is not the chart's
    about = [
        policy["spec"]
        for policy in given
        if way.capitalize() in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], own.labels)
    ]
    rules = [rule for policy in about for rule in policy.get(way, [])]
    return not about or any(_rule_allows(rule, way, peer, to) for rule in rules)


def _rule_allows(rule: Mapping[str, Any], way: str, peer: Place, to: tuple[int, str]) -> bool:
    ports = [(each["port"], each["protocol"]) for each in rule.get("ports", [])]
    peers = rule.get("to" if way == "egress" else "from", [])
    return (not ports or to in ports) and (not peers or any(_is(each, peer) for each in peers))


def _is(given: Mapping[str, Any], peer: Place) -> bool:
    if "ipBlock" in given:
        return ip_address(peer.address) in ip_network(given["ipBlock"]["cidr"]) and peer.namespace is None
    if peer.namespace is None:
        return False
    if "namespaceSelector" in given:
        here = selects(given["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
    else:
        here = peer.namespace == NAMESPACE
    return here and selects(given.get("podSelector", {}), peer.labels)
