"""The figures of an edge and its clients follow what they do, and are those of docs/metrics.md."""

import re
from pathlib import Path

from fleet_harness import system, write_rows
from scraping import figure, names_of, scraped
from split_harness import spec_of

from elsa.v1 import fleet_pb2

LISTED = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
CLIENTS = ("ann", "bob")
ROUNDS, EDGE_ROUNDS, STEPS = 2, 2, 3


def listed(role):
    """What the documentation says that an edge or a client tells."""
    common = "build_info|ready|heartbeat_seconds|memory_reserved_bytes|memory_usable_bytes"
    mine = common if role == "client" else f"{common}|refused_total|rpc_\\w+"
    return set(re.findall(rf"^\| `(elsa_(?:{role}_\w+|{mine}))` \|", LISTED, re.MULTILINE))


def ours(samples):
    return {name for name in names_of(samples) if name.startswith("elsa_")}


def test_figures_follow_a_run_and_all_are_in_the_documentation(tiny_bert, tmp_path):
    training = {"rounds": ROUNDS, "edge_rounds": EDGE_ROUNDS, "local_steps": STEPS}
    spec = spec_of(tiny_bert, training=training, fleet={"min_clients": 2, "min_edges": 1})
    rows = write_rows(tmp_path / "rows.jsonl", 30, 1)
    with system(tmp_path) as whole:
        edge = whole.edge("edge-1", metrics_port=0, capacity=5).node
        clients = [whole.client(name, rows, metrics_port=0).node for name in CLIENTS]
        nodes = dict(zip(("edge", *CLIENTS), (edge, *clients), strict=True))
        places = {name: node.monitoring.metrics.address for name, node in nodes.items()}
        before = scraped(places["edge"])
        assert (figure(before, "elsa_edge_sessions"), figure(before, "elsa_edge_capacity")) == (0, 5)
        assert (figure(before, "elsa_edge_runs"), figure(before, "elsa_ready")) == (0, 1)
        run_id = whole.submit(spec)
        whole.wait(run_id, lambda event: event.round_closed.version == 1)
        during = {name: scraped(place) for name, place in places.items()}
        whole.wait(run_id, lambda event: event.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED)
        after = {name: scraped(place) for name, place in places.items()}
    assert figure(during["edge"], "elsa_edge_runs") == 1
    assert figure(during["edge"], "elsa_edge_run_version", run_id=run_id) in (0, 1, 2)
    assert figure(during["edge"], "elsa_memory_reserved_bytes") > 0
    trained = ROUNDS * EDGE_ROUNDS
    assert figure(after["edge"], "elsa_edge_sessions_ended_total", how="committed") == 2 * trained
    assert figure(after["edge"], "elsa_edge_steps_total") == 2 * trained * STEPS
    assert figure(after["edge"], "elsa_edge_seconds_total", phase="trunk") > 0
    for name in CLIENTS:
        assert figure(after[name], "elsa_client_rounds_total") == trained
        assert figure(after[name], "elsa_client_steps_total") == trained * STEPS
        assert figure(after[name], "elsa_client_seconds_total", phase="bottom") > 0
    for direction in ("up", "down"):
        parts = [figure(after[name], "elsa_client_payload_bytes_total", direction=direction) for name in CLIENTS]
        whole_edge = figure(after["edge"], "elsa_edge_payload_bytes_total", direction=direction)
        assert sum(parts) == whole_edge > 0
    assert (
        figure(after["edge"], "elsa_rpc_calls_total", method="AdapterService.PushAdapter", code="OK") == 2 * trained
    )
    assert 0 < figure(during["ann"], "elsa_client_loss", run_id=run_id) < 10
    assert figure(during["ann"], "elsa_client_rows", run_id=run_id) > 0
    assert ours(during["edge"]) == listed("edge")
    assert ours(during["ann"]) == listed("client")
