"""What a demo found: as a table, as JSON and as a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.cli.cluster_picture import draw
from services.cli.standings import Clusters
from services.cli.versions import PHASES, Version
from services.testbed.yardsticks import FROZEN_HEAD, Yardsticks

JSON_FILE, FIGURE, CLUSTERS = "report.json", "training.png", "clusters.png"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a demo."""

    settings: Mapping[str, Any]
    versions: Mapping[int, Version]
    """By number; 0 is before training."""
    yardsticks: Yardsticks
    seconds: float
    """From the start of the demo to its last measurement."""
    devices: Sequence[Mapping[str, Any]] = ()
    """Of the clients, in order, where they were unlike."""
    run_id: str = ""
    clusters: Clusters | None = None
    """Who learned with whom, in a demo that groups its clients."""
    trunk_is_turned: bool = False
    """Whether the trunk was trained on turned activations that the edge could not turn back (SS-OP, edge: blind)."""

    @property
    def wire_bytes(self) -> int:
        """Bytes of activations and gradients, both ways, all clients."""
        return sum(version.wire_bytes for version in self.versions.values())

    @property
    def float32_bytes(self) -> int:
        """What the same activations and gradients take as float32; 0 if a client did not say."""
        worked = [version.float32_bytes for version in self.versions.values() if version.reports]
        return sum(worked) if all(worked) else 0

    @property
    def saving(self) -> float | None:
        """How many times fewer bytes went over the wire than float32 takes."""
        return self.float32_bytes / self.wire_bytes if self.float32_bytes and self.wire_bytes else None

    def phase_seconds(self) -> dict[str, float]:
        """Seconds by phase, summed over clients and rounds."""
        each = [version.phase_seconds() for version in self.versions.values()]
        return {phase: sum(seconds[phase] for seconds in each) for phase in PHASES}

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "settings": dict(self.settings),
            **({"devices": list(self.devices)} if self.devices else {}),
            "rounds": [{"version": number, **_version_json(each)} for number, each in self.versions.items()],
            "test": asdict(self.yardsticks),
            "frozen_head_is": FROZEN_HEAD,
            "trunk_is_turned": self.trunk_is_turned,
            "wire_bytes": self.wire_bytes,
            "float32_bytes": self.float32_bytes or None,
            "phase_seconds": _rounded(self.phase_seconds()),
            "seconds": round(self.seconds, 3),
            **({} if self.clusters is None else {"clusters": self.clusters.as_json()}),
        }


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, training.png and, where clients were grouped, clusters.png."""
    (folder / JSON_FILE).write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    _draw(report, folder / FIGURE)
    if report.clusters is not None:
        draw(report.clusters, folder / CLUSTERS)


def _version_json(version: Version) -> dict[str, Any]:
    return {
        "accuracy": version.accuracy,
        **({} if version.own_accuracy is None else {"own_accuracy": version.own_accuracy}),
        "loss": version.loss,
        "heldout_rows": version.rows,
        "heldout_clients": version.evaluated,
        "clients": version.clients,
        "absent_clients": version.absent,
        "training_loss": version.training_loss,
        "wire_bytes": version.wire_bytes,
        "float32_bytes": version.float32_bytes or None,
        "seconds": round(version.seconds, 3),
        "phase_seconds": _rounded(version.phase_seconds()),
    }


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {phase: round(value, 3) for phase, value in seconds.items()}


def _draw(report: Report, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = [number for number, version in report.versions.items() if version.accuracy is not None]
    trained = [number for number, version in report.versions.items() if version.training_loss is not None]
    figure = Figure(figsize=(12.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, sent = figure.subplots(1, 3)
    loss.plot(numbers, [report.versions[number].loss for number in numbers], "o-", label="clients' held-out rows")
    loss.plot(trained, [report.versions[number].training_loss for number in trained], "s--", label="training")
    accuracy.plot(
        numbers, [report.versions[number].accuracy for number in numbers], "o-", label="clients' held-out rows"
    )
    marks = report.yardsticks
    accuracy.axhline(marks.frozen_head, color="tab:gray", linestyle="--", label="frozen model, trained head (test)")
    accuracy.axhline(marks.majority, color="tab:gray", linestyle=":", label="commonest label (test)")
    accuracy.set_ylim(0, 1)
    versions = [report.versions[number] for number in trained]
    if all(version.float32_bytes for version in versions):
        floats = [version.float32_bytes / 1e6 for version in versions]
        sent.bar(trained, floats, width=0.8, color="lightgray", label="the same as float32")
    sent.bar(
        trained, [version.wire_bytes / 1e6 for version in versions], width=0.5, label="activations and gradients"
    )
    for axes, name in ((loss, "loss"), (accuracy, "accuracy"), (sent, "MB on the wire")):
        axes.set_xlabel("global round")
        axes.set_ylabel(name)
        axes.set_xticks(sorted(report.versions))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
