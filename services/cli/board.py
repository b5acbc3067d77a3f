"""What is known of a run that is watched, put together from its events, as a live view or as lines."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from elsa.v1 import adapter_pb2, fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.cli.events import line, size, state_word
from services.cli.standings import mark_of

BEFORE_ROUNDS = (fleet_pb2.RUN_STATE_WARMUP, fleet_pb2.RUN_STATE_CLUSTERING)
PHASES = ("bottom", "network", "wait", "trunk", "top")


@dataclass(kw_only=True)
class Version:
    """What is known of one global version: its evaluation, and the work that made it."""

    accuracy: float | None = None
    loss: float | None = None
    rows: int = 0
    seconds: float = 0.0
    reports: list[adapter_pb2.ClientReport] = field(default_factory=list)

    @property
    def wire_bytes(self) -> int:
        """Bytes of the Train streams, both ways."""
        return sum(report.bytes.up + report.bytes.down for report in self.reports)

    @property
    def float32_bytes(self) -> int:
        """What the same would have taken as float32; 0 if a client did not say."""
        said = [report.float32_bytes for report in self.reports]
        return sum(said) if all(said) else 0

    @property
    def training_loss(self) -> float | None:
        """Mean loss over all steps."""
        steps = sum(report.steps for report in self.reports)
        return sum(report.loss * report.steps for report in self.reports) / steps if steps else None

    def phase_seconds(self) -> dict[str, float]:
        """Seconds by phase, summed over the clients."""
        return {phase: sum(getattr(report.seconds, phase) for report in self.reports) for phase in PHASES}


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
    """A run as its events tell it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.state: int = fleet_pb2.RUN_STATE_UNSPECIFIED
        self.reason = ""
        self.edge_of: dict[str, str] = {}
        self.versions: dict[int, Version] = {}
        self.trusts: dict[str, Trust] = {}
        """Of each client, once the run has clustered."""
        self._activity: dict[str, str] = {}

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
                self._version(event.round_closed.version).seconds = event.round_closed.seconds
            case "evaluation_reported":
                total = event.evaluation_reported.total
                version = self._version(total.version)
                version.accuracy, version.loss, version.rows = total.accuracy, total.loss, total.rows
            case "node_progress":
                warming = self.state in BEFORE_ROUNDS
                said = _activity(event.node_progress.progress, in_round=not warming)
                self._activity[event.node_progress.node_id] = said
            case "clustered":
                self._cluster(event.clustered)
            case "trust_changed":
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
        return Group(head, rounds_table(self.versions), self._nodes_table())

    def _nodes_table(self) -> Table:
        known = ("cluster", "trust") if self.trusts else ()
        table = Table("node", "edge", *known, "does", box=box.SIMPLE_HEAD, pad_edge=False)
        for node in sorted(self._activity):
            trust = self.trusts[node].words() if node in self.trusts else ("", "")
            cells = (node, self.edge_of.get(node, ""), *(trust if known else ()), self._activity[node])
            table.add_row(*(Text(cell) for cell in cells))  # others' words: no markup
        return table

    def _cluster(self, told: pb.Clustered) -> None:
        self.trusts = {place.client_id: Trust(place.cluster, place.trust, place.set_aside) for place in told.places}
        self.edge_of.update((place.client_id, place.edge_id) for place in told.places)

    def _version(self, number: int) -> Version:
        return self.versions.setdefault(number, Version())


def rounds_table(versions: Mapping[int, Version]) -> Table:
    """A row a version: how good it is and what it took."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("round", "accuracy", "loss", "training loss", "on the wire", "as float32", "seconds"):
        table.add_column(heading, justify="right")
    for number, version in sorted(versions.items()):
        table.add_row(
            "start" if number == 0 else str(number),
            _figure(version.accuracy),
            _figure(version.loss),
            _figure(version.training_loss),
            size(version.wire_bytes) if version.reports else "–",
            size(version.float32_bytes) if version.float32_bytes else "–",
            f"{version.seconds:.1f}" if version.seconds else "–",
        )
    return table


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


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
