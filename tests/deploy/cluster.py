"""A cluster's API as far as `lookup` of a template asks it: objects of a kind, by namespace and name."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helm_python.chart import Chart
from helm_python.config import Config
from rendered import NAMESPACE, Object, objects_in

from deploy.render import CHART


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of objects, and what URLs call it."""

    group: str
    name: str
    plural: str


STATEFUL_SETS = Kind(group="apps/v1", name="StatefulSet", plural="statefulsets")
Specs = Mapping[Kind, Mapping[str, Mapping[str, Any]]]
"""What there is: specifications by the objects' names, for each kind."""


@contextmanager
def answering(there: Specs) -> Iterator[str]:
    """A server of what is `there`; its URL."""
    answers = dict(_answers(there))

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            missing = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or missing).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def render_in(address: str, values: Mapping[str, Any]) -> tuple[Object, ...]:
    """What an upgrade of the release `elsa` with these values would send to the cluster at `address`."""
    nobody = json.dumps({"apiVersion": "v1", "kind": "Config"})
    with (
        Config(kube_apiserver=address, kubeconfig_content=nobody, namespace=NAMESPACE) as cluster,
        Chart.load(CHART) as chart,
    ):
        return objects_in(cluster.render(chart, dict(values), name="elsa", namespace=NAMESPACE, is_upgrade=True))


def _answers(there: Specs) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind, objects in there.items():
        resource = {"name": kind.plural, "kind": kind.name, "namespaced": True, "verbs": ["get"]}
        listed = {"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": kind.group, "resources": [resource]}
        yield f"/apis/{kind.group}", listed
        for name, spec in objects.items():
            named = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
            path = f"/apis/{kind.group}/namespaces/{NAMESPACE}/{kind.plural}/{name}"
            yield path, {"apiVersion": kind.group, "kind": kind.name, **named}
