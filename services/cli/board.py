"""What is known of a run that is watched, put together from its events, as a live view or as lines."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.cli.events import line, state_word
from services.cli.standings import mark_of
from services.cli.versions import Evaluated, Version, figure, rounds_table

BEFORE_ROUNDS = (fleet_pb2.RUN_STATE_WARMUP, fleet_pb2.RUN_STATE_CLUSTERING)
NOTICES = 5
"""How many of the newest changes of trust, clusters and splits, and rounds without somebody, the live view shows."""


@dataclass(frozen=True)
class Trust:
    """What the cloud has found of a client."""

    cluster: int | None
    trust: float
    set_aside: bool

    def words(self) -> tuple[str, str]:
        """The cluster and the trust, with what is to be noticed of it."""
        mark = mark_of(self.trust, set_aside=self.set_aside)
        return "" if self.cluster is None else str(self.cluster), f"{self.trust:.2f} {mark}".rstrip()


class Board:
    """A run as its events tell it, with the newest `notices` of them; all where that is None."""

    def __init__(self, run_id: str, notices: int | None = NOTICES) -> None:
        self.run_id = run_id
        self.state: int = fleet_pb2.RUN_STATE_UNSPECIFIED
        self.reason = ""
        self.edge_of: dict[str, str] = {}
        self.split_of: dict[str, str] = {}
        """As planned: bottom/trunk/top."""
        self.versions: dict[int, Version] = {}
        self.trusts: dict[str, Trust] = {}
        """Of each client, once the run has clustered."""
        self._activity: dict[str, str] = {}
        self._notices: deque[str] = deque(maxlen=notices)

    def add(self, event: pb.RunEvent) -> None:
        """Take the next event."""
        match event.WhichOneof("event"):
            case "state_changed":
                self.state, self.reason = event.state_changed.state, event.state_changed.reason
            case "node_joined":
                joined = event.node_joined
                self._activity[joined.node_id] = "joined" if joined.accepted else f"refused: {joined.detail}"
            case "client_assigned":
                self.edge_of[event.client_assigned.client_id] = event.client_assigned.edge_id
            case "update_received":
                made = event.update_received.version + 1
                self._version(made).reports.extend(event.update_received.reports)
            case "round_closed":
                self._close(event)
            case "presence_changed":
                self._presence(event)
            case "evaluation_reported":
                self._evaluated(event.evaluation_reported)
            case "node_progress":
                warming = self.state in BEFORE_ROUNDS
                said = _activity(event.node_progress.progress, in_round=not warming)
                self._activity[event.node_progress.node_id] = said
            case "clustered":
                self._cluster(event.clustered)
                self._notice(event)
            case "planned":
                self.split_of.update((client.client_id, client.split) for client in event.planned.clients)
                self._notice(event)
            case "trust_changed":
                self._notice(event)
                changed = event.trust_changed
                cluster = self.trusts[changed.client_id].cluster if changed.client_id in self.trusts else None
                self.trusts[changed.client_id] = Trust(cluster, changed.trust, changed.set_aside)

    def ending(self) -> str:
        """How a run that did not complete ended, on one line."""
        reason = " ".join(self.reason.split())
        return f"run {self.run_id} is {state_word(self.state)}" + (f": {reason}" if reason else "")

    def render(self) -> Group:
        """The whole board, for a terminal."""
        head = Text.assemble(("run ", "dim"), (self.run_id, "bold"), "  ", (state_word(self.state), "cyan"))
        reason = [Text(" ".join(self.reason.split()))] if self.reason else []
        notices = [Text(text, "dim") for text in self._notices]  # others' words: no markup
        return Group(head, *reason, rounds_table(self.versions), self._nodes_table(), *notices)

    def _nodes_table(self) -> Table:
        newest = self._newest_evaluations()
        both = any(each.own_accuracy is not None for each in newest.values())
        known = ("cluster", "trust") if self.trusts else ()
        scored = ("accuracy", "own") if both else ()
        planned = ("split",) if self.split_of else ()
        table = Table("node", "edge", *planned, *known, *scored, "does", box=box.SIMPLE_HEAD, pad_edge=False)
        for node in sorted(self._activity):
            trust = self.trusts[node].words() if node in self.trusts else ("", "")
            score = _both(newest[node]) if node in newest else ("", "")
            split = (self.split_of.get(node, ""),)
            shown = (*(split if planned else ()), *(trust if known else ()), *(score if scored else ()))
            cells = (node, self.edge_of.get(node, ""), *shown, self._activity[node])
            table.add_row(*(Text(cell) for cell in cells))  # others' words: no markup
        return table

    def _newest_evaluations(self) -> dict[str, Evaluated]:
        """The newest of each client."""
        found: dict[str, Evaluated] = {}
        for _, version in sorted(self.versions.items()):
            found.update(version.evaluations)
        return found

    def _evaluated(self, told: pb.EvaluationReported) -> None:
        version, total = self._version(told.total.version), told.total
        version.accuracy, version.loss, version.rows = total.accuracy, total.loss, total.rows
        version.evaluated = total.clients
        own = told.cluster_evaluation.accuracy if told.HasField("cluster_evaluation") else None
        mine = told.evaluation
        version.evaluations[told.client_id] = Evaluated(rows=mine.rows, accuracy=mine.accuracy, own_accuracy=own)

    def _close(self, event: pb.RunEvent) -> None:
        closed = event.round_closed
        version = self._version(closed.version)
        version.seconds, version.clients, version.absent = closed.seconds, closed.clients, closed.absent
        for absentee in closed.absentees:
            self._activity[absentee.client_id] = f"not in round {closed.version}: {absentee.detail}"
        if closed.absent:
            self._notice(event)

    def _presence(self, event: pb.RunEvent) -> None:
        for node in event.presence_changed.first_away:
            self._activity[node.node_id] = f"not waited for: {node.detail}"
        for name in event.presence_changed.first_back:
            self._activity[name] = "back"
        self._notice(event)

    def _notice(self, event: pb.RunEvent) -> None:
        self._notices.append(line(event) or "")

    def _cluster(self, told: pb.Clustered) -> None:
        self.trusts = {place.client_id: Trust(place.cluster, place.trust, place.set_aside) for place in told.places}
        self.edge_of.update((place.client_id, place.edge_id) for place in told.places)

    def _version(self, number: int) -> Version:
        return self.versions.setdefault(number, Version())


@contextmanager
def shown(board: Board) -> Iterator[Callable[[pb.RunEvent], None]]:
    """Show the board while it grows: live on a terminal, as lines elsewhere. Call what this gives at each event."""
    if not sys.stdout.isatty():
        yield _print_line
        return
    with Live(board.render(), console=Console(), refresh_per_second=4) as live:
        yield lambda event: live.update(board.render())


def _print_line(event: pb.RunEvent) -> None:
    text = line(event)
    if text is not None:
        typer.echo(text)


def _activity(progress: fleet_pb2.Progress, *, in_round: bool) -> str:
    step = f" step {progress.step}/{progress.steps}" if progress.step else ""
    loss = f", loss {progress.loss:.3f}" if progress.loss else ""
    place = f"round {progress.version + 1}.{progress.edge_round + 1}: " if in_round else ""
    return f"{place}{progress.activity}{step}{loss}"


def _both(evaluated: Evaluated) -> tuple[str, str]:
    return figure(evaluated.accuracy), figure(evaluated.own_accuracy)
