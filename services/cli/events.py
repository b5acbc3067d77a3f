"""A run's events as lines for people, and the words that are shared with the live view."""

import math
import time
from collections import Counter
from collections.abc import Collection, Sequence

from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.cli.standings import PARTS, mark_of

SHOWN = 5
"""Clients that a line names."""


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
        "round_opened": _round_opened,
        "round_closed": _round_closed,
        "presence_changed": _presence_changed,
        "evaluation_reported": _evaluation_reported,
        "clustered": _clustered,
        "trust_changed": _trust_changed,
        "planned": _planned,
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


def behind(clients: int, rows: int) -> str:
    """Whom a figure over several clients is of: '3 clients, 88 rows'."""
    return f"{_count(clients, 'client')}, {rows:,} row{'' if rows == 1 else 's'}"


def _state_changed(event: pb.RunEvent) -> str:
    change = event.state_changed
    return f"run is {state_word(change.state)}" + (f": {change.reason}" if change.reason else "")


def _node_joined(event: pb.RunEvent) -> str:
    node = event.node_joined
    return f"{node.node_id} {'joins' if node.accepted else 'does not take part'}: {node.detail}"


def _client_assigned(event: pb.RunEvent) -> str:
    given = event.client_assigned
    kept = f"keeps {_count(given.bottom, 'block')} at the bottom and {given.top} at the top"
    return f"{given.client_id} trains with {given.edge_id}, {kept} ({given.detail})"


def _update_received(event: pb.RunEvent) -> str:
    update = event.update_received
    steps = sum(report.steps for report in update.reports)
    sent = sum(report.bytes.up + report.bytes.down for report in update.reports)
    loss = sum(report.loss * report.steps for report in update.reports) / max(steps, 1)
    return (
        f"{update.edge_id} delivers round {update.version + 1}: {steps} steps, "
        f"training loss {loss:.3f}, {size(sent)} over the wire"
    )


def _round_opened(event: pb.RunEvent) -> str:
    opened = event.round_opened
    return f"round {opened.version} is open for {opened.deadline_s:.4g} s at most: {opened.detail}"


def _round_closed(event: pb.RunEvent) -> str:
    closed = event.round_closed
    missing = f", without {', '.join(closed.missing_edge_ids)}" if closed.missing_edge_ids else ""
    done = f"round {closed.version} closed after {closed.seconds:.1f} s with {', '.join(closed.edge_ids)}{missing}"
    if not closed.absent:
        return done
    named = [f"{client.client_id} ({client.detail})" for client in closed.absentees]
    return f"{done}; {closed.absent} of {_count(closed.clients, 'client')} not in it: {_some(named, closed.absent)}"


def _presence_changed(event: pb.RunEvent) -> str:
    change = event.presence_changed
    if (change.away, change.back) == (1, 0):
        return f"{change.first_away[0].node_id} is not waited for: {change.first_away[0].detail}"
    named = [f"{node.node_id} ({node.detail})" for node in change.first_away]
    away = f"{change.away} not waited for: {_some(named, change.away)}" if change.away else ""
    back = f"{_some(list(change.first_back), change.back)} {'is' if change.back == 1 else 'are'} back"
    return "; ".join(filter(None, [away, back if change.back else ""]))


def _evaluation_reported(event: pb.RunEvent) -> str:
    told = event.evaluation_reported
    mine, total, own = told.evaluation, told.total, told.cluster_evaluation
    both = f", {own.accuracy:.3f} with its cluster's own" if told.HasField("cluster_evaluation") else ""
    return (
        f"{told.client_id} evaluates version {mine.version}: accuracy {mine.accuracy:.3f}{both}; "
        f"so far {behind(total.clients, total.rows)}: accuracy {total.accuracy:.3f}, loss {total.loss:.3f}"
    )


def _clustered(event: pb.RunEvent) -> str:
    told = event.clustered
    noticed: dict[str, list[str]] = {}
    for place in told.places:
        mark = mark_of(place.trust, set_aside=place.set_aside)
        noticed.setdefault(mark, []).append(f"{place.client_id} {place.trust:.2f}")
    said = [f"{mark}: {_some(clients)}" for mark, clients in sorted(noticed.items()) if mark]
    sizes = Counter(place.cluster for place in told.places).values()
    since = f"from version {told.version} on: " if told.version else ""
    return since + "; ".join(
        [
            f"{_count(len(told.places), 'client')} in {_count(told.clusters, 'cluster')}{_range(sizes)}",
            told.detail,
            *said,
        ]
    )


def _trust_changed(event: pb.RunEvent) -> str:
    change = event.trust_changed
    now = "is set aside, its trust" if change.set_aside else "counts with trust"
    named = ", ".join(f"{name} {getattr(change.parts, name):.2f}" for name in PARTS)
    parts = f" ({named})" if change.HasField("parts") else ""
    return f"{change.client_id} {now} {change.trust:.2f}: {change.detail}{parts}"


def _planned(event: pb.RunEvent) -> str:
    told = event.planned
    parts = [f"{client.client_id} {client.split}" for client in told.clients]
    changed = f"{_count(told.changed, 'client')} changed, bottom/trunk/top: "
    changes = f"{changed}{_some(parts, told.changed)}" if told.changed else "as before"
    again = f" after round {told.version}" if told.version else ""
    return f"splits planned{again}, {told.step_s:.3g} s a step; {changes}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _range(sizes: Collection[int]) -> str:
    """The sizes of clusters, where there is more than one."""
    if len(sizes) < 2:
        return ""
    least, most = min(sizes), max(sizes)
    return f" of {least}" if least == most else f" of {least} to {most}"


def _some(names: Sequence[str], total: int | None = None) -> str:
    """The first few, and how many more there are; in all `total` if not all are named."""
    left = (len(names) if total is None else total) - len(names[:SHOWN])
    return ", ".join(names[:SHOWN]) + (f" and {left} more" if left > 0 else "")
