"""The chart, rendered with the values that this tree ships, as the cluster would see it."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart

from deploy.render import CHART, objects

NAMESPACE = "elsa"
NODE = "machine-7"
Object = Mapping[str, Any]
FOLDER = Path(__file__).parents[2] / "deploy" / "values"
SETS: dict[str, dict[str, Any]] = {
    "default": {},
    **{path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))},
}
ROLE_OF = {"cloud": "cloud", "edge": "edge", "client": "client", "node-client": "client", "operator": "admin"}
"""Roles by the component that labels say."""
WORKLOADS = ("StatefulSet", "Deployment", "DaemonSet", "Pod")


def render_anew(values: Mapping[str, Any], name: str = "elsa") -> dict[str, str]:
    """What the chart makes of these values, by the template's path."""
    with Chart.load(CHART) as chart:
        return chart.render(dict(values), name=name, namespace=NAMESPACE)


def render(values: Mapping[str, Any], name: str = "elsa") -> dict[str, str]:
    """The same, remembered."""
    return _render(json.dumps(values, sort_keys=True), name)


@cache
def _render(values: str, name: str) -> dict[str, str]:
    return render_anew(json.loads(values), name)


def objects_in(rendered: Mapping[str, str]) -> tuple[Object, ...]:
    return tuple(each for path, text in rendered.items() if path.endswith(".yaml") for each in objects(text))


@cache
def objects_of(name: str) -> tuple[Object, ...]:
    """All objects of a set of values."""
    return objects_in(render(SETS[name]))


@cache
def notes_of(name: str) -> str:
    """What a person is told after the installation."""
    return render(SETS[name])["elsa/templates/NOTES.txt"]


def of_kind(given: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [each for each in given if each["kind"] in kinds]


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod of a workload; of a StatefulSet there are as many as its autoscaler or its certificates allow."""

    name: str
    workload: Object
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def role(self) -> str:
        return ROLE_OF[self.component]

    @property
    def container(self) -> Mapping[str, Any]:
        (only,) = self.spec["containers"]
        return only  # type: ignore[no-any-return]

    @property
    def environment(self) -> dict[str, str]:
        """Variables as the process sees them: references to those before are replaced, others stay."""
        seen: dict[str, str] = {}
        for variable in self.container["env"]:
            seen[variable["name"]] = _expanded(self._value(variable), seen)
        return seen

    def volume(self, name: str) -> Mapping[str, Any]:
        (only,) = [each for each in self.spec["volumes"] if each["name"] == name]
        return only  # type: ignore[no-any-return]

    def _value(self, variable: Mapping[str, Any]) -> str:
        if "valueFrom" not in variable:
            return str(variable["value"])
        ((kind, source),) = variable["valueFrom"].items()
        if kind == "fieldRef":
            return {"metadata.name": self.name, "metadata.namespace": NAMESPACE, "spec.nodeName": NODE}[
                source["fieldPath"]
            ]
        if kind == "resourceFieldRef":
            assert source == {"resource": "limits.cpu", "divisor": "1"}
            return str(math.ceil(float(self.container["resources"]["limits"]["cpu"])))
        return f"postgresql+pg8000://{source['name']}/{source['key']}"


def pods(given: tuple[Object, ...], most: int | None = None) -> Iterator[Pod]:
    """The pods that there may be; of edges, `most` where it is given, else the replicas."""
    for workload in of_kind(given, *WORKLOADS):
        name = workload["metadata"]["name"]
        if workload["kind"] == "Pod":
            yield Pod(name=name, workload=workload, labels=workload["metadata"]["labels"], spec=workload["spec"])
            continue
        template = workload["spec"]["template"]
        labels, spec = template["metadata"]["labels"], template["spec"]
        if workload["kind"] != "StatefulSet":
            yield Pod(name=f"{name}-x7k2p", workload=workload, labels=labels, spec=spec)
            continue
        edges = labels["app.kubernetes.io/component"] == "edge"
        count = most if most is not None and edges else workload["spec"].get("replicas", 1)
        for ordinal in range(count):
            own = {"statefulset.kubernetes.io/pod-name": f"{name}-{ordinal}"}
            yield Pod(name=f"{name}-{ordinal}", workload=workload, labels=labels | own, spec=spec)


def every_pod(law: Callable[[Pod], None]) -> Callable[[str], None]:
    """A test that holds `law` for each pod of each set of values."""

    @pytest.mark.parametrize("name", SETS)
    def test(name: str) -> None:
        for pod in pods(objects_of(name)):
            law(pod)

    return test


def most_edges(name: str) -> int:
    """edges.most of a set of values."""
    with Chart.load(CHART) as chart:
        return int(chart.merge_values(SETS[name])["edges"]["most"])


def _expanded(value: str, seen: Mapping[str, str]) -> str:
    return re.sub(r"\$\(([A-Za-z_]\w*)\)", lambda found: seen.get(found[1], found[0]), value)
