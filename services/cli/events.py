"""A run's events as lines for people, and the words that are shared with the live view."""

import math
import time

from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb


def state_word(state: int) -> str:
    """A run's state as its word: 'TRAINING'."""
    name: str = fleet_pb2.RunState.Name(state)  # type: ignore[arg-type]  # its own kind of int
    return name.removeprefix("RUN_STATE_")


def line(event: pb.RunEvent) -> str | None:
    """An event as one line with its time of day; None for live progress, which a log would drown in."""
    texts = {
        "state_changed": _state_changed,
        "node_joined": _node_joined,
        "client_assigned": _client_assigned,
        "update_received": _update_received,
        "round_closed": _round_closed,
        "evaluation_reported": _evaluation_reported,
    }
    kind = event.WhichOneof("event")
    if kind not in texts:
        return None
    said = " ".join(texts[kind](event).split())
    return f"{time.strftime('%H:%M:%S', time.localtime(event.unix_s))}  {said}"


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log(count, 1000)), 4)
    return f"{count / 1000**power:.1f} {'kMGT'[power - 1]}B"


def _state_changed(event: pb.RunEvent) -> str:
    change = event.state_changed
    return f"run is {state_word(change.state)}" + (f": {change.reason}" if change.reason else "")


def _node_joined(event: pb.RunEvent) -> str:
    node = event.node_joined
    return f"{node.node_id} {'joins' if node.accepted else 'does not take part'}: {node.detail}"


def _client_assigned(event: pb.RunEvent) -> str:
    given = event.client_assigned
    return f"{given.client_id} trains with {given.edge_id}, split {given.split} ({given.detail})"


def _update_received(event: pb.RunEvent) -> str:
    update = event.update_received
    steps = sum(report.steps for report in update.reports)
    sent = sum(report.bytes.up + report.bytes.down for report in update.reports)
    loss = sum(report.loss * report.steps for report in update.reports) / max(steps, 1)
    return (
        f"{update.edge_id} delivers round {update.version + 1}: {steps} steps, "
        f"training loss {loss:.3f}, {size(sent)} over the wire"
    )


def _round_closed(event: pb.RunEvent) -> str:
    closed = event.round_closed
    missing = f", without {', '.join(closed.missing_edge_ids)}" if closed.missing_edge_ids else ""
    return f"round {closed.version} closed after {closed.seconds:.1f} s with {', '.join(closed.edge_ids)}{missing}"


def _evaluation_reported(event: pb.RunEvent) -> str:
    mine, total = event.evaluation_reported.evaluation, event.evaluation_reported.total
    return (
        f"{event.evaluation_reported.client_id} evaluates version {mine.version}: accuracy {mine.accuracy:.3f}; "
        f"all {total.clients} so far: accuracy {total.accuracy:.3f}, loss {total.loss:.3f}"
    )
