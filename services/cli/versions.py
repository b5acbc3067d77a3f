"""What is known of a run's global versions, the work and the evaluations of each, and the table of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from rich import box
from rich.table import Table
from rich.text import Text

from elsa.v1 import adapter_pb2
from services.cli.events import behind, size

PHASES = ("bottom", "network", "wait", "trunk", "top")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What one client found of one version on the rows that it keeps back."""

    rows: int
    accuracy: float
    own_accuracy: float | None
    """With its cluster's adapter of the version; None where there is none."""


@dataclass(kw_only=True)
class Version:
    """What is known of one global version: its evaluation, and the work that made it."""

    accuracy: float | None = None
    loss: float | None = None
    rows: int = 0
    evaluated: int = 0
    """Clients behind accuracy, loss and rows."""
    clients: int = 0
    """That had taken part in the run when it was made."""
    absent: int = 0
    """Those of them that are not in it."""
    seconds: float = 0.0
    reports: list[adapter_pb2.ClientReport] = field(default_factory=list)
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    """By client."""

    @property
    def own_accuracy(self) -> float | None:
        """Over all clients that reported, each with its cluster's adapter where that has one; None if none has."""
        told = self.evaluations.values()
        rows = sum(each.rows for each in told)
        if not rows or all(each.own_accuracy is None for each in told):
            return None
        best = (each.accuracy if each.own_accuracy is None else each.own_accuracy for each in told)
        return sum(accuracy * each.rows for accuracy, each in zip(best, told, strict=True)) / rows

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


def rounds_table(versions: Mapping[int, Version]) -> Table:
    """A row a version: how good it is and what it took; below, whom that is of."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=_evaluated_by(versions), caption_justify="left")
    own = any(version.own_accuracy is not None for version in versions.values())
    scores = ("accuracy", "own") if own else ("accuracy",)
    for heading in ("round", *scores, "loss", "training loss", "on the wire", "as float32", "seconds"):
        table.add_column(heading, justify="right")
    for number, version in sorted(versions.items()):
        table.add_row(
            "start" if number == 0 else str(number),
            figure(version.accuracy),
            *([figure(version.own_accuracy)] if own else []),
            figure(version.loss),
            figure(version.training_loss),
            size(version.wire_bytes) if version.reports else "–",
            size(version.float32_bytes) if version.float32_bytes else "–",
            f"{version.seconds:.1f}" if version.seconds else "–",
        )
    return table


def _evaluated_by(versions: Mapping[int, Version]) -> Text | None:
    """Whom accuracy and loss of the versions are of; None before there are any."""
    told = [(number, behind(each.evaluated, each.rows)) for number, each in sorted(versions.items()) if each.rows]
    runs = [(whom, [number for number, _ in group]) for whom, group in groupby(told, key=itemgetter(1))]
    if not runs:
        return None
    if len(runs) == 1:
        return Text(f"accuracy and loss of {runs[0][0]}")
    return Text("accuracy and loss: " + "; ".join(f"{_rounds(numbers)} of {whom}" for whom, numbers in runs))


def _rounds(numbers: Sequence[int]) -> str:
    first, last = ("start" if number == 0 else f"round {number}" for number in (numbers[0], numbers[-1]))
    return first if first == last else f"{first} to {last}"


def figure(value: float | None) -> str:
    """An accuracy or a loss in a table; a dash where it is not known."""
    return "–" if value is None else f"{value:.3f}"
